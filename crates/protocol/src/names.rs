//! The names of everything a cluster has on the broker, all derived from two that the user chooses.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The exchange's name where none is given.
pub const DEFAULT_EXCHANGE: &str = "write_requests_fanout";

/// The queues' base name where none is given.
pub const DEFAULT_QUEUE_NAME: &str = "write_requests";

/// The longest exchange or queue base name, in bytes: the broker allows 255, suffixes need the rest.
pub const MAX_NAME_BYTES: usize = 200;

/// What [`check_name`] accepts, as a regular expression for the resource's schema.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9_][A-Za-z0-9_.:-]*$";

/// A node's id: unique in its cluster, at least 1, at most [`NodeId::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct NodeId(u32);

impl NodeId {
    /// The highest id.
    pub const MAX: u32 = 9_999;

    /// The id, or `None` when it is 0 or above [`NodeId::MAX`].
    pub fn new(id: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&id).then_some(Self(id))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for NodeId {
    type Error = String;

    fn try_from(id: u32) -> Result<Self, String> {
        Self::new(id).ok_or_else(|| format!("a node id is 1 to {}, not {id}", Self::MAX))
    }
}

impl From<NodeId> for u32 {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Says what is wrong with an exchange or queue base name, if anything.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("{} bytes long; 1 to {MAX_NAME_BYTES} are allowed", name.len()));
    }
    if !name.bytes().all(allowed) || !name.bytes().next().is_some_and(first) {
        return Err(format!("{name:?} does not match {NAME_PATTERN}"));
    }
    if name.starts_with("amq.") {
        return Err(format!("{name:?}: names that begin with \"amq.\" are reserved by the broker"));
    }
    Ok(())
}

/// The names of one cluster's broker objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerNames {
    exchange: String,
    queue_name: String,
}

impl BrokerNames {
    /// Both names are expected to have passed [`check_name`].
    pub fn new(exchange: impl Into<String>, queue_name: impl Into<String>) -> Self {
        Self { exchange: exchange.into(), queue_name: queue_name.into() }
    }

    /// The fanout exchange that every write goes through.
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The base name of the queues.
    pub fn queue_name(&self) -> &str {
        &self.queue_name
    }

    /// The queue of a node.
    pub fn node_queue(&self, id: NodeId) -> String {
        format!("{}_node_{id}", self.queue_name)
    }

    /// The node whose queue this is.
    pub fn node_of_queue(&self, queue: &str) -> Option<NodeId> {
        let digits = queue.strip_prefix(&self.queue_name)?.strip_prefix("_node_")?;
        let id = NodeId::new(digits.parse().ok()?)?;
        (self.node_queue(id) == queue).then_some(id)
    }

    /// The queue that always holds the newest messages.
    pub fn head_queue(&self) -> String {
        format!("{}_head", self.queue_name)
    }

    /// The active heart's exclusive queue: lock and inbox in one.
    pub fn heart_queue(&self) -> String {
        format!("{}_heart", self.queue_name)
    }

    /// Where rejected messages go.
    pub fn dead_exchange(&self) -> String {
        format!("{}_dead", self.exchange)
    }

    /// Where rejected messages are kept.
    pub fn dead_queue(&self) -> String {
        format!("{}_dead", self.queue_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_names_are_the_documented_ones() {
        let names = BrokerNames::new(DEFAULT_EXCHANGE, DEFAULT_QUEUE_NAME);
        assert_eq!(names.exchange(), "write_requests_fanout");
        assert_eq!(names.node_queue(NodeId(1)), "write_requests_node_1");
        assert_eq!(names.head_queue(), "write_requests_head");
        assert_eq!(names.heart_queue(), "write_requests_heart");
        assert_eq!(names.dead_exchange(), "write_requests_fanout_dead");
        assert_eq!(names.dead_queue(), "write_requests_dead");
    }

    #[test]
    fn a_nodes_queue_is_told_from_others() {
        let names = BrokerNames::new("e", "q");
        for (queue, id) in [
            ("q_node_7", Some(7)),
            ("q_node_07", None),
            ("q_node_+7", None),
            ("q_node_0", None),
            ("q_node_10000", None),
            ("q_node_", None),
            ("q_head", None),
            ("other_node_7", None),
        ] {
            assert_eq!(names.node_of_queue(queue).map(NodeId::get), id, "{queue}");
        }
    }

    #[test]
    fn a_bad_name_is_refused_with_what_is_allowed() {
        for (name, message) in [
            ("", "0 bytes long"),
            (&"x".repeat(201), "1 to 200"),
            ("a b", "does not match"),
            ("ünicode", "does not match"),
            ("-x", "does not match"),
            ("a\n", "does not match"),
            ("amq.fanout", "reserved"),
        ] {
            assert!(check_name(name).unwrap_err().contains(message), "{name}");
        }
        assert_eq!(check_name("orders.v2:eu-1"), Ok(()));
    }

    #[test]
    fn a_node_id_is_one_based() {
        assert_eq!(NodeId::new(0), None);
        assert_eq!(NodeId::new(NodeId::MAX + 1), None);
        assert_eq!(NodeId::new(1).map(NodeId::get), Some(1));
    }
}

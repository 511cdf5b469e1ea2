//! Every broker object as data: what heart, node and operator declare is the same, argument by argument.
//!
//! A declare with other arguments than the first is refused by the broker (406), so there is one list of them. All
//! declarations are idempotent, which is also how drift is repaired.

use serde::{Deserialize, Serialize};

use crate::names::{BrokerNames, NodeId};

/// What one absent node may cost the broker where nothing else is said, in bytes.
pub const DEFAULT_BACKLOG_BYTES: u64 = 1 << 30;

/// How many messages the head queue keeps. One is not enough: the last message of a heart that died may be routed
/// after its successor's first ones, and would stand behind them alone.
pub const HEAD_QUEUE_LENGTH: u32 = 16;

/// How many reports and questions the active heart's inbox keeps.
const INBOX_LENGTH: i64 = 10_000;

/// What is kept of rejected messages, in bytes.
pub const DEAD_LETTER_BYTES: u64 = 64 << 20;

/// The broker's largest delivery limit: "never", in the one way that every version understands. The default since
/// 4.0 (20) drops messages of a node that crashes in a loop.
const NO_DELIVERY_LIMIT: i64 = i32::MAX as i64;

/// How the broker stores a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// On one broker node.
    #[default]
    Classic,
    /// Replicated over broker nodes by Raft.
    Quorum,
}

/// A durable fanout exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeDeclaration {
    /// Its name.
    pub name: String,
}

/// The value of a queue argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A switch.
    Flag(bool),
    /// A 64-bit integer.
    Integer(i64),
    /// A string.
    Text(String),
}

/// A durable queue and the exchange that it is bound to, with an empty routing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDeclaration {
    /// Its name.
    pub name: String,
    /// The exchange that it is bound to.
    pub bound_to: String,
    /// Its `x-` arguments.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// The broker objects of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    names: BrokerNames,
    queue_type: QueueType,
    backlog_bytes: u64,
}

impl Topology {
    /// `backlog_bytes` is what one absent node may cost the broker.
    pub fn new(names: BrokerNames, queue_type: QueueType, backlog_bytes: u64) -> Self {
        Self { names, queue_type, backlog_bytes }
    }

    /// The names that this topology is made of.
    pub fn names(&self) -> &BrokerNames {
        &self.names
    }

    /// The exchange of all writes.
    pub fn exchange(&self) -> ExchangeDeclaration {
        ExchangeDeclaration { name: self.names.exchange().to_owned() }
    }

    /// The exchange of rejected messages.
    pub fn dead_exchange(&self) -> ExchangeDeclaration {
        ExchangeDeclaration { name: self.names.dead_exchange() }
    }

    /// The queue of rejected messages.
    pub fn dead_queue(&self) -> QueueDeclaration {
        self.queue(
            self.names.dead_queue(),
            self.names.dead_exchange(),
            [("x-max-length-bytes", bytes_argument(DEAD_LETTER_BYTES)), drop_head()],
        )
    }

    /// The queue of the newest messages.
    pub fn head_queue(&self) -> QueueDeclaration {
        self.queue(
            self.names.head_queue(),
            self.names.exchange().to_owned(),
            [("x-max-length", Argument::Integer(HEAD_QUEUE_LENGTH.into())), drop_head()],
        )
    }

    /// The queue of a node.
    pub fn node_queue(&self, id: NodeId) -> QueueDeclaration {
        self.queue(
            self.names.node_queue(id),
            self.names.exchange().to_owned(),
            [
                ("x-single-active-consumer", Argument::Flag(true)),
                ("x-max-length-bytes", bytes_argument(self.backlog_bytes)),
                drop_head(),
                ("x-dead-letter-exchange", Argument::Text(self.names.dead_exchange())),
            ],
        )
    }

    /// The arguments of the active heart's queue, which is not durable and exclusive to its connection: lock and
    /// inbox in one. What is in it may get lost, so only the newest is kept.
    pub fn heart_queue_arguments(&self) -> Vec<(&'static str, Argument)> {
        // Whatever type the cluster's queues have: only a classic queue can be exclusive.
        vec![
            ("x-max-length", Argument::Integer(INBOX_LENGTH)),
            drop_head(),
            ("x-queue-type", Argument::Text("classic".to_owned())),
        ]
    }

    fn queue(
        &self,
        name: String,
        bound_to: String,
        own: impl IntoIterator<Item = (&'static str, Argument)>,
    ) -> QueueDeclaration {
        let mut arguments: Vec<_> = own.into_iter().collect();
        match self.queue_type {
            QueueType::Classic => arguments.push(("x-queue-type", Argument::Text("classic".to_owned()))),
            QueueType::Quorum => arguments.extend([
                ("x-queue-type", Argument::Text("quorum".to_owned())),
                ("x-delivery-limit", Argument::Integer(NO_DELIVERY_LIMIT)),
            ]),
        }
        QueueDeclaration { name, bound_to, arguments }
    }
}

fn drop_head() -> (&'static str, Argument) {
    ("x-overflow", Argument::Text("drop-head".to_owned()))
}

fn bytes_argument(bytes: u64) -> Argument {
    Argument::Integer(i64::try_from(bytes).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(queue_type: QueueType) -> Topology {
        Topology::new(BrokerNames::new("e", "q"), queue_type, 1024)
    }

    #[test]
    fn a_node_queue_is_bounded_has_one_consumer_and_keeps_rejected_messages() {
        let queue = topology(QueueType::Classic).node_queue(NodeId::new(7).unwrap());
        assert_eq!(queue.name, "q_node_7");
        assert_eq!(queue.bound_to, "e");
        assert_eq!(
            queue.arguments,
            [
                ("x-single-active-consumer", Argument::Flag(true)),
                ("x-max-length-bytes", Argument::Integer(1024)),
                ("x-overflow", Argument::Text("drop-head".to_owned())),
                ("x-dead-letter-exchange", Argument::Text("e_dead".to_owned())),
                ("x-queue-type", Argument::Text("classic".to_owned())),
            ]
        );
    }

    #[test]
    fn quorum_queues_never_drop_what_was_delivered_often() {
        let topology = topology(QueueType::Quorum);
        for queue in
            [topology.head_queue(), topology.dead_queue(), topology.node_queue(NodeId::new(1).unwrap())]
        {
            assert!(queue.arguments.contains(&("x-delivery-limit", Argument::Integer(2_147_483_647))));
        }
    }
}

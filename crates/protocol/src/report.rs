//! What nodes tell the active heart, and what a standby asks it: JSON messages to the heart's inbox.

use serde::{Deserialize, Serialize};

use crate::chain::Position;
use crate::cut::Cut;
use crate::digest::Digest;
use crate::envelope::Term;
use crate::names::NodeId;
use crate::outcome::Rejected;

/// The AMQP property `type` of a [`Report`].
pub const REPORT_KIND: &str = "report";

/// The AMQP property `type` of a node's [`Report::tip`] itself: the message as it travelled. Sent before the first
/// report that names it and the seal.
pub const TIP_KIND: &str = "tip";

/// The AMQP property `type` of a question for the active heart's address. It carries the asker's [`Claim`]; the answer is a
/// [`Who`].
pub const WHO_KIND: &str = "who";

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Has applied everything that it knows of, or is about to.
    Ready,
    /// Does not know yet where the cluster is.
    Bootstrapping,
    /// Missed a message and fetches it from its peers.
    Repairing,
    /// Cannot apply: its database fails, or it met a message of a newer version.
    Failing,
    /// Its rows are not what the chain says.
    Diverged,
}

impl NodeState {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Bootstrapping => "bootstrapping",
            Self::Repairing => "repairing",
            Self::Failing => "failing",
            Self::Diverged => "diverged",
        }
    }
}

/// Where a node is. The newest one counts; a lost one costs nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The cluster's id.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// What it is doing.
    pub state: NodeState,
    /// What it has applied.
    #[serde(flatten)]
    pub applied: Position,
    /// The highest epoch that it has applied a message of.
    pub applied_epoch: u64,
    /// The highest epoch that it has met.
    pub epoch: u64,
    /// What the history that it has met does without.
    #[serde(default, skip_serializing_if = "Cut::is_none")]
    pub cut: Cut,
    /// The highest position that it knows to be part of the history, when it has not applied that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<Position>,
    /// The newest message that it has and cannot prove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tip: Option<Claim>,
    /// A random number of its session with the broker, once that was given a delivery: what its queue held then, and what
    /// earlier sessions gave back, is given to this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// The newest seal that its queue gave to this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
    /// The sequence number that it misses and that nobody whom it asked has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<u64>,
    /// The writes that changed nothing because they were not allowed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcomes: Option<Outcomes>,
    /// The digest of its rows at `applied`.
    pub digest: Digest,
    /// The number of its rows.
    pub rows: u64,
    /// How long ago it was current, in seconds.
    pub lag_seconds: f64,
    /// Processing failures since it started.
    pub failed: u64,
    /// Malformed messages that it rejected since it started.
    pub malformed: u64,
    /// How often it has put a database aside since it started, to rebuild it from a peer's.
    #[serde(default)]
    pub rebuilds: u64,
    /// How often its queue was gone and it has made it anew, since it started.
    #[serde(default)]
    pub queues_restored: u64,
    /// How often it has bound its queue again because nothing had come out of it for long, since it started.
    #[serde(default)]
    pub silences: u64,
    /// How long nothing had come, in seconds, when it did that last.
    #[serde(default)]
    pub silent_seconds: f64,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far somebody says that the history goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The epoch that the position was met under.
    pub epoch: u64,
    /// What the history does without.
    #[serde(default, skip_serializing_if = "Cut::is_none")]
    pub cut: Cut,
    /// The position.
    #[serde(flatten)]
    pub position: Position,
}

impl Claim {
    /// That a reign got as far as a position.
    pub fn new(term: Term, position: Position) -> Self {
        Self { epoch: term.epoch, cut: term.cut, position }
    }
}

impl Report {
    /// What it has applied, as a claim.
    pub fn claim(&self) -> Claim {
        Claim { epoch: self.applied_epoch, cut: self.cut, position: self.applied }
    }
}

/// What a node can say of the writes that it has applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Of the writes up to this one it can say nothing.
    pub after: u64,
    /// Those of the later ones that changed nothing, in order. All others did what they were to.
    pub rejected: Vec<Rejected>,
}

/// Which seal a node has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The seal's nonce.
    pub nonce: u64,
    /// The seal's number.
    pub number: u64,
}

/// The active heart's answer to [`WHO_KIND`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The base URL of its HTTP interface.
    pub url: String,
    /// Its epoch.
    pub epoch: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_flat_json() {
        let report = Report {
            cluster: "c".to_owned(),
            node: NodeId::new(1).unwrap(),
            state: NodeState::Ready,
            applied: Position::genesis("c"),
            applied_epoch: 1,
            epoch: 1,
            cut: Cut::default(),
            shown: None,
            tip: None,
            session: None,
            sealed: None,
            missing: None,
            outcomes: None,
            digest: Digest::default(),
            rows: 0,
            lag_seconds: 0.5,
            failed: 0,
            malformed: 0,
            rebuilds: 0,
            queues_restored: 0,
            silences: 0,
            silent_seconds: 0.0,
            reason: None,
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["node"], &json["last"], &json["state"]), (&1.into(), &0.into(), &"ready".into()));
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}

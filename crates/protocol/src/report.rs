//! What nodes tell the active heart, and what a standby asks it: JSON messages to the heart's inbox.

use serde::{Deserialize, Serialize};

use crate::chain::Position;
use crate::digest::Digest;
use crate::names::NodeId;

/// The AMQP property `type` of a [`Report`].
pub const REPORT_KIND: &str = "report";

/// The AMQP property `type` of a question for the active heart's address; the answer is a [`Who`].
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
    pub epoch: u64,
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
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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
            epoch: 1,
            digest: Digest::default(),
            rows: 0,
            lag_seconds: 0.5,
            failed: 0,
            malformed: 0,
            reason: None,
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["node"], &json["last"], &json["state"]), (&1.into(), &0.into(), &"ready".into()));
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}

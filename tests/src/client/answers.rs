//! What heart and nodes answer.

use serde::Deserialize;
use serde_json::Value;

/// The answer to writes that were taken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Written {
    /// The sequence number of the first.
    pub first: u64,
    /// The sequence number of the last.
    pub last: u64,
    /// The reign in which they were published.
    pub epoch: u64,
    /// The level that was reached.
    pub ack: String,
    /// Those of the writes that are known to have changed nothing.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
    /// 200, or 202 when the level that was asked for was not reached in time.
    #[serde(skip)]
    pub status: u16,
}

/// A write that changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Rejected {
    /// Its number.
    pub seq: u64,
    /// Why.
    pub reason: String,
}

impl Written {
    /// Whether the condition of a single write held, where that was said.
    pub fn held(&self) -> Option<bool> {
        let is_told = self.status == 200 && self.ack != "broker" || !self.rejected.is_empty();
        is_told.then_some(self.rejected.is_empty())
    }
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status; 0 when there was no answer.
    pub status: u16,
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// The header `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
}

/// `GET /v1/status` of a heart.
#[derive(Clone, Debug, Deserialize)]
pub struct HeartStatus {
    /// `active` or `standby`.
    pub role: String,
    /// Of the active heart, or the last one known.
    #[serde(default)]
    pub epoch: u64,
    /// The last sequence number.
    #[serde(default)]
    pub position: u64,
    /// Why it takes no writes.
    #[serde(default)]
    pub reason: Option<String>,
    /// The base URL of the active heart, where this one stands by.
    #[serde(default)]
    pub active: Option<String>,
    /// What the nodes reported.
    #[serde(default)]
    pub nodes: Vec<ReportedNode>,
}

/// A node as the heart sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct ReportedNode {
    /// Its id.
    pub id: u32,
    /// What it is doing.
    pub state: String,
    /// The last sequence number that it applied.
    pub applied: u64,
    /// How many writes it is behind.
    pub lag_writes: u64,
    /// Messages that it rejected as malformed.
    pub malformed: u64,
    /// Processing failures.
    pub failed: u64,
    /// How often it has put its database aside to rebuild it.
    pub rebuilds: u64,
    /// The sequence number that it misses and that nobody whom it asked has.
    #[serde(default)]
    pub missing: Option<u64>,
    /// Why it is not ready.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `GET /v1/status` of a node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: u32,
    /// What it is doing.
    pub state: String,
    /// The last sequence number that it applied.
    pub applied: u64,
    /// The chain's hash there.
    pub hash: String,
    /// The digest of its rows.
    pub digest: String,
    /// How many rows it has.
    pub rows: u64,
    /// Why it is not ready.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `GET /v1/digest?recompute=true` of a node.
#[derive(Clone, Debug, Deserialize)]
pub struct Digests {
    /// The one that is kept up to date.
    pub digest: String,
    /// The one made from the rows.
    pub recomputed: Recomputed,
}

/// What a node's rows themselves give.
#[derive(Clone, Debug, Deserialize)]
pub struct Recomputed {
    /// Their digest.
    pub digest: String,
    /// How many there are.
    pub rows: u64,
}

/// A document as a node has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its value.
    pub value: Value,
    /// The header `Broadcast-Seq`: the write that stored it.
    pub seq: u64,
    /// The header `Broadcast-Position`: what the node had applied.
    pub position: u64,
}

/// What a node has under a key, at a position.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What the node has applied.
    pub position: u64,
    /// The value and the write that stored it, if there is a row.
    pub row: Option<(Value, u64)>,
}

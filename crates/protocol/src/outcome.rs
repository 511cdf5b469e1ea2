//! What becomes of a write: an outcome is data, not an error, and the same on every node, because it is a function of
//! the history alone.

use std::fmt;

use serde::{Deserialize, Serialize};

/// For how many sequence numbers a request id is remembered: a write with the id of one that is nearer than this
/// changes nothing. Nodes that remembered for different times would differ.
pub const REQUEST_ID_WINDOW: u64 = 1 << 20;

/// Why a write changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// Its condition did not hold when its turn came.
    PreconditionFailed,
    /// Its request id was another write's.
    IdReused,
}

impl Rejection {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreconditionFailed => "precondition_failed",
            Self::IdReused => "id_reused",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A write that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The write.
    pub seq: u64,
    /// Why.
    pub reason: Rejection,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_has_one_name_everywhere() {
        for reason in [Rejection::PreconditionFailed, Rejection::IdReused] {
            let json = serde_json::to_value(Rejected { seq: 7, reason }).unwrap();
            assert_eq!(json, serde_json::json!({"seq": 7, "reason": reason.as_str()}));
            assert_eq!(reason.to_string(), reason.as_str());
        }
    }
}

//! What must hold of a row for a write to change anything. All nodes decide alike, because the order of writes is one.

use serde::{Deserialize, Serialize};

use super::Operation;
use crate::envelope::MAX_NUMBER;

/// A precondition: the field `if` of a write, `{"absent":true}` or `{"seq":1041}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "WireCondition")]
pub enum Condition {
    /// There is no row with this key.
    Absent,
    /// There is one, and this write stored it.
    Seq(u64),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireCondition {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    absent: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

impl From<Condition> for WireCondition {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Absent => Self { absent: Some(true), seq: None },
            Condition::Seq(seq) => Self { absent: None, seq: Some(seq) },
        }
    }
}

impl Condition {
    /// Decodes the field, or says what is wrong with it.
    pub(super) fn parse(json: &str) -> Result<Self, String> {
        let wire: WireCondition = serde_json::from_str(json).map_err(|error| error.to_string())?;
        match (wire.absent, wire.seq) {
            (Some(true), None) => Ok(Self::Absent),
            (None, Some(seq)) => Ok(Self::Seq(seq)),
            _ => Err(r#"either {"absent":true} or {"seq":<number>} is needed"#.to_owned()),
        }
    }

    /// Says what is wrong with the condition on such a write, if anything.
    pub(super) fn check(self, operation: &Operation) -> Result<(), String> {
        match (self, operation) {
            (Self::Absent, Operation::Delete) => {
                Err("a delete of an absent row does nothing; leave the condition out".to_owned())
            }
            (Self::Seq(seq), _) if !(1..=MAX_NUMBER).contains(&seq) => {
                Err(format!("seq is {seq}; 1 to {MAX_NUMBER} are allowed"))
            }
            _ => Ok(()),
        }
    }

    /// Whether it holds of a row: `seq` is that of the write that stored it.
    pub fn holds(self, seq: Option<u64>) -> bool {
        match self {
            Self::Absent => seq.is_none(),
            Self::Seq(expected) => seq == Some(expected),
        }
    }
}

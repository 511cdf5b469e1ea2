//! What tells two writes with one request id apart, and request ids themselves, in little room.
//!
//! A node keeps a million of them. Fingerprints are part of the protocol: nodes that computed others would differ.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Condition, Operation, Write};

/// The first 16 bytes of a blake3 hash, written as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Write {
    /// The fingerprint of everything but the request id.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        let value = match &self.operation {
            Operation::Put(value) => value.get(),
            // No value is empty.
            Operation::Delete => "",
        };
        for text in [&self.collection, &self.key, value] {
            // Length first: otherwise ("ab", "c") and ("a", "bc") would be one.
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let (kind, seq): (u8, u64) = match self.condition {
            None => (0, 0),
            Some(Condition::Absent) => (1, 0),
            Some(Condition::Seq(seq)) => (2, seq),
        };
        hasher.update(&[kind]).update(&seq.to_le_bytes());
        Fingerprint::truncate(hasher.finalize())
    }
}

impl Fingerprint {
    /// The fingerprint of a request id.
    pub fn of_id(id: &str) -> Self {
        Self::truncate(blake3::hash(id.as_bytes()))
    }

    /// From what [`Fingerprint::bytes`] gave.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for a database.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    fn truncate(hash: blake3::Hash) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 32 hex digits")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAFingerprint);
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| NotAFingerprint)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

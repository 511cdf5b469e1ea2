//! A digest of a whole database that is kept up to date row by row.
//!
//! The sum, lane by lane, of the hashes of all rows: independent of the order in which rows are added, so that a node
//! can maintain it in the transaction that changes the rows, and any engine can recompute it from the rows alone.
//! It finds accidents (a row changed behind our back, a lost page); it is no defence against an adversary.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The digest of a set of rows; the empty set's is all zeros. Written as 64 lower-case hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Adds a row: `value` is its JSON text as stored, `seq` the write that stored it.
    pub fn add(&mut self, collection: &str, key: &str, value: &str, seq: u64) {
        self.combine(Self::row(collection, key, value, seq), u64::wrapping_add);
    }

    /// Removes a row that was added before.
    pub fn remove(&mut self, collection: &str, key: &str, value: &str, seq: u64) {
        self.combine(Self::row(collection, key, value, seq), u64::wrapping_sub);
    }

    /// Adds all rows of another digest.
    pub fn merge(&mut self, other: Self) {
        self.combine(other.0, u64::wrapping_add);
    }

    /// Removes all rows of another digest, which were added before.
    pub fn subtract(&mut self, other: Self) {
        self.combine(other.0, u64::wrapping_sub);
    }

    fn combine(&mut self, row: [u64; 4], operation: fn(u64, u64) -> u64) {
        for (lane, part) in self.0.iter_mut().zip(row) {
            *lane = operation(*lane, part);
        }
    }

    fn row(collection: &str, key: &str, value: &str, seq: u64) -> [u64; 4] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seq.to_le_bytes());
        for text in [collection, key, value] {
            // Length first: otherwise ("ab", "c") and ("a", "bc") would be one row.
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let hash = hasher.finalize();
        let (parts, _) = hash.as_bytes().as_chunks::<8>();
        let mut lanes = [0; 4];
        for (lane, part) in lanes.iter_mut().zip(parts) {
            *lane = u64::from_le_bytes(*part);
        }
        lanes
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|lane| write!(f, "{lane:016x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hex digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotADigest);
        }
        let mut lanes = [0; 4];
        for (lane, start) in lanes.iter_mut().zip((0..64).step_by(16)) {
            *lane = u64::from_str_radix(&text[start..start + 16], 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(lanes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_added_in_any_order_and_removed_again_leave_the_same_digest() {
        let mut one = Digest::default();
        one.add("users", "1", "{}", 1);
        one.add("users", "2", "[]", 2);
        let mut other = Digest::default();
        other.add("users", "2", "[]", 2);
        other.add("users", "3", "1", 3);
        other.add("users", "1", "{}", 1);
        assert_ne!(one, other);
        let mut third = Digest::default();
        third.add("users", "3", "1", 3);
        let mut without_third = other;
        without_third.subtract(third);
        other.remove("users", "3", "1", 3);
        assert_eq!((one, one), (other, without_third));
        assert_eq!(one.to_string().parse(), Ok(one));
    }

    #[test]
    fn a_digest_is_the_same_for_ever() {
        let mut digest = Digest::default();
        digest.add("users", "42", r#"{"name":"Ada"}"#, 7);
        assert_eq!(digest.to_string(), "8acdcc031698fe2b42da03777da36eeb4aa8f2372ae13870d54a3fdd55b07a31");
    }

    #[test]
    fn every_column_counts_and_none_runs_into_the_next() {
        let digest = |collection: &str, key: &str, value: &str, seq| {
            let mut digest = Digest::default();
            digest.add(collection, key, value, seq);
            digest
        };
        let row = digest("ab", "c", "d", 1);
        for other in [digest("a", "bc", "d", 1), digest("ab", "cd", "", 1), digest("ab", "c", "d", 2)] {
            assert_ne!(row, other);
        }
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in ["", "0", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert_eq!(text.parse::<Digest>(), Err(NotADigest), "{text}");
        }
    }
}

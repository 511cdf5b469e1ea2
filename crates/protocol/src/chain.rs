//! The hash chain: a position names all history before it.
//!
//! `H(last) = blake3(H(first - 1) ‖ raw bytes of the message's "writes")`, and `H(0)` comes from the cluster's id, so
//! that two nodes with equal hashes at equal positions applied the same bytes in the same order. The epoch is not
//! part of it: a message that the next heart publishes again keeps its hash.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A link of the chain: 32 bytes, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainHash([u8; 32]);

impl ChainHash {
    /// `H(0)` of a cluster: what an empty database has.
    pub fn genesis(cluster: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"broadcast genesis\0").update(cluster.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The hash after a message whose `"writes"` are these bytes.
    #[must_use]
    pub fn next(&self, writes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(writes);
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 hex digits")]
pub struct NotAHash;

impl FromStr for ChainHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| NotAHash)
    }
}

impl Serialize for ChainHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A point of the one history: the number of writes before it and the hash that names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The sequence number of the last write, 0 before the first.
    pub last: u64,
    /// `H(last)`.
    pub hash: ChainHash,
}

impl Position {
    /// Where a cluster's history begins.
    pub fn genesis(cluster: &str) -> Self {
        Self { last: 0, hash: ChainHash::genesis(cluster) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_depends_on_cluster_order_and_content() {
        let genesis = ChainHash::genesis("a");
        assert_ne!(genesis, ChainHash::genesis("b"));
        assert_ne!(genesis.next(b"1").next(b"2"), genesis.next(b"2").next(b"1"));
        assert_eq!(genesis.next(b"1"), ChainHash::genesis("a").next(b"1"));
    }

    #[test]
    fn a_hash_survives_its_text_and_refuses_any_other() {
        let hash = ChainHash::genesis("a");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for text in ["", "00", &"z".repeat(64), &"0".repeat(65)] {
            assert_eq!(text.parse::<ChainHash>(), Err(NotAHash), "{text}");
        }
    }
}

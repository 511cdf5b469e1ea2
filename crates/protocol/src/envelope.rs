//! What travels: a message decodes completely or is refused with a reason; no input panics.
//!
//! A message carries its own hash beside its predecessor's, so that bytes changed on the way are refused before they
//! touch any state, rather than looking like the end of another chain. A message of a newer version is told apart
//! from a malformed one: it must be kept for a node that understands it, never skipped.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::chain::{ChainHash, Position};
use crate::write::{self, InvalidWrite, MAX_REQUEST_BYTES, MAX_WRITES, Write, WriteBatch};

/// The version of the envelope that this code reads and writes.
pub const VERSION: u64 = 1;

/// The largest message, in bytes: a request's writes and what the envelope adds.
pub const MAX_MESSAGE_BYTES: usize = MAX_REQUEST_BYTES + (1 << 20);

/// The highest epoch, sequence number and time: what every database's signed 64-bit integer holds.
pub const MAX_NUMBER: u64 = i64::MAX as u64;

/// A batch of writes that continues the chain.
#[derive(Debug, Clone)]
pub struct WriteMessage {
    /// The reign of the heart that published it.
    pub epoch: u64,
    /// The sequence number of its first write.
    pub first: u64,
    /// The position before it: `last` is `first - 1`.
    pub previous: Position,
    /// The position after it.
    pub position: Position,
    /// When the heart made it, in milliseconds since the Unix epoch.
    pub at: u64,
    cluster: String,
    writes: Bytes,
    body: Bytes,
}

/// A heart's word that everything up to a position is held by the broker for everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The cluster's id.
    pub cluster: String,
    /// The reign of the heart that published it.
    pub epoch: u64,
    /// The position.
    pub position: Position,
    /// When the heart made it, in milliseconds since the Unix epoch.
    pub at: u64,
}

/// Any message of the exchange.
#[derive(Debug, Clone)]
pub enum Message {
    /// A batch of writes.
    Write(WriteMessage),
    /// A mark.
    Mark(Mark),
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Made by a newer version of this software: keep it.
    #[error("envelope version {0}; this node understands {VERSION}")]
    NewerVersion(u64),
    /// Another cluster's.
    #[error("of cluster {found:?}, not of {expected:?}")]
    OtherCluster {
        /// This cluster.
        expected: String,
        /// The message's.
        found: String,
    },
    /// Not JSON, or not of the envelope's shape.
    #[error("not a message: {0}")]
    Malformed(String),
    /// The hash is not that of its bytes.
    #[error("the hash does not match: the message says {found}, its bytes give {computed}")]
    HashMismatch {
        /// What the message says.
        found: ChainHash,
        /// What its bytes give.
        computed: ChainHash,
    },
    /// One of its writes is invalid.
    #[error(transparent)]
    InvalidWrite(#[from] InvalidWrite),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    v: u64,
    #[serde(borrow)]
    cluster: Cow<'a, str>,
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prev: Option<ChainHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    hash: ChainHash,
    at: u64,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    writes: Option<&'a RawValue>,
}

impl WriteMessage {
    /// Makes the message that puts a batch, which is not empty, after `previous`.
    pub fn new(cluster: &str, epoch: u64, previous: Position, at: u64, batch: WriteBatch) -> Self {
        let count = batch.len() as u64;
        let writes = Bytes::from(batch.into_json());
        let position = Position { last: previous.last + count, hash: previous.hash.next(&writes) };
        Self::assemble(cluster, epoch, previous, position, at, &writes)
    }

    /// The same writes under another epoch; the hash stays.
    #[must_use]
    pub fn with_epoch(&self, epoch: u64) -> Self {
        Self::assemble(&self.cluster, epoch, self.previous, self.position, self.at, &self.writes)
    }

    fn assemble(
        cluster: &str,
        epoch: u64,
        previous: Position,
        position: Position,
        at: u64,
        writes: &Bytes,
    ) -> Self {
        let wire = Wire {
            v: VERSION,
            cluster: cluster.into(),
            epoch,
            first: Some(previous.last + 1),
            prev: Some(previous.hash),
            last: None,
            hash: position.hash,
            at,
            writes: None,
        };
        // The writes are appended as the bytes they are: they were hashed, and may be megabytes.
        let mut body = encode(&wire);
        body.pop();
        body.extend_from_slice(b",\"writes\":");
        let start = body.len();
        body.extend_from_slice(writes);
        let end = body.len();
        body.push(b'}');
        let body = Bytes::from(body);
        Self {
            epoch,
            first: previous.last + 1,
            previous,
            position,
            at,
            cluster: cluster.to_owned(),
            writes: body.slice(start..end),
            body,
        }
    }

    /// The encoded message: one line of JSON.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its writes, in order: the first has sequence number `first`.
    pub fn writes(&self) -> Result<Vec<Write>, InvalidWrite> {
        let json = std::str::from_utf8(&self.writes)
            .map_err(|error| InvalidWrite { place: "writes".to_owned(), problem: error.to_string() })?;
        write::parse_array(json)
    }
}

impl Mark {
    /// The mark of a cluster that no heart has served yet.
    pub fn genesis(cluster: &str, at: u64) -> Self {
        Self { cluster: cluster.to_owned(), epoch: 0, position: Position::genesis(cluster), at }
    }

    /// The encoded message: one line of JSON.
    pub fn body(&self) -> Bytes {
        let wire = Wire {
            v: VERSION,
            cluster: self.cluster.as_str().into(),
            epoch: self.epoch,
            first: None,
            prev: None,
            last: Some(self.position.last),
            hash: self.position.hash,
            at: self.at,
            writes: None,
        };
        Bytes::from(encode(&wire))
    }
}

fn encode(wire: &Wire<'_>) -> Vec<u8> {
    // Strings and integers always encode.
    serde_json::to_vec(wire).unwrap_or_default()
}

impl Message {
    /// Decodes a message of this cluster completely: shape, numbering, hash and every write.
    pub fn decode(cluster: &str, body: &Bytes) -> Result<Self, DecodeError> {
        if body.len() > MAX_MESSAGE_BYTES {
            let problem = format!("{} bytes; at most {MAX_MESSAGE_BYTES} are allowed", body.len());
            return Err(DecodeError::Malformed(problem));
        }
        let wire = match serde_json::from_slice::<Wire<'_>>(body) {
            Ok(wire) if wire.v == VERSION => wire,
            Ok(wire) => return Err(wrong_version(cluster, wire.v, &wire.cluster)),
            Err(error) => return Err(not_of_this_shape(cluster, body, &error)),
        };
        if wire.cluster != cluster {
            return Err(other_cluster(cluster, &wire.cluster));
        }
        if [wire.epoch, wire.at, wire.last.unwrap_or(0)].into_iter().any(|number| number > MAX_NUMBER) {
            return Err(DecodeError::Malformed(format!("epoch, at and last are at most {MAX_NUMBER}")));
        }
        match (wire.first, wire.prev, wire.writes, wire.last) {
            (Some(first), Some(prev), Some(writes), None) => {
                Self::decode_write(cluster, body, &wire, first, prev, writes).map(Self::Write)
            }
            (None, None, None, Some(last)) => Ok(Self::Mark(Mark {
                cluster: cluster.to_owned(),
                epoch: wire.epoch,
                position: Position { last, hash: wire.hash },
                at: wire.at,
            })),
            _ => Err(DecodeError::Malformed("neither first, prev and writes, nor last alone".to_owned())),
        }
    }

    fn decode_write(
        cluster: &str,
        body: &Bytes,
        wire: &Wire<'_>,
        first: u64,
        prev: ChainHash,
        writes: &RawValue,
    ) -> Result<WriteMessage, DecodeError> {
        let computed = prev.next(writes.get().as_bytes());
        if computed != wire.hash {
            return Err(DecodeError::HashMismatch { found: wire.hash, computed });
        }
        let count = write::parse_array(writes.get())?.len();
        if first == 0 || first > MAX_NUMBER - MAX_WRITES as u64 {
            return Err(DecodeError::Malformed(format!("first is {first}; 1 is the lowest")));
        }
        Ok(WriteMessage {
            epoch: wire.epoch,
            first,
            previous: Position { last: first - 1, hash: prev },
            position: Position { last: first - 1 + count as u64, hash: computed },
            at: wire.at,
            cluster: cluster.to_owned(),
            writes: body.slice_ref(writes.get().as_bytes()),
            body: body.clone(),
        })
    }

    /// The reign of the heart that published it.
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Write(message) => message.epoch,
            Self::Mark(mark) => mark.epoch,
        }
    }

    /// The position that it ends at.
    pub fn position(&self) -> Position {
        match self {
            Self::Write(message) => message.position,
            Self::Mark(mark) => mark.position,
        }
    }

    /// The encoded message.
    pub fn body(&self) -> Bytes {
        match self {
            Self::Write(message) => message.body.clone(),
            Self::Mark(mark) => mark.body(),
        }
    }

    /// The AMQP property `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Write(_) => "write",
            Self::Mark(_) => "mark",
        }
    }

    /// The AMQP property `message_id`.
    pub fn id(&self) -> String {
        let number = match self {
            Self::Write(message) => message.first,
            Self::Mark(mark) => mark.position.last,
        };
        format!("{}.{number}", self.epoch())
    }
}

fn not_of_this_shape(cluster: &str, body: &[u8], error: &serde_json::Error) -> DecodeError {
    /// What every version has.
    #[derive(Deserialize)]
    struct Header<'a> {
        v: u64,
        #[serde(borrow)]
        cluster: Cow<'a, str>,
    }
    match serde_json::from_slice::<Header<'_>>(body) {
        Ok(header) if header.v != VERSION => wrong_version(cluster, header.v, &header.cluster),
        Ok(header) if header.cluster != cluster => other_cluster(cluster, &header.cluster),
        _ => DecodeError::Malformed(error.to_string()),
    }
}

fn wrong_version(cluster: &str, version: u64, of_cluster: &str) -> DecodeError {
    if of_cluster != cluster {
        other_cluster(cluster, of_cluster)
    } else if version > VERSION {
        DecodeError::NewerVersion(version)
    } else {
        DecodeError::Malformed(format!("envelope version {version}; {VERSION} is the lowest"))
    }
}

fn other_cluster(expected: &str, found: &str) -> DecodeError {
    DecodeError::OtherCluster { expected: expected.to_owned(), found: found.chars().take(80).collect() }
}

#[cfg(test)]
mod tests;

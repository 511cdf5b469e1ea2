//! What travels: a message decodes completely or is refused with a reason; no input panics.
//!
//! A message carries its own hash beside its predecessor's, so that bytes changed on the way are refused before they
//! touch any state, rather than looking like the end of another chain. A message of a newer version is told apart
//! from a malformed one: it must be kept for a node that understands it, never skipped.

use std::sync::Arc;

use bytes::Bytes;

use crate::chain::{ChainHash, Position};
use crate::cut::Cut;
use crate::digest::Digest;
use crate::write::{self, InvalidWrite, MAX_REQUEST_BYTES, Write, WriteBatch};

mod wire;

use wire::{Wire, encode};

/// The version of the envelope that this code reads and writes.
pub const VERSION: u64 = 1;

/// The largest message, in bytes: a request's writes and what the envelope adds.
pub const MAX_MESSAGE_BYTES: usize = MAX_REQUEST_BYTES + (1 << 20);

/// The highest epoch, sequence number and time: what every database's signed 64-bit integer holds.
pub const MAX_NUMBER: u64 = i64::MAX as u64;

/// Which reign a message is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Grows from reign to reign.
    pub epoch: u64,
    /// Random, one for each reign: when the head queue was lost, two may have the same epoch.
    pub reign: u64,
    /// What its history does without.
    pub cut: Cut,
}

impl Term {
    /// A reign of a history that nothing was ever cut from.
    pub fn new(epoch: u64, reign: u64) -> Self {
        Self { epoch, reign, cut: Cut::default() }
    }
}

/// A batch of writes that continues the chain.
#[derive(Debug, Clone)]
pub struct WriteMessage {
    /// The reign of the heart that published it.
    pub term: Term,
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
    /// Its writes, if they have been decoded: everyone who applies a message has decoded it.
    decoded: Option<Arc<[Write]>>,
    body: Bytes,
}

/// A heart's word that everything up to a position is held by the broker for everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The cluster's id.
    pub cluster: String,
    /// The reign of the heart that published it.
    pub term: Term,
    /// The position.
    pub position: Position,
    /// When the heart made it, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The digest that most nodes have at the position, if most have said so and agree.
    pub digest: Option<Digest>,
}

/// A question to every node, asked through its own queue by a heart that does not know where the history ends: what
/// do you have, now that everything which was published before this has reached you?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The cluster's id.
    pub cluster: String,
    /// A lower bound of the epoch that the history will go on under: a head queue in which nothing has this epoch
    /// says that the sealing did not end.
    pub epoch: u64,
    /// Which sealing it belongs to: random, one for each take-over.
    pub nonce: u64,
    /// It is asked again and again; this counts from 1.
    pub number: u64,
    /// When the heart made it, in milliseconds since the Unix epoch.
    pub at: u64,
}

/// A message that names a position of the chain.
#[derive(Debug, Clone)]
pub enum Link {
    /// A batch of writes.
    Write(WriteMessage),
    /// A mark.
    Mark(Mark),
}

/// Any message of the exchange.
#[derive(Debug, Clone)]
pub enum Message {
    /// A part of the history.
    Link(Link),
    /// A question about it.
    Seal(Seal),
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

impl WriteMessage {
    /// Makes the message that puts a batch, which is not empty, after `previous`.
    pub fn new(cluster: &str, term: Term, previous: Position, at: u64, batch: WriteBatch) -> Self {
        let count = batch.len() as u64;
        let writes = Bytes::from(batch.into_json());
        let position = Position { last: previous.last + count, hash: previous.hash.next(&writes) };
        Self::assemble(cluster, term, previous, position, at, &writes)
    }

    /// The same writes under another reign; the hash stays.
    #[must_use]
    pub fn with_term(&self, term: Term) -> Self {
        Self::assemble(&self.cluster, term, self.previous, self.position, self.at, &self.writes)
    }

    fn assemble(
        cluster: &str,
        term: Term,
        previous: Position,
        position: Position,
        at: u64,
        writes: &Bytes,
    ) -> Self {
        let wire = Wire {
            first: Some(previous.last + 1),
            prev: Some(previous.hash),
            hash: Some(position.hash),
            ..Wire::of_reign(cluster, term, at)
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
            term,
            first: previous.last + 1,
            previous,
            position,
            at,
            cluster: cluster.to_owned(),
            writes: body.slice(start..end),
            decoded: None,
            body,
        }
    }

    /// The encoded message: one line of JSON.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The same message for whoever keeps it and applies nothing: decoded writes take more memory than the body.
    #[must_use]
    pub fn without_decoded(self) -> Self {
        Self { decoded: None, ..self }
    }

    /// Its writes, in order: the first has sequence number `first`.
    pub fn writes(&self) -> Result<Arc<[Write]>, InvalidWrite> {
        if let Some(writes) = &self.decoded {
            return Ok(Arc::clone(writes));
        }
        let json = std::str::from_utf8(&self.writes)
            .map_err(|error| InvalidWrite { place: "writes".to_owned(), problem: error.to_string() })?;
        write::parse_array(json).map(Arc::from)
    }
}

impl Mark {
    /// The mark of a cluster that no heart has served yet.
    pub fn genesis(cluster: &str, at: u64) -> Self {
        let term = Term::new(0, 0);
        Self { cluster: cluster.to_owned(), term, position: Position::genesis(cluster), at, digest: None }
    }

    /// The encoded message: one line of JSON.
    pub fn body(&self) -> Bytes {
        let wire = Wire {
            last: Some(self.position.last),
            hash: Some(self.position.hash),
            digest: self.digest,
            ..Wire::of_reign(&self.cluster, self.term, self.at)
        };
        Bytes::from(encode(&wire))
    }
}

impl Seal {
    /// The encoded message: one line of JSON.
    pub fn body(&self) -> Bytes {
        let wire = Wire {
            seal: Some(self.nonce),
            number: Some(self.number),
            ..Wire::new(&self.cluster, self.epoch, self.at)
        };
        Bytes::from(encode(&wire))
    }
}

impl Message {
    /// Decodes a message of this cluster completely: shape, numbering, hash and every write.
    pub fn decode(cluster: &str, body: &Bytes) -> Result<Self, DecodeError> {
        wire::decode(cluster, body)
    }

    /// The encoded message.
    pub fn body(&self) -> Bytes {
        match self {
            Self::Link(Link::Write(message)) => message.body.clone(),
            Self::Link(Link::Mark(mark)) => mark.body(),
            Self::Seal(seal) => seal.body(),
        }
    }

    /// The AMQP property `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Link(Link::Write(_)) => "write",
            Self::Link(Link::Mark(_)) => "mark",
            Self::Seal(_) => "seal",
        }
    }

    /// The AMQP property `message_id`.
    pub fn id(&self) -> String {
        let (epoch, number) = match self {
            Self::Link(Link::Write(message)) => (message.term.epoch, message.first),
            Self::Link(Link::Mark(mark)) => (mark.term.epoch, mark.position.last),
            Self::Seal(seal) => (seal.epoch, seal.number),
        };
        format!("{epoch}.{number}")
    }
}

impl From<WriteMessage> for Message {
    fn from(message: WriteMessage) -> Self {
        Self::Link(Link::Write(message))
    }
}

impl From<Mark> for Message {
    fn from(mark: Mark) -> Self {
        Self::Link(Link::Mark(mark))
    }
}

impl Link {
    /// The reign of the heart that published it.
    pub fn term(&self) -> Term {
        match self {
            Self::Write(message) => message.term,
            Self::Mark(mark) => mark.term,
        }
    }

    /// The position that it ends at.
    pub fn position(&self) -> Position {
        match self {
            Self::Write(message) => message.position,
            Self::Mark(mark) => mark.position,
        }
    }

    /// The same content under another reign; the hash stays.
    #[must_use]
    pub fn with_term(self, term: Term) -> Self {
        match self {
            Self::Write(message) => Self::Write(message.with_term(term)),
            Self::Mark(mark) => Self::Mark(Mark { term, ..mark }),
        }
    }
}

#[cfg(test)]
mod tests;

//! A whole database as a stream, from any engine to any engine: what has been read to its end is complete, unchanged
//! and of one position, or there was an error.
//!
//! The stream is NDJSON in an LZ4 frame:
//!
//! | lines | example |
//! |---|---|
//! | a header | `{"v":1,"cluster":"…","last":1042,"hash":"…","epoch":7,"at":…,"digest":"…","rows":2,"requests":1}` |
//! | `rows` rows, in byte order of collection, then key | `{"collection":"users","key":"42","seq":1041,"value":{…}}` |
//! | `requests` request ids, in order of `seq` | `{"seq":1041,"id":"…","content":"…","rejection":"precondition_failed"}` |
//! | an end | `{"end":"<blake3 of all lines before it, line ends included>"}` |
//!
//! Nothing follows. Rows are held to the limits of writes and to the header's digest: whoever sends them is believed
//! nothing. Neither side keeps more than a line and a few blocks in memory. LZ4 because it costs next to nothing
//! beside the databases at both ends; what is saved is the network between them.

mod read;

use std::io;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::chain::{ChainHash, Position};
use crate::cut::Cut;
use crate::digest::Digest;
use crate::outcome::Rejection;
use crate::replica::Applied;
use crate::write::{Fingerprint, MAX_VALUE_BYTES};

pub use read::SnapshotReader;

/// The version of the format that this code reads and writes.
pub const VERSION: u64 = 1;

/// The longest line: a value, and more than the longest key takes when all of it is escaped.
const MAX_LINE_BYTES: usize = MAX_VALUE_BYTES + (8 << 10);

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotHeader {
    /// [`VERSION`].
    pub v: u64,
    /// The cluster's id.
    pub cluster: String,
    /// The last sequence number that is applied.
    pub last: u64,
    /// `H(last)`.
    pub hash: ChainHash,
    /// The highest epoch that a message was applied of.
    pub epoch: u64,
    /// What the history does without.
    #[serde(default, skip_serializing_if = "Cut::is_none")]
    pub cut: Cut,
    /// When the last message was made, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The digest of the rows.
    pub digest: Digest,
    /// How many rows follow.
    pub rows: u64,
    /// How many request ids follow them.
    pub requests: u64,
}

impl SnapshotHeader {
    /// What the database has applied that the snapshot was taken of.
    pub fn applied(&self) -> Applied {
        let position = Position { last: self.last, hash: self.hash };
        Applied { position, epoch: self.epoch, cut: self.cut }
    }
}

/// A row.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRow {
    /// Its collection.
    pub collection: String,
    /// Its key.
    pub key: String,
    /// The write that stored it.
    pub seq: u64,
    /// Its value.
    pub value: Box<RawValue>,
}

/// A request id that a write came with not long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// The first write that came with it.
    pub seq: u64,
    /// The fingerprint of the id.
    pub id: Fingerprint,
    /// The fingerprint of the write.
    pub content: Fingerprint,
    /// Why the write changed nothing, if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
}

/// A part of a snapshot.
#[derive(Debug, Clone)]
pub enum SnapshotEntry {
    /// A row.
    Row(SnapshotRow),
    /// A request id; after the first one there are no more rows.
    Request(SnapshotRequest),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: String,
}

/// Why a snapshot is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Made by a newer version of this software.
    #[error("snapshot of version {0}; this node understands {VERSION}: upgrade it")]
    NewerVersion(u64),
    /// Another cluster's.
    #[error("snapshot of cluster {found:?}, not of {expected:?}")]
    OtherCluster {
        /// This cluster.
        expected: String,
        /// The snapshot's.
        found: String,
    },
    /// It cannot be read, or is not compressed as it should be.
    #[error("line {line} of the snapshot cannot be read: {problem}")]
    Unreadable {
        /// The line, counted from 1.
        line: u64,
        /// Why.
        problem: String,
    },
    /// A line is not what it should be.
    #[error("line {line} of the snapshot: {problem}")]
    Malformed {
        /// The line, counted from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// What was read is not what it says it is.
    #[error("the snapshot's {what} is {found}, not {expected} as it says")]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// What the snapshot says.
        expected: String,
        /// What was read.
        found: String,
    },
}

/// Writes a snapshot: a header, its rows in order, its request ids in order, the end.
pub struct SnapshotWriter<W: io::Write> {
    frame: FrameEncoder<W>,
    hasher: blake3::Hasher,
    line: Vec<u8>,
}

impl<W: io::Write> SnapshotWriter<W> {
    /// Writes the header.
    pub fn begin(header: &SnapshotHeader, out: W) -> io::Result<Self> {
        // What is sent is hashed as a whole: checksums would say nothing more.
        let info = FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB);
        let frame = FrameEncoder::with_frame_info(info, out);
        let mut writer = Self { frame, hasher: blake3::Hasher::new(), line: Vec::new() };
        writer.write_json(header)?;
        Ok(writer)
    }

    /// Writes a row: `value` is its JSON text as stored.
    pub fn row(&mut self, collection: &str, key: &str, seq: u64, value: &str) -> io::Result<()> {
        #[derive(Serialize)]
        struct Start<'a> {
            collection: &'a str,
            key: &'a str,
            seq: u64,
        }
        self.line.clear();
        serde_json::to_writer(&mut self.line, &Start { collection, key, seq })?;
        self.line.pop();
        self.line.extend_from_slice(b",\"value\":");
        self.line.extend_from_slice(value.as_bytes());
        self.line.push(b'}');
        self.write_line()
    }

    /// Writes a request id.
    pub fn request(&mut self, request: &SnapshotRequest) -> io::Result<()> {
        self.write_json(request)
    }

    /// Writes the end, and gives back what was written to.
    pub fn end(mut self) -> io::Result<W> {
        let end = self.hasher.finalize().to_string();
        self.write_json(&End { end })?;
        Ok(self.frame.finish()?)
    }

    fn write_json(&mut self, line: &impl Serialize) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)?;
        self.write_line()
    }

    fn write_line(&mut self) -> io::Result<()> {
        self.line.push(b'\n');
        self.hasher.update(&self.line);
        io::Write::write_all(&mut self.frame, &self.line)
    }
}

#[cfg(test)]
mod tests;

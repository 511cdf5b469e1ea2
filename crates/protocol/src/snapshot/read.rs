//! Reading a snapshot: every line is checked on its own, against the one before it, and all of them together at the end.

use std::cmp::Ordering;
use std::io::{BufRead, ErrorKind, Read};

use lz4_flex::frame::FrameDecoder;
use serde::Deserialize;

use super::{
    End, MAX_LINE_BYTES, SnapshotEntry, SnapshotError, SnapshotHeader, SnapshotRequest, SnapshotRow, VERSION,
};
use crate::chain::ChainHash;
use crate::cut::Cut;
use crate::digest::Digest;
use crate::envelope::MAX_NUMBER;
use crate::outcome::{REQUEST_ID_WINDOW, Rejection};
use crate::write::{Operation, Write};

const BREAKS_OFF: &str = "the snapshot breaks off";

/// Reads a snapshot. Nothing of it may be used before [`SnapshotReader::next_entry`] has returned `None`.
pub struct SnapshotReader<R: Read> {
    frame: FrameDecoder<R>,
    hasher: blake3::Hasher,
    line: Vec<u8>,
    line_number: u64,
    header: SnapshotHeader,
    digest: Digest,
    rows: u64,
    requests: u64,
    /// The row before, and the request before.
    previous: (String, String),
    previous_request: u64,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads and checks the header.
    pub fn open(cluster: &str, source: R) -> Result<Self, SnapshotError> {
        let mut reader = Self {
            frame: FrameDecoder::new(source),
            hasher: blake3::Hasher::new(),
            line: Vec::new(),
            line_number: 0,
            header: SnapshotHeader {
                v: VERSION,
                cluster: cluster.to_owned(),
                last: 0,
                hash: ChainHash::genesis(cluster),
                epoch: 0,
                cut: Cut::default(),
                at: 0,
                digest: Digest::default(),
                rows: 0,
                requests: 0,
            },
            digest: Digest::default(),
            rows: 0,
            requests: 0,
            previous: (String::new(), String::new()),
            previous_request: 0,
        };
        reader.read_line()?;
        reader.header = reader.decode_header(cluster)?;
        Ok(reader)
    }

    /// What the snapshot says that it is of.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The next part, or `None` when all of it was read and proven.
    pub fn next_entry(&mut self) -> Result<Option<SnapshotEntry>, SnapshotError> {
        if self.rows < self.header.rows {
            self.read_line()?;
            self.decode_row().map(|row| Some(SnapshotEntry::Row(row)))
        } else if self.requests < self.header.requests {
            self.read_line()?;
            self.decode_request().map(|request| Some(SnapshotEntry::Request(request)))
        } else {
            self.read_end()?;
            Ok(None)
        }
    }

    /// What is wrong with the last line although it was decoded: only a database can see it.
    pub fn malformed(&self, problem: impl Into<String>) -> SnapshotError {
        SnapshotError::Malformed { line: self.line_number, problem: problem.into() }
    }

    fn decode_header(&self, cluster: &str) -> Result<SnapshotHeader, SnapshotError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Any {
            v: u64,
            cluster: String,
        }
        let Any { v, cluster: found } = self.decode()?;
        if found != cluster {
            let found = found.chars().take(80).collect();
            return Err(SnapshotError::OtherCluster { expected: cluster.to_owned(), found });
        }
        if v > VERSION {
            return Err(SnapshotError::NewerVersion(v));
        }
        let header: SnapshotHeader = self.decode()?;
        if header.v != VERSION {
            return Err(self.malformed(format!("version {}; {VERSION} is the lowest", header.v)));
        }
        if [header.last, header.epoch, header.at].into_iter().any(|number| number > MAX_NUMBER) {
            return Err(self.malformed(format!("last, epoch and at are at most {MAX_NUMBER}")));
        }
        Ok(header)
    }

    fn decode_row(&mut self) -> Result<SnapshotRow, SnapshotError> {
        let SnapshotRow { collection, key, seq, value } = self.decode()?;
        // The limits of writes are those of rows; of a write, there is nothing else here.
        let write = Write { operation: Operation::Put(value), collection, key, id: None, condition: None };
        let write = write.checked("row").map_err(|error| self.malformed(error.to_string()))?;
        let (Operation::Put(value), collection, key) = (write.operation, write.collection, write.key) else {
            return Err(self.malformed("not a row"));
        };
        self.check_seq(seq)?;
        let order = (collection.as_str(), key.as_str()).cmp(&(&self.previous.0, &self.previous.1));
        if order != Ordering::Greater {
            return Err(self.malformed(format!("the row {collection}/{key} is not after the one before it")));
        }
        self.previous.0.clone_from(&collection);
        self.previous.1.clone_from(&key);
        self.digest.add(&collection, &key, value.get(), seq);
        self.rows += 1;
        Ok(SnapshotRow { collection, key, seq, value })
    }

    fn decode_request(&mut self) -> Result<SnapshotRequest, SnapshotError> {
        let request: SnapshotRequest = self.decode()?;
        self.check_seq(request.seq)?;
        if request.seq <= self.previous_request {
            return Err(self.malformed(format!("request {} is not after the one before it", request.seq)));
        }
        if self.header.last - request.seq >= REQUEST_ID_WINDOW {
            return Err(self.malformed(format!("request {} is too old to be remembered", request.seq)));
        }
        if request.rejection == Some(Rejection::IdReused) {
            return Err(self.malformed("the first request with an id cannot have reused it"));
        }
        self.previous_request = request.seq;
        self.requests += 1;
        Ok(request)
    }

    fn read_end(&mut self) -> Result<(), SnapshotError> {
        let found = self.hasher.finalize().to_string();
        self.read_line()?;
        let End { end } = self.decode()?;
        check_equal("hash", &end, &found)?;
        check_equal("digest of rows", &self.header.digest, &self.digest)?;
        // The frame's end first, which gives no bytes, then the end of what it came in.
        let is_empty = self.frame.fill_buf().map(<[u8]>::is_empty);
        let ended = is_empty.and_then(|empty| Ok(empty && self.frame.get_mut().read(&mut [0])? == 0));
        if !ended.map_err(|error| self.unreadable(error.to_string()))? {
            return Err(self.malformed("something follows the end"));
        }
        Ok(())
    }

    fn check_seq(&self, seq: u64) -> Result<(), SnapshotError> {
        if (1..=self.header.last).contains(&seq) {
            return Ok(());
        }
        Err(self.malformed(format!("seq is {seq}; 1 to {} are possible", self.header.last)))
    }

    fn read_line(&mut self) -> Result<(), SnapshotError> {
        self.line_number += 1;
        self.line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = (&mut self.frame).take(limit).read_until(b'\n', &mut self.line);
        read.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.unreadable(BREAKS_OFF),
            _ => self.unreadable(error.to_string()),
        })?;
        if self.line.last() != Some(&b'\n') {
            return Err(if self.line.len() > MAX_LINE_BYTES {
                self.malformed(format!("longer than {MAX_LINE_BYTES} bytes"))
            } else {
                self.unreadable(BREAKS_OFF)
            });
        }
        self.hasher.update(&self.line);
        Ok(())
    }

    fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, SnapshotError> {
        serde_json::from_slice(&self.line).map_err(|error| self.malformed(error.to_string()))
    }

    fn unreadable(&self, problem: impl Into<String>) -> SnapshotError {
        SnapshotError::Unreadable { line: self.line_number, problem: problem.into() }
    }
}

fn check_equal<T: PartialEq + ToString>(
    what: &'static str,
    expected: &T,
    found: &T,
) -> Result<(), SnapshotError> {
    if expected == found {
        return Ok(());
    }
    Err(SnapshotError::Mismatch { what, expected: expected.to_string(), found: found.to_string() })
}

//! What the databases must contain: remembers what was written and with which answer, and compares with their rows and with the history
//! that they have applied.
//!
//! A key has one writer at a time, which goes on to its next write only when it knows how the last one ended. Then a
//! key's order of answers is its order of writes, whatever happens to messages on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex};

use broadcast_protocol::digest::Digest;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::report::{Counted, count};

mod log;

pub use log::{Logged, read_log};

/// How many differences are listed.
const LISTED: usize = 20;

type Key = (String, String);

/// A row of a node's database.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The value's text.
    pub value: String,
    /// The write that stored it.
    pub seq: u64,
}

/// All rows of a node's database.
pub type Rows = BTreeMap<Key, Row>;

/// What is known of a key.
#[derive(Clone, Debug, Default)]
struct History {
    /// The last acknowledged write: the value (none: deleted), and between which numbers it was applied.
    settled: Option<(Option<Value>, RangeInclusive<u64>)>,
    /// Writes after it whose outcome nobody knows: each may have been applied, or be applied later.
    open: Vec<Option<Value>>,
}

/// Shared by everything that writes to a cluster.
#[derive(Clone, Debug, Default)]
pub struct Oracle(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    keys: BTreeMap<Key, History>,
    /// Every acknowledged write, and between which numbers it was applied.
    acknowledged: Vec<(Content, RangeInclusive<u64>)>,
    unknown: Vec<Content>,
    /// Collections that others look after.
    left_out: BTreeSet<String>,
    /// Collections of which others look after the rows.
    rows_left_out: BTreeSet<String>,
    highest: u64,
    /// How many of those that were acknowledged somebody has added up.
    counted: usize,
}

/// A key, and the value that was written there (none: it was deleted).
type Content = (Key, Option<Value>);

impl Oracle {
    /// A write (no value: a delete) was acknowledged as number `seq`. When it was tried more than once under one id, an
    /// earlier try may be the one that was applied.
    pub fn acknowledged(&self, collection: &str, key: &str, value: Option<&Value>, seq: u64, tries: usize) {
        let mut memory = self.0.lock().unwrap();
        memory.highest = memory.highest.max(seq);
        let key = (collection.to_owned(), key.to_owned());
        let history = memory.keys.entry(key.clone()).or_default();
        let before = history.settled.as_ref().map_or(0, |(_, seqs)| *seqs.start());
        let seqs = if tries > 1 { before + 1 } else { seq }..=seq;
        *history = History { settled: Some((value.cloned(), seqs.clone())), open: Vec::new() };
        memory.acknowledged.push(((key, value.cloned()), seqs));
    }

    /// Nobody knows whether a write (no value: a delete) was, or will be, applied.
    pub fn unknown(&self, collection: &str, key: &str, value: Option<&Value>) {
        let mut memory = self.0.lock().unwrap();
        let key = (collection.to_owned(), key.to_owned());
        memory.keys.entry(key.clone()).or_default().open.push(value.cloned());
        memory.unknown.push((key, value.cloned()));
    }

    /// A write to a key that has several writers was acknowledged, with one of these numbers; without any, nobody knows whether it was
    /// made. What its row has to be is checked by others.
    pub fn wrote_shared(
        &self,
        collection: &str,
        key: &str,
        value: Option<&Value>,
        seqs: Option<RangeInclusive<u64>>,
    ) {
        let mut memory = self.0.lock().unwrap();
        let content = ((collection.to_owned(), key.to_owned()), value.cloned());
        match seqs {
            Some(seqs) => {
                memory.highest = memory.highest.max(*seqs.end());
                memory.acknowledged.push((content, seqs));
            }
            None => memory.unknown.push(content),
        }
    }

    /// What is in this collection, and what was written to it, is checked by others.
    pub fn leave_out(&self, collection: &str) {
        self.0.lock().unwrap().left_out.insert(collection.to_owned());
    }

    /// What the rows of this collection have to be is checked by others; every write to it is told here.
    pub fn leave_rows_out(&self, collection: &str) {
        self.0.lock().unwrap().rows_left_out.insert(collection.to_owned());
    }

    /// How many writes were acknowledged.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().acknowledged.len()
    }

    /// How many were since this was asked last.
    pub fn count_anew(&self) -> usize {
        let mut memory = self.0.lock().unwrap();
        let count = memory.acknowledged.len();
        count - std::mem::replace(&mut memory.counted, count)
    }

    /// The highest number that an acknowledged write got.
    pub fn highest(&self) -> u64 {
        self.0.lock().unwrap().highest
    }

    /// Panics with a list of differences unless rows are exactly what was acknowledged.
    pub fn check(&self, whose: &str, rows: &Rows) {
        let memory = self.0.lock().unwrap();
        let (keys, left_out) = (memory.keys.clone(), &memory.left_out | &memory.rows_left_out);
        drop(memory);
        let mut differences = Vec::new();
        for (key, history) in &keys {
            if let Some(difference) = history.differs_from(rows.get(key)) {
                differences.push(format!("{}/{}: {difference}", key.0, key.1));
            }
        }
        count(Counted::Lost, differences.len());
        for (key, row) in rows.iter().filter(|((collection, _), _)| !left_out.contains(collection)) {
            if !keys.contains_key(key) {
                differences.push(format!("{}/{}: nobody wrote it, but there is {row:?}", key.0, key.1));
            }
        }
        fail_on(whose, &differences);
    }
}

fn fail_on(whose: &str, differences: &[String]) {
    let shown = differences[..differences.len().min(LISTED)].join("\n");
    assert!(differences.is_empty(), "{whose}: {} differences:\n{shown}", differences.len());
}

impl History {
    fn differs_from(&self, row: Option<&Row>) -> Option<String> {
        let found = row.map(|row| serde_json::from_str::<Value>(&row.value).unwrap());
        let is_open = self.open.contains(&found);
        let Some((value, seqs)) = &self.settled else {
            return (found.is_some() && !is_open).then(|| format!("{row:?} was never written"));
        };
        let is_settled = found == *value && row.is_none_or(|row| seqs.contains(&row.seq));
        (!is_settled && !is_open).then(|| {
            format!("acknowledged as {seqs:?} was {value:?}, open are {:?}, but there is {row:?}", self.open)
        })
    }
}

/// Reads all rows of a node's database, which may be in use.
pub fn read_rows(path: &Path) -> Rows {
    let connection = open_read_only(path);
    let mut statement = connection.prepare("SELECT collection, key, value, seq FROM documents").unwrap();
    let rows = statement
        .query_map([], |row| {
            let seq: i64 = row.get(3)?;
            let row_of_key = Row { value: row.get(2)?, seq: u64::try_from(seq).unwrap() };
            Ok(((row.get(0)?, row.get(1)?), row_of_key))
        })
        .unwrap();
    rows.map(Result::unwrap).collect()
}

/// Opens a node's database for reading.
pub fn open_read_only(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
}

/// The digest of rows, computed here.
pub fn digest_of(rows: &Rows) -> String {
    let mut digest = Digest::default();
    for ((collection, key), row) in rows {
        digest.add(collection, key, &row.value, row.seq);
    }
    digest.to_string()
}

#[cfg(test)]
mod tests;

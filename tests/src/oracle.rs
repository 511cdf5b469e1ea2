//! What the databases must contain: remembers what was written and with which answer, and compares.
//!
//! A key has one writer at a time, which goes on to its next write only when it knows how the last one ended. Then a
//! key's order of answers is its order of writes, whatever happens to messages on their way.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex};

use broadcast_protocol::digest::Digest;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

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
    acknowledged: usize,
    highest: u64,
}

impl Oracle {
    /// A write (no value: a delete) was acknowledged as number `seq`. When it was tried more than once under one id, an
    /// earlier try may be the one that was applied.
    pub fn acknowledged(&self, collection: &str, key: &str, value: Option<&Value>, seq: u64, tries: usize) {
        let mut memory = self.0.lock().unwrap();
        memory.acknowledged += 1;
        memory.highest = memory.highest.max(seq);
        let history = memory.keys.entry((collection.to_owned(), key.to_owned())).or_default();
        let before = history.settled.as_ref().map_or(0, |(_, seqs)| *seqs.start());
        let earliest = if tries > 1 { before + 1 } else { seq };
        *history = History { settled: Some((value.cloned(), earliest..=seq)), open: Vec::new() };
    }

    /// Nobody knows whether a write (no value: a delete) was, or will be, applied.
    pub fn unknown(&self, collection: &str, key: &str, value: Option<&Value>) {
        let mut memory = self.0.lock().unwrap();
        let history = memory.keys.entry((collection.to_owned(), key.to_owned())).or_default();
        history.open.push(value.cloned());
    }

    /// How many writes were acknowledged.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().acknowledged
    }

    /// The highest number that an acknowledged write got.
    pub fn highest(&self) -> u64 {
        self.0.lock().unwrap().highest
    }

    /// Panics with a list of differences unless rows are exactly what was acknowledged.
    pub fn check(&self, whose: &str, rows: &Rows) {
        let keys = self.0.lock().unwrap().keys.clone();
        let mut differences = Vec::new();
        for (key, history) in &keys {
            if let Some(difference) = history.differs_from(rows.get(key)) {
                differences.push(format!("{}/{}: {difference}", key.0, key.1));
            }
        }
        for (key, row) in rows {
            if !keys.contains_key(key) {
                differences.push(format!("{}/{}: nobody wrote it, but there is {row:?}", key.0, key.1));
            }
        }
        let shown = differences[..differences.len().min(LISTED)].join("\n");
        assert!(differences.is_empty(), "{whose}: {} differences:\n{shown}", differences.len());
    }
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
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(rows: &[(&str, &str, u64)]) -> Rows {
        let row = |&(key, value, seq): &(&str, &str, u64)| {
            (("c".to_owned(), key.to_owned()), Row { value: value.to_owned(), seq })
        };
        rows.iter().map(row).collect()
    }

    fn differs(oracle: &Oracle, rows: &Rows) -> bool {
        std::panic::catch_unwind(|| oracle.check("node", rows)).is_err()
    }

    #[test]
    fn exactly_the_last_acknowledged_value_with_its_number_is_right() {
        let oracle = Oracle::default();
        oracle.acknowledged("c", "k", Some(&json!(1)), 1, 1);
        oracle.acknowledged("c", "k", Some(&json!(2)), 2, 1);
        oracle.check("node", &rows(&[("k", "2", 2)]));
        for wrong in [&[][..], &[("k", "1", 1)], &[("k", "2", 3)], &[("k", "2", 2), ("other", "1", 3)]] {
            assert!(differs(&oracle, &rows(wrong)), "{wrong:?}");
        }
    }

    #[test]
    fn a_write_that_was_tried_again_has_the_number_of_one_of_its_tries() {
        let oracle = Oracle::default();
        oracle.acknowledged("c", "k", Some(&json!(1)), 5, 1);
        oracle.acknowledged("c", "k", Some(&json!(2)), 9, 2);
        oracle.check("node", &rows(&[("k", "2", 6)]));
        oracle.check("node", &rows(&[("k", "2", 9)]));
        assert!(differs(&oracle, &rows(&[("k", "2", 5)])));
    }

    #[test]
    fn a_write_with_an_unknown_end_may_be_there_or_not() {
        let oracle = Oracle::default();
        oracle.acknowledged("c", "k", Some(&json!(1)), 1, 1);
        oracle.unknown("c", "k", None);
        oracle.check("node", &rows(&[("k", "1", 1)]));
        oracle.check("node", &rows(&[]));
        assert!(differs(&oracle, &rows(&[("k", "7", 2)])));
        oracle.acknowledged("c", "k", Some(&json!(3)), 3, 1);
        assert!(differs(&oracle, &rows(&[])));
    }
}

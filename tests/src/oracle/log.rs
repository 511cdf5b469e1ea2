//! What a node has applied, as it stands in its file: every acknowledged write once, and nothing that nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Content, Memory, Oracle, fail_on, open_read_only};
use crate::report::{self, Counted};

/// A write of the history that a node has applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// Its number.
    pub seq: u64,
    /// Its key, and the value (none: it deletes).
    pub content: Content,
    /// Its request id.
    pub id: Option<String>,
}

/// Reads the history in a node's database: all of it, or from the snapshot on that the database began with. The database may be in use.
/// The messages are decoded here, not by what is tested.
pub fn read_log(path: &Path) -> Vec<Logged> {
    #[derive(Deserialize)]
    struct Message {
        first: u64,
        writes: Vec<Write>,
    }
    #[derive(Deserialize)]
    struct Write {
        collection: String,
        key: String,
        value: Option<Value>,
        op: String,
        id: Option<String>,
    }
    let connection = open_read_only(path);
    let mut statement = connection.prepare("SELECT body FROM _broadcast_log ORDER BY last").unwrap();
    let bodies = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    let mut log = Vec::new();
    for body in bodies {
        let message: Message = serde_json::from_slice(&body.unwrap()).unwrap();
        for (seq, write) in (message.first..).zip(message.writes) {
            // A value that is null reads like none.
            let value = (write.op == "put").then(|| write.value.unwrap_or_default());
            log.push(Logged { seq, content: ((write.collection, write.key), value), id: write.id });
        }
    }
    log
}

impl Oracle {
    /// Panics with a list of differences unless a node's history has every acknowledged write once (as far back as it goes),
    /// and no write that nobody asked for.
    pub fn check_log(&self, whose: &str, log: &[Logged]) {
        let memory = self.0.lock().unwrap();
        let mut differences = find_holes(log);
        let (mut lost, mut doubled) = (0, 0);
        let first = log.first().map_or(memory.highest + 1, |write| write.seq);
        let own = log.iter().filter(|write| !memory.left_out.contains(&write.content.0.0));
        let effective = drop_repetitions(own);
        let (asked, acknowledged) = (memory.count_asked(), memory.count_acknowledged_from(first));
        let by_number: BTreeMap<u64, &Logged> = effective.iter().map(|write| (write.seq, *write)).collect();
        for (content, seqs) in memory.acknowledged.iter().filter(|(_, seqs)| *seqs.start() >= first) {
            if !by_number.range(seqs.clone()).any(|(_, write)| write.content == *content) {
                differences.push(format!("lost: {content:?}, acknowledged as {seqs:?}"));
                lost += 1;
            }
        }
        let mut applied = BTreeMap::new();
        for write in &effective {
            *applied.entry(name_of(&write.content)).or_insert(0_usize) += 1;
        }
        for (content, count) in applied {
            let (asked, acknowledged) = (asked.get(&content), acknowledged.get(&content));
            if asked.is_none_or(|asked| count > *asked) {
                differences.push(format!("{content} was applied {count} times, asked for {asked:?} times"));
                doubled += 1;
            }
            if acknowledged.is_some_and(|acknowledged| count < *acknowledged) {
                differences.push(format!(
                    "lost: {content} was applied {count} times, acknowledged {acknowledged:?} times"
                ));
                lost += 1;
            }
        }
        drop(memory);
        report::count(Counted::Lost, lost);
        report::count(Counted::Doubled, doubled);
        fail_on(&format!("the history of {whose}"), &differences);
    }
}

impl Memory {
    fn count_asked(&self) -> BTreeMap<String, usize> {
        let acknowledged = self.acknowledged.iter().map(|(content, _)| content);
        count(acknowledged.chain(&self.unknown))
    }

    fn count_acknowledged_from(&self, first: u64) -> BTreeMap<String, usize> {
        count(self.acknowledged.iter().filter(|(_, seqs)| *seqs.start() >= first).map(|(content, _)| content))
    }
}

fn count<'a>(contents: impl Iterator<Item = &'a Content>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for content in contents {
        *counts.entry(name_of(content)).or_insert(0) += 1;
    }
    counts
}

fn name_of(((collection, key), value): &Content) -> String {
    match value {
        Some(value) => format!("{collection}/{key} = {value}"),
        None => format!("{collection}/{key} deleted"),
    }
}

fn find_holes(log: &[Logged]) -> Vec<String> {
    let pairs = log.iter().zip(log.iter().skip(1));
    pairs
        .filter(|(one, next)| next.seq != one.seq + 1)
        .map(|(one, next)| format!("{} follows {}", next.seq, one.seq))
        .collect()
}

/// A write with an id that came before changes nothing.
fn drop_repetitions<'a>(log: impl Iterator<Item = &'a Logged>) -> Vec<&'a Logged> {
    let mut seen = BTreeSet::new();
    log.filter(|write| write.id.as_ref().is_none_or(|id| seen.insert(id))).collect()
}

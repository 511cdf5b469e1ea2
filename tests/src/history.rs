//! What concurrent clients asked for and were told, and whether one order of the writes explains all of it.
//!
//! Writes have numbers, so most of the order is given: a write that was answered at its first try has its place, a read shows the state
//! at a position. What is left open is where, and whether, a write took place whose outcome nobody knows, and which try of
//! several did. For each key a search looks for places for these. Over all keys, numbers have to agree with time: a
//! write that began when another one was acknowledged has a higher number, and a read shows nothing that was not yet asked for.
//!
//! Every value has to be written once only, so that what is read tells who wrote it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

mod search;

use search::{Event, Floating, Search};

/// A time: microseconds since the history began.
pub type Time = u64;

/// A write that a client asked for.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its key.
    pub key: String,
    /// The value; none deletes.
    pub value: Option<Value>,
    /// What has to hold of the row for it to change anything.
    pub condition: Option<Condition>,
    /// When the first try began.
    pub start: Time,
    /// When the client knew the outcome, or gave up.
    pub end: Time,
    /// What the client was told.
    pub outcome: Outcome,
}

/// A precondition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no row.
    Absent,
    /// The row was stored by the write with this number.
    Seq(u64),
}

/// What became of a write, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has a place in the history.
    Acknowledged {
        /// The number that the answer has.
        seq: u64,
        /// Whether that is the write's. Otherwise an earlier try under the same request id may have been it.
        is_exact: bool,
        /// Whether its condition held, where that was said.
        held: Option<bool>,
    },
    /// It may have been made, or be made later.
    Unknown,
    /// It was not made.
    Refused,
}

/// What a node showed of a key.
#[derive(Clone, Debug)]
pub struct Read {
    /// The key.
    pub key: String,
    /// Who was asked.
    pub node: String,
    /// The number that it was asked to have applied.
    pub at_least: u64,
    /// What it had applied.
    pub position: u64,
    /// The value, and the number of the write that stored it.
    pub row: Option<(Value, u64)>,
    /// When it was asked.
    pub start: Time,
    /// When it answered.
    pub end: Time,
}

/// What several clients have done. Clones share it.
#[derive(Clone, Debug)]
pub struct History {
    began: Instant,
    recorded: Arc<Mutex<Recorded>>,
}

#[derive(Debug, Default)]
struct Recorded {
    writes: Vec<Write>,
    reads: Vec<Read>,
}

/// How much a history contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Acknowledged writes.
    pub acknowledged: usize,
    /// Those that had a condition which is known not to have held.
    pub rejected: usize,
    /// Writes with an unknown outcome.
    pub unknown: usize,
    /// Reads.
    pub reads: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { began: Instant::now(), recorded: Arc::default() }
    }
}

impl History {
    /// The time now.
    pub fn now(&self) -> Time {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    /// Takes a write that is over.
    pub fn wrote(&self, write: Write) {
        self.recorded.lock().unwrap().writes.push(write);
    }

    /// Takes a read that was answered.
    pub fn read(&self, read: Read) {
        self.recorded.lock().unwrap().reads.push(read);
    }

    /// The highest number that an acknowledged write got.
    pub fn highest(&self) -> u64 {
        self.recorded.lock().unwrap().writes.iter().filter_map(number).max().unwrap_or(0)
    }

    /// Every key that somebody wrote to.
    pub fn keys(&self) -> Vec<String> {
        let recorded = self.recorded.lock().unwrap();
        let mut keys: Vec<String> = recorded.writes.iter().map(|write| write.key.clone()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// How much it contains.
    pub fn count(&self) -> Count {
        let recorded = self.recorded.lock().unwrap();
        let count =
            |is: fn(&Outcome) -> bool| recorded.writes.iter().filter(|write| is(&write.outcome)).count();
        Count {
            acknowledged: count(|outcome| matches!(outcome, Outcome::Acknowledged { .. })),
            rejected: count(|outcome| matches!(outcome, Outcome::Acknowledged { held: Some(false), .. })),
            unknown: count(|outcome| *outcome == Outcome::Unknown),
            reads: recorded.reads.len(),
        }
    }

    /// What no order of the writes explains; empty when one explains everything.
    pub fn find_violations(&self) -> Vec<String> {
        let recorded = self.recorded.lock().unwrap();
        let mut check = Check::new(&recorded);
        check.check_numbers();
        check.check_reads();
        check.place_what_was_seen();
        if check.violations.is_empty() {
            check.explain_keys();
        }
        check.violations
    }
}

/// The number of the answer.
fn number(write: &Write) -> Option<u64> {
    if let Outcome::Acknowledged { seq, .. } = write.outcome { Some(seq) } else { None }
}

struct Check<'a> {
    recorded: &'a Recorded,
    /// For each write: the highest number that was acknowledged before it began.
    floors: Vec<u64>,
    /// For each write: its number, once it is known.
    places: Vec<Option<u64>>,
    violations: Vec<String>,
}

impl<'a> Check<'a> {
    fn new(recorded: &'a Recorded) -> Self {
        let places = recorded.writes.iter().map(|write| match write.outcome {
            Outcome::Acknowledged { seq, is_exact: true, .. } => Some(seq),
            _ => None,
        });
        let (floors, places) = (find_floors(&recorded.writes), places.collect());
        Self { recorded, floors, places, violations: Vec::new() }
    }

    /// Numbers are given once, and in the order of time.
    fn check_numbers(&mut self) {
        let mut owners = HashMap::new();
        for (write, floor) in self.recorded.writes.iter().zip(&self.floors) {
            let Some(seq) = number(write) else { continue };
            if seq <= *floor {
                self.violations.push(format!("{floor} was acknowledged before this began: {write:?}"));
            }
            if let Some(other) = owners.insert(seq, write) {
                self.violations.push(format!("one number for two: {other:?} and {write:?}"));
            }
        }
    }

    /// A node has applied what it was asked to have, and nothing that was not yet asked for.
    fn check_reads(&mut self) {
        let writes = self.recorded.writes.iter().zip(&self.places);
        let mut starts: BTreeMap<u64, Time> =
            writes.filter_map(|(write, place)| Some(((*place)?, write.start))).collect();
        let mut latest = 0;
        for start in starts.values_mut() {
            latest = latest.max(*start);
            *start = latest;
        }
        for read in &self.recorded.reads {
            if read.position < read.at_least {
                self.violations.push(format!("a node was behind what was asked for: {read:?}"));
            }
            if starts.range(..=read.position).next_back().is_some_and(|(_, start)| *start > read.end) {
                self.violations.push(format!("a node had applied what was not yet asked for: {read:?}"));
            }
        }
    }

    /// A value that was read has the number of the write that it came from.
    fn place_what_was_seen(&mut self) {
        let mut writers: HashMap<(&str, String), usize> = HashMap::new();
        for (index, write) in self.recorded.writes.iter().enumerate() {
            let Some(value) = &write.value else { continue };
            let earlier = writers.insert((&write.key, value.to_string()), index);
            assert!(earlier.is_none(), "a value has to be written once only: {write:?}");
        }
        for read in &self.recorded.reads {
            let Some((value, seq)) = &read.row else { continue };
            let Some(&writer) = writers.get(&(read.key.as_str(), value.to_string())) else {
                self.violations.push(format!("nobody wrote this: {read:?}"));
                continue;
            };
            if let Some(problem) = self.place(writer, *seq) {
                self.violations.push(format!("{problem}: {:?}, {read:?}", self.recorded.writes[writer]));
            }
        }
    }

    /// A write was seen under a number. Says why that cannot be.
    fn place(&mut self, writer: usize, seq: u64) -> Option<&'static str> {
        let write = &self.recorded.writes[writer];
        match (write.outcome, self.places[writer]) {
            (Outcome::Refused, _) => return Some("this was not made, but is there"),
            (Outcome::Acknowledged { held: Some(false), .. }, _) => {
                return Some("this was rejected, but is there");
            }
            (_, Some(place)) if place != seq => return Some("this was made twice"),
            _ if seq <= self.floors[writer] => return Some("this has a number from before it was asked for"),
            (Outcome::Acknowledged { seq: last, .. }, _) if seq > last => {
                return Some("this has a higher number than its answer");
            }
            _ => {}
        }
        self.places[writer] = Some(seq);
        None
    }

    fn explain_keys(&mut self) {
        let mut keys: BTreeMap<&str, (Vec<usize>, Vec<&Read>)> = BTreeMap::new();
        for (index, write) in self.recorded.writes.iter().enumerate() {
            keys.entry(&write.key).or_default().0.push(index);
        }
        for read in &self.recorded.reads {
            keys.entry(&read.key).or_default().1.push(read);
        }
        for (key, (writes, reads)) in keys {
            let mut events: Vec<Event<'_>> = reads.into_iter().map(Event::Read).collect();
            let mut floating = Vec::new();
            for index in writes {
                let write = &self.recorded.writes[index];
                match (self.places[index], write.outcome) {
                    (Some(seq), _) => events.push(Event::Write { seq, write }),
                    (None, Outcome::Acknowledged { seq, .. }) => {
                        floating.push(Floating {
                            write,
                            after: self.floors[index],
                            through: seq,
                            must: true,
                        });
                    }
                    (None, Outcome::Unknown) => {
                        let after = self.floors[index];
                        floating.push(Floating { write, after, through: u64::MAX, must: false });
                    }
                    (None, Outcome::Refused) => {}
                }
            }
            events.sort_by_key(Event::order);
            if let Err(problem) = Search::new(&events, &floating).run() {
                self.violations.push(format!("{key}: {problem}"));
            }
        }
    }
}

/// For each write: the highest number that was acknowledged before it began.
fn find_floors(writes: &[Write]) -> Vec<u64> {
    let mut ends: Vec<(Time, u64)> =
        writes.iter().filter_map(|write| Some((write.end, number(write)?))).collect();
    ends.sort_unstable();
    let mut highest = 0;
    for (_, seq) in &mut ends {
        highest = highest.max(*seq);
        *seq = highest;
    }
    let floor = |write: &Write| match ends.partition_point(|(end, _)| *end < write.start) {
        0 => 0,
        before => ends[before - 1].1,
    };
    writes.iter().map(floor).collect()
}

#[cfg(test)]
mod tests;

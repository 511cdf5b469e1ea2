//! The search for one key: where the writes belong whose number is not known, so that every condition was decided and every read was
//! answered by the state at its place.

use std::collections::HashSet;

use serde_json::Value;

use super::{Condition, Outcome, Read, Write};

/// How many states are looked at before the search gives up: a history that can be explained takes few.
const PATIENCE: usize = 2_000_000;

/// What has its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    Write { seq: u64, write: &'a Write },
    Read(&'a Read),
}

/// A write whose number is not known: above `after`, at most `through`, or none unless it must have one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floating<'a> {
    pub(super) write: &'a Write,
    pub(super) after: u64,
    pub(super) through: u64,
    pub(super) must: bool,
}

impl Event<'_> {
    fn place(&self) -> u64 {
        match self {
            Self::Write { seq, .. } => *seq,
            Self::Read(read) => read.position,
        }
    }

    /// A read at a position shows the write with that number.
    pub(super) fn order(&self) -> (u64, bool) {
        (self.place(), matches!(self, Self::Read(_)))
    }

    /// The last number that comes before it.
    fn before(&self) -> u64 {
        match self {
            Self::Write { seq, .. } => seq - 1,
            Self::Read(read) => read.position,
        }
    }
}

/// What is in the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Row {
    None,
    /// Of the event with this index.
    Placed(usize),
    /// Of the floating write with this index.
    Floating(usize),
}

/// How many events are over, which floating writes have been made, and what is in the row.
type State = (usize, u128, Row);

pub(super) struct Search<'a> {
    events: &'a [Event<'a>],
    floating: &'a [Floating<'a>],
    stack: Vec<State>,
    seen: HashSet<State>,
    furthest: usize,
}

impl<'a> Search<'a> {
    /// `events` are in order.
    pub(super) fn new(events: &'a [Event<'a>], floating: &'a [Floating<'a>]) -> Self {
        Self { events, floating, stack: vec![(0, 0, Row::None)], seen: HashSet::new(), furthest: 0 }
    }

    /// Looks for an order; the error says what could not be explained.
    pub(super) fn run(mut self) -> Result<(), String> {
        if self.floating.len() > 128 {
            return Err(format!("{} writes without a known place are too many", self.floating.len()));
        }
        while let Some(state) = self.stack.pop() {
            if !self.seen.insert(state) {
                continue;
            }
            if self.seen.len() > PATIENCE {
                return Err(format!("no order found in {PATIENCE} steps; {}", self.describe_furthest()));
            }
            if self.is_end(state) {
                return Ok(());
            }
            self.expand(state);
        }
        Err(format!("no order of the writes explains it; {}", self.describe_furthest()))
    }

    fn is_end(&self, (at, made, _): State) -> bool {
        let is_made = |(index, write): (usize, &Floating<'_>)| !write.must || made & 1 << index != 0;
        at == self.events.len() && self.floating.iter().enumerate().all(is_made)
    }

    /// The next event goes on the stack last, so that it is tried first: floating writes are placed where they are needed.
    fn expand(&mut self, (at, made, row): State) {
        self.furthest = self.furthest.max(at);
        let before = at.checked_sub(1).map_or(0, |last| self.events[last].place());
        let until = self.events.get(at).map_or(u64::MAX, Event::before);
        for (index, floating) in self.floating.iter().enumerate() {
            let fits = before.max(floating.after) < until.min(floating.through);
            if fits && made & 1 << index == 0 {
                for next in self.rows_after(floating.write, until, row, Row::Floating(index), false) {
                    self.stack.push((at, made | 1 << index, next));
                }
            }
        }
        let Some(event) = self.events.get(at) else { return };
        let is_late = |(index, floating): (usize, &Floating<'_>)| {
            floating.must && made & 1 << index == 0 && floating.through <= event.place()
        };
        if self.floating.iter().enumerate().any(is_late) {
            return;
        }
        match event {
            Event::Write { write, .. } => {
                // What was seen has changed the row.
                let was_seen = !matches!(write.outcome, Outcome::Acknowledged { is_exact: true, .. });
                for next in self.rows_after(write, until, row, Row::Placed(at), was_seen) {
                    self.stack.push((at + 1, made, next));
                }
            }
            Event::Read(read) => {
                if self.shows(row, read.row.as_ref()) {
                    self.stack.push((at + 1, made, row));
                }
            }
        }
    }

    /// What may be in the row after a write whose turn it is, where all that was made before it has numbers up to `until`.
    fn rows_after(&self, write: &Write, until: u64, row: Row, own: Row, must_hold: bool) -> Vec<Row> {
        let said = match write.outcome {
            Outcome::Acknowledged { held, .. } => held,
            _ => None,
        };
        let written = if write.value.is_some() { own } else { Row::None };
        let possible = self.may_hold(write.condition, until, row).into_iter().flatten();
        possible
            .filter(|held| said.is_none_or(|said| said == *held) && (*held || !must_hold))
            .map(|held| if held { written } else { row })
            .collect()
    }

    /// Whether a condition holds: what is possible.
    fn may_hold(&self, condition: Option<Condition>, until: u64, row: Row) -> [Option<bool>; 2] {
        match (condition, row) {
            (None, _) => [Some(true), None],
            (Some(Condition::Absent), row) => [Some(row == Row::None), None],
            (Some(Condition::Seq(_)), Row::None) => [Some(false), None],
            (Some(Condition::Seq(seq)), Row::Placed(event)) => {
                [Some(self.events[event].place() == seq), None]
            }
            (Some(Condition::Seq(seq)), Row::Floating(index)) => {
                let Floating { after, through, .. } = self.floating[index];
                [Some(false), (after < seq && seq <= through.min(until)).then_some(true)]
            }
        }
    }

    /// A value that was seen makes its write an event, so a floating one was seen by nobody.
    fn shows(&self, row: Row, seen: Option<&(Value, u64)>) -> bool {
        match (row, seen) {
            (Row::None, None) => true,
            (Row::Placed(event), Some((value, seq))) => {
                matches!(self.events[event], Event::Write { seq: own, write } if own == *seq && write.value.as_ref() == Some(value))
            }
            _ => false,
        }
    }

    fn describe_furthest(&self) -> String {
        let from = self.furthest.saturating_sub(4);
        let events = &self.events[from..self.events.len().min(self.furthest + 1)];
        let events: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
        let floating: Vec<String> = self.floating.iter().take(8).map(|write| format!("{write:?}")).collect();
        format!(
            "the last of these cannot follow:\n    {}\n  without a known place:\n    {}",
            events.join("\n    "),
            floating.join("\n    ")
        )
    }
}

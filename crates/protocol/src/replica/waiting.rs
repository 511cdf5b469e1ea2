//! The messages that are here and cannot be applied yet, by the positions that they lead from and to.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kept, Tip};
use crate::chain::Position;
use crate::envelope::{Term, WriteMessage};
use crate::report::Claim;

/// The most messages that are kept, whatever their size: each costs memory too.
const MAX_KEPT: usize = 1 << 16;

/// Where a message waits.
#[derive(Debug)]
pub(super) enum Place<T> {
    /// Here, not acknowledged.
    Memory(T, Box<WriteMessage>),
    /// In the database.
    Database,
}

#[derive(Debug)]
struct Waiter<T> {
    kept: Kept,
    place: Place<T>,
    is_proven: bool,
}

/// A message that follows a position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Successor {
    pub(super) term: Term,
    pub(super) position: Position,
    pub(super) is_proven: bool,
}

/// All that wait. Two may follow one position; a position has one content.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    by_position: BTreeMap<Position, Waiter<T>>,
    /// From where, to where.
    links: BTreeSet<(Position, Position)>,
    in_memory: BTreeMap<T, Position>,
    kept_bytes: u64,
    keep_bytes: u64,
}

impl<T: Copy + Ord> Waiting<T> {
    /// Nothing waits. No more than `keep_bytes` of messages are to be kept.
    pub(super) fn new(keep_bytes: u64) -> Self {
        Self {
            by_position: BTreeMap::new(),
            links: BTreeSet::new(),
            in_memory: BTreeMap::new(),
            kept_bytes: 0,
            keep_bytes,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_position.is_empty()
    }

    /// Whether nothing waits, or just a message that follows this position.
    pub(super) fn holds_only_successor_of(&self, position: Position) -> bool {
        self.links.len() <= 1 && self.links.first().is_none_or(|(previous, _)| *previous == position)
    }

    /// The highest position that a message follows.
    pub(super) fn last_previous(&self) -> Option<Position> {
        self.links.last().map(|(previous, _)| *previous)
    }

    /// The lowest tag of those that are not acknowledged.
    pub(super) fn lowest_tag(&self) -> Option<T> {
        self.in_memory.first_key_value().map(|(tag, _)| *tag)
    }

    /// The reign of the message with a position, and its tag if it is in memory.
    pub(super) fn find(&self, position: Position) -> Option<(Term, Option<T>)> {
        self.by_position.get(&position).map(|waiter| match &waiter.place {
            Place::Memory(tag, _) => (waiter.kept.term, Some(*tag)),
            Place::Database => (waiter.kept.term, None),
        })
    }

    /// The message that goes furthest, of the newest reign. `epoch` is no lower than any message's.
    pub(super) fn tip(&self, epoch: u64) -> Option<Tip<'_>> {
        let of_epoch = |waiter: &&Waiter<T>| waiter.kept.term.epoch == epoch;
        let newest = self.by_position.values().rev().find(of_epoch);
        let any =
            || self.by_position.values().max_by_key(|waiter| (waiter.kept.term.epoch, waiter.kept.position));
        newest.or_else(any).map(|Waiter { kept, place, .. }| Tip {
            claim: Claim::new(kept.term, kept.position),
            message: if let Place::Memory(_, message) = place { Some(&**message) } else { None },
        })
    }

    /// Adds a message, in the place of the one with its position.
    pub(super) fn insert(&mut self, kept: Kept, place: Place<T>) {
        self.take(kept.position);
        match place {
            Place::Memory(tag, _) => drop(self.in_memory.insert(tag, kept.position)),
            Place::Database => self.kept_bytes += kept.bytes,
        }
        self.links.insert((kept.previous, kept.position));
        self.by_position.insert(kept.position, Waiter { kept, place, is_proven: false });
    }

    /// Takes the message with a position out.
    pub(super) fn take(&mut self, position: Position) -> Option<Place<T>> {
        let Waiter { kept, place, .. } = self.by_position.remove(&position)?;
        self.links.remove(&(kept.previous, position));
        match place {
            Place::Memory(tag, _) => drop(self.in_memory.remove(&tag)),
            Place::Database => self.kept_bytes -= kept.bytes,
        }
        Some(place)
    }

    /// The messages that follow a position.
    pub(super) fn successors(&self, position: Position) -> impl Iterator<Item = Successor> {
        let following =
            self.links.range((position, position)..).take_while(move |(from, _)| *from == position);
        following.filter_map(|(_, to)| self.by_position.get(to)).map(|waiter| Successor {
            term: waiter.kept.term,
            position: waiter.kept.position,
            is_proven: waiter.is_proven,
        })
    }

    /// The message with this position is part of the history, and so is everything before it.
    pub(super) fn prove(&mut self, position: Position) {
        let mut next = self.by_position.get_mut(&position);
        while let Some(waiter) = next.filter(|waiter| !waiter.is_proven) {
            waiter.is_proven = true;
            let previous = waiter.kept.previous;
            next = self.by_position.get_mut(&previous);
        }
    }

    /// Everything that a reign of this epoch has shown to be confirmed is part of the history.
    pub(super) fn prove_shown(&mut self, epoch: u64, shown: &BTreeMap<u64, Position>) {
        for Waiter { kept, is_proven, .. } in self.by_position.values_mut() {
            let shown = shown.get(&kept.term.reign).filter(|_| kept.term.epoch == epoch);
            *is_proven |= shown.is_some_and(|shown| shown.last >= kept.position.last);
        }
    }

    /// Takes out what is of a lower epoch and goes further than `last`.
    pub(super) fn take_stale(&mut self, epoch: u64, last: u64) -> Vec<(Position, Place<T>)> {
        let is_stale = |kept: &Kept| kept.term.epoch < epoch && kept.position.last > last;
        let all = self.by_position.values().map(|waiter| waiter.kept);
        let stale: Vec<Position> = all.filter(is_stale).map(|kept| kept.position).collect();
        self.take_all(stale)
    }

    /// Takes out what follows a position before `last`.
    pub(super) fn take_passed(&mut self, last: u64) -> Vec<(Position, Place<T>)> {
        let passed = self.links.iter().take_while(|(previous, _)| previous.last < last).map(|(_, to)| *to);
        let passed: Vec<Position> = passed.collect();
        self.take_all(passed)
    }

    fn take_all(&mut self, positions: Vec<Position>) -> Vec<(Position, Place<T>)> {
        positions.into_iter().filter_map(|position| Some((position, self.take(position)?))).collect()
    }

    /// Moves what is in memory to the database, the oldest first, as far as the limit allows.
    pub(super) fn keep_all(&mut self) -> Vec<(T, WriteMessage)> {
        let mut kept = Vec::new();
        while let Some((tag, position)) = self.in_memory.first_key_value().map(|(tag, to)| (*tag, *to)) {
            let count = self.by_position.len() - self.in_memory.len();
            let Some(waiter) = self.by_position.get_mut(&position) else { break };
            if count >= MAX_KEPT || self.kept_bytes + waiter.kept.bytes > self.keep_bytes {
                break;
            }
            self.in_memory.remove(&tag);
            self.kept_bytes += waiter.kept.bytes;
            if let Place::Memory(tag, message) = std::mem::replace(&mut waiter.place, Place::Database) {
                kept.push((tag, *message));
            }
        }
        kept
    }
}

//! What must be true after every step, and which losses are outside of the promise.
//!
//! The promise is about every position that was acknowledged to a client or applied by a node: what must stay. All
//! reigns to come continue it, no node applies anything else there, and somebody holds its writes until all nodes have
//! applied them.
//!
//! Outside of the promise, and nothing else, is:
//! - A position that nobody holds any more (no disk, no queue, no heart's memory) after a fault has destroyed one of its
//!   copies or kept one from being made: a queue lost, purged, overflowing, away or not bound, a broker or a node's disk
//!   lost. With it goes what follows it: it cannot be applied without.
//! - What the head queue missed because it was taken away or unbound, when the heart that knew it is gone before
//!   something newer got there: the next heart goes on from before it.
//! - What only a stopped heart remembers, when the head queue is lost and a reign begins without it.
//! - What a node has and cannot prove, when a fault kept the proof from it and another node has that: what waits is not
//!   shared by peers. A human has to give it up.
//! - What a human gave up.
//!
//! Such a loss taints the history from a sequence number on, until a database has its end, nothing else is on its way to
//! one, and no heart claims anything else. What happens to later writes in between is outside of the promise, too.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use broadcast_protocol::chain::{ChainHash, Position};
use broadcast_protocol::digest::Digest;
use broadcast_protocol::envelope::WriteMessage;

use crate::broker::Carried;

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What happened.
    pub text: String,
}

#[derive(Debug)]
struct Must {
    position: Position,
    /// A fault took one of its copies.
    is_excused: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// What each position follows.
    previous: HashMap<ChainHash, Position>,
    /// What must stay, by sequence number.
    must: BTreeMap<u64, Must>,
    /// What was confirmed to a heart as the successor of a sequence number.
    successors: BTreeMap<u64, Position>,
    /// What databases have at a sequence number.
    applied: BTreeMap<u64, (ChainHash, Option<Digest>)>,
    /// Positions that a fault took a copy of.
    excused: HashSet<ChainHash>,
    /// Positions that were lost for good: a database that has one has to be rebuilt.
    given_up: HashSet<ChainHash>,
    /// From here on the history is outside of the promise.
    tainted_from: Option<u64>,
    head_is_damaged: bool,
    left_out: Option<Position>,
    /// The furthest position that the broker has confirmed, whether its heart knows or not.
    newest: u64,
    have_holders_changed: bool,
    /// Where the databases are.
    pub(crate) disks: Vec<Position>,
    pub(crate) taints: u64,
    pub(crate) acknowledged: u64,
    pub(crate) violation: Option<Violation>,
}

impl Oracle {
    pub(crate) fn violate(&mut self, invariant: &'static str, text: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, text });
        }
    }

    /// A heart made a message.
    pub(crate) fn published(&mut self, message: &WriteMessage) {
        self.previous.insert(message.position.hash, message.previous);
    }

    /// The broker confirmed a message and its clients were told.
    pub(crate) fn acknowledged(&mut self, who: &str, message: &WriteMessage) {
        self.acknowledged += 1;
        if self.is_tainted(message.position) {
            return;
        }
        let other = self.successors.insert(message.previous.last, message.position);
        if other.is_some_and(|other| other != message.position) {
            let text = format!("{who} had {} confirmed, another heart something else", message.first);
            self.violate("4: one confirmed successor", text);
        }
        self.keep(message.position);
    }

    /// A database has got to a position. One that is not to be trusted has no digest.
    pub(crate) fn applied(&mut self, node: u32, position: Position, digest: Option<Digest>) {
        if self.is_tainted(position) {
            return;
        }
        let (hash, known) = self.applied.entry(position.last).or_insert((position.hash, digest));
        if *hash != position.hash {
            let text = format!("node {node} has applied another write {} than others", position.last);
            return self.violate("2: same position, same hash", text);
        }
        if let (Some(known), Some(digest)) = (&known, digest)
            && *known != digest
        {
            return self.violate("2: same position, same rows", format!("node {node} at {}", position.last));
        }
        *known = known.or(digest);
        self.keep(position);
    }

    /// From now on a position must stay, and everything that leads to it.
    fn keep(&mut self, position: Position) {
        let mut next = Some(position);
        while let Some(position) = next.filter(|position| position.last > 0) {
            let is_excused = self.excused.contains(&position.hash);
            let must = match self.must.entry(position.last) {
                Entry::Vacant(free) => free.insert(Must { position, is_excused }),
                Entry::Occupied(known) if known.get().position == position => return,
                Entry::Occupied(known) => known.into_mut(),
            };
            if must.position != position {
                let text = format!("two contents of {}, both acknowledged or applied", position.last);
                return self.violate("1: acknowledged writes stay", text);
            }
            next = self.previous.get(&position.hash).copied();
        }
    }

    /// A heart begins to reign from a position: everything that must stay has to be before it.
    /// One that has asked the nodes has to have what they knew, whatever became of the head queue.
    pub(crate) fn reign_begins(&mut self, who: &str, from: Position, has_asked: bool) {
        let before = self.ancestors(from);
        let is_before = |position: &Position| before.get(&position.last) == Some(&position.hash);
        if let Some(lost) = self.must.values().map(|must| must.position).find(|must| !is_before(must)) {
            if !self.head_is_damaged {
                let text = format!("{who} goes on from {}, without {}", from.last, lost.last);
                return self.violate("1, 3: every reign has what was acknowledged or applied", text);
            }
            if has_asked {
                self.left_out = Some(lost);
                return;
            }
            self.taint_with(lost);
        }
        if self.head_is_damaged {
            // Also what was confirmed to a heart that does not know it yet.
            let is_left_out = |(hash, previous): &(&ChainHash, &Position)| {
                previous.last >= from.last && !before.values().any(|other| other == *hash)
            };
            let left_out: Vec<_> = self.previous.iter().filter(is_left_out).map(|(hash, _)| *hash).collect();
            self.given_up.extend(left_out);
            if self.newest > from.last {
                self.taint(from.last + 1);
            }
        }
    }

    /// What was given up is settled by the reign that begins without it, unless something before is lost as well.
    pub(crate) fn cut(&mut self, from: Position) {
        if self.tainted_from.is_none_or(|tainted| tainted > from.last) {
            self.settle_at(from, from.last + 1);
        }
    }

    /// What a reign that had asked the nodes began without.
    pub(crate) fn take_left_out(&mut self) -> Option<Position> {
        self.left_out.take()
    }

    /// Whether it was known to anybody who was asked.
    pub(crate) fn judge_left_out(&mut self, lost: Position, was_known: bool) {
        if was_known {
            let text = format!("a reign began without {}, which a node or a heart had", lost.last);
            self.violate("1, 3: every reign has what was acknowledged or applied", text);
        } else {
            self.taint_with(lost);
        }
    }

    /// What was lost is settled once a database has the history's end, and nothing else than the history is in a database
    /// or on its way to one.
    pub(crate) fn settle(&mut self, end: Position, mut on_their_way: impl Iterator<Item = Position>) {
        let Some(tainted) = self.tainted_from else { return };
        let before = self.ancestors(end);
        let is_before = |position: &Position| before.get(&position.last) == Some(&position.hash);
        let is_other = |position: Position| position.last >= tainted && !is_before(&position);
        if self.disks.contains(&end)
            && !on_their_way.any(is_other)
            && self.disks.iter().all(is_before)
            && !before.values().any(|hash| self.given_up.contains(hash))
        {
            self.settle_at(end, tainted);
        }
    }

    /// From here on nothing counts but what leads to this end.
    fn settle_at(&mut self, end: Position, from: u64) {
        let is_behind = |(_, previous): &(&ChainHash, &Position)| previous.last + 1 >= from;
        let kept: HashSet<ChainHash> = self.ancestors(end).into_values().collect();
        let behind = self.previous.iter().filter(is_behind).map(|(hash, _)| *hash);
        self.given_up.extend(behind.filter(|hash| !kept.contains(hash)));
        (self.tainted_from, self.newest) = (None, end.last);
    }

    /// The positions that lead to one, by sequence number.
    fn ancestors(&self, from: Position) -> BTreeMap<u64, ChainHash> {
        let mut ancestors = BTreeMap::from([(from.last, from.hash)]);
        let mut at = from;
        while let Some(previous) = self.previous.get(&at.hash) {
            ancestors.insert(previous.last, previous.hash);
            at = *previous;
        }
        ancestors
    }

    fn is_tainted(&self, position: Position) -> bool {
        self.tainted_from.is_some_and(|from| position.last >= from) || self.given_up.contains(&position.hash)
    }

    /// A message is lost that ends there.
    fn taint_with(&mut self, lost: Position) {
        let first = self.previous.get(&lost.hash).map_or(lost.last, |previous| previous.last + 1);
        self.taint(first);
    }

    /// Whether a fault took a copy of this write.
    pub(crate) fn is_excused(&self, seq: u64) -> bool {
        self.must.range(seq..).next().is_some_and(|(_, must)| must.is_excused)
    }

    pub(crate) fn leads_to(&self, position: Position, end: Position) -> bool {
        self.ancestors(end).get(&position.last) == Some(&position.hash)
    }

    /// Whether nothing is in doubt, for now.
    pub(crate) fn is_calm(&self) -> bool {
        self.tainted_from.is_none() && !self.head_is_damaged
    }

    /// From this sequence number on nothing is promised, for now.
    pub(crate) fn taint(&mut self, from: u64) {
        self.taints += 1;
        self.tainted_from = Some(self.tainted_from.map_or(from, |other| other.min(from)));
        self.must.retain(|last, _| *last < from);
        self.applied.retain(|last, _| *last < from);
        self.successors.retain(|_, position| position.last < from);
    }

    /// A fault took a copy of a position, or kept one from being made.
    pub(crate) fn excuse(&mut self, position: Position) {
        self.excused.insert(position.hash);
        if let Some(must) = self.must.get_mut(&position.last) {
            must.is_excused |= must.position == position;
        }
    }

    /// A database with everything up to a position is gone.
    pub(crate) fn put_aside(&mut self, applied: Position) {
        for must in self.must.range_mut(..=applied.last) {
            must.1.is_excused = true;
        }
    }

    pub(crate) fn head_damaged(&mut self) {
        self.head_is_damaged = true;
    }

    /// The broker confirmed a message.
    pub(crate) fn confirmed(&mut self, carried: Carried) {
        self.newest = self.newest.max(carried.position.last);
    }

    /// The head queue got a message of the history.
    pub(crate) fn head_took(&mut self, carried: Carried) {
        let newest = self.must.last_key_value().map_or(self.newest, |(last, _)| self.newest.max(*last));
        if carried.position.last >= newest {
            self.head_is_damaged = false;
        }
    }

    pub(crate) fn holders_changed(&mut self) {
        self.have_holders_changed = true;
    }

    /// Whether it has to be looked at again who holds what.
    pub(crate) fn take_holders_changed(&mut self) -> bool {
        std::mem::take(&mut self.have_holders_changed)
    }

    /// What must stay beyond what databases have applied, the oldest first.
    pub(crate) fn beyond(&self, applied: u64) -> Vec<Position> {
        self.must.range(applied + 1..).map(|(_, must)| must.position).collect()
    }

    /// Nobody holds a position any more.
    pub(crate) fn lost(&mut self, position: Position) {
        let is_excused = self.must.get(&position.last).is_some_and(|must| must.is_excused);
        if is_excused {
            self.taint_with(position);
        } else {
            self.violate("1: acknowledged writes stay", format!("nobody holds {} any more", position.last));
        }
    }

    /// What must stay and a database at this position does not have.
    pub(crate) fn find_missing(&self, at: Position) -> Option<u64> {
        let before = self.ancestors(at);
        let is_before = |position: &Position| before.get(&position.last) == Some(&position.hash);
        self.must.values().find(|must| !is_before(&must.position)).map(|must| must.position.last)
    }
}

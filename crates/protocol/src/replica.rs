//! The node's decisions: what each delivery means for a database, given everything before it.
//!
//! Guarantees:
//! - A message is applied only once something proves that the broker holds it for everyone: its successor, a mark, or
//!   a peer that applied it. So nothing is ever rolled back.
//! - Nothing is skipped: what does not continue the chain waits until the gap before it is repaired, or a later reign
//!   shows that it was never part of the history.
//! - What waits does not block the queue: it is kept in the database ([`Change::Keep`]) and acknowledged, up to a limit.
//!   Only the one message that continues the chain waits in memory, for its successor or mark.
//! - A delivery is acknowledged in exactly one way, and one that carries writes not before its transaction
//!   ([`Step::Do`]) unless it can no longer matter.
//!
//! The state advances as steps are handed out. When a transaction fails, throw the replica away, give everything back
//! to the broker and make a new one from what the database holds.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::chain::Position;
use crate::cut::Cut;
use crate::envelope::{DecodeError, Link, Mark, Message, Term, WriteMessage};
use crate::report::{Claim, Sealed};

mod step;
mod waiting;

pub use step::{Applied, Change, Dropped, Halt, Kept, RepairError, Standing, Step, Tip};
use waiting::{Place, Successor, Waiting};

/// The node's state between two deliveries. `T` is a delivery's tag; tags grow.
#[derive(Debug)]
pub struct Replica<T> {
    cluster: String,
    applied: Applied,
    /// The highest epoch met; lower ones are over.
    epoch: u64,
    /// The newest cut met.
    cut: Cut,
    /// The highest position that each reign of this epoch has shown to be confirmed.
    shown: BTreeMap<u64, Position>,
    waiting: Waiting<T>,
    /// Whether the epoch has risen since stale messages were looked for.
    has_risen: bool,
    sealed: Option<Sealed>,
}

impl<T: Copy + Ord> Replica<T> {
    /// A replica of a database and of what waits in it. No more than `keep_bytes` of messages are kept.
    pub fn new(
        cluster: &str,
        applied: Applied,
        kept: impl IntoIterator<Item = Kept>,
        keep_bytes: u64,
    ) -> Self {
        let mut replica = Self {
            cluster: cluster.to_owned(),
            applied,
            epoch: applied.epoch,
            cut: applied.cut,
            shown: BTreeMap::new(),
            waiting: Waiting::new(keep_bytes),
            has_risen: true,
            sealed: None,
        };
        // Nothing is dropped here: the first delivery's steps do that.
        let mut kept: Vec<Kept> = kept.into_iter().collect();
        kept.sort_by_key(|kept| kept.term.epoch);
        for kept in kept {
            replica.meet(kept.term, kept.previous);
            replica.wait(kept, Place::Database);
        }
        replica
    }

    /// The position after everything that was handed out to be applied.
    pub fn position(&self) -> Position {
        self.applied.position
    }

    /// Where the node stands.
    pub fn standing(&self) -> Standing {
        if self.shown.is_empty() && self.waiting.is_empty() {
            return Standing::Bootstrapping;
        }
        let known = self.highest_shown().into_iter().chain(self.waiting.last_previous());
        match known.map(|position| position.last).max() {
            Some(shown) if shown > self.position().last => {
                Standing::Gap { after: self.position().last, shown }
            }
            _ => Standing::Current,
        }
    }

    /// The highest epoch met.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the history does without, as far as this node has met it.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// The highest position that is known to be part of the history, when it is further on than what is applied.
    pub fn shown(&self) -> Option<Position> {
        self.highest_shown().filter(|shown| shown.last > self.position().last)
    }

    /// The newest message that is here and not proven.
    pub fn tip(&self) -> Option<Tip<'_>> {
        self.waiting.tip(self.epoch)
    }

    /// The newest seal met.
    pub fn sealed(&self) -> Option<Sealed> {
        self.sealed
    }

    /// Whether every delivery up to `tag` is done with once those handed out are, so that one acknowledgement may
    /// stand for all.
    pub fn may_ack_multiple(&self, tag: T) -> bool {
        self.waiting.lowest_tag().is_none_or(|lowest| lowest > tag)
    }

    /// Takes a delivery.
    pub fn receive(&mut self, tag: T, body: &Bytes) -> Vec<Step<T>> {
        let mut steps = Vec::new();
        match Message::decode(&self.cluster, body) {
            Err(DecodeError::NewerVersion(version)) => steps.push(Step::Halt(Halt::NewerVersion(version))),
            Err(error) => steps.push(Step::Reject(tag, error)),
            Ok(Message::Seal(seal)) => {
                self.sealed = Some(Sealed { nonce: seal.nonce, number: seal.number });
                steps.push(Step::Ack(tag, Dropped::Seal));
            }
            Ok(Message::Link(link)) => {
                self.cut = self.cut.max(link.term().cut);
                if let Some(halt) = self.find_contradiction(&link) {
                    steps.push(Step::Halt(halt));
                    return steps;
                }
                match link {
                    Link::Write(message) => self.take_write(tag, message, &mut steps),
                    Link::Mark(mark) => self.take_mark(tag, &mark, &mut steps),
                }
                self.keep_what_waits(&mut steps);
            }
        }
        steps
    }

    /// Takes a message that a peer has applied.
    pub fn repair(&mut self, message: WriteMessage) -> Result<Vec<Step<T>>, RepairError> {
        let (expected, found) = (self.position(), message.previous);
        if found != expected {
            return Err(RepairError::BrokenLink { expected, found });
        }
        if self.cut.gives_up(Claim::new(message.term, message.position)) {
            return Err(RepairError::GivenUp { last: message.position.last, cut: self.cut });
        }
        let mut steps = Vec::new();
        self.meet(message.term, message.position);
        self.applied = self.applied.after(message.term, message.position);
        steps.push(Step::Do { ack: None, change: Change::Apply(message) });
        self.settle(&mut steps);
        self.keep_what_waits(&mut steps);
        Ok(steps)
    }

    /// Takes what a peer's snapshot has put in the place of everything applied before; it is further on.
    pub fn adopt(&mut self, applied: Applied) -> Vec<Step<T>> {
        let mut steps = Vec::new();
        self.meet_epoch(applied.epoch);
        self.cut = self.cut.max(applied.cut);
        self.applied = applied;
        self.settle(&mut steps);
        self.keep_what_waits(&mut steps);
        steps
    }

    fn take_mark(&mut self, tag: T, mark: &Mark, steps: &mut Vec<Step<T>>) {
        if mark.term.epoch < self.epoch {
            steps.push(Step::Ack(tag, Dropped::Stale));
            return;
        }
        self.meet(mark.term, mark.position);
        self.settle(steps);
        if let Some(digest) = mark.digest.filter(|_| mark.position == self.position()) {
            steps.push(Step::Compare(mark.position, digest));
        }
        steps.push(Step::Ack(tag, Dropped::Mark));
    }

    fn take_write(&mut self, tag: T, message: WriteMessage, steps: &mut Vec<Step<T>>) {
        // Its heart published it, so everything before it was confirmed.
        self.meet(message.term, message.previous);
        self.settle(steps);
        if self.is_stale(message.term, message.position) {
            steps.push(Step::Ack(tag, Dropped::Stale));
        } else if message.previous.last < self.position().last {
            steps.push(Step::Ack(tag, Dropped::Duplicate));
        } else {
            self.add(tag, message, steps);
            self.settle(steps);
        }
    }

    /// Adds a message to those that wait; of one position, the one of the highest epoch.
    fn add(&mut self, tag: T, message: WriteMessage, steps: &mut Vec<Step<T>>) {
        let kept = Kept {
            term: message.term,
            previous: message.previous,
            position: message.position,
            bytes: message.body().len() as u64,
        };
        match self.waiting.find(message.position) {
            Some((known, _)) if known.epoch >= message.term.epoch => {
                steps.push(Step::Ack(tag, Dropped::Duplicate));
            }
            Some((_, None)) => {
                self.wait(kept, Place::Database);
                steps.push(Step::Do { ack: Some(tag), change: Change::Keep(message) });
            }
            Some((_, Some(old_tag))) => {
                steps.push(Step::Ack(old_tag, Dropped::Superseded));
                self.wait(kept, Place::Memory(tag, Box::new(message)));
            }
            None => self.wait(kept, Place::Memory(tag, Box::new(message))),
        }
    }

    fn wait(&mut self, kept: Kept, place: Place<T>) {
        let position = kept.position;
        self.waiting.insert(kept, place);
        // A heart goes on only from what was confirmed.
        let is_followed =
            self.waiting.successors(position).any(|next| next.is_proven || next.term.epoch == self.epoch);
        if is_followed || self.shown.values().any(|shown| *shown == position) {
            self.waiting.prove(position);
        }
    }

    /// Drops what has become stale or was passed, and applies what is proven and continues the chain.
    fn settle(&mut self, steps: &mut Vec<Step<T>>) {
        if std::mem::take(&mut self.has_risen) {
            let stale = self.waiting.take_stale(self.epoch, self.end_of_epoch());
            steps.extend(stale.into_iter().map(|waiter| drop_waiter(waiter, Dropped::Stale)));
        }
        loop {
            let passed = self.waiting.take_passed(self.position().last);
            steps.extend(passed.into_iter().map(|waiter| drop_waiter(waiter, Dropped::Duplicate)));
            let next = self.waiting.successors(self.position()).find(|next| self.is_proven(*next));
            let Some(Successor { term, position, .. }) = next else { break };
            let Some(place) = self.waiting.take(position) else { break };
            self.applied = self.applied.after(term, position);
            steps.push(match place {
                Place::Memory(tag, message) => Step::Do { ack: Some(tag), change: Change::Apply(*message) },
                Place::Database => Step::Do { ack: None, change: Change::ApplyKept(position) },
            });
        }
    }

    /// By a chain that leads to what was shown, or because its own reign went on after it.
    fn is_proven(&self, next: Successor) -> bool {
        let shown = || self.shown.get(&next.term.reign).filter(|_| next.term.epoch == self.epoch);
        next.is_proven || shown().is_some_and(|shown| shown.last >= next.position.last)
    }

    /// Once more than the next message waits, nobody knows for how long.
    fn keep_what_waits(&mut self, steps: &mut Vec<Step<T>>) {
        if self.waiting.holds_only_successor_of(self.position()) {
            return;
        }
        for (tag, message) in self.waiting.keep_all() {
            steps.push(Step::Do { ack: Some(tag), change: Change::Keep(message) });
        }
    }

    /// Takes note of a reign and of a position that it shows to be confirmed.
    fn meet(&mut self, term: Term, shown: Position) {
        self.cut = self.cut.max(term.cut);
        self.meet_epoch(term.epoch);
        if term.epoch == self.epoch {
            let highest = self.shown.entry(term.reign).or_insert(shown);
            if highest.last < shown.last {
                *highest = shown;
            }
            self.waiting.prove(shown);
        }
    }

    /// A higher epoch ends all lower ones; what they have shown stays part of the history.
    fn meet_epoch(&mut self, epoch: u64) {
        if epoch > self.epoch {
            self.waiting.prove_shown(self.epoch, &self.shown);
            self.shown.clear();
            self.epoch = epoch;
            self.has_risen = true;
        }
    }

    /// Whether it is of a reign that is over, and the next one went on without it.
    fn is_stale(&self, term: Term, position: Position) -> bool {
        term.epoch < self.epoch && position.last > self.end_of_epoch()
    }

    /// How far the history goes as far as the newest reign has shown: it began with everything that was confirmed before.
    fn end_of_epoch(&self) -> u64 {
        self.highest_shown().map_or(self.position().last, |shown| shown.last)
    }

    fn highest_shown(&self) -> Option<Position> {
        self.shown.values().max().copied()
    }

    /// Why what is applied is not of the history that a link is of. A message's own end is no proof: a heart that took over a
    /// stale head and has not heard of this node yet may have published it, and will not go on.
    fn find_contradiction(&self, link: &Link) -> Option<Halt> {
        let own = self.position();
        if self.cut.gives_up(self.applied.claim()) {
            return Some(Halt::GivenUp { own, cut: self.cut });
        }
        let confirmed = match link {
            Link::Write(message) => message.previous,
            Link::Mark(mark) => mark.position,
        };
        let contradicts = confirmed.last == own.last && confirmed.hash != own.hash;
        (contradicts && link.term().epoch >= self.epoch)
            .then_some(Halt::Diverged { own, other: confirmed.hash })
    }
}

fn drop_waiter<T>((position, place): (Position, Place<T>), why: Dropped) -> Step<T> {
    match place {
        Place::Memory(tag, _) => Step::Ack(tag, why),
        Place::Database => Step::Do { ack: None, change: Change::Discard(position) },
    }
}

#[cfg(test)]
mod tests;

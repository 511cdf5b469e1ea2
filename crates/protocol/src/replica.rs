//! The node's decisions: what each delivery means for a database, given everything before it.
//!
//! Guarantees:
//! - A message is applied only once something proves that the broker holds it for everyone: its successor, a mark, or
//!   a peer that applied it. So nothing is ever rolled back.
//! - Nothing is skipped: what does not continue the chain waits, unacknowledged, until the gap before it is repaired
//!   or a later reign shows that it was never part of the history.
//! - A delivery is acknowledged in exactly one way, and one that carries writes not before its transaction
//!   ([`Step::Apply`]) unless it can no longer matter.
//!
//! The state advances as steps are handed out. When a transaction fails, throw the replica away, give everything back
//! to the broker and make a new one from what the database holds.

use bytes::Bytes;

use crate::chain::{ChainHash, Position};
use crate::digest::Digest;
use crate::envelope::{DecodeError, Link, Mark, Message, WriteMessage};
use crate::report::Sealed;

/// What a database has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Up to where.
    pub position: Position,
    /// The highest epoch that a message was applied of.
    pub epoch: u64,
}

impl Applied {
    /// Nothing.
    pub fn nothing(cluster: &str) -> Self {
        Self { position: Position::genesis(cluster), epoch: 0 }
    }
}

/// Why a delivery is done with although nothing of it is applied now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Of a reign that is over.
    Stale,
    /// Applied before.
    Duplicate,
    /// Held, but published again by the next reign.
    Superseded,
    /// A mark: it has been taken note of.
    Mark,
    /// A seal: it has been taken note of.
    Seal,
}

/// Why a node cannot go on by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// A message of a newer version: a newer node will apply it.
    #[error("met a message of envelope version {0}, which this node does not understand: upgrade it")]
    NewerVersion(u64),
    /// The rows are not what the chain says.
    #[error("diverged: this node has hash {} at {}, the cluster has {other}", own.hash, own.last)]
    Diverged {
        /// Where this node is.
        own: Position,
        /// The cluster's hash there.
        other: ChainHash,
    },
    /// The rows are not what the other nodes have.
    #[error("diverged: this node has digest {own} at {last}, most nodes have {other}")]
    RowsDiffer {
        /// The position.
        last: u64,
        /// This node's digest there.
        own: Digest,
        /// That of most nodes.
        other: Digest,
    },
}

/// What to do, in the order given. `T` is a delivery's tag.
#[derive(Debug)]
pub enum Step<T> {
    /// Acknowledge: nothing of it is needed.
    Ack(T, Dropped),
    /// Reject without requeue.
    Reject(T, DecodeError),
    /// Apply in a transaction, then acknowledge (a peer's message has nothing to acknowledge).
    Apply {
        /// The delivery to acknowledge after the transaction.
        ack: Option<T>,
        /// The message.
        message: WriteMessage,
    },
    /// Once everything before is applied: compare with the database's digest, if that is at this position. Another
    /// digest is [`Halt::RowsDiffer`].
    Compare(Position, Digest),
    /// Stop consuming; acknowledge nothing more.
    Halt(Halt),
}

/// Where a node stands, as far as it can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing has told it yet where the cluster is.
    Bootstrapping,
    /// It has everything that was proven to it.
    Current,
    /// It misses what follows `after`; the cluster is at least at `shown`.
    Gap {
        /// The last applied sequence number.
        after: u64,
        /// The highest sequence number that the cluster is known to have.
        shown: u64,
    },
}

/// A message from a peer does not follow what is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer's message starts after {found:?}, this node is at {expected:?}")]
pub struct BrokenLink {
    /// Where this node is.
    pub expected: Position,
    /// What the message follows.
    pub found: Position,
}

/// The node's state between two deliveries. `T` is a delivery's tag; tags grow.
#[derive(Debug)]
pub struct Replica<T> {
    cluster: String,
    position: Position,
    /// The highest epoch met; lower ones are over.
    epoch: u64,
    /// Continues `position`, received but not proven.
    held: Option<(T, WriteMessage)>,
    /// Further on than anything that continues `position`; the broker's prefetch bounds it.
    waiting: Vec<(T, WriteMessage)>,
    /// The highest position that `epoch` has shown to be confirmed.
    shown: Option<Position>,
    sealed: Option<Sealed>,
}

impl<T: Copy + Ord> Replica<T> {
    /// A replica of a database.
    pub fn new(cluster: &str, applied: Applied) -> Self {
        Self {
            cluster: cluster.to_owned(),
            position: applied.position,
            epoch: applied.epoch,
            held: None,
            waiting: Vec::new(),
            shown: None,
            sealed: None,
        }
    }

    /// The position after everything that was handed out to be applied.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Where the node stands.
    pub fn standing(&self) -> Standing {
        match self.shown {
            None => Standing::Bootstrapping,
            Some(shown) if shown.last > self.position.last || !self.waiting.is_empty() => {
                let waiting = self.waiting.iter().map(|(_, message)| message.previous.last).max();
                Standing::Gap { after: self.position.last, shown: shown.last.max(waiting.unwrap_or(0)) }
            }
            Some(_) => Standing::Current,
        }
    }

    /// The highest epoch met.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The highest position that is known to be part of the history, when it is further on than what is applied.
    pub fn shown(&self) -> Option<Position> {
        self.shown.filter(|shown| shown.last > self.position.last)
    }

    /// The newest message that is here and not proven.
    pub fn tip(&self) -> Option<&WriteMessage> {
        let kept = self.held.iter().chain(&self.waiting);
        kept.map(|(_, message)| message).max_by_key(|message| (message.epoch, message.position.last))
    }

    /// The newest seal met.
    pub fn sealed(&self) -> Option<Sealed> {
        self.sealed
    }

    /// Whether every delivery up to `tag` is done with once those handed out are, so that one acknowledgement may
    /// stand for all.
    pub fn may_ack_multiple(&self, tag: T) -> bool {
        let kept = self.held.iter().chain(&self.waiting);
        kept.map(|(kept, _)| *kept).min().is_none_or(|lowest| lowest > tag)
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
            Ok(Message::Link(link)) if link.epoch() < self.epoch => {
                steps.push(Step::Ack(tag, Dropped::Stale));
            }
            Ok(Message::Link(link)) if self.contradicts(link.position()) => {
                steps.push(Step::Halt(Halt::Diverged { own: self.position, other: link.position().hash }));
            }
            Ok(Message::Link(link)) => {
                match link {
                    Link::Write(message) => self.take_write(tag, message, &mut steps),
                    Link::Mark(mark) => self.take_mark(tag, &mark, &mut steps),
                }
                self.settle(&mut steps);
            }
        }
        steps
    }

    /// Takes a message that a peer has applied.
    pub fn repair(&mut self, message: WriteMessage) -> Result<Vec<Step<T>>, BrokenLink> {
        if message.previous != self.position {
            return Err(BrokenLink { expected: self.position, found: message.previous });
        }
        let mut steps = Vec::new();
        self.epoch = self.epoch.max(message.epoch);
        self.position = message.position;
        steps.push(Step::Apply { ack: None, message });
        self.settle(&mut steps);
        Ok(steps)
    }

    /// Takes what a peer's snapshot has put in the place of everything applied before; it is further on.
    pub fn adopt(&mut self, applied: Applied) -> Vec<Step<T>> {
        let mut steps = Vec::new();
        self.epoch = self.epoch.max(applied.epoch);
        self.position = applied.position;
        self.settle(&mut steps);
        steps
    }

    fn take_mark(&mut self, tag: T, mark: &Mark, steps: &mut Vec<Step<T>>) {
        self.meet_epoch(mark.epoch);
        self.show(mark.position);
        if self.held.as_ref().is_some_and(|(_, held)| held.position == mark.position) {
            self.apply_held(steps);
        }
        if let Some(digest) = mark.digest.filter(|_| mark.position == self.position) {
            steps.push(Step::Compare(mark.position, digest));
        }
        steps.push(Step::Ack(tag, Dropped::Mark));
    }

    fn take_write(&mut self, tag: T, message: WriteMessage, steps: &mut Vec<Step<T>>) {
        if message.epoch < self.epoch {
            steps.push(Step::Ack(tag, Dropped::Stale));
            return;
        }
        self.meet_epoch(message.epoch);
        // Its heart published it, so everything before it was confirmed.
        self.show(message.previous);
        if message.position.last <= self.position.last {
            steps.push(Step::Ack(tag, Dropped::Duplicate));
        } else if message.previous == self.position {
            self.hold(tag, message, steps);
        } else if self.held.as_ref().is_some_and(|(_, held)| held.position == message.previous) {
            self.apply_held(steps);
            self.held = Some((tag, message));
        } else {
            self.waiting.push((tag, message));
        }
    }

    fn hold(&mut self, tag: T, message: WriteMessage, steps: &mut Vec<Step<T>>) {
        if let Some((old_tag, old)) = self.held.take() {
            if old.epoch == message.epoch && old.position != message.position {
                // One heart never publishes two successors of one message: neither is believed until proven.
                self.waiting.extend([(old_tag, old), (tag, message)]);
                return;
            }
            steps.push(Step::Ack(old_tag, Dropped::Superseded));
        }
        self.held = Some((tag, message));
    }

    fn apply_held(&mut self, steps: &mut Vec<Step<T>>) {
        if let Some((tag, message)) = self.held.take() {
            self.position = message.position;
            steps.push(Step::Apply { ack: Some(tag), message });
        }
    }

    /// Looks again at what is held and what waits until nothing changes: it may have become a duplicate, stale, or
    /// the next link.
    fn settle(&mut self, steps: &mut Vec<Step<T>>) {
        if self.held.as_ref().is_some_and(|(_, held)| held.previous != self.position)
            && let Some((tag, held)) = self.held.take()
        {
            self.take_write(tag, held, steps);
        }
        while !self.waiting.is_empty() {
            let before = self.progress();
            for (tag, message) in std::mem::take(&mut self.waiting) {
                self.take_write(tag, message, steps);
            }
            if before == self.progress() {
                break;
            }
        }
    }

    fn progress(&self) -> (u64, Option<T>, usize) {
        (self.position.last, self.held.as_ref().map(|(tag, _)| *tag), self.waiting.len())
    }

    /// A higher epoch ends all lower ones, and with them what they alone have shown.
    fn meet_epoch(&mut self, epoch: u64) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.shown = None;
        }
    }

    fn show(&mut self, position: Position) {
        if self.shown.is_none_or(|shown| shown.last < position.last) {
            self.shown = Some(position);
        }
    }

    fn contradicts(&self, other: Position) -> bool {
        other.last == self.position.last && other.hash != self.position.hash
    }
}

#[cfg(test)]
mod tests;

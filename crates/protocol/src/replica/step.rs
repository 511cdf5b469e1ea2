//! What a replica is told and what it answers.

use crate::chain::{ChainHash, Position};
use crate::cut::Cut;
use crate::digest::Digest;
use crate::envelope::{DecodeError, Term, WriteMessage};
use crate::report::Claim;

/// What a database has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Up to where.
    pub position: Position,
    /// The highest epoch that a message was applied of.
    pub epoch: u64,
    /// What the history does without, as far as the messages applied say.
    pub cut: Cut,
}

impl Applied {
    /// Nothing.
    pub fn nothing(cluster: &str) -> Self {
        Self { position: Position::genesis(cluster), epoch: 0, cut: Cut::default() }
    }

    /// As far as this after a message of a reign.
    #[must_use]
    pub fn after(self, term: Term, position: Position) -> Self {
        Self { position, epoch: self.epoch.max(term.epoch), cut: self.cut.max(term.cut) }
    }

    /// It as a claim.
    pub fn claim(self) -> Claim {
        Claim { epoch: self.epoch, cut: self.cut, position: self.position }
    }
}

/// Why a delivery is done with although nothing of it is applied now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Of a reign that is over.
    Stale,
    /// Applied before.
    Duplicate,
    /// Here, but published again by the next reign.
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
    /// The rows are of what a human has given up while this node was away.
    #[error("diverged: this node is at {} with what the cluster has given up: everything after {}", own.last, cut.last)]
    GivenUp {
        /// Where this node is.
        own: Position,
        /// What the cluster does without.
        cut: Cut,
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

/// A change of the database.
#[derive(Debug, Clone)]
pub enum Change {
    /// Apply this message.
    Apply(WriteMessage),
    /// Keep this message, which waits; in the place of one with the same position.
    Keep(WriteMessage),
    /// Apply the message that is kept with this position, and keep it no longer.
    ApplyKept(Position),
    /// Keep the message with this position no longer: it is not needed.
    Discard(Position),
}

/// A message that waits in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The reign that it is of.
    pub term: Term,
    /// The position before it.
    pub previous: Position,
    /// The position after it.
    pub position: Position,
    /// The size of its body.
    pub bytes: u64,
}

/// The newest message that is here and not proven.
#[derive(Debug, Clone, Copy)]
pub struct Tip<'a> {
    /// How far it goes, and the epoch that it is of.
    pub claim: Claim,
    /// The message, unless it is kept in the database.
    pub message: Option<&'a WriteMessage>,
}

/// What to do, in the order given. `T` is a delivery's tag.
#[derive(Debug)]
pub enum Step<T> {
    /// Acknowledge: nothing of it is needed.
    Ack(T, Dropped),
    /// Reject without requeue.
    Reject(T, DecodeError),
    /// Change the database in a transaction, then acknowledge.
    Do {
        /// The delivery to acknowledge after the transaction, if this is one.
        ack: Option<T>,
        /// What to change.
        change: Change,
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

/// Why a message from a peer is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// It does not follow what is applied.
    #[error("the peer's message starts after {found:?}, this node is at {expected:?}")]
    BrokenLink {
        /// Where this node is.
        expected: Position,
        /// What the message follows.
        found: Position,
    },
    /// It is of what the cluster does without.
    #[error("the peer's message ends at {last}; the cluster has given up everything after {}", cut.last)]
    GivenUp {
        /// Where the message ends.
        last: u64,
        /// What the cluster does without.
        cut: Cut,
    },
}

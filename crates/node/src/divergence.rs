//! Why a database is not to be trusted. There is one way out: another copy of the rows, from a peer.

use broadcast_protocol::chain::Position;
use broadcast_protocol::cut::Cut;
use broadcast_protocol::replica::Halt;

use crate::store::{Scrub, StoreError};

/// What is wrong with the rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Divergence {
    /// The chain, or what the other nodes have, contradicts them.
    #[error(transparent)]
    Contradicted(Halt),
    /// The history does not lead through what they are of: that was given up while this node was away.
    #[error(
        "diverged: this node has hash {} at {}, which the history up to {} does not lead through", own.hash, own.last, shown.last
    )]
    Bypassed {
        /// Where this node is.
        own: Position,
        /// A position of the history, further on.
        shown: Position,
    },
    /// They are not what this node has written.
    #[error(
        "the rows were changed by somebody else: at {position} there are {found_rows} with digest {found}, \
             this node has written {rows} with digest {written}"
    )]
    Changed {
        /// Where they were read.
        position: u64,
        /// The digest of the rows as they are.
        found: String,
        /// How many there are.
        found_rows: u64,
        /// The digest of what was written.
        written: String,
        /// How many there should be.
        rows: u64,
    },
    /// The file is damaged.
    #[error("the database is damaged: {0}")]
    Damaged(String),
}

impl Divergence {
    /// All that [`Divergence::as_str`] says.
    pub(crate) const REASONS: [&'static str; 5] =
        ["history", "given_up", "rows_differ", "changed", "damaged"];

    /// Of an error that says so.
    pub(crate) fn of_damage(error: &StoreError) -> Self {
        Self::Damaged(error.to_string())
    }

    /// Of a scrub that found rows which nothing in the history explains.
    pub(crate) fn of_scrub(scrub: &Scrub) -> Self {
        Self::Changed {
            position: scrub.committed.applied.position.last,
            found: scrub.digest.to_string(),
            found_rows: scrub.rows,
            written: scrub.committed.digest.to_string(),
            rows: scrub.committed.rows,
        }
    }

    /// Its name in metrics.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Contradicted(Halt::RowsDiffer { .. }) => "rows_differ",
            Self::Contradicted(Halt::GivenUp { .. }) => "given_up",
            Self::Contradicted(_) | Self::Bypassed { .. } => "history",
            Self::Changed { .. } => "changed",
            Self::Damaged(_) => "damaged",
        }
    }

    /// Whether a position is on the history that the cluster does not share: neither this node's log nor a snapshot of
    /// that position helps anybody.
    pub(crate) fn contradicts(&self, position: Position) -> bool {
        matches!(self, Self::Contradicted(Halt::Diverged { own, .. }) | Self::Bypassed { own, .. } if *own == position)
    }

    /// Whether this node's log is of a history that the cluster does not share, nobody knows from where on.
    pub(crate) fn is_of_history(&self) -> bool {
        matches!(self, Self::Contradicted(Halt::Diverged { .. }) | Self::Bypassed { .. })
    }

    /// What the cluster does without, as far as this says it.
    pub(crate) fn cut(&self) -> Cut {
        match self {
            Self::Contradicted(Halt::GivenUp { cut, .. }) => *cut,
            _ => Cut::default(),
        }
    }
}

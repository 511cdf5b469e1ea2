//! The newest writes that changed nothing: what the heart tells the clients that wait for the outcome of theirs.
//!
//! A bounded memory that knows from where on it is complete. It begins empty with the process, and where a snapshot
//! ended: neither says what became of the writes before.

use std::collections::VecDeque;

use broadcast_protocol::outcome::Rejected;
use broadcast_protocol::report::Outcomes;

/// How many are kept.
const MAX_KEPT: usize = 256;

/// The newest rejected writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecentOutcomes {
    after: u64,
    rejected: VecDeque<Rejected>,
}

impl RecentOutcomes {
    /// Nothing is known of the writes up to this one.
    pub(crate) fn known_after(after: u64) -> Self {
        Self { after, rejected: VecDeque::new() }
    }

    /// Takes the rejected ones of writes that continue those before.
    pub(crate) fn extend(&mut self, rejected: &[Rejected]) {
        self.rejected.extend(rejected);
        let forgotten = self.rejected.len().saturating_sub(MAX_KEPT);
        if let Some(newest) = self.rejected.drain(..forgotten).next_back() {
            self.after = newest.seq;
        }
    }

    /// For a report.
    pub(crate) fn build_outcomes(&self) -> Outcomes {
        Outcomes { after: self.after, rejected: self.rejected.iter().copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use broadcast_protocol::outcome::Rejection;

    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_it_says_from_where_on_it_is_complete() {
        let rejected = |seq| Rejected { seq, reason: Rejection::PreconditionFailed };
        let mut recent = RecentOutcomes::known_after(10);
        recent.extend(&[]);
        recent.extend(&[rejected(12), rejected(14)]);
        assert_eq!(
            recent.build_outcomes(),
            Outcomes { after: 10, rejected: vec![rejected(12), rejected(14)] }
        );
        let many: Vec<Rejected> = (0..255).map(|index| rejected(20 + index)).collect();
        recent.extend(&many);
        let outcomes = recent.build_outcomes();
        assert_eq!((outcomes.after, outcomes.rejected.len()), (12, MAX_KEPT));
        assert_eq!((outcomes.rejected[0].seq, outcomes.rejected[255].seq), (14, 274));
    }
}

//! The newest writes that changed nothing: what the heart tells the clients that wait for the outcome of theirs.
//!
//! A bounded memory that knows from where on it is complete. It begins empty with the process, and where a snapshot
//! ended: neither says what became of the writes before. Reports have what is new in them, and somewhat more, because one
//! may be lost.

use std::collections::VecDeque;

use broadcast_protocol::outcome::Rejected;
use broadcast_protocol::report::Outcomes;

/// How many are kept: more than one message may have writes.
const MAX_KEPT: usize = 1 << 14;

/// How many of the newest are told again and again.
const ALWAYS_TOLD: usize = 256;

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

    /// For a report that follows one of the position `told`.
    pub(crate) fn build_outcomes(&self, told: u64) -> Outcomes {
        let new = self.rejected.partition_point(|write| write.seq <= told);
        let from = new.min(self.rejected.len().saturating_sub(ALWAYS_TOLD));
        let left_out = self.rejected.range(..from).next_back();
        Outcomes {
            after: left_out.map_or(self.after, |write| write.seq),
            rejected: self.rejected.range(from..).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use broadcast_protocol::outcome::Rejection;

    use super::*;

    fn rejected(seqs: impl IntoIterator<Item = u64>) -> Vec<Rejected> {
        seqs.into_iter().map(|seq| Rejected { seq, reason: Rejection::PreconditionFailed }).collect()
    }

    #[test]
    fn a_report_has_what_is_new_and_the_newest_of_what_was_told_before() {
        let mut recent = RecentOutcomes::known_after(10);
        recent.extend(&[]);
        assert_eq!(recent.build_outcomes(0), Outcomes { after: 10, rejected: vec![] });
        recent.extend(&rejected([12, 14]));
        for told in [0, 12, 99] {
            assert_eq!(recent.build_outcomes(told), Outcomes { after: 10, rejected: rejected([12, 14]) });
        }
        recent.extend(&rejected(1_000..2_000));
        for (told, after, first) in
            [(0, 10, 12), (12, 12, 14), (1_499, 1_499, 1_500), (1_743, 1_743, 1_744), (9_999, 1_743, 1_744)]
        {
            let rejected = rejected([12, 14].into_iter().chain(1_000..2_000).filter(|seq| *seq >= first));
            assert_eq!(recent.build_outcomes(told), Outcomes { after, rejected }, "{told}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_it_says_from_where_on_it_is_complete() {
        let mut recent = RecentOutcomes::known_after(10);
        recent.extend(&rejected([12, 14]));
        recent.extend(&rejected(20..20 + MAX_KEPT as u64 - 1));
        let outcomes = recent.build_outcomes(0);
        assert_eq!((outcomes.after, outcomes.rejected.len()), (12, MAX_KEPT));
        assert_eq!(outcomes.rejected[0].seq, 14);
    }
}

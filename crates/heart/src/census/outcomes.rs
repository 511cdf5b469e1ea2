//! What has become of writes, as far as the nodes have said: the same on all of them, so that any node's word will do.
//!
//! Each node tells of its newest rejected writes only. What they tell is put together here, because a client may look
//! later than the next report.

use std::collections::VecDeque;
use std::time::Instant;

use broadcast_protocol::outcome::Rejected;
use broadcast_protocol::report::{NodeState, Outcomes, Report};

use super::Census;

/// How many rejected writes are kept.
const MAX_KEPT: usize = 1 << 16;

/// The outcomes of the writes after one and up to another.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownOutcomes {
    after: u64,
    through: u64,
    rejected: VecDeque<Rejected>,
}

/// What has become of a request's writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// Those that are known to have changed nothing, in order.
    pub rejected: Vec<Rejected>,
    /// Whether all others are known to have done what they were to.
    pub is_known: bool,
}

impl Census {
    /// What has become of the writes `first..=last`.
    pub fn find_fate(&self, first: u64, last: u64) -> Fate {
        self.outcomes.find_fate(first, last)
    }

    /// Whether nothing more will be learned of the writes `first..=last`: all is known, or every node that has reported
    /// lately has told what it could.
    pub fn is_fate_settled(&self, first: u64, last: u64, now: Instant) -> bool {
        // What a node tells before it gets to where the known part begins has a hole after it, and is not put together.
        let told = last.max(self.outcomes.after);
        self.outcomes.covers(first, last)
            || self.nodes().filter(|seen| seen.is_attached(now)).all(|seen| seen.report.applied.last >= told)
    }
}

impl KnownOutcomes {
    /// Takes what a report says.
    pub(super) fn hear(&mut self, report: &Report) {
        // Who has other rows than the history gives has decided on other rows.
        if let Some(outcomes) = report.outcomes.as_ref().filter(|_| report.state != NodeState::Diverged) {
            self.extend(outcomes, report.applied.last);
        }
    }

    fn extend(&mut self, told: &Outcomes, through: u64) {
        if told.after > self.through || through < self.after {
            if through > self.through {
                let rejected = told.rejected.iter().copied().collect();
                *self = Self { after: told.after, through, rejected };
            }
        } else {
            for earlier in told.rejected.iter().rev().filter(|write| write.seq <= self.after) {
                self.rejected.push_front(*earlier);
            }
            self.rejected.extend(told.rejected.iter().filter(|write| write.seq > self.through));
            (self.after, self.through) = (self.after.min(told.after), self.through.max(through));
        }
        while self.rejected.len() > MAX_KEPT {
            self.after = self.rejected.pop_front().map_or(self.after, |forgotten| forgotten.seq);
        }
    }

    fn covers(&self, first: u64, last: u64) -> bool {
        self.after < first && last <= self.through
    }

    fn find_fate(&self, first: u64, last: u64) -> Fate {
        let start = self.rejected.partition_point(|write| write.seq < first);
        let rejected = self.rejected.range(start..).take_while(|write| write.seq <= last).copied().collect();
        Fate { rejected, is_known: self.covers(first, last) }
    }
}

#[cfg(test)]
mod tests {
    use broadcast_protocol::outcome::Rejection;

    use super::super::ATTACHED_FOR;
    use super::super::tests::report;
    use super::*;

    fn rejected(seqs: impl IntoIterator<Item = u64>) -> Vec<Rejected> {
        seqs.into_iter().map(|seq| Rejected { seq, reason: Rejection::PreconditionFailed }).collect()
    }

    /// A node that has applied `last` and can say what became of the writes after `after`.
    fn told(node: u32, last: u64, after: u64, seqs: &[u64]) -> Report {
        let outcomes = Some(Outcomes { after, rejected: rejected(seqs.iter().copied()) });
        Report { outcomes, ..report(node, last) }
    }

    fn known(reports: &[Report]) -> (u64, u64, Vec<u64>) {
        let mut outcomes = KnownOutcomes::default();
        for report in reports {
            outcomes.hear(report);
        }
        (outcomes.after, outcomes.through, outcomes.rejected.iter().map(|write| write.seq).collect())
    }

    #[test]
    fn what_nodes_tell_is_put_together_and_a_hole_is_not_passed_over() {
        let diverged = Report { state: NodeState::Diverged, ..told(1, 30, 0, &[5]) };
        for (reports, expected) in [
            (vec![told(1, 20, 10, &[12, 14])], (10, 20, vec![12, 14])),
            (vec![told(1, 20, 10, &[12]), told(1, 25, 10, &[12, 22])], (10, 25, vec![12, 22])),
            (vec![told(1, 20, 10, &[12]), told(2, 18, 10, &[12])], (10, 20, vec![12])),
            (vec![told(1, 20, 10, &[12]), told(2, 30, 20, &[25])], (10, 30, vec![12, 25])),
            (vec![told(1, 20, 10, &[12]), told(2, 30, 21, &[25])], (21, 30, vec![25])),
            (
                vec![told(1, 20, 10, &[12]), told(2, 30, 22, &[25]), told(1, 31, 11, &[12, 22, 25, 31])],
                (11, 31, vec![12, 22, 25, 31]),
            ),
            (vec![told(1, 20, 10, &[12]), told(2, 9, 5, &[7])], (10, 20, vec![12])),
            (vec![told(1, 20, 10, &[12]), told(2, 20, 20, &[])], (10, 20, vec![12])),
            (vec![diverged, report(1, 40)], (0, 0, vec![])),
        ] {
            assert_eq!(known(&reports), expected);
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_then_not_known() {
        let count = MAX_KEPT as u64 + 3;
        let all = Outcomes { after: 0, rejected: rejected(1..=count) };
        let mut outcomes = KnownOutcomes::default();
        outcomes.hear(&Report { outcomes: Some(all), ..report(1, count) });
        assert_eq!((outcomes.after, outcomes.rejected.len()), (3, MAX_KEPT));
        assert!(!outcomes.find_fate(3, 4).is_known && outcomes.find_fate(4, 4).is_known);
    }

    #[test]
    fn the_fate_of_a_request_is_known_when_all_of_it_is() {
        let mut census = Census::default();
        census.record(told(1, 20, 10, &[12, 14, 18]), Instant::now());
        for (first, last, seqs, is_known) in [
            (11, 20, &[12, 14, 18][..], true),
            (13, 14, &[14], true),
            (15, 17, &[], true),
            (10, 12, &[12], false),
            (18, 21, &[18], false),
        ] {
            let fate = Fate { rejected: rejected(seqs.iter().copied()), is_known };
            assert_eq!(census.find_fate(first, last), fate, "{first} to {last}");
        }
        census.forget_reports();
        assert_eq!(census.find_fate(13, 14), Fate::default());
    }

    #[test]
    fn a_fate_is_settled_when_it_is_known_or_nobody_is_left_to_ask() {
        let now = Instant::now();
        let census_of = |reports: &[Report]| {
            let mut census = Census::default();
            for report in reports {
                census.record(report.clone(), now);
            }
            census
        };
        for (reports, is_settled, is_known) in [
            (vec![told(1, 20, 20, &[]), told(2, 15, 10, &[])], false, false),
            (vec![told(1, 20, 20, &[]), told(2, 18, 10, &[17])], false, false),
            (vec![told(1, 20, 20, &[]), told(2, 20, 10, &[17])], true, true),
            (vec![told(1, 20, 20, &[]), told(2, 20, 19, &[])], true, false),
            (vec![told(1, 20, 10, &[]), told(2, 15, 10, &[])], true, true),
        ] {
            let census = census_of(&reports);
            assert_eq!(census.is_fate_settled(18, 18, now), is_settled, "{reports:?}");
            assert_eq!(census.find_fate(18, 18).is_known, is_known, "{reports:?}");
        }
        let gone = census_of(&[told(1, 15, 10, &[])]);
        assert!(gone.is_fate_settled(18, 18, now + ATTACHED_FOR * 2), "nobody is there");
    }
}

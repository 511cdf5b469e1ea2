//! Queues that are not bound any more: a node hears nothing, although the broker confirmed what should have reached it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use broadcast_protocol::names::NodeId;
use broadcast_protocol::report::Report;

/// How long a confirmed message may be on its way to a node, and the node's word for it on its way here.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// How far apart the confirms are that are remembered, and how many: more than the silence that nodes tell of.
const APART: Duration = Duration::from_millis(500);
const REMEMBERED: usize = 32;

/// Who was silent without a reason, and how often.
#[derive(Debug, Clone, Default)]
pub(super) struct Silences {
    /// When the broker confirmed messages, oldest first; not of all of them.
    confirmed: VecDeque<Instant>,
    nodes: BTreeMap<NodeId, Known>,
}

/// What is known of a node.
#[derive(Debug, Clone)]
struct Known {
    /// How many silences its last report told of.
    silences: u64,
    /// How many of those had no reason.
    unbound: u64,
    /// When it told of the last of these: what was confirmed before is accounted for.
    told: Option<Instant>,
}

impl Silences {
    /// The broker holds another message for every node.
    pub(super) fn note_confirm(&mut self, now: Instant) {
        if self.confirmed.back().is_some_and(|last| now.saturating_duration_since(*last) < APART) {
            return;
        }
        if self.confirmed.len() == REMEMBERED {
            self.confirmed.pop_front();
        }
        self.confirmed.push_back(now);
    }

    /// Takes note of what a report says.
    pub(super) fn note_report(&mut self, report: &Report, now: Instant) {
        let silences = report.silences;
        // What it did before it was heard of first is somebody else's.
        let known = self.nodes.entry(report.node).or_insert(Known { silences, unbound: 0, told: None });
        let is_news = silences > known.silences;
        // A process counts from nothing.
        known.silences = silences;
        if !is_news {
            return;
        }
        let silence = Duration::try_from_secs_f64(report.silent_seconds).unwrap_or_default();
        let was_missed = |at: &Instant| {
            let age = now.saturating_duration_since(*at);
            age > ON_ITS_WAY && age + ON_ITS_WAY < silence && known.told.is_none_or(|told| *at > told)
        };
        if self.confirmed.iter().any(was_missed) {
            tracing::warn!(node = %report.node, "its queue was not bound; it has bound it again");
            known.unbound += 1;
            known.told = Some(now);
        }
    }

    /// How often the queue of a node was not bound.
    pub(super) fn count(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |known| known.unbound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::tests::report;

    /// How many unbound queues are counted when messages were confirmed in these seconds, and a node says in others how long it
    /// was silent.
    fn count(confirmed: &[u64], silent: &[(u64, f64)]) -> u64 {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut silences = Silences::default();
        silences.note_report(&report(1, 5), start);
        for second in 0..=60 {
            for _ in confirmed.iter().filter(|confirmed| **confirmed == second) {
                silences.note_confirm(at(second));
            }
            for (nth, (_, silent_seconds)) in (1..).zip(silent).filter(|(_, (told, _))| *told == second) {
                let report = Report { silences: nth, silent_seconds: *silent_seconds, ..report(1, 5) };
                // Each is told of more than once.
                silences.note_report(&report, at(second));
                silences.note_report(&report, at(second));
            }
        }
        silences.count(NodeId::new(1).unwrap())
    }

    #[test]
    fn a_node_that_a_message_has_missed_has_a_queue_that_is_not_bound() {
        assert_eq!(count(&[57, 58, 59, 60], &[(60, 3.5)]), 1);
        assert_eq!(count(&[59, 60], &[(60, 3.5)]), 0, "it may be on its way");
        assert_eq!(count(&[56, 57], &[(60, 3.5)]), 0, "it may have got it");
        assert_eq!(count(&[], &[(60, 9.0)]), 0);
    }

    #[test]
    fn a_heart_that_said_nothing_is_the_reason_for_a_silence() {
        assert_eq!(count(&[48, 49], &[(60, 10.0)]), 0);
        assert_eq!(count(&[48, 60], &[(60, 10.0)]), 0);
        let many: Vec<u64> = (0..49).collect();
        assert_eq!(count(&many, &[(60, 10.0)]), 0);
    }

    #[test]
    fn one_silence_counts_once_and_so_does_each_of_two() {
        assert_eq!(count(&[57, 58], &[(60, 5.0)]), 1);
        assert_eq!(count(&[41, 42], &[(45, 5.0), (48, 8.0), (51, 11.0)]), 1, "nothing more was missed");
        assert_eq!(count(&[41, 42, 52, 53], &[(45, 5.0), (55, 5.0)]), 2);
    }

    #[test]
    fn what_a_node_did_before_the_heart_began_or_it_began_anew_is_not_counted() {
        let (start, mut silences) = (Instant::now(), Silences::default());
        let at = |second: u64| start + Duration::from_secs(second);
        for second in 1..=3 {
            silences.note_confirm(at(second));
        }
        for (told, expected) in [(7, 0), (0, 0), (1, 1)] {
            let report = Report { silences: told, silent_seconds: 5.0, ..report(1, 5) };
            silences.note_report(&report, at(5));
            assert_eq!(silences.count(NodeId::new(1).unwrap()), expected, "{told}");
        }
    }
}

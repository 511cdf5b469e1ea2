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
    /// By node: whether its last report told of such a silence, and how many of them there were.
    nodes: BTreeMap<NodeId, (bool, u64)>,
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
        let missed = |silent: f64| {
            let silence = Duration::try_from_secs_f64(silent).unwrap_or_default();
            let mut ages = self.confirmed.iter().map(|at| now.saturating_duration_since(*at));
            ages.any(|age| age > ON_ITS_WAY && age + ON_ITS_WAY < silence)
        };
        let is_unbound = report.silent_seconds.is_some_and(missed);
        let (was_unbound, count) = self.nodes.entry(report.node).or_default();
        if is_unbound && !*was_unbound {
            tracing::warn!(node = %report.node, "its queue was not bound; it has bound it again");
            *count += 1;
        }
        *was_unbound = report.silent_seconds.is_some() && (is_unbound || *was_unbound);
    }

    /// How often the queue of a node was not bound.
    pub(super) fn count(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::tests::report;

    /// How many unbound queues are counted when so many seconds ago messages were confirmed, and a node says this.
    fn count(confirmed: &[u64], silent: &[Option<f64>]) -> u64 {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let now = at(60);
        let mut silences = Silences::default();
        for ago in confirmed {
            silences.note_confirm(at(60 - ago));
        }
        for silent_seconds in silent {
            silences.note_report(&Report { silent_seconds: *silent_seconds, ..report(1, 5) }, now);
        }
        silences.count(NodeId::new(1).unwrap())
    }

    #[test]
    fn a_node_that_a_message_has_missed_has_a_queue_that_is_not_bound() {
        assert_eq!(count(&[3, 2, 1, 0], &[Some(3.5)]), 1);
        assert_eq!(count(&[1, 0], &[Some(3.5)]), 0, "it may be on its way");
        assert_eq!(count(&[4, 3], &[Some(3.5)]), 0, "it may have got it");
        assert_eq!(count(&[], &[Some(9.0)]), 0);
        assert_eq!(count(&[3, 2], &[None]), 0);
    }

    #[test]
    fn a_heart_that_said_nothing_is_the_reason_for_a_silence() {
        assert_eq!(count(&[12, 11], &[Some(10.0)]), 0);
        assert_eq!(count(&[12, 0], &[Some(10.0)]), 0);
        let many: Vec<u64> = (12..60).rev().collect();
        assert_eq!(count(&many, &[Some(10.0)]), 0);
    }

    #[test]
    fn one_silence_counts_once() {
        assert_eq!(count(&[3, 2], &[Some(5.0), Some(5.0), Some(6.0)]), 1);
        assert_eq!(count(&[3, 2], &[Some(5.0), None, Some(5.0)]), 2);
    }
}

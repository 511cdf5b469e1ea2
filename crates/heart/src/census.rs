//! What the nodes say of themselves: who is attached, how far each one is, which level a write has reached.
//!
//! The newest report of a node counts, and for [`ATTACHED_FOR`] only: a node that says nothing is not counted on.
//! With a list of the cluster's nodes, only those on it count; without one, those that report are the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use broadcast_protocol::names::NodeId;
use broadcast_protocol::report::{NodeState, Report};
use serde::Deserialize;

mod agreement;
mod outcomes;
mod silence;

pub use outcomes::Fate;
use outcomes::KnownOutcomes;
use silence::Silences;

/// How long a node counts as attached after a report.
pub const ATTACHED_FOR: Duration = Duration::from_secs(30);

/// What must be true of a write before it is acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckLevel {
    /// The broker holds it for every node.
    #[default]
    Broker,
    /// One node has applied it.
    One,
    /// More than half of the nodes have applied it.
    Quorum,
    /// All nodes have applied it.
    All,
}

/// The reports of the nodes.
#[derive(Debug, Clone, Default)]
pub struct Census {
    members: Option<BTreeSet<NodeId>>,
    reports: BTreeMap<NodeId, Seen>,
    /// Those whose digest was not that of most when it was last compared.
    disagreeing: BTreeSet<NodeId>,
    outcomes: KnownOutcomes,
    silences: Silences,
}

/// A report and its time.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What the node said.
    pub report: Report,
    /// When it arrived.
    pub at: Instant,
}

impl AckLevel {
    /// Its name in requests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }

    /// How many of `nodes` must have applied a write.
    fn needed(self, nodes: usize) -> usize {
        match self {
            Self::Broker => 0,
            Self::One => 1,
            Self::Quorum => nodes / 2 + 1,
            // Of no nodes, all is not "none needs to".
            Self::All => nodes.max(1),
        }
    }
}

impl Census {
    /// Takes a list of the cluster's nodes; says whether it differs from the last one.
    pub fn replace_members(&mut self, members: BTreeSet<NodeId>) -> bool {
        let differs = self.members.as_ref() != Some(&members);
        self.members = Some(members);
        differs
    }

    /// Forgets all reports: what nodes said of an earlier reign says nothing of the next.
    pub fn forget_reports(&mut self) {
        self.reports.clear();
        self.disagreeing.clear();
        self.outcomes = KnownOutcomes::default();
    }

    /// Forgets some reports, and what became of writes according to them.
    pub fn forget_reports_if(&mut self, is_wrong: impl Fn(&Report) -> bool) {
        let count = self.reports.len();
        self.reports.retain(|_, seen| !is_wrong(&seen.report));
        if self.reports.len() < count {
            self.outcomes = KnownOutcomes::default();
        }
    }

    /// Takes a report; says whether other nodes than before disagree with most.
    pub fn record(&mut self, mut report: Report, at: Instant) -> bool {
        let position = report.applied;
        if self.is_member(report.node) {
            self.outcomes.hear(&report);
        }
        report.outcomes = None;
        self.reports.insert(report.node, Seen { report, at });
        self.compare_digests(position, at)
    }

    /// The broker holds another message for every node.
    pub fn note_confirm(&mut self, now: Instant) {
        self.silences.note_confirm(now);
    }

    /// Takes note of how long a node has heard nothing.
    pub fn note_silence(&mut self, report: &Report, now: Instant) {
        self.silences.note_report(report, now);
    }

    /// How often the queue of a node was not bound.
    pub fn bindings_restored(&self, node: NodeId) -> u64 {
        self.silences.count(node)
    }

    /// The newest report of each node that counts, in order of ids.
    pub fn nodes(&self) -> impl Iterator<Item = &Seen> {
        self.reports.values().filter(|seen| self.is_member(seen.report.node))
    }

    /// How many nodes have reported lately.
    pub fn attached(&self, now: Instant) -> usize {
        self.nodes().filter(|seen| seen.is_attached(now)).count()
    }

    /// Whether a write has reached a level. Who has other rows than the history gives has not applied it.
    pub fn has_reached(&self, level: AckLevel, seq: u64, now: Instant) -> bool {
        let nodes = self.members.as_ref().map_or_else(|| self.attached(now), BTreeSet::len);
        let has_applied = |report: &Report| report.applied.last >= seq && report.state != NodeState::Diverged;
        let count = self.nodes().filter(|seen| has_applied(&seen.report)).count();
        count >= level.needed(nodes)
    }

    /// Up to where every node has applied the history: every node on the list, or else every one that has reported
    /// lately. None when somebody of the list has not reported, or nobody at all has.
    pub fn applied_by_all(&self, now: Instant) -> Option<u64> {
        let applied: Vec<u64> = self.counted(now).map(|seen| seen.report.applied.last).collect();
        let expected = self.members.as_ref().map_or(applied.len(), BTreeSet::len);
        applied.iter().min().copied().filter(|_| applied.len() == expected)
    }

    /// The nodes on the list that have reported, or else those that have lately.
    fn counted(&self, now: Instant) -> impl Iterator<Item = &Seen> {
        self.nodes().filter(move |seen| self.members.is_some() || seen.is_attached(now))
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.members.as_ref().is_none_or(|members| members.contains(&node))
    }
}

impl Seen {
    fn is_attached(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= ATTACHED_FOR
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use broadcast_protocol::chain::Position;
    use broadcast_protocol::cut::Cut;
    use broadcast_protocol::digest::Digest;
    use broadcast_protocol::report::Outcomes;

    use super::*;

    pub(crate) fn report(node: u32, last: u64) -> Report {
        Report {
            cluster: "c".to_owned(),
            node: NodeId::new(node).unwrap(),
            state: NodeState::Ready,
            applied: Position { last, ..Position::genesis("c") },
            applied_epoch: 1,
            epoch: 1,
            cut: Cut::default(),
            shown: None,
            tip: None,
            session: None,
            sealed: None,
            missing: None,
            outcomes: None,
            digest: Digest::default(),
            rows: 3,
            lag_seconds: 0.0,
            failed: 0,
            malformed: 0,
            rebuilds: 0,
            queues_restored: 0,
            silences: 0,
            silent_seconds: 0.0,
            reason: None,
        }
    }

    pub(crate) fn members(ids: &[u32]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId::new(*id).unwrap()).collect()
    }

    /// The highest level that write 10 has reached.
    fn level(listed: Option<&[u32]>, reports: &[(u32, u64)]) -> &'static str {
        let now = Instant::now();
        let mut census = Census::default();
        if let Some(ids) = listed {
            census.replace_members(members(ids));
        }
        for (node, last) in reports {
            census.record(report(*node, *last), now);
        }
        [AckLevel::All, AckLevel::Quorum, AckLevel::One, AckLevel::Broker]
            .into_iter()
            .find(|level| census.has_reached(*level, 10, now))
            .unwrap()
            .as_str()
    }

    #[test]
    fn a_level_is_over_the_listed_nodes_or_else_over_those_that_report() {
        for (listed, reports, expected) in [
            (None, &[][..], "broker"),
            (None, &[(1, 9)][..], "broker"),
            (None, &[(1, 10)][..], "all"),
            (None, &[(1, 10), (2, 9)][..], "one"),
            (None, &[(1, 10), (2, 11), (3, 9)][..], "quorum"),
            (Some(&[1, 2, 3][..]), &[(1, 10)][..], "one"),
            (Some(&[1, 2, 3][..]), &[(1, 10), (2, 10)][..], "quorum"),
            (Some(&[1, 2, 3][..]), &[(1, 10), (2, 10), (3, 12)][..], "all"),
            (Some(&[1, 2, 3][..]), &[(4, 10), (5, 10)][..], "broker"),
            (Some(&[][..]), &[(1, 10)][..], "broker"),
        ] {
            assert_eq!(level(listed, reports), expected, "{listed:?} {reports:?}");
        }
    }

    #[test]
    fn what_all_have_applied_is_the_least_of_the_list_or_of_those_that_report() {
        let now = Instant::now();
        for (listed, reports, expected) in [
            (None, &[][..], None),
            (None, &[(1, 9), (2, 7)][..], Some(7)),
            (Some(&[1, 2][..]), &[(1, 9)][..], None),
            (Some(&[1, 2][..]), &[(1, 9), (2, 7), (3, 1)][..], Some(7)),
            (Some(&[][..]), &[(1, 9)][..], None),
        ] {
            let mut census = Census::default();
            if let Some(ids) = listed {
                census.replace_members(members(ids));
            }
            for (node, last) in reports {
                census.record(report(*node, *last), now);
            }
            assert_eq!(census.applied_by_all(now), expected, "{listed:?} {reports:?}");
        }
        let mut census = Census::default();
        census.record(report(1, 3), now);
        let later = now + ATTACHED_FOR * 2;
        census.record(report(2, 9), later);
        assert_eq!(census.applied_by_all(later), Some(9), "a node that left does not keep everything");
    }

    #[test]
    fn the_newest_report_counts_and_not_for_ever() {
        let now = Instant::now();
        let mut census = Census::default();
        census.record(report(1, 10), now);
        census.record(report(1, 4), now);
        assert!(
            !census.has_reached(AckLevel::One, 10, now),
            "a node that was restored is where it says it is"
        );
        assert_eq!(census.attached(now + ATTACHED_FOR), 1);
        assert_eq!(census.attached(now + ATTACHED_FOR + Duration::from_millis(1)), 0);
        census.replace_members(members(&[2]));
        assert_eq!(census.attached(now), 0);
        census.record(report(2, 10), now);
        census.forget_reports();
        assert_eq!(census.attached(now), 0);
    }

    #[test]
    fn who_has_other_rows_or_another_history_reaches_no_level() {
        let now = Instant::now();
        let mut census = Census::default();
        census.record(report(1, 10), now);
        let told = Report { outcomes: Some(Outcomes { after: 0, rejected: Vec::new() }), ..report(2, 12) };
        census.record(told.clone(), now);
        assert!(census.has_reached(AckLevel::All, 10, now) && census.find_fate(9, 10).is_known);
        census.record(Report { state: NodeState::Diverged, ..told.clone() }, now);
        assert!(census.has_reached(AckLevel::One, 10, now) && !census.has_reached(AckLevel::All, 10, now));
        census.record(told, now);
        census.forget_reports_if(|report| report.applied.last > 11);
        assert_eq!((census.attached(now), census.find_fate(9, 10).is_known), (1, false));
    }
}

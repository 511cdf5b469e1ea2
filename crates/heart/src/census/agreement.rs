//! Whether the nodes have the same rows: their digests at equal positions, compared.

use std::time::Instant;

use broadcast_protocol::chain::Position;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::names::NodeId;

use super::{Census, Seen};

impl Census {
    /// The digest that most nodes have at a position: more than half of those that are there, and two at least.
    pub fn agreed_digest(&self, position: Position, now: Instant) -> Option<Digest> {
        let digests: Vec<Digest> = self.nodes_at(position, now).map(|seen| seen.report.digest).collect();
        let is_agreed = |digest: &&Digest| {
            let votes = digests.iter().filter(|other| other == digest).count();
            votes >= 2 && votes * 2 > digests.len()
        };
        digests.iter().find(is_agreed).copied()
    }

    /// The nodes that have other rows than most, as far as the last comparison of each one says.
    pub fn disagreeing(&self) -> impl Iterator<Item = NodeId> {
        self.nodes().map(|seen| seen.report.node).filter(|node| self.disagrees(*node))
    }

    /// Whether this node is one of them.
    pub fn disagrees(&self, node: NodeId) -> bool {
        self.disagreeing.contains(&node)
    }

    /// Compares the nodes that are at a position, if most of them agree; says whether any verdict is new.
    pub(super) fn compare_digests(&mut self, position: Position, now: Instant) -> bool {
        let Some(agreed) = self.agreed_digest(position, now) else { return false };
        let verdicts: Vec<(NodeId, bool)> = self
            .nodes_at(position, now)
            .map(|seen| (seen.report.node, seen.report.digest != agreed))
            .collect();
        let mut news = false;
        for (node, disagrees) in verdicts {
            news |= if disagrees { self.disagreeing.insert(node) } else { self.disagreeing.remove(&node) };
        }
        news
    }

    fn nodes_at(&self, position: Position, now: Instant) -> impl Iterator<Item = &Seen> {
        self.counted(now).filter(move |seen| seen.report.applied == position)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{members, report};
    use super::super::{ATTACHED_FOR, Census};
    use super::*;

    fn digest(key: &str) -> Digest {
        let mut digest = Digest::default();
        digest.add("c", key, "1", 1);
        digest
    }

    fn at(last: u64) -> Position {
        Position { last, ..Position::genesis("c") }
    }

    /// What the nodes of a census say: node, position, digest.
    fn census(reports: &[(u32, u64, &str)]) -> Census {
        let mut census = Census::default();
        for (node, last, key) in reports {
            record(&mut census, *node, *last, key);
        }
        census
    }

    fn record(census: &mut Census, node: u32, last: u64, key: &str) -> bool {
        let mut report = report(node, last);
        report.digest = digest(key);
        census.record(report, Instant::now())
    }

    fn named(census: &Census) -> Vec<u32> {
        census.disagreeing().map(NodeId::get).collect()
    }

    #[test]
    fn a_digest_is_agreed_on_by_more_than_half_of_those_at_the_position_and_by_two_at_least() {
        for (reports, agreed, disagreeing) in [
            (&[][..], None, &[][..]),
            (&[(1, 9, "a")][..], None, &[][..]),
            (&[(1, 9, "a"), (2, 9, "a")][..], Some("a"), &[][..]),
            (&[(1, 9, "a"), (2, 9, "b")][..], None, &[][..]),
            (&[(1, 9, "a"), (2, 8, "b")][..], None, &[][..]),
            (&[(1, 9, "a"), (2, 9, "b"), (3, 9, "b")][..], Some("b"), &[1][..]),
            (&[(1, 9, "a"), (2, 9, "b"), (3, 9, "c")][..], None, &[][..]),
            // Named by the first three, and by no later majority cleared.
            (&[(1, 9, "a"), (2, 9, "a"), (3, 9, "b"), (4, 9, "b")][..], None, &[3][..]),
            (&[(1, 9, "a"), (2, 9, "b"), (3, 9, "c"), (4, 9, "a")][..], None, &[][..]),
            (&[(1, 9, "a"), (2, 9, "a"), (3, 9, "a"), (4, 9, "c"), (5, 8, "d")][..], Some("a"), &[4][..]),
        ] {
            let census = census(reports);
            assert_eq!(census.agreed_digest(at(9), Instant::now()), agreed.map(digest), "{reports:?}");
            assert_eq!(named(&census), disagreeing, "{reports:?}");
        }
    }

    #[test]
    fn another_history_at_the_same_number_is_another_position() {
        let other = Position { last: 9, ..Position::genesis("another") };
        let mut census = census(&[(1, 9, "a"), (2, 9, "a")]);
        let mut third = report(3, 9);
        (third.applied, third.digest) = (other, digest("b"));
        census.record(third, Instant::now());
        assert_eq!(census.agreed_digest(at(9), Instant::now()), Some(digest("a")));
        assert!(named(&census).is_empty());
    }

    #[test]
    fn the_listed_nodes_are_compared_or_else_those_that_report() {
        let mut census = census(&[(1, 9, "a"), (2, 9, "a"), (3, 9, "b"), (4, 9, "b")]);
        let later = Instant::now() + ATTACHED_FOR * 2;
        assert_eq!(census.agreed_digest(at(9), later), None, "they have gone");
        census.replace_members(members(&[1, 2, 3]));
        assert_eq!(census.agreed_digest(at(9), later), Some(digest("a")));
    }

    #[test]
    fn a_node_is_named_once_and_until_it_agrees_again() {
        let mut census = census(&[(1, 9, "a"), (2, 9, "a")]);
        assert!(record(&mut census, 3, 9, "b"));
        assert!(!record(&mut census, 3, 9, "b"), "known");
        assert!(!record(&mut census, 1, 10, "a"), "nothing to compare it with");
        assert!(!record(&mut census, 3, 10, "b"), "nor now");
        assert_eq!(named(&census), [3]);
        assert!(!record(&mut census, 3, 0, "b"), "being rebuilt");
        assert_eq!(named(&census), [3]);
        assert!(record(&mut census, 3, 9, "a") || record(&mut census, 3, 10, "a"));
        assert!(named(&census).is_empty());
        record(&mut census, 3, 10, "b");
        record(&mut census, 2, 10, "a");
        assert_eq!(named(&census), [3]);
        census.forget_reports();
        assert!(!census.disagrees(NodeId::new(3).unwrap()));
    }
}

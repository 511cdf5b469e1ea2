use serde_json::json;

use super::*;

/// Builds a history whose events follow each other, unless told otherwise.
#[derive(Default)]
struct Story {
    history: History,
    time: Time,
}

const EXACT: fn(u64) -> Outcome = |seq| Outcome::Acknowledged { seq, is_exact: true, held: None };
const RETRIED: fn(u64) -> Outcome = |seq| Outcome::Acknowledged { seq, is_exact: false, held: None };
const HELD: fn(u64) -> Outcome = |seq| Outcome::Acknowledged { seq, is_exact: true, held: Some(true) };
const FAILED: fn(u64) -> Outcome = |seq| Outcome::Acknowledged { seq, is_exact: true, held: Some(false) };

impl Story {
    fn write(mut self, value: Option<i32>, condition: Option<Condition>, outcome: Outcome) -> Self {
        let (start, end) = (self.time + 1, self.time + 2);
        self.time = end;
        let value = value.map(|value| json!(value));
        self.history.wrote(Write { key: "k".to_owned(), value, condition, start, end, outcome });
        self
    }

    fn put(self, value: i32, outcome: Outcome) -> Self {
        self.write(Some(value), None, outcome)
    }

    fn delete(self, outcome: Outcome) -> Self {
        self.write(None, None, outcome)
    }

    fn put_if(self, value: i32, condition: Condition, outcome: Outcome) -> Self {
        self.write(Some(value), Some(condition), outcome)
    }

    fn read(mut self, at_least: u64, position: u64, row: Option<(i32, u64)>) -> Self {
        let (start, end) = (self.time + 1, self.time + 2);
        self.time = end;
        let row = row.map(|(value, seq)| (json!(value), seq));
        let (key, node) = ("k".to_owned(), "node 1".to_owned());
        self.history.read(Read { key, node, at_least, position, row, start, end });
        self
    }

    /// What follows happens at the same time as what came before.
    fn meanwhile(mut self) -> Self {
        self.time = 0;
        self
    }

    fn assert_explained(self) {
        assert_eq!(self.history.find_violations(), Vec::<String>::new());
    }

    fn assert_unexplained(self, because: &str) {
        let violations = self.history.find_violations();
        assert!(violations.iter().any(|violation| violation.contains(because)), "{because}: {violations:?}");
    }
}

fn story() -> Story {
    Story::default()
}

const NO_ORDER: &str = "no order of the writes explains it";

#[test]
fn what_a_correct_cluster_does_assert_explained() {
    story().put(1, EXACT(1)).read(1, 1, Some((1, 1))).delete(EXACT(2)).read(2, 4, None).assert_explained();
    // Reads at older positions, and of what somebody else writes at the same time.
    story().put(1, EXACT(3)).put(2, EXACT(5)).read(0, 4, Some((1, 3))).read(0, 2, None).assert_explained();
    story().put(1, EXACT(4)).meanwhile().put(2, EXACT(3)).read(4, 4, Some((1, 4))).assert_explained();
}

#[test]
fn an_unknown_write_may_have_been_made_or_not_or_be_made_later() {
    let unknown = || story().put(1, EXACT(1)).put(2, Outcome::Unknown);
    unknown().read(1, 5, Some((1, 1))).assert_explained();
    unknown().read(1, 5, Some((2, 2))).assert_explained();
    unknown().put(3, EXACT(4)).read(4, 4, Some((3, 4))).read(4, 9, Some((2, 7))).assert_explained();
    let deleted = || story().put(1, EXACT(1)).delete(Outcome::Unknown);
    deleted().read(1, 3, Some((1, 1))).read(1, 5, None).read(5, 6, None).assert_explained();
    deleted().read(1, 3, None).read(3, 5, Some((1, 1))).assert_unexplained(NO_ORDER);
    // One write explains one change, not two.
    deleted().read(1, 3, None).put(2, EXACT(4)).read(4, 6, None).assert_unexplained(NO_ORDER);
}

#[test]
fn a_write_that_was_tried_again_has_a_place_up_to_its_answer() {
    story().put(1, EXACT(1)).put(2, RETRIED(5)).read(1, 5, Some((2, 3))).assert_explained();
    story().put(1, EXACT(1)).delete(RETRIED(5)).read(1, 5, None).assert_explained();
    story().put(1, EXACT(1)).delete(RETRIED(5)).read(1, 5, Some((1, 1))).assert_unexplained(NO_ORDER);
    story()
        .put(1, EXACT(2))
        .put(2, RETRIED(5))
        .read(1, 5, Some((2, 1)))
        .assert_unexplained("before it was asked");
    story().put(2, RETRIED(5)).read(1, 9, Some((2, 6))).assert_unexplained("higher number than its answer");
}

#[test]
fn a_stale_read_is_found() {
    story()
        .put(1, EXACT(1))
        .put(2, EXACT(2))
        .read(2, 1, Some((1, 1)))
        .assert_unexplained("behind what was asked");
    story().put(1, EXACT(1)).put(2, EXACT(2)).read(2, 2, Some((1, 1))).assert_unexplained(NO_ORDER);
    story().put(1, EXACT(1)).delete(EXACT(2)).read(0, 3, Some((1, 1))).assert_unexplained(NO_ORDER);
}

#[test]
fn a_read_of_the_future_is_found() {
    story().read(0, 3, None).put(1, EXACT(3)).assert_unexplained("not yet asked for");
}

#[test]
fn a_lost_acknowledgement_is_found() {
    story().put(1, EXACT(1)).read(1, 9, None).assert_unexplained(NO_ORDER);
    story().put(1, EXACT(1)).put(2, RETRIED(4)).read(4, 9, Some((1, 1))).assert_unexplained(NO_ORDER);
    story().put(1, EXACT(1)).delete(EXACT(2)).read(2, 9, Some((1, 1))).assert_unexplained(NO_ORDER);
}

#[test]
fn a_write_that_was_made_twice_is_found() {
    story().put(1, EXACT(1)).put(2, EXACT(2)).read(2, 9, Some((1, 5))).assert_unexplained("made twice");
    let retried = story().put(1, RETRIED(3)).read(0, 2, Some((1, 2))).put(2, EXACT(4));
    retried.read(4, 9, Some((1, 5))).assert_unexplained("made twice");
    // A delete that came again.
    story().delete(EXACT(1)).put(1, EXACT(2)).read(2, 9, None).assert_unexplained(NO_ORDER);
}

#[test]
fn what_was_not_made_or_never_asked_for_is_found() {
    story().put(1, Outcome::Refused).read(0, 9, Some((1, 5))).assert_unexplained("not made, but is there");
    story().put(1, EXACT(1)).read(1, 9, Some((7, 5))).assert_unexplained("nobody wrote this");
}

#[test]
fn numbers_follow_time_and_are_given_once() {
    story().put(1, EXACT(5)).put(2, EXACT(4)).assert_unexplained("acknowledged before this began");
    story().put(1, EXACT(5)).meanwhile().put(2, EXACT(5)).assert_unexplained("one number for two");
}

#[test]
fn a_condition_is_decided_by_the_row_at_its_place() {
    let absent = Condition::Absent;
    story()
        .put_if(1, absent, HELD(1))
        .put_if(2, absent, FAILED(2))
        .read(2, 2, Some((1, 1)))
        .assert_explained();
    story()
        .put(1, EXACT(1))
        .put_if(2, Condition::Seq(1), HELD(2))
        .read(2, 2, Some((2, 2)))
        .assert_explained();
    // Nobody said what came of it: the state does.
    story().put(1, EXACT(1)).put_if(2, absent, EXACT(2)).read(2, 2, Some((1, 1))).assert_explained();
    story().put_if(2, absent, EXACT(2)).read(2, 2, Some((2, 2))).assert_explained();
}

#[test]
fn a_wrong_outcome_of_a_condition_is_found() {
    let absent = Condition::Absent;
    story().put(1, EXACT(1)).put_if(2, absent, HELD(2)).assert_unexplained(NO_ORDER);
    story().put_if(1, absent, FAILED(1)).assert_unexplained(NO_ORDER);
    story().put(1, EXACT(1)).put_if(2, Condition::Seq(7), HELD(8)).assert_unexplained(NO_ORDER);
    story().put(1, EXACT(1)).put_if(2, Condition::Seq(1), FAILED(2)).assert_unexplained(NO_ORDER);
    story()
        .put(1, EXACT(1))
        .put_if(2, absent, EXACT(2))
        .read(2, 2, Some((2, 2)))
        .assert_unexplained(NO_ORDER);
    story()
        .put_if(1, absent, FAILED(1))
        .read(1, 2, Some((1, 1)))
        .assert_unexplained("rejected, but is there");
    // Two that both took the same row.
    let both = story().put(1, EXACT(1)).put_if(2, Condition::Seq(1), HELD(2));
    both.put_if(3, Condition::Seq(1), HELD(3)).assert_unexplained(NO_ORDER);
}

#[test]
fn an_unknown_write_can_decide_a_condition() {
    let absent = Condition::Absent;
    story().put(1, Outcome::Unknown).put_if(2, absent, FAILED(5)).assert_explained();
    story().put(1, Outcome::Unknown).put_if(2, Condition::Seq(3), HELD(5)).assert_explained();
    story()
        .put(1, EXACT(3))
        .put(2, Outcome::Unknown)
        .put_if(3, Condition::Seq(3), FAILED(5))
        .assert_explained();
    story().put(1, Outcome::Unknown).put_if(2, Condition::Seq(6), HELD(5)).assert_unexplained(NO_ORDER);
}

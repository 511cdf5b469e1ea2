use proptest::prelude::*;

use super::*;
use crate::envelope::Seal;
use crate::write::{Write, WriteBatch};

const CLUSTER: &str = "c";

fn batch(key: &str, count: usize) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for _ in 0..count {
        let json = format!(r#"{{"op":"put","collection":"c","key":"{key}","value":1}}"#);
        batch.push(&Write::parse(&json, "write").unwrap());
    }
    batch
}

fn after(previous: Position, epoch: u64, key: &str) -> WriteMessage {
    WriteMessage::new(CLUSTER, epoch, previous, 0, batch(key, 1))
}

/// A chain of messages with one write each: the one at index `i` has sequence number `i + 1`.
fn chain(epoch: u64, length: usize) -> Vec<WriteMessage> {
    let mut messages: Vec<WriteMessage> = Vec::new();
    for index in 0..length {
        let previous = messages.last().map_or(Position::genesis(CLUSTER), |message| message.position);
        messages.push(after(previous, epoch, &index.to_string()));
    }
    messages
}

fn mark(epoch: u64, position: Position) -> Bytes {
    Mark { cluster: CLUSTER.to_owned(), epoch, position, at: 0, digest: None }.body()
}

fn replica_at(position: Position, epoch: u64) -> Replica<u64> {
    Replica::new(CLUSTER, Applied { position, epoch })
}

fn empty() -> Replica<u64> {
    Replica::new(CLUSTER, Applied::nothing(CLUSTER))
}

/// Steps in short: `ack 1 Duplicate`, `apply 2..2 ack 1`, `reject 3`, `halt`.
fn short(steps: &[Step<u64>]) -> Vec<String> {
    let short = |step: &Step<u64>| match step {
        Step::Ack(tag, why) => format!("ack {tag} {why:?}"),
        Step::Reject(tag, _) => format!("reject {tag}"),
        Step::Apply { ack, message } => {
            let ack = ack.map_or(String::new(), |tag| format!(" ack {tag}"));
            format!("apply {}..{}{ack}", message.first, message.position.last)
        }
        Step::Compare(position, _) => format!("compare at {}", position.last),
        Step::Halt(halt) => format!("halt {halt}"),
    };
    steps.iter().map(short).collect()
}

#[track_caller]
fn assert_steps(steps: &[Step<u64>], expected: &[&str]) {
    assert_eq!(short(steps), expected);
}

#[test]
fn a_message_is_applied_only_when_its_successor_or_a_mark_proves_it() {
    let chain = chain(1, 2);
    let mut replica = empty();
    assert_eq!(replica.standing(), Standing::Bootstrapping);
    assert_steps(&replica.receive(1, chain[0].body()), &[]);
    assert_steps(&replica.receive(2, chain[1].body()), &["apply 1..1 ack 1"]);
    assert_steps(&replica.receive(3, &mark(1, chain[1].position)), &["apply 2..2 ack 2", "ack 3 Mark"]);
    assert_eq!((replica.position(), replica.standing()), (chain[1].position, Standing::Current));
}

#[test]
fn what_is_not_of_this_cluster_or_not_a_message_is_rejected_and_changes_nothing() {
    let chain = chain(1, 2);
    let mut replica = empty();
    replica.receive(1, chain[0].body());
    let other = Mark::genesis("other", 0).body();
    let broken = Bytes::from(String::from_utf8_lossy(chain[1].body()).replace("\"value\":1", "\"value\":2"));
    for (tag, body) in [(2, Bytes::from_static(b"hello")), (3, other), (4, broken)] {
        assert_steps(&replica.receive(tag, &body), &[&format!("reject {tag}")]);
    }
    assert_steps(&replica.receive(5, chain[1].body()), &["apply 1..1 ack 1"]);
}

#[test]
fn a_newer_version_stops_the_node_and_is_neither_acknowledged_nor_rejected() {
    let newer = Bytes::from(String::from_utf8_lossy(chain(1, 1)[0].body()).replace("\"v\":1", "\"v\":2"));
    let steps = empty().receive(1, &newer);
    assert!(matches!(&steps[..], [Step::Halt(Halt::NewerVersion(2))]), "{steps:?}");
}

#[test]
fn a_message_of_an_ended_reign_is_dropped() {
    let chain = chain(2, 1);
    let mut replica = empty();
    replica.receive(1, &mark(2, Position::genesis(CLUSTER)));
    let stale = after(Position::genesis(CLUSTER), 1, "stale");
    assert_steps(&replica.receive(2, stale.body()), &["ack 2 Stale"]);
    assert_steps(&replica.receive(3, &mark(1, Position::genesis(CLUSTER))), &["ack 3 Stale"]);
    assert_steps(&replica.receive(4, chain[0].body()), &[]);
}

#[test]
fn a_duplicate_is_acknowledged_and_not_applied_twice() {
    let chain = chain(1, 3);
    let mut replica = replica_at(chain[1].position, 1);
    assert_steps(&replica.receive(1, chain[0].body()), &["ack 1 Duplicate"]);
    assert_steps(&replica.receive(2, chain[1].body()), &["ack 2 Duplicate"]);
    replica.receive(3, chain[2].body());
    assert_steps(&replica.receive(4, chain[2].body()), &["ack 3 Superseded"]);
    assert_steps(&replica.receive(5, &mark(1, chain[2].position)), &["apply 3..3 ack 4", "ack 5 Mark"]);
}

#[test]
fn a_held_message_that_nobody_confirmed_gives_way_to_the_next_reigns() {
    let lost = after(Position::genesis(CLUSTER), 1, "lost");
    let kept = after(Position::genesis(CLUSTER), 2, "kept");
    let mut replica = empty();
    replica.receive(1, lost.body());
    assert_steps(&replica.receive(2, &mark(2, Position::genesis(CLUSTER))), &["ack 2 Mark"]);
    assert_steps(&replica.receive(3, kept.body()), &["ack 1 Superseded"]);
    assert_steps(&replica.receive(4, &mark(2, kept.position)), &["apply 1..1 ack 3", "ack 4 Mark"]);
}

#[test]
fn a_node_that_misses_a_message_waits_and_repairs_from_its_peer() {
    let chain = chain(1, 5);
    let mut replica = replica_at(chain[0].position, 1);
    assert_steps(&replica.receive(1, chain[2].body()), &[]);
    assert_eq!(replica.standing(), Standing::Gap { after: 1, shown: 2 });
    assert_steps(&replica.receive(2, chain[3].body()), &[]);
    assert!(!replica.may_ack_multiple(2));
    let steps = replica.repair(chain[1].clone()).unwrap();
    assert_steps(&steps, &["apply 2..2", "apply 3..3 ack 1"]);
    assert_eq!(replica.standing(), Standing::Current);
    assert_steps(&replica.receive(3, &mark(1, chain[3].position)), &["apply 4..4 ack 2", "ack 3 Mark"]);
    assert!(replica.may_ack_multiple(3));
}

#[test]
fn a_repair_past_what_is_held_and_waiting_makes_both_duplicates() {
    let chain = chain(1, 4);
    let mut replica = replica_at(chain[0].position, 1);
    replica.receive(1, chain[1].body());
    replica.receive(2, chain[3].body());
    assert_eq!(replica.standing(), Standing::Gap { after: 1, shown: 3 });
    let mut steps = Vec::new();
    for message in &chain[1..] {
        steps.extend(replica.repair(message.clone()).unwrap());
    }
    assert_steps(&steps, &["apply 2..2", "ack 1 Duplicate", "apply 3..3", "apply 4..4", "ack 2 Duplicate"]);
    assert_eq!(replica.standing(), Standing::Current);
}

#[test]
fn a_lost_tail_shows_by_the_mark() {
    let chain = chain(1, 2);
    let mut replica = replica_at(chain[0].position, 1);
    assert_steps(&replica.receive(1, &mark(1, chain[1].position)), &["ack 1 Mark"]);
    assert_eq!(replica.standing(), Standing::Gap { after: 1, shown: 2 });
}

#[test]
fn a_peers_message_that_does_not_follow_is_refused() {
    let chain = chain(1, 3);
    let mut replica = replica_at(chain[0].position, 1);
    let error = replica.repair(chain[2].clone()).unwrap_err();
    assert_eq!(error, BrokenLink { expected: chain[0].position, found: chain[1].position });
    let other = after(Position::genesis(CLUSTER), 1, "other");
    let forked = after(other.position, 1, "forked");
    assert!(replica.repair(forked).is_err());
    assert_eq!(replica.position(), chain[0].position);
}

#[test]
fn a_message_far_ahead_that_was_never_part_of_the_history_is_dropped_by_the_next_reign() {
    let chain = chain(1, 2);
    let unknown = Position { last: 1_000, hash: chain[1].position.hash };
    let mut replica = replica_at(chain[0].position, 1);
    replica.receive(1, after(unknown, 1, "far").body());
    assert_eq!(replica.standing(), Standing::Gap { after: 1, shown: 1_000 });
    assert_steps(&replica.receive(2, &mark(2, chain[0].position)), &["ack 2 Mark", "ack 1 Stale"]);
    assert_eq!(replica.standing(), Standing::Current);
}

#[test]
fn another_hash_at_the_same_position_is_a_divergence() {
    let one = after(Position::genesis(CLUSTER), 1, "one");
    let other = after(Position::genesis(CLUSTER), 1, "other");
    for body in [other.body().clone(), mark(1, other.position)] {
        let steps = replica_at(one.position, 1).receive(1, &body);
        let [Step::Halt(Halt::Diverged { own, other: found })] = &steps[..] else {
            panic!("{steps:?}");
        };
        assert_eq!((*own, *found), (one.position, other.position.hash));
    }
}

#[test]
fn two_successors_of_one_message_in_one_reign_are_both_doubted() {
    let one = after(Position::genesis(CLUSTER), 1, "one");
    let other = after(Position::genesis(CLUSTER), 1, "other");
    let mut replica = empty();
    replica.receive(1, one.body());
    assert_steps(&replica.receive(2, other.body()), &[]);
    assert_eq!(replica.standing(), Standing::Gap { after: 0, shown: 0 });
    let steps = replica.repair(other).unwrap();
    assert_steps(&steps, &["apply 1..1", "ack 1 Duplicate", "ack 2 Duplicate"]);
}

#[test]
fn what_a_heart_asks_for_at_a_seal_is_known_and_the_seal_itself_changes_nothing() {
    let chain = chain(3, 5);
    let mut replica = replica_at(chain[0].position, 3);
    assert_eq!((replica.tip().map(|tip| tip.first), replica.shown(), replica.sealed()), (None, None, None));
    replica.receive(1, chain[1].body());
    assert_eq!((replica.tip().map(|tip| tip.first), replica.shown()), (Some(2), None));
    replica.receive(2, chain[3].body());
    assert_eq!(replica.tip().map(|tip| tip.first), Some(4));
    assert_eq!(replica.shown(), Some(chain[2].position));
    let seal = Seal { cluster: CLUSTER.to_owned(), epoch: 9, nonce: 7, number: 2, at: 0 };
    assert_steps(&replica.receive(3, &seal.body()), &["ack 3 Seal"]);
    assert_eq!((replica.sealed(), replica.epoch()), (Some(Sealed { nonce: 7, number: 2 }), 3));
    assert_eq!(replica.tip().map(|tip| tip.first), Some(4), "a seal makes nothing stale");
}

#[test]
fn a_snapshot_stands_for_everything_up_to_its_position() {
    let chain = chain(1, 5);
    let mut replica = empty();
    replica.receive(1, chain[2].body());
    replica.receive(2, chain[3].body());
    replica.receive(3, chain[4].body());
    let steps = replica.adopt(Applied { position: chain[3].position, epoch: 1 });
    assert_steps(&steps, &["ack 1 Duplicate", "ack 2 Duplicate"]);
    assert_eq!((replica.standing(), replica.position()), (Standing::Current, chain[3].position));
    assert_steps(&replica.receive(4, &mark(1, chain[4].position)), &["apply 5..5 ack 3", "ack 4 Mark"]);
}

#[test]
fn a_marks_digest_is_compared_at_its_own_position_only() {
    let chain = chain(1, 2);
    let mark = |position| {
        let digest = Some(Digest::default());
        Mark { cluster: CLUSTER.to_owned(), epoch: 1, position, at: 0, digest }.body()
    };
    let mut replica = replica_at(chain[0].position, 1);
    assert_steps(&replica.receive(1, &mark(chain[1].position)), &["ack 1 Mark"]);
    assert_steps(&replica.receive(2, &mark(chain[0].position)), &["compare at 1", "ack 2 Mark"]);
    replica.receive(3, chain[1].body());
    let steps = replica.receive(4, &mark(chain[1].position));
    assert_steps(&steps, &["apply 2..2 ack 3", "compare at 2", "ack 4 Mark"]);
}

proptest! {
    /// Whatever the broker repeats, reorders or loses: what is applied is a prefix of the history, each write once,
    /// nothing is acknowledged twice, and no write is acknowledged while it could still be needed.
    #[test]
    fn whatever_is_delivered_only_the_history_is_applied(order in proptest::collection::vec(0_usize..12, 1..60)) {
        let history = chain(1, 12);
        let mut replica = empty();
        let mut applied = 0;
        let mut done = std::collections::BTreeSet::new();
        for (tag, index) in order.iter().enumerate() {
            let message = &history[index / 2];
            let body = if index % 2 == 0 { message.body().clone() } else { mark(1, message.position) };
            for step in replica.receive(tag as u64, &body) {
                match step {
                    Step::Apply { ack, message } => {
                        prop_assert_eq!(message.first, applied + 1);
                        applied = message.position.last;
                        prop_assert!(done.insert(ack.unwrap()));
                    }
                    Step::Ack(tag, why) => {
                        prop_assert!(done.insert(tag));
                        let acked = order[usize::try_from(tag).unwrap()];
                        let needed = acked % 2 == 0 && history[acked / 2].position.last > applied;
                        prop_assert!(!needed || why == Dropped::Superseded);
                    }
                    step => prop_assert!(false, "{:?}", step),
                }
            }
            prop_assert_eq!(replica.position().last, applied);
        }
        while applied < 12 {
            for step in replica.repair(history[usize::try_from(applied).unwrap()].clone()).unwrap() {
                match step {
                    Step::Apply { ack, message } => {
                        prop_assert_eq!(message.first, applied + 1);
                        applied = message.position.last;
                        if let Some(tag) = ack { prop_assert!(done.insert(tag)); }
                    }
                    Step::Ack(tag, _) => prop_assert!(done.insert(tag)),
                    step => prop_assert!(false, "{:?}", step),
                }
            }
        }
        prop_assert_eq!(done.len(), order.len());
        prop_assert_eq!(replica.position(), history[11].position);
    }
}

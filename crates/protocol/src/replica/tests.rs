use super::*;
use crate::digest::Digest;
use crate::envelope::Seal;
use crate::write::{Write, WriteBatch};

const CLUSTER: &str = "c";
const KEEP_BYTES: u64 = 1 << 20;

fn batch(key: &str, count: usize) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for _ in 0..count {
        let json = format!(r#"{{"op":"put","collection":"c","key":"{key}","value":1}}"#);
        batch.push(&Write::parse(&json, "write").unwrap());
    }
    batch
}

fn term(epoch: u64) -> Term {
    Term::new(epoch, epoch)
}

fn after(previous: Position, epoch: u64, key: &str) -> WriteMessage {
    WriteMessage::new(CLUSTER, term(epoch), previous, 0, batch(key, 1))
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
    Mark { cluster: CLUSTER.to_owned(), term: term(epoch), position, at: 0, digest: None }.body()
}

fn replica_at(position: Position, epoch: u64) -> Replica<u64> {
    Replica::new(CLUSTER, Applied { position, epoch, cut: Cut::default() }, [], KEEP_BYTES)
}

fn empty() -> Replica<u64> {
    replica_at(Position::genesis(CLUSTER), 0)
}

/// Steps in short: `ack 1 Duplicate`, `apply 2..2 ack 1`, `reject 3`, `halt`.
fn short(steps: &[Step<u64>]) -> Vec<String> {
    let short = |step: &Step<u64>| match step {
        Step::Ack(tag, why) => format!("ack {tag} {why:?}"),
        Step::Reject(tag, _) => format!("reject {tag}"),
        Step::Do { ack, change } => {
            let ack = ack.map_or(String::new(), |tag| format!(" ack {tag}"));
            let change = match change {
                Change::Apply(message) => format!("apply {}..{}", message.first, message.position.last),
                Change::Keep(message) => format!("keep {}", message.position.last),
                Change::ApplyKept(position) => format!("apply kept {}", position.last),
                Change::Discard(position) => format!("discard {}", position.last),
            };
            format!("{change}{ack}")
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
    assert_steps(&replica.receive(4, chain[2].body()), &["ack 4 Duplicate"]);
    assert_steps(&replica.receive(5, &mark(1, chain[2].position)), &["apply 3..3 ack 3", "ack 5 Mark"]);
}

#[test]
fn a_held_message_that_nobody_confirmed_gives_way_to_the_next_reigns() {
    let lost = after(Position::genesis(CLUSTER), 1, "lost");
    let kept = after(Position::genesis(CLUSTER), 2, "kept");
    let mut replica = empty();
    replica.receive(1, lost.body());
    assert_steps(&replica.receive(2, &mark(2, Position::genesis(CLUSTER))), &["ack 1 Stale", "ack 2 Mark"]);
    assert_steps(&replica.receive(3, kept.body()), &[]);
    let again = kept.with_term(term(3));
    assert_steps(&replica.receive(4, again.body()), &["ack 3 Stale"]);
    assert_steps(&replica.receive(5, &mark(3, kept.position)), &["apply 1..1 ack 4", "ack 5 Mark"]);
}

#[test]
fn a_node_that_misses_a_message_waits_and_repairs_from_its_peer() {
    let chain = chain(1, 5);
    let mut replica = replica_at(chain[0].position, 1);
    assert_steps(&replica.receive(1, chain[2].body()), &["keep 3 ack 1"]);
    assert_eq!(replica.standing(), Standing::Gap { after: 1, shown: 2 });
    assert_steps(&replica.receive(2, chain[3].body()), &["keep 4 ack 2"]);
    let steps = replica.repair(chain[1].clone()).unwrap();
    assert_steps(&steps, &["apply 2..2", "apply kept 3"]);
    assert_eq!(replica.standing(), Standing::Current);
    assert_steps(&replica.receive(3, chain[4].body()), &["apply kept 4"]);
    assert!(!replica.may_ack_multiple(3));
    assert_steps(&replica.receive(4, &mark(1, chain[4].position)), &["apply 5..5 ack 3", "ack 4 Mark"]);
    assert!(replica.may_ack_multiple(4));
}

#[test]
fn a_repair_past_what_is_held_and_waiting_makes_both_duplicates() {
    let chain = chain(1, 4);
    let mut replica = replica_at(chain[0].position, 1);
    replica.receive(1, chain[2].body());
    replica.receive(2, chain[3].body());
    let steps = replica.repair(chain[1].clone()).unwrap();
    assert_steps(&steps, &["apply 2..2", "apply kept 3"]);
    let steps = replica.repair(chain[3].clone()).unwrap();
    assert_steps(&steps, &["apply 4..4", "discard 4"]);
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
    assert_eq!(error, RepairError::BrokenLink { expected: chain[0].position, found: chain[1].position });
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
    assert_steps(&replica.receive(2, &mark(2, chain[0].position)), &["discard 1001", "ack 2 Mark"]);
    assert_eq!(replica.standing(), Standing::Current);
}

#[test]
fn another_hash_at_the_same_position_is_a_divergence() {
    let one = after(Position::genesis(CLUSTER), 1, "one");
    let other = after(Position::genesis(CLUSTER), 1, "other");
    let next = after(other.position, 1, "next");
    for body in [next.body().clone(), mark(1, other.position)] {
        let steps = replica_at(one.position, 1).receive(1, &body);
        let [Step::Halt(Halt::Diverged { own, other: found })] = &steps[..] else {
            panic!("{steps:?}");
        };
        assert_eq!((*own, *found), (one.position, other.position.hash));
    }
}

#[test]
fn what_a_heart_with_a_stale_head_has_published_and_not_confirmed_contradicts_nobody() {
    let chain = chain(1, 2);
    let forked = after(chain[0].position, 2, "forked");
    let mut replica = replica_at(chain[1].position, 1);
    assert_steps(&replica.receive(1, forked.body()), &["ack 1 Duplicate"]);
    // The heart has heard where this node is, and the next reign goes on from there.
    assert_steps(&replica.receive(2, &mark(3, chain[1].position)), &["ack 2 Mark"]);
    assert_eq!(replica.standing(), Standing::Current);
    // Had it been confirmed instead, its own reign would say so.
    let steps = replica_at(chain[1].position, 2).receive(1, &mark(2, forked.position));
    assert!(matches!(steps[..], [Step::Halt(Halt::Diverged { .. })]), "{steps:?}");
}

#[test]
fn of_two_successors_of_one_message_the_one_that_its_own_reign_goes_on_from_is_applied() {
    let one = after(Position::genesis(CLUSTER), 1, "one");
    let other_reign = Term::new(1, 9);
    let other = WriteMessage::new(CLUSTER, other_reign, Position::genesis(CLUSTER), 0, batch("other", 1));
    let end = WriteMessage::new(CLUSTER, other_reign, other.position, 0, batch("end", 1));
    let mut replica = empty();
    replica.receive(1, one.body());
    assert_steps(&replica.receive(2, other.body()), &["keep 1 ack 1", "keep 1 ack 2"]);
    assert_eq!(replica.standing(), Standing::Current, "nothing that both follow is missing");
    assert_steps(&replica.receive(3, end.body()), &["apply kept 1", "discard 1"]);
    assert_eq!(replica.position(), other.position);
}

#[test]
fn what_an_ended_reign_confirmed_is_applied_when_a_later_one_goes_on_from_it() {
    let chain = chain(1, 3);
    let end = after(chain[2].position, 2, "end");
    let mut replica = empty();
    replica.receive(1, &mark(2, chain[2].position));
    for (tag, message) in (2..).zip(&chain[1..]) {
        let steps = replica.receive(tag, message.body());
        assert_steps(&steps, &[&format!("keep {} ack {tag}", message.position.last)]);
    }
    let steps = replica.receive(4, chain[0].body());
    assert_steps(&steps, &["apply 1..1 ack 4", "apply kept 2", "apply kept 3"]);
    assert_steps(&replica.receive(5, end.body()), &[]);
    let stale = after(chain[2].position, 1, "stale");
    assert_steps(&replica.receive(6, stale.body()), &["ack 6 Stale"]);
}

#[test]
fn what_a_reign_has_shown_is_not_forgotten_with_it() {
    let chain = chain(1, 5);
    let mut replica = empty();
    replica.receive(1, chain[0].body());
    // Shows that the first three are confirmed; the third is missing.
    replica.receive(2, chain[3].body());
    assert_eq!(replica.position(), chain[0].position);
    let mut replica = empty();
    replica.receive(1, chain[1].body());
    replica.receive(2, chain[3].body());
    replica.receive(3, &mark(2, chain[4].position));
    let steps = replica.receive(4, chain[0].body());
    assert_steps(&steps, &["apply 1..1 ack 4", "apply kept 2"]);
    assert_eq!(replica.standing(), Standing::Gap { after: 2, shown: 5 });
}

#[test]
fn what_waits_survives_a_restart_and_only_so_much_is_kept() {
    let chain = chain(1, 4);
    let kept = |message: &WriteMessage| Kept {
        term: message.term,
        previous: message.previous,
        position: message.position,
        bytes: message.body().len() as u64,
    };
    let applied = Applied::nothing(CLUSTER);
    let both = [kept(&chain[1]), kept(&chain[2])];
    let mut replica: Replica<u64> = Replica::new(CLUSTER, applied, both, 2 * both[0].bytes);
    assert_eq!(replica.standing(), Standing::Gap { after: 0, shown: 2 });
    assert!(
        replica.tip().is_some_and(|tip| tip.claim.position == chain[2].position && tip.message.is_none())
    );
    assert_steps(&replica.receive(1, chain[2].body()), &["ack 1 Duplicate"]);
    assert_steps(&replica.receive(2, chain[3].body()), &[]);
    assert!(!replica.may_ack_multiple(2), "more than the limit stays in the queue");
    let again = chain[1].with_term(term(2));
    assert_steps(
        &replica.receive(3, again.body()),
        &["discard 2", "discard 3", "ack 2 Stale", "keep 2 ack 3"],
    );
    let steps = replica.receive(4, chain[0].body());
    assert_steps(&steps, &["apply 1..1 ack 4"]);
    assert_steps(&replica.receive(5, &mark(2, chain[1].position)), &["apply kept 2", "ack 5 Mark"]);
}

#[test]
fn what_a_heart_asks_for_at_a_seal_is_known_and_the_seal_itself_changes_nothing() {
    let chain = chain(3, 5);
    let mut replica = replica_at(chain[0].position, 3);
    assert_eq!(
        (replica.tip().map(|tip| tip.claim.position.last), replica.shown(), replica.sealed()),
        (None, None, None)
    );
    replica.receive(1, chain[1].body());
    assert_eq!((replica.tip().map(|tip| tip.claim.position.last), replica.shown()), (Some(2), None));
    replica.receive(2, chain[3].body());
    assert_eq!(replica.tip().map(|tip| tip.claim.position.last), Some(4));
    assert_eq!(replica.shown(), Some(chain[2].position));
    let seal = Seal { cluster: CLUSTER.to_owned(), epoch: 9, nonce: 7, number: 2, at: 0 };
    assert_steps(&replica.receive(3, &seal.body()), &["ack 3 Seal"]);
    assert_eq!((replica.sealed(), replica.epoch()), (Some(Sealed { nonce: 7, number: 2 }), 3));
    assert_eq!(replica.tip().map(|tip| tip.claim.position.last), Some(4), "a seal makes nothing stale");
}

#[test]
fn a_snapshot_stands_for_everything_up_to_its_position() {
    let chain = chain(1, 5);
    let mut replica = empty();
    replica.receive(1, chain[2].body());
    replica.receive(2, chain[3].body());
    replica.receive(3, chain[4].body());
    let steps = replica.adopt(Applied { position: chain[3].position, epoch: 1, cut: Cut::default() });
    assert_steps(&steps, &["discard 3", "discard 4"]);
    assert_eq!((replica.standing(), replica.position()), (Standing::Current, chain[3].position));
    assert_steps(&replica.receive(4, &mark(1, chain[4].position)), &["apply kept 5", "ack 4 Mark"]);
}

#[test]
fn a_marks_digest_is_compared_at_its_own_position_only() {
    let chain = chain(1, 2);
    let mark = |position| {
        let digest = Some(Digest::default());
        Mark { cluster: CLUSTER.to_owned(), term: term(1), position, at: 0, digest }.body()
    };
    let mut replica = replica_at(chain[0].position, 1);
    assert_steps(&replica.receive(1, &mark(chain[1].position)), &["ack 1 Mark"]);
    assert_steps(&replica.receive(2, &mark(chain[0].position)), &["compare at 1", "ack 2 Mark"]);
    assert_steps(&replica.receive(3, chain[1].body()), &["apply 2..2 ack 3"]);
    assert_steps(&replica.receive(4, &mark(chain[1].position)), &["compare at 2", "ack 4 Mark"]);
}

mod any_order;

#[test]
fn what_was_given_up_while_a_node_was_away_is_not_the_clusters() {
    let cut = Cut { epoch: 5, last: 2 };
    let (own, others) = (chain(4, 4), chain(6, 3));
    let term = Term { cut, ..term(6) };
    let marked = |position| {
        Message::from(Mark { cluster: CLUSTER.to_owned(), term, position, at: 0, digest: None }).body()
    };
    let mark_behind = marked(others[1].position);
    for (applied, epoch, halts) in [(3, 4, true), (2, 4, false), (3, 5, false)] {
        let mut replica = replica_at(own[applied - 1].position, epoch);
        let steps = replica.receive(0, &mark_behind);
        let halt = Halt::GivenUp { own: own[applied - 1].position, cut };
        assert_eq!(
            matches!(&steps[..], [Step::Halt(found)] if *found == halt),
            halts,
            "{applied} of {epoch}: {steps:?}"
        );
        assert_eq!(replica.cut(), cut);
    }
    let mut replica = replica_at(own[1].position, 4);
    replica.receive(0, &mark_behind);
    let error = replica.repair(own[2].clone()).unwrap_err();
    assert_eq!(error, RepairError::GivenUp { last: 3, cut });
    assert!(replica.repair(own[2].with_term(term)).is_ok());
    assert_eq!(
        Applied::nothing(CLUSTER).after(term, own[2].position),
        Applied { position: own[2].position, epoch: 6, cut }
    );
}

use super::*;
use crate::report::NodeState;
use crate::write::Write;

pub(super) const CLUSTER: &str = "c";

pub(super) fn batch(key: &str) -> WriteBatch {
    let json = format!(r#"{{"op":"delete","collection":"c","key":"{key}"}}"#);
    let mut batch = WriteBatch::default();
    batch.push(&Write::parse(&json, "write").unwrap());
    batch
}

/// A chain of messages with one write each: the one at index `i` has sequence number `i + 1`.
pub(super) fn term(epoch: u64) -> Term {
    Term::new(epoch, 0)
}

pub(super) fn chain(epoch: u64, length: usize) -> Vec<WriteMessage> {
    let mut messages: Vec<WriteMessage> = Vec::new();
    for index in 0..length {
        let previous = messages.last().map_or(Position::genesis(CLUSTER), |message| message.position);
        messages.push(WriteMessage::new(CLUSTER, term(epoch), previous, 0, batch(&index.to_string())));
    }
    messages
}

pub(super) fn mark(epoch: u64, position: Position) -> Link {
    Link::Mark(Mark { cluster: CLUSTER.to_owned(), term: term(epoch), position, at: 0, digest: None })
}

pub(super) fn id(node: u32) -> NodeId {
    NodeId::new(node).unwrap()
}

pub(super) fn report(node: u32, epoch: u64, applied: Position) -> Report {
    Report {
        cluster: CLUSTER.to_owned(),
        node: id(node),
        state: NodeState::Ready,
        applied,
        applied_epoch: epoch,
        epoch,
        cut: Cut::default(),
        shown: None,
        tip: None,
        session: Some(u64::from(node)),
        sealed: None,
        missing: None,
        outcomes: None,
        digest: Digest::default(),
        rows: 0,
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

fn at(last: u64) -> Position {
    Position { last, ..Position::genesis(CLUSTER) }
}

fn first_reign() -> Reign {
    Reign::new(CLUSTER, term(1), Position::genesis(CLUSTER))
}

#[test]
fn every_message_continues_the_one_before() {
    let in_flight = first_reign().publish(batch("a"), 5);
    assert_eq!((in_flight.message().first, in_flight.message().term.epoch), (1, 1));
    let reign = in_flight.confirmed();
    let mark = reign.mark(None, 6);
    let in_flight = reign.publish(batch("b"), 7);
    assert_eq!(in_flight.message().first, 2);
    assert_eq!(in_flight.message().previous, mark.position);
}

#[test]
fn of_two_links_the_one_of_the_later_reign_is_nearer_to_the_end_then_the_longer_one_then_the_mark() {
    let messages = chain(1, 2);
    let write = |index: usize, epoch| Link::Write(messages[index].with_term(term(epoch)));
    for (near, far) in [
        (write(1, 1), write(0, 1)),
        (write(0, 2), write(1, 1)),
        (mark(1, messages[1].position), write(1, 1)),
        (write(1, 2), mark(1, messages[1].position)),
    ] {
        for (one, other) in [(near.clone(), far.clone()), (far.clone(), near.clone())] {
            let chosen = later(one, other);
            assert_eq!((chosen.term().epoch, chosen.position()), (near.term().epoch, near.position()));
            assert_eq!(matches!(chosen, Link::Mark(_)), matches!(near, Link::Mark(_)));
        }
    }
}

#[test]
fn a_node_or_a_heart_that_is_ahead_shows_a_stale_head() {
    let mut in_flight = first_reign().publish(batch("a"), 0);
    assert_eq!(in_flight.reign().hear(&report(2, 1, at(0))), Ok(()));
    assert!(in_flight.reign().hear(&report(2, 1, at(1))).is_err(), "nobody may have what is not confirmed");
    let mut reign = in_flight.confirmed();
    assert_eq!(reign.hear(&report(2, 1, at(1))), Ok(()));
    let error = reign.hear(&report(2, 2, at(0))).unwrap_err();
    assert_eq!(error, StaleHead { node: Some(id(2)), last: 0, epoch: 2 });
    assert!(error.to_string().contains("node 2 is at 0 of epoch 2"));
    assert_eq!(reign.judge_claim(Claim::new(term(1), at(1))), Ok(()));
    let error = reign.judge_claim(Claim::new(term(1), at(2))).unwrap_err();
    assert!(error.to_string().contains("another heart is at 2"));
}

#[test]
fn a_reign_has_a_history_of_its_own_once_a_node_has_applied_something_of_it() {
    let cut = Cut { epoch: 2, last: 1 };
    let mut reign = Reign::new(CLUSTER, Term { cut, ..term(3) }, at(4));
    // The head, published again.
    assert!(reign.hear(&report(1, 3, at(4))).is_ok());
    let mut reign = reign.publish(batch("a"), 0).confirmed();
    assert_eq!(reign.mark(None, 0).term.cut, cut);
    assert!(reign.hear(&report(1, 2, at(9))).is_err(), "the head may be stale");
    assert!(reign.hear(&report(1, 2, at(5))).is_ok());
    assert_eq!(reign.mark(None, 0).term.cut, cut, "it may have another 5");
    assert!(reign.hear(&report(2, 3, at(5))).is_ok());
    let own = Cut { epoch: 3, last: 4 };
    assert_eq!((reign.mark(None, 0).term.cut, reign.gives_up(&report(1, 2, at(5)))), (own, true));
    assert!(reign.hear(&report(1, 2, at(9))).is_ok() && reign.hear(&report(1, 3, at(9))).is_err());
    let mut in_flight = reign.publish(batch("b"), 0);
    assert_eq!((in_flight.message().term.cut, in_flight.reign().mark(None, 0).term.cut), (own, own));
}

#[test]
fn whoever_is_ahead_with_what_was_given_up_is_no_witness() {
    let cut = Cut { epoch: 5, last: 3 };
    let mut reign = Reign::new(CLUSTER, Term { cut, ..term(6) }, at(4));
    for (epoch, last, given_up, fits) in [
        (4, 3, false, true),
        (4, 4, true, true),
        (4, 9, true, true),
        (5, 4, false, true),
        (5, 9, false, false),
    ] {
        let report = report(1, epoch, at(last));
        let case = format!("{last} of {epoch}");
        assert_eq!((reign.gives_up(&report), reign.hear(&report).is_ok()), (given_up, fits), "{case}");
        assert_eq!(reign.judge_claim(report.claim()).is_ok(), fits, "{case}");
    }
    assert!(reign.hear(&Report { epoch: 7, ..report(1, 4, at(9)) }).is_err(), "it has met a later reign");
    let stuck = Report { missing: Some(6), epoch: 6, ..report(2, 5, at(5)) };
    let memory = Memory { accepted_loss: Some(6), ..Memory::new(false, 1) };
    let reign = Reign { position: at(9), ..reign };
    assert!(reign.is_cut_short(&memory, &[&stuck, &report(1, 4, at(9))]), "nor does it have what is missed");
    assert!(!reign.is_cut_short(&memory, &[&stuck, &report(1, 5, at(9))]));
}

#[test]
fn a_reign_is_cut_short_only_for_the_very_loss_that_was_accepted() {
    let reign = Reign::new(CLUSTER, term(3), at(9));
    let stuck = Report { missing: Some(6), ..report(1, 3, at(5)) };
    let behind = report(2, 3, at(4));
    let mut memory = Memory::new(false, 1);
    assert!(!reign.is_cut_short(&memory, &[&stuck, &behind]), "nobody accepted a loss");
    for (accepted, cut) in [(5, false), (6, true), (7, false), (10, false)] {
        memory.accepted_loss = Some(accepted);
        assert_eq!(reign.is_cut_short(&memory, &[&stuck, &behind]), cut, "{accepted}");
    }
    memory.accepted_loss = Some(6);
    let earlier = Report { missing: Some(6), ..report(1, 2, at(5)) };
    assert!(!reign.is_cut_short(&memory, &[&earlier, &behind]), "it may have been published anew since");
    assert!(!reign.is_cut_short(&memory, &[&report(1, 3, at(5)), &behind]), "nobody misses it");
    assert!(!reign.is_cut_short(&memory, &[&stuck, &report(3, 3, at(6))]), "somebody has it");
    memory.members = Some([1, 2, 3].map(id).into());
    assert!(!reign.is_cut_short(&memory, &[&stuck, &behind]), "node 3 may have it");
}

use super::super::tests::{CLUSTER, batch, chain, mark, term};
use super::*;
use crate::chain::Position;
use crate::cut::Cut;
use crate::envelope::Term;

fn retained(memory: &Memory, after: u64) -> Result<Vec<u64>, Option<u64>> {
    match memory.retained.after(after) {
        RetainedAfter::Messages(messages) => Ok(messages.map(|message| message.first).collect()),
        RetainedAfter::Gone { oldest } => Err(oldest),
    }
}

#[test]
fn what_was_confirmed_is_served_from_any_position_until_all_have_it() {
    let mut memory = Memory::new(false, 1 << 20);
    let messages = chain(1, 4);
    memory.begin_reign(mark(1, messages[0].position), Vec::new());
    for message in &messages[1..] {
        memory.retained.push(message.clone());
    }
    assert_eq!(retained(&memory, 1), Ok(vec![2, 3, 4]));
    assert_eq!(retained(&memory, 3), Ok(vec![4]));
    assert_eq!(retained(&memory, 4), Ok(vec![]));
    assert_eq!(retained(&memory, 0), Err(Some(2)), "the first message was another heart's");
    memory.retained.forget_through(2);
    assert_eq!((retained(&memory, 1), retained(&memory, 2)), (Err(Some(3)), Ok(vec![3, 4])));
    memory.retained.forget_through(4);
    assert_eq!((retained(&memory, 3), retained(&memory, 4)), (Err(None), Ok(vec![])));
    assert_eq!(memory.claim().map(|claim| claim.position), Some(messages[3].position));
    assert!(memory.retained.last().is_none());
}

#[test]
fn the_oldest_go_when_the_bound_is_reached() {
    let messages = chain(1, 4);
    let mut memory = Memory::new(false, messages[2].body().len() + messages[3].body().len());
    for message in &messages {
        memory.retained.push(message.clone());
    }
    assert_eq!((retained(&memory, 1), retained(&memory, 2)), (Err(Some(3)), Ok(vec![3, 4])));
}

#[test]
fn another_end_of_the_history_begins_anew() {
    let messages = chain(1, 3);
    let mut memory = Memory::new(true, 1 << 20);
    memory.begin_reign(Link::Write(messages[0].clone()), Vec::new());
    memory.retained.push(messages[1].clone());
    assert!(!memory.genesis);
    // Published again under the next epoch: the same message.
    memory.begin_reign(Link::Write(messages[1].with_term(term(2))), Vec::new());
    assert_eq!(retained(&memory, 0), Ok(vec![1, 2]));
    // The same place, other content: only the new one counts.
    let fork = WriteMessage::new(CLUSTER, term(3), messages[0].position, 0, batch("fork"));
    memory.begin_reign(Link::Write(fork.clone()), Vec::new());
    assert_eq!((retained(&memory, 0), retained(&memory, 1)), (Err(Some(2)), Ok(vec![2])));
    assert_eq!(memory.claim(), Some(Claim::new(term(3), fork.position)));
    memory.begin_reign(mark(4, messages[0].position), Vec::new());
    assert_eq!((retained(&memory, 0), retained(&memory, 1)), (Err(None), Ok(vec![])));
}

#[test]
fn what_leads_to_the_beginning_of_a_reign_is_served_too() {
    let messages = chain(1, 6);
    let between = |range: std::ops::Range<usize>| messages[range].to_vec();
    for (own, before, link, after, served) in [
        (0..0, 1..3, Link::Write(messages[3].with_term(term(2))), 1, vec![2, 3, 4]),
        (0..0, 1..4, mark(2, messages[3].position), 1, vec![2, 3, 4]),
        (0..2, 1..4, mark(2, messages[3].position), 0, vec![1, 2, 3, 4]),
        (0..2, 2..4, Link::Write(messages[4].clone()), 0, vec![1, 2, 3, 4, 5]),
        (0..4, 1..3, Link::Write(messages[3].with_term(term(2))), 0, vec![1, 2, 3, 4]),
        (0..4, 1..4, mark(2, messages[3].position), 0, vec![1, 2, 3, 4]),
        (0..2, 4..5, Link::Write(messages[5].clone()), 4, vec![5, 6]),
        (0..5, 1..3, mark(2, messages[2].position), 1, vec![2, 3]),
    ] {
        let case = format!("{own:?} {before:?} {:?}", link.position().last);
        let mut memory = Memory::new(false, 1 << 20);
        for message in between(own) {
            memory.retained.push(message);
        }
        let claim = Claim::new(link.term(), link.position());
        memory.begin_reign(link, between(before));
        assert_eq!(retained(&memory, after), Ok(served), "{case}");
        assert_eq!(memory.claim(), Some(claim), "{case}");
        assert!(after == 0 || retained(&memory, after - 1).is_err(), "{case}");
    }
}

#[test]
fn a_human_accepts_a_loss_once_and_may_do_so_again() {
    let mut memory = Memory::new(false, 1 << 20);
    memory.accept_loss(Some(6));
    assert!(memory.accepts(6) && !memory.accepts(5) && !memory.accepts(7));
    let at = Position { last: 5, ..Position::genesis(CLUSTER) };
    let begin = |memory: &mut Memory, cut| {
        memory.begin_reign(mark(8, at).with_term(Term { cut, ..term(8) }), Vec::new());
    };
    begin(&mut memory, Cut { epoch: 7, last: 5 });
    assert!(memory.accepts(6), "that was an earlier one");
    begin(&mut memory, Cut { epoch: 8, last: 5 });
    assert!(!memory.accepts(6));
    memory.accept_loss(Some(6));
    assert!(!memory.accepts(6), "nothing new");
    memory.accept_loss(None);
    memory.accept_loss(Some(6));
    assert!(memory.accepts(6));
}

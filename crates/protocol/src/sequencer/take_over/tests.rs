use super::super::tests::{CLUSTER, batch, chain, id, mark, report, term};
use super::*;
use crate::chain::Position;
use crate::report::Sealed;

/// A take-over, its memory and a clock, driven like a heart does it.
struct Heart {
    memory: Memory,
    take_over: TakeOver<usize>,
    head: Vec<Message>,
    taken: usize,
    now: u64,
}

impl Heart {
    fn new(head: Vec<Message>, memory: Memory) -> Self {
        Self { memory, take_over: TakeOver::new(CLUSTER, 7, 1_000), head, taken: 0, now: 1_000 }
    }

    fn of_links(head: Vec<Link>, memory: Memory) -> Self {
        Self::new(head.into_iter().map(Message::Link).collect(), memory)
    }

    /// Goes on until something is to be published, or is waited for longer than a second, and says what.
    fn step(&mut self) -> Need<usize> {
        let give_up = self.now + 7_000;
        loop {
            match self.take_over.next(&self.memory, self.now, 5) {
                Need::Take => match self.head.get(self.taken) {
                    Some(message) => {
                        self.taken += 1;
                        self.take_over.took(self.taken, Some(message.clone()));
                    }
                    None => self.take_over.took_nothing(&self.memory, self.now, 5),
                },
                Need::Wait(until) if until <= give_up => self.now = until,
                need => return need,
            }
        }
    }

    /// What it publishes next: its type, epoch and last; a seal's epoch and number.
    fn publishes(&mut self) -> (&'static str, u64, u64) {
        let need = self.step();
        self.take_over.confirmed(5);
        match need {
            Need::Publish(Message::Link(link)) => {
                let kind = Message::Link(link.clone()).kind();
                (kind, link.term().epoch, link.position().last)
            }
            Need::Publish(Message::Seal(seal)) => ("seal", seal.epoch, seal.number),
            Need::Begin(mark) => ("begin", mark.term.epoch, mark.position.last),
            need => panic!("{need:?}"),
        }
    }

    fn reigns(&mut self) -> (u64, u64, Option<usize>) {
        match self.step() {
            Need::Reign { reign, link, ack, .. } => {
                assert_eq!((link.term().epoch, link.position()), (reign.epoch(), reign.position()));
                (reign.epoch(), reign.position().last, ack)
            }
            need => panic!("{need:?}"),
        }
    }

    fn answer(&mut self, node: u32, epoch: u64, applied: Position, number: u64) {
        let sealed = Some(Sealed { nonce: 7, number });
        self.take_over.hear(&Report { sealed, ..report(node, epoch, applied) });
    }
}

fn new_memory(genesis: bool) -> Memory {
    Memory::new(genesis, 1 << 20)
}

#[test]
fn the_head_is_published_again_and_acknowledged_only_after_its_confirm() {
    let messages = chain(3, 2);
    let head = vec![Link::Write(messages[1].clone()), Link::Write(messages[0].clone())];
    let mut heart = Heart::of_links(head, new_memory(false));
    assert!(matches!(heart.step(), Need::Publish(_)));
    assert!(matches!(heart.step(), Need::Publish(_)), "until it is confirmed");
    assert_eq!(heart.publishes(), ("write", 4, 2));
    assert_eq!(heart.reigns(), (4, 2, Some(2)));
}

#[test]
fn a_mark_in_the_head_stays_a_mark_and_what_is_no_message_is_acknowledged_too() {
    let mut heart = Heart::of_links(vec![mark(3, chain(3, 2)[1].position)], new_memory(false));
    assert!(matches!(heart.take_over.next(&heart.memory, heart.now, 5), Need::Take));
    heart.take_over.took(9, None);
    assert_eq!(heart.publishes(), ("mark", 4, 2));
    assert_eq!(heart.reigns(), (4, 2, Some(1)));
}

#[test]
fn the_messages_of_the_head_queue_that_lead_to_the_end_are_handed_on() {
    let messages = chain(3, 5);
    let fork = WriteMessage::new(CLUSTER, term(2), messages[2].previous, 0, batch("fork"));
    let late = |index: usize| Link::Write(messages[index].clone());
    for (head, before) in [
        (vec![late(1), late(3), late(2), Link::Write(fork.clone()), late(4)], vec![2, 3, 4]),
        (vec![late(0), late(2), late(3), late(4), mark(3, messages[4].position)], vec![3, 4, 5]),
        (vec![late(3), mark(4, messages[4].position)], vec![]),
    ] {
        let mut heart = Heart::of_links(head, new_memory(false));
        heart.publishes();
        let Need::Reign { before: found, .. } = heart.step() else { panic!("it does not reign") };
        assert!(found.windows(2).all(|pair| pair[1].previous == pair[0].position));
        assert_eq!(found.iter().map(|message| message.first).collect::<Vec<_>>(), before);
    }
}

#[test]
fn a_head_queue_that_is_empty_for_a_moment_is_looked_at_again() {
    let mut heart = Heart::new(Vec::new(), new_memory(true));
    assert!(matches!(heart.take_over.next(&heart.memory, heart.now, 5), Need::Take));
    heart.take_over.took_nothing(&heart.memory, heart.now, 5);
    assert!(matches!(heart.take_over.next(&heart.memory, heart.now, 5), Need::Wait(_)));
    heart.head.push(Message::Link(mark(3, chain(3, 2)[1].position)));
    assert_eq!(heart.publishes(), ("mark", 4, 2));
}

#[test]
fn a_history_begins_only_where_nobody_has_one() {
    let mut heart = Heart::new(Vec::new(), new_memory(true));
    assert_eq!(heart.publishes(), ("begin", 0, 0));
    assert_eq!(heart.publishes(), ("mark", 1, 0));
    assert_eq!(heart.reigns(), (1, 0, None));

    let applied = chain(3, 2)[1].position;
    for (genesis, heard) in [(true, true), (false, false)] {
        let mut heart = Heart::new(Vec::new(), new_memory(genesis));
        if heard {
            heart.take_over.hear(&report(1, 3, applied));
        }
        assert_eq!(heart.publishes().0, "seal", "{genesis}");
        assert!(heart.take_over.open().is_some());
    }

    let nothing = |node| report(node, 0, Position::genesis(CLUSTER));
    for (heard, then) in [(&[][..], "seal"), (&[1][..], "seal"), (&[1, 2][..], "begin")] {
        let members = Some([1, 2].map(id).into());
        let mut heart = Heart::new(Vec::new(), Memory { members, ..new_memory(true) });
        for node in heard {
            heart.take_over.hear(&nothing(*node));
        }
        assert_eq!(heart.publishes().0, then, "of nodes 1 and 2, {heard:?} have nothing");
    }
}

#[test]
fn a_head_that_went_on_without_what_this_heart_confirmed_is_the_end() {
    let messages = chain(3, 3);
    for (cut, published) in
        [(Cut::default(), "seal"), (Cut { epoch: 3, last: 1 }, "seal"), (Cut { epoch: 4, last: 1 }, "mark")]
    {
        let head = mark(4, messages[1].position).with_term(Term { cut, ..term(4) });
        let mut own = new_memory(false);
        own.begin_reign(Link::Write(messages[2].clone()), Vec::new());
        let mut heart = Heart::of_links(vec![head], own);
        assert_eq!(heart.publishes().0, published, "{cut:?}");
    }
}

#[test]
fn the_nodes_are_asked_until_all_have_answered_and_the_reign_begins_at_what_they_have() {
    let messages = chain(3, 2);
    let mut memory = new_memory(false);
    memory.members = Some([1, 2].map(id).into());
    let mut heart = Heart::new(Vec::new(), memory);
    heart.take_over.hear(&report(1, 3, messages[0].position));
    heart.take_over.hear(&report(2, 3, messages[1].position));
    assert_eq!(heart.publishes(), ("seal", 4, 1));
    assert_eq!(heart.publishes(), ("seal", 4, 2));
    heart.answer(1, 3, messages[0].position, 1);
    assert_eq!(heart.publishes(), ("seal", 4, 3));
    assert_eq!(heart.take_over.open().unwrap().unanswered, [id(2)]);
    heart.answer(2, 3, messages[1].position, 2);
    while let ("seal", ..) = heart.publishes() {}
    assert_eq!(heart.reigns(), (4, 2, None));
}

#[test]
fn a_head_that_somebody_knows_more_than_is_not_the_end() {
    let messages = chain(3, 3);
    let head = || vec![Link::Write(messages[1].clone())];
    let contradicted = |epoch, last| {
        let contradiction = Some(StaleHead { node: Some(id(1)), last, epoch });
        Memory { contradiction, ..new_memory(false) }
    };
    let mut own = new_memory(false);
    own.begin_reign(Link::Write(messages[2].clone()), Vec::new());
    let cut = Memory { is_cut_short: true, ..new_memory(false) };
    for (memory, kind) in [
        (contradicted(3, 2), "write"),
        (contradicted(3, 3), "seal"),
        (contradicted(4, 1), "seal"),
        (own, "seal"),
    ] {
        assert_eq!(Heart::of_links(head(), memory).publishes().0, kind);
    }
    let mut heart = Heart::of_links(head(), cut);
    heart.take_over.hear(&report(1, 9, messages[0].position));
    assert_eq!(heart.publishes(), ("mark", 10, 1), "the rest is given up");
}

#[test]
fn no_epoch_is_used_that_this_heart_knows_to_be_over() {
    let messages = chain(4, 1);
    let mut confirmed = new_memory(false);
    confirmed.retained.push(messages[0].clone());
    let contradiction = Some(StaleHead { node: None, last: 1, epoch: 4 });
    for memory in [confirmed, Memory { contradiction, ..new_memory(false) }] {
        let mut heart = Heart::new(Vec::new(), memory);
        assert_eq!(heart.publishes(), ("seal", 5, 1), "the nodes and the head queue know of none");
    }
}

#[test]
fn a_sealing_that_did_not_end_is_begun_again() {
    let messages = chain(3, 2);
    let seal = |epoch| Message::Seal(Seal { cluster: CLUSTER.to_owned(), epoch, nonce: 1, number: 1, at: 0 });
    let link = |epoch| Message::from(messages[1].with_term(term(epoch)));
    for (head, kind) in [
        (vec![link(3), seal(4)], "seal"),
        (vec![seal(4), link(3)], "seal"),
        (vec![link(3), seal(4), link(4)], "write"),
        (vec![seal(4)], "seal"),
    ] {
        assert_eq!(Heart::new(head, new_memory(true)).publishes().0, kind);
    }
}

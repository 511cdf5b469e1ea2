use super::super::tests::{CLUSTER, batch, chain, id, report, term};
use super::*;
use crate::report::Sealed;

const NONCE: u64 = 77;

/// An answer of a node whose session was known before the seal.
fn answer(node: u32, epoch: u64, applied: Position) -> Report {
    Report { sealed: Some(Sealed { nonce: NONCE, number: 1 }), ..report(node, epoch, applied) }
}

fn claim(message: &WriteMessage) -> Claim {
    Claim::new(message.term, message.position)
}

fn hear(reports: &[Report]) -> Testimony {
    let mut testimony = Testimony::new(NONCE);
    for report in reports {
        testimony.hear(report, 0);
    }
    testimony
}

fn decide(testimony: &Testimony, memory: &Memory) -> Result<(u64, Position, bool), Unsealed> {
    testimony
        .decide(CLUSTER, memory, 0)
        .map(|link| (link.term().epoch, link.position(), matches!(link, Link::Write(_))))
}

fn memory(members: &[u32]) -> Memory {
    Memory { members: Some(members.iter().map(|node| id(*node)).collect()), ..Memory::new(false, 1 << 20) }
}

#[test]
fn the_end_is_the_highest_that_was_applied_when_nobody_knows_of_more() {
    let messages = chain(4, 3);
    let testimony = hear(&[answer(1, 4, messages[0].position), answer(2, 6, messages[2].position)]);
    assert_eq!(decide(&testimony, &memory(&[1, 2])), Ok((7, messages[2].position, false)));
}

#[test]
fn a_message_that_a_node_could_not_prove_is_the_end_and_is_published_with_its_content() {
    let messages = chain(4, 3);
    let tip = &messages[2];
    let report = Report { tip: Some(claim(tip)), ..answer(1, 4, messages[1].position) };
    let mut testimony = hear(&[report, answer(2, 4, messages[1].position)]);
    assert!(decide(&testimony, &memory(&[1, 2])).is_err(), "the content is not here yet");
    testimony.hear_tip(id(1), tip.clone());
    assert_eq!(decide(&testimony, &memory(&[1, 2])), Ok((5, tip.position, true)));
}

#[test]
fn of_two_tips_the_one_of_the_later_reign_is_the_end_and_none_undoes_what_was_applied() {
    let messages = chain(4, 3);
    let other = WriteMessage::new(CLUSTER, term(5), messages[0].position, 0, batch("later reign"));
    let with_tip = |node, tip: &WriteMessage| Report {
        tip: Some(claim(tip)),
        ..answer(node, tip.term.epoch, messages[0].position)
    };
    let mut testimony = hear(&[with_tip(1, &messages[1]), with_tip(2, &other)]);
    testimony.hear_tip(id(1), messages[1].clone());
    testimony.hear_tip(id(2), other.clone());
    assert_eq!(decide(&testimony, &memory(&[1, 2])), Ok((6, other.position, true)));
    testimony.hear(&answer(3, 4, messages[1].position), 0);
    assert_eq!(decide(&testimony, &memory(&[1, 2, 3])), Ok((6, messages[1].position, false)));
}

#[test]
fn what_somebody_has_proof_of_is_the_end_even_if_nobody_has_it() {
    let messages = chain(4, 5);
    let shown = Report { shown: Some(messages[3].position), ..answer(1, 4, messages[0].position) };
    let testimony = hear(&[shown]);
    assert_eq!(decide(&testimony, &memory(&[1])), Ok((5, messages[3].position, false)));
    let mut memory = memory(&[1]);
    memory.is_cut_short = true;
    assert_eq!(decide(&testimony, &memory), Ok((5, messages[0].position, false)), "the loss was accepted");
}

#[test]
fn what_this_heart_or_another_one_confirmed_is_the_end() {
    let messages = chain(4, 4);
    let mut testimony = hear(&[answer(1, 4, messages[0].position)]);
    let mut memory = memory(&[1]);
    for message in &messages[..2] {
        memory.retained.push(message.clone());
    }
    assert_eq!(decide(&testimony, &memory), Ok((5, messages[1].position, true)));
    testimony.hear_claim(claim(&messages[3]));
    testimony.hear_claim(claim(&messages[2]));
    assert_eq!(decide(&testimony, &memory), Ok((5, messages[3].position, false)));
}

#[test]
fn every_member_has_to_answer_or_the_very_loss_has_to_be_accepted() {
    let messages = chain(4, 2);
    let testimony = hear(&[answer(1, 4, messages[1].position), report(2, 4, messages[0].position)]);
    let mut memory = memory(&[1, 2, 3]);
    let unsealed = decide(&testimony, &memory).unwrap_err();
    assert_eq!(unsealed, Unsealed { unanswered: vec![id(2), id(3)], best: 2 });
    assert!(unsealed.to_string().contains("waits for node 2, 3"), "{unsealed}");
    assert!(unsealed.to_string().contains("everything from 3 on"), "{unsealed}");
    for (accepted, decided) in [(2, false), (3, true), (4, false)] {
        memory.accepted_loss = Some(accepted);
        assert_eq!(decide(&testimony, &memory).is_ok(), decided, "{accepted}");
    }
    memory.members = None;
    memory.accepted_loss = None;
    assert_eq!(decide(&testimony, &memory).unwrap_err().unanswered, [id(2)], "those that report count");
    assert!(decide(&Testimony::new(NONCE), &memory).is_err(), "somebody has to");
}

#[test]
fn where_the_very_message_that_nobody_has_is_given_up_the_history_goes_back_to_what_is_applied() {
    let messages = chain(4, 5);
    let (applied, beyond) = (messages[1].position, &messages[4]);
    let stuck = Report { missing: Some(3), tip: Some(claim(beyond)), ..answer(1, 4, applied) };
    let silent = report(2, 4, messages[0].position);
    let mut memory = memory(&[1, 2]);
    let decide_with = |reports: &[&Report], memory: &Memory| {
        let mut testimony = Testimony::new(NONCE);
        testimony.hear_tip(id(1), beyond.clone());
        for report in reports {
            testimony.hear(report, 0);
        }
        decide(&testimony, memory).map(|(_, position, _)| position.last)
    };
    for (accepted, decided) in [(None, None), (Some(2), None), (Some(3), Some(2)), (Some(4), None)] {
        memory.accepted_loss = accepted;
        assert_eq!(decide_with(&[&stuck, &silent], &memory).ok(), decided, "{accepted:?}");
    }
    memory.accepted_loss = Some(3);
    let unmet = Report { sealed: None, ..stuck.clone() };
    assert!(decide_with(&[&unmet, &silent], &memory).is_err(), "it may be further on in the queue");
    assert!(decide_with(&[&stuck], &memory).is_err(), "node 2 may have it");
    let has_it = answer(2, 4, messages[2].position);
    assert_eq!(decide_with(&[&stuck, &has_it], &memory), Ok(5), "it is not lost");
}

#[test]
fn a_history_that_is_cut_goes_back_to_nothing_that_some_node_has_not_said() {
    let messages = chain(4, 2);
    let memory = Memory { is_cut_short: true, ..memory(&[1, 2]) };
    let mut testimony = Testimony::new(NONCE);
    assert_eq!(decide(&testimony, &memory).unwrap_err().unanswered, [id(1), id(2)]);
    testimony.hear(&report(1, 4, messages[0].position), 0);
    assert_eq!(decide(&testimony, &memory).unwrap_err().unanswered, [id(2)]);
    testimony.hear(&report(2, 4, messages[1].position), 0);
    assert_eq!(decide(&testimony, &memory), Ok((5, messages[1].position, false)));
    let any = Memory { members: None, ..memory };
    assert!(decide(&Testimony::new(NONCE), &any).is_err(), "somebody has to");
}

#[test]
fn a_seal_that_was_published_before_the_session_was_heard_of_proves_nothing() {
    let sealed = |session, nonce, number| Report {
        session,
        sealed: Some(Sealed { nonce, number }),
        ..report(1, 4, Position::genesis(CLUSTER))
    };
    let memory = memory(&[1]);
    for (reports, answered) in [
        (vec![(Some(1), NONCE, 3, 3)], false),
        (vec![(Some(1), NONCE, 3, 3), (Some(1), NONCE, 4, 5)], true),
        (vec![(Some(1), NONCE, 3, 3), (Some(2), NONCE, 4, 4)], false),
        (vec![(None, NONCE, 3, 3), (None, NONCE, 4, 4)], false),
        (vec![(Some(1), NONCE, 3, 3), (Some(1), NONCE + 1, 4, 4)], false),
    ] {
        let mut testimony = Testimony::new(NONCE);
        for (session, nonce, number, published) in &reports {
            testimony.hear(&sealed(*session, *nonce, *number), *published);
        }
        assert_eq!(decide(&testimony, &memory).is_ok(), answered, "{reports:?}");
    }
}

#[test]
fn an_answer_is_not_taken_back_by_a_report_that_comes_late() {
    let messages = chain(4, 3);
    let tip = &messages[2];
    let sealed = Some(Sealed { nonce: NONCE, number: 5 });
    let with_session = |session, sealed, applied| Report { session, sealed, ..report(1, 4, applied) };
    let applied = messages[1].position;
    let answer = Report { tip: Some(claim(tip)), ..with_session(Some(2), sealed, applied) };
    let memory = memory(&[1]);
    for late in [
        with_session(Some(1), None, messages[0].position),
        with_session(Some(1), sealed, messages[0].position),
        with_session(None, None, messages[0].position),
        with_session(None, sealed, messages[0].position),
        with_session(Some(3), None, applied),
    ] {
        let mut testimony = Testimony::new(NONCE);
        testimony.hear(&with_session(Some(1), None, messages[0].position), 1);
        testimony.hear(&with_session(Some(2), None, applied), 4);
        testimony.hear(&late, 5);
        let answers = late.session == Some(1) && late.sealed.is_some();
        assert_eq!(decide(&testimony, &memory).is_ok(), answers, "{late:?}");
        // The time since which the session is known has not become a later one.
        testimony.hear(&answer, 6);
        testimony.hear_tip(id(1), tip.clone());
        assert_eq!(decide(&testimony, &memory), Ok((5, tip.position, true)), "{late:?}");
        testimony.hear(&late, 7);
        testimony.hear_tip(id(1), messages[1].clone());
        assert_eq!(decide(&testimony, &memory), Ok((5, tip.position, true)), "{late:?}");
    }
}

#[test]
fn what_a_node_applied_after_its_answer_is_not_undone() {
    let messages = chain(4, 2);
    let mut testimony = hear(&[answer(1, 4, messages[0].position)]);
    testimony.hear(&Report { session: Some(9), ..report(1, 4, messages[1].position) }, 3);
    assert_eq!(decide(&testimony, &memory(&[1])), Ok((5, messages[1].position, false)));
}

#[test]
fn sessions_are_forgotten_before_they_are_too_many_and_the_newest_still_answers() {
    let mut testimony = Testimony::new(NONCE);
    let with_session =
        |session| Report { session: Some(session), ..answer(1, 4, Position::genesis(CLUSTER)) };
    for session in 0..100 {
        testimony.hear(&with_session(session), 1);
    }
    assert_eq!(testimony.nodes[&id(1)].sessions.len(), MAX_SESSIONS);
    assert!(decide(&testimony, &memory(&[1])).is_err());
    let sealed = Some(Sealed { nonce: NONCE, number: 2 });
    testimony.hear(&Report { sealed, ..with_session(99) }, 2);
    assert!(decide(&testimony, &memory(&[1])).is_ok());
}

#[test]
fn an_end_that_was_decided_without_somebody_is_a_cut_and_what_they_have_beyond_it_counts_no_more() {
    let messages = chain(4, 5);
    let mut memory = memory(&[1, 2, 3]);
    memory.accepted_loss = Some(3);
    let end_of = |testimony: &Testimony, memory: &Memory| {
        let link = testimony.decide(CLUSTER, memory, 0).unwrap();
        (link.position().last, link.term().cut)
    };
    let testimony = hear(&[answer(1, 4, messages[1].position), answer(2, 6, messages[0].position)]);
    let cut = Cut { epoch: 7, last: 2 };
    assert_eq!(end_of(&testimony, &memory), (2, cut));
    // The next heart does not know it, but a node does.
    memory.accepted_loss = None;
    let knows = Report { cut, epoch: 7, ..answer(1, 4, messages[1].position) };
    let is_ahead = Report { shown: Some(messages[4].position), ..answer(3, 5, messages[3].position) };
    let reports = [knows, answer(2, 4, messages[0].position), is_ahead.clone()];
    assert_eq!(end_of(&hear(&reports), &memory), (2, cut));
    let has_gone_on = Report { epoch: 8, applied_epoch: 8, ..is_ahead };
    assert_eq!(end_of(&hear(&[reports[0].clone(), reports[1].clone(), has_gone_on]), &memory), (5, cut));
    let complete = hear(&[1, 2, 3].map(|node| answer(node, 4, messages[1].position)));
    assert_eq!(end_of(&complete, &memory), (2, Cut::default()), "nothing is lost");
}

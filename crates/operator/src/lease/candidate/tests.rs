use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn wall(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn candidate() -> Candidate {
    Candidate::new("me".to_owned())
}

fn record(holder: &str, renewed: i64) -> Record {
    Record {
        holder: holder.to_owned(),
        acquired: Some(wall(1)),
        renewed: Some(wall(renewed)),
        transitions: 4,
    }
}

/// A candidate that leads from 0 s on.
fn leader() -> Candidate {
    let mut leader = candidate();
    leader.note_read(at(0), at(0), Some(record("", 1)));
    leader.note_written(at(0), at(0), record("me", 2));
    assert_eq!(leader.leads_until(), Some(RENEW_DEADLINE));
    leader
}

/// In which second a candidate asks for a Lease that it finds the same whenever it looks.
fn seconds_until_taken(mut candidate: Candidate, found: Option<&Record>) -> u64 {
    let mut now = Duration::ZERO;
    loop {
        match candidate.decide(now, wall(0)) {
            Step::Read => candidate.note_read(now, now, found.cloned()),
            Step::Wait(delay) => {
                assert!(delay <= RETRY_PERIOD, "{delay:?}");
                now += delay;
            }
            Step::Create(_) | Step::Replace(_) => return now.as_secs(),
            Step::StepDown(loss) => panic!("{loss}"),
        }
    }
}

#[test]
fn a_lease_that_is_nobodys_is_taken_at_once_and_another_one_after_15_seconds_without_a_change() {
    let malformed = Record { holder: "other".to_owned(), ..Record::default() };
    for (found, expected) in [
        (None, 0),
        (Some(Record::default()), 0),
        (Some(record("", 7)), 0),
        (Some(record("other", 7)), 15),
        (Some(record("other", i64::from(u32::MAX))), 15),
        (Some(malformed), 15),
    ] {
        assert_eq!(seconds_until_taken(candidate(), found.as_ref()), expected, "{found:?}");
    }
}

#[test]
fn a_lease_that_changes_is_never_taken() {
    let mut candidate = candidate();
    for second in 0..100 {
        // Neither the time of the renewal nor the direction in which it moves counts.
        let renewed = if second % 2 == 0 { second } else { -second };
        candidate.note_read(at(0), at(0), Some(record("other", renewed)));
        assert_eq!(candidate.decide(at(14), wall(0)), Step::Read);
        let (sent, now) = (at(14), at(14));
        candidate.note_read(sent, now, Some(record("other", 1000 + second)));
        assert!(!matches!(candidate.decide(at(28), wall(0)), Step::Replace(_)));
    }
}

#[test]
fn a_lease_that_was_known_and_is_gone_is_waited_for() {
    let mut candidate = candidate();
    candidate.note_read(at(0), at(0), Some(record("other", 7)));
    candidate.note_read(at(2), at(2), None);
    assert_eq!(candidate.decide(at(16), wall(0)), Step::Read);
    candidate.note_read(at(16), at(16), None);
    assert!(matches!(candidate.decide(at(17), wall(0)), Step::Create(_)));
}

#[test]
fn taking_counts_a_transition_and_renewing_does_not() {
    let mut candidate = candidate();
    candidate.note_read(at(0), at(0), Some(record("", 7)));
    let taken =
        Record { holder: "me".to_owned(), acquired: Some(wall(9)), renewed: Some(wall(9)), transitions: 5 };
    assert_eq!(candidate.decide(at(0), wall(9)), Step::Replace(taken.clone()));
    candidate.note_written(at(0), at(0), taken.clone());
    assert_eq!(candidate.decide(at(1), wall(10)), Step::Wait(SECOND));
    let renewed = Record { renewed: Some(wall(11)), ..taken };
    assert_eq!(candidate.decide(at(2), wall(11)), Step::Replace(renewed));
}

#[test]
fn every_renewal_shows_whatever_becomes_of_the_wall_clock() {
    let mut leader = leader();
    for wall_second in [2, 1, -5, 2] {
        let Step::Replace(renewed) = leader.decide(at(2), wall(wall_second)) else { panic!("no renewal") };
        let before = leader.seen.as_ref().unwrap().record.clone().unwrap();
        assert!(renewed.renewed > before.renewed, "{renewed:?} {before:?}");
        leader.note_written(at(0), at(0), renewed);
    }
}

#[test]
fn leadership_counts_from_before_the_request_and_what_is_over_stays_over() {
    let mut leader = leader();
    leader.note_written(at(2), at(9), record("me", 3));
    assert_eq!(leader.leads_until(), Some(at(12)));
    assert!(!matches!(leader.decide(at(11), wall(0)), Step::StepDown(_)));
    assert_eq!(leader.decide(at(12), wall(0)), Step::StepDown(Loss::Expired));
    leader.note_written(at(11), at(13), record("me", 4));
    assert_eq!(leader.decide(at(13), wall(0)), Step::StepDown(Loss::Expired));

    let mut late = candidate();
    late.note_read(at(0), at(0), None);
    late.note_written(at(0), at(10), record("me", 2));
    assert_eq!(late.leads_until(), None, "the answer came when its time was over");
    assert!(matches!(late.decide(at(10), wall(0)), Step::Replace(_)));
}

#[test]
fn a_leader_that_gets_no_answer_tries_again_until_its_time_is_over() {
    let mut leader = leader();
    let mut requests = 0;
    let mut now = at(0);
    let lost = loop {
        match leader.decide(now, wall(0)) {
            Step::Wait(delay) => now += delay,
            Step::StepDown(loss) => break loss,
            _ => {
                requests += 1;
                let sent = now;
                now += leader.patience(now);
                leader.note_failure(sent);
            }
        }
    };
    assert_eq!((lost, now, requests), (Loss::Expired, RENEW_DEADLINE, 3));
}

#[test]
fn a_leader_that_is_refused_looks_at_once_and_leads_on_only_if_the_lease_is_still_its_own() {
    for (found, expected) in [
        (Some(record("other", 9)), Some(Loss::Taken("other".to_owned()))),
        (Some(record("", 9)), Some(Loss::Taken(String::new()))),
        (None, Some(Loss::Deleted)),
        (Some(record("me", 2)), None),
    ] {
        let mut leader = leader();
        leader.note_conflict(at(2), at(3));
        assert_eq!(leader.decide(at(3), wall(0)), Step::Read);
        leader.note_read(at(3), at(3), found.clone());
        let step = leader.decide(at(4), wall(0));
        match expected {
            Some(loss) => assert_eq!(step, Step::StepDown(loss), "{found:?}"),
            None => assert!(matches!(step, Step::Replace(_)), "{step:?}"),
        }
        assert_eq!(leader.leads_until(), Some(RENEW_DEADLINE), "only an answered renewal adds to it");
    }
}

#[test]
fn one_that_was_refused_and_does_not_lead_waits_before_it_looks_again() {
    let mut candidate = candidate();
    candidate.note_read(at(0), at(0), None);
    candidate.note_conflict(at(0), at(0));
    assert_eq!(candidate.decide(at(0), wall(0)), Step::Wait(RETRY_PERIOD));
    assert_eq!(candidate.decide(at(2), wall(0)), Step::Read);
}

#[test]
fn only_ones_own_lease_is_given_up() {
    let given_up = leader().vacate(wall(9)).unwrap();
    assert_eq!((given_up.holder.as_str(), given_up.transitions), ("", 4));
    let mut other = candidate();
    assert_eq!(other.vacate(wall(9)), None);
    other.note_read(at(0), at(0), Some(record("other", 7)));
    assert_eq!(other.vacate(wall(9)), None);
}

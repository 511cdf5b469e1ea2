use super::*;

type Answer = Result<Digests, String>;

fn digests(position: u64, digest: &str) -> Answer {
    answer(position, digest, true)
}

fn changed(position: u64, digest: &str) -> Answer {
    answer(position, digest, false)
}

fn answer(position: u64, digest: &str, equal: bool) -> Answer {
    let digest = Some(digest).filter(|digest| !digest.is_empty()).ok_or("does not answer")?.to_owned();
    Ok(Digests { position, recomputed: Recomputed { digest, rows: 2, equal } })
}

fn silent() -> Answer {
    answer(0, "", true)
}

/// The verdict after rounds in which nodes 1, 2 … have answered so.
fn judge_all(rounds: &[Vec<Answer>]) -> Report {
    let expected = (1..).zip(&rounds[0]).map(|(node, _)| node).collect();
    let (mut equal, mut report) = (Equal::default(), None);
    for round in rounds {
        report = Some(judge(&expected, (1..).zip(round.clone()).collect(), &mut equal));
    }
    report.unwrap()
}

#[test]
fn nodes_are_equal_only_when_each_was_compared_at_one_position_with_the_others() {
    for (round, verdict, message) in [
        (vec![digests(9, "a"), digests(9, "a")], Verdict::Equal, "all nodes have the same rows"),
        (vec![digests(9, "a")], Verdict::Equal, "all nodes have the same rows"),
        (vec![digests(9, "a"), digests(8, "a")], Verdict::NotCompared, "at different positions"),
        (vec![digests(9, "a"), silent()], Verdict::NotCompared, "node 2 could not be asked"),
        (vec![], Verdict::NotCompared, "there are no nodes"),
    ] {
        let report = judge_all(&[round]);
        assert_eq!(report.verdict, verdict, "{report:?}");
        assert!(report.message.contains(message), "{report:?}");
    }
}

#[test]
fn the_odd_one_is_named_where_a_majority_or_its_own_account_tells() {
    for (round, message) in [
        (
            vec![digests(9, "a"), digests(9, "b"), digests(9, "a")],
            "at position 9 the rows of node 2 are others than those of most nodes",
        ),
        (
            vec![digests(9, "b"), digests(9, "c"), digests(9, "a"), digests(9, "a"), digests(9, "a")],
            "at position 9 the rows of nodes 1, 2 are others than those of most nodes",
        ),
        (
            vec![digests(9, "a"), digests(9, "b")],
            "at position 9 nodes 1, 2 differ, and no majority says which of them is right",
        ),
        (vec![digests(9, "a"), changed(9, "b")], "the rows of node 2 are not what was written there"),
        (vec![changed(9, "a"), changed(8, "b")], "the rows of nodes 1, 2 are not what was written there"),
        (vec![digests(9, "a"), digests(9, "b"), silent()], "at position 9 nodes 1, 2 differ"),
    ] {
        let report = judge_all(&[round]);
        assert_eq!(report.verdict, Verdict::Different, "{report:?}");
        assert!(report.message.starts_with(message), "{report:?}");
    }
}

#[test]
fn what_earlier_rounds_have_shown_counts() {
    let first = vec![digests(9, "a"), digests(9, "a"), digests(8, "x")];
    let second = vec![digests(12, "b"), digests(11, "y"), digests(12, "b")];
    assert_eq!(judge_all(std::slice::from_ref(&first)).verdict, Verdict::NotCompared);
    assert_eq!(judge_all(&[first.clone(), second]).verdict, Verdict::Equal);
    let apart = vec![digests(12, "b"), digests(11, "y"), digests(13, "c")];
    assert_eq!(judge_all(&[first, apart]).verdict, Verdict::NotCompared);
}

#[test]
fn people_see_a_table_and_a_verdict() {
    let round = vec![digests(9, "ab12"), changed(9, "cd34"), silent()];
    insta::assert_snapshot!(show(&judge_all(&[round]), Colours::NONE));
}

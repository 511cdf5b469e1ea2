use super::*;

#[test]
fn one_seed_is_one_simulation() {
    let run = |seed| {
        let Outcome { violation, tally } = simulate(seed, None, false);
        assert!(violation.is_none(), "{violation:?}");
        tally.describe()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn a_broken_rule_is_noticed_and_the_right_protocol_is_not_blamed() {
    let violated =
        |mutation| (1..=40).filter(|seed| simulate(*seed, mutation, false).violation.is_some()).count();
    assert_eq!(violated(None), 0);
    assert_ne!(violated(Some(Mutation::AckedBeforeTransaction)), 0);
}

#[test]
fn what_was_never_exercised_is_named() {
    let mut tally = Tally::default();
    let all = tally.missing().len();
    tally.add_seed(&simulate(1, None, false).tally);
    assert!(tally.seeds() == 1 && tally.missing().len() < all && !tally.missing().is_empty());
}

use serde_json::json;

use super::*;

fn rows(rows: &[(&str, &str, u64)]) -> Rows {
    let row = |&(key, value, seq): &(&str, &str, u64)| {
        (("c".to_owned(), key.to_owned()), Row { value: value.to_owned(), seq })
    };
    rows.iter().map(row).collect()
}

fn differs(oracle: &Oracle, rows: &Rows) -> bool {
    std::panic::catch_unwind(|| oracle.check("node", rows)).is_err()
}

#[test]
fn exactly_the_last_acknowledged_value_with_its_number_is_right() {
    let oracle = Oracle::default();
    oracle.acknowledged("c", "k", Some(&json!(1)), 1, 1);
    oracle.acknowledged("c", "k", Some(&json!(2)), 2, 1);
    oracle.check("node", &rows(&[("k", "2", 2)]));
    for wrong in [&[][..], &[("k", "1", 1)], &[("k", "2", 3)], &[("k", "2", 2), ("other", "1", 3)]] {
        assert!(differs(&oracle, &rows(wrong)), "{wrong:?}");
    }
}

#[test]
fn a_write_that_was_tried_again_has_the_number_of_one_of_its_tries() {
    let oracle = Oracle::default();
    oracle.acknowledged("c", "k", Some(&json!(1)), 5, 1);
    oracle.acknowledged("c", "k", Some(&json!(2)), 9, 2);
    oracle.check("node", &rows(&[("k", "2", 6)]));
    oracle.check("node", &rows(&[("k", "2", 9)]));
    assert!(differs(&oracle, &rows(&[("k", "2", 5)])));
}

#[test]
fn a_write_with_an_unknown_end_may_be_there_or_not() {
    let oracle = Oracle::default();
    oracle.acknowledged("c", "k", Some(&json!(1)), 1, 1);
    oracle.unknown("c", "k", None);
    oracle.check("node", &rows(&[("k", "1", 1)]));
    oracle.check("node", &rows(&[]));
    assert!(differs(&oracle, &rows(&[("k", "7", 2)])));
    oracle.acknowledged("c", "k", Some(&json!(3)), 3, 1);
    assert!(differs(&oracle, &rows(&[])));
}

fn logged(writes: &[(u64, &str, Option<i32>, Option<&str>)]) -> Vec<Logged> {
    let logged = |&(seq, key, value, id): &(u64, &str, Option<i32>, Option<&str>)| Logged {
        seq,
        content: (("c".to_owned(), key.to_owned()), value.map(|value| json!(value))),
        id: id.map(str::to_owned),
    };
    writes.iter().map(logged).collect()
}

fn complaint(oracle: &Oracle, log: &[(u64, &str, Option<i32>, Option<&str>)]) -> Option<String> {
    let log = logged(log);
    let panic = std::panic::catch_unwind(|| oracle.check_log("node", &log)).err()?;
    Some(panic.downcast_ref::<String>().unwrap().clone())
}

#[test]
fn a_history_has_every_acknowledged_write_once_and_nothing_else() {
    let oracle = Oracle::default();
    oracle.acknowledged("c", "k", Some(&json!(1)), 1, 1);
    oracle.acknowledged("c", "k", None, 2, 1);
    oracle.acknowledged("c", "k", Some(&json!(2)), 5, 2);
    oracle.unknown("c", "other", Some(&json!(3)));
    let (one, gone, two) = ((1, "k", Some(1), None), (2, "k", None, None), (4, "k", Some(2), Some("id")));
    let (other, again) = ((3, "other", Some(3), None), (5, "k", Some(2), Some("id")));
    assert_eq!(complaint(&oracle, &[one, gone, other, two, again]), None);
    // One that was installed from a snapshot begins later.
    assert_eq!(complaint(&oracle, &[two, again]), None);
    for (expected, wrong) in [
        ("lost", &[one, (2, "other", Some(3), None), (3, "k", Some(2), Some("id"))][..]),
        ("lost", &[one, gone, (3, "other", Some(3), None)]),
        ("lost", &[(1, "k", None, None), (2, "k", Some(1), None), (3, "k", Some(2), None)]),
        ("2 times", &[one, gone, other, two, (5, "k", Some(2), Some("another"))]),
        ("2 times", &[one, gone, other, two, (5, "k", None, None)]),
        ("asked for None", &[one, gone, (3, "k", Some(7), None), two]),
        ("4 follows 2", &[one, gone, two]),
    ] {
        let complaint = complaint(&oracle, wrong).unwrap_or_default();
        assert!(complaint.contains(expected), "{expected}: {complaint:?} for {wrong:?}");
    }
}

#[test]
fn the_rows_of_a_shared_key_are_checked_by_others_but_its_writes_are_in_the_history() {
    let oracle = Oracle::default();
    assert!(differs(&oracle, &rows(&[("k", "1", 1)])));
    oracle.leave_rows_out("c");
    oracle.check("node", &rows(&[("k", "1", 1)]));
    let one = (1, "k", Some(1), None);
    assert!(complaint(&oracle, &[one]).is_some(), "nobody asked for it");
    oracle.wrote_shared("c", "k", Some(&json!(1)), None);
    assert_eq!(complaint(&oracle, &[one]), None);
    oracle.wrote_shared("c", "k", Some(&json!(2)), Some(2..=3));
    assert!(complaint(&oracle, &[one]).is_some());
    assert_eq!(complaint(&oracle, &[one, (2, "k", Some(2), None)]), None);
}

#[test]
fn a_collection_that_is_left_out_is_checked_by_others() {
    let oracle = Oracle::default();
    oracle.leave_out("c");
    oracle.check("node", &rows(&[("k", "1", 1)]));
    assert_eq!(complaint(&oracle, &[(1, "k", Some(1), None)]), None);
}

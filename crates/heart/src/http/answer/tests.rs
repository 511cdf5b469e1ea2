use broadcast_protocol::report::{Outcomes, Report};
use serde_json::json;

use super::super::tests::{JSON, ask, hear, stage};
use super::*;
use crate::census::tests::report;

#[tokio::test]
async fn a_level_is_waited_for_and_a_late_one_is_no_error() {
    let mut stage = stage();
    let api = stage.api.clone();
    let (answer, _) = tokio::join!(
        ask(&api, "DELETE", "/v1/collections/users/1?ack=all&timeout=20ms", &[], ""),
        stage.confirm(41)
    );
    assert_eq!(
        (answer.status, &answer.body["ack"], &answer.body["last"]),
        (202, &"broker".into(), &41.into())
    );

    let census = stage.census.clone();
    let apply = async {
        stage.confirm(42).await;
        hear(&census, report(1, 42));
    };
    let (answer, ()) =
        tokio::join!(ask(&api, "DELETE", "/v1/collections/users/1?ack=all&timeout=60s", &[], ""), apply);
    assert_eq!((answer.status, &answer.body["ack"]), (200, &"all".into()));
}

/// Node 1 has applied `last` and can say what became of the writes after `after`.
fn told(last: u64, after: u64, rejected: &[(u64, Rejection)]) -> Report {
    let rejected = rejected.iter().map(|(seq, reason)| Rejected { seq: *seq, reason: *reason }).collect();
    Report { outcomes: Some(Outcomes { after, rejected }), ..report(1, last) }
}

#[tokio::test]
async fn a_client_that_waits_for_a_node_learns_what_has_become_of_its_writes() {
    const ONE: &str = "/v1/collections/users/1";
    const MANY: &str = r#"{"writes":[{"op":"delete","collection":"c","key":"1"},
        {"op":"put","collection":"c","key":"2","value":1,"if":{"absent":true}}]}"#;
    let (failed, reused) = (Rejection::PreconditionFailed, Rejection::IdReused);
    let absent: &[(&str, &str)] = &[("if-none-match", "*")];
    let id: &[(&str, &str)] = &[("idempotency-key", "r")];
    let listed = |index: u64| json!([{"index": index, "seq": 41 + index, "reason": "precondition_failed"}]);
    for (level, headers, is_one, node, status, expected) in [
        ("one", absent, true, told(41, 40, &[]), 200, json!("one")),
        ("one", absent, true, told(41, 40, &[(41, failed)]), 412, json!("precondition_failed")),
        ("quorum", id, true, told(41, 40, &[(41, reused)]), 409, json!("id_reused")),
        ("all", id, true, told(45, 40, &[(42, reused)]), 200, json!("all")),
        ("all", &[], true, told(41, 41, &[]), 200, json!("all")),
        ("one", &[JSON], false, told(42, 40, &[]), 200, json!(null)),
        ("one", &[JSON], false, told(42, 40, &[(42, failed)]), 200, listed(1)),
        // Nobody can say whether 41 was rejected: that is less than what was asked for.
        ("one", id, true, told(41, 41, &[]), 202, json!("broker")),
        ("one", &[JSON], false, told(42, 41, &[(42, failed)]), 202, listed(1)),
        ("broker", absent, true, told(41, 40, &[(41, failed)]), 200, json!("broker")),
    ] {
        let mut stage = stage();
        let census = stage.census.clone();
        let api = stage.api.clone();
        let (method, path, body) = if is_one { ("PUT", ONE, "1") } else { ("POST", "/v1/writes", MANY) };
        let path = format!("{path}?ack={level}&timeout=60s");
        let apply = async {
            stage.confirm(41).await;
            hear(&census, node);
        };
        let (answer, ()) = tokio::join!(ask(&api, method, &path, headers, body), apply);
        let case = format!("{level} {headers:?}: {}", answer.body);
        assert_eq!(answer.status, status, "{case}");
        let told = match (status, is_one) {
            (400.., _) => &answer.body["error"]["code"],
            (_, true) => &answer.body["ack"],
            (_, false) => &answer.body["rejected"],
        };
        assert_eq!(*told, expected, "{case}");
    }
}

#[tokio::test]
async fn a_rejection_that_is_known_is_told_though_the_level_is_not_reached() {
    let mut stage = stage();
    stage.census.send_modify(|census| {
        census.replace_members(crate::census::tests::members(&[1, 2]));
    });
    let (census, api) = (stage.census.clone(), stage.api.clone());
    let path = "/v1/collections/users/1?ack=all&timeout=50ms";
    let apply = async {
        stage.confirm(41).await;
        hear(&census, told(41, 40, &[(41, Rejection::PreconditionFailed)]));
    };
    let (answer, ()) = tokio::join!(ask(&api, "PUT", path, &[("if-match", "\"7\"")], "1"), apply);
    assert_eq!(answer.status, 412, "{}", answer.body);
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("write 41 changed nothing"), "{message}");
}

use axum::body::{Body, to_bytes};
use axum::http::header::RETRY_AFTER as RETRY_AFTER_HEADER;
use broadcast_protocol::config::HeartConfig;
use broadcast_protocol::report::Report;
use broadcast_service::amqp_url::AmqpUrlSource;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::census::tests::report;

mod access;

/// A heart without a broker: the test plays the reign.
pub(super) struct Stage {
    pub(super) api: Api,
    pub(super) role: watch::Sender<Role>,
    pub(super) census: watch::Sender<Census>,
    pub(super) submissions: mpsc::Receiver<Submission>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: Value,
}

pub(super) fn stage() -> Stage {
    let (submit, submissions) = mpsc::channel(2);
    let (role, role_seen) = watch::channel(Role::Active { epoch: 7, submit });
    let (census, census_seen) = watch::channel(Census::default());
    hear(&census, report(1, 0));
    let api = Api {
        role: role_seen,
        progress: watch::channel(None).1,
        census: census_seen,
        min_attached: 1,
        memory: Arc::new(Semaphore::new(64)),
        memory_kib: 64,
        history: crate::memory::tests::filled(0, 0),
        log_readers: Arc::new(Semaphore::new(1)),
        dead_letters: nowhere(),
        client: broadcast_service::http::http_client().unwrap(),
        gatekeeper: Gatekeeper::default(),
        metrics: Metrics::register(&mut Registry::default()),
        shutdown: CancellationToken::new(),
    };
    Stage { api, role, census, submissions }
}

/// Where no broker is.
fn nowhere() -> DeadLetters {
    let topology = HeartConfig::parse("heart.yaml", "exchange: e\nqueue_name: q\n").unwrap().topology();
    DeadLetters::new("c".to_owned(), topology, AmqpUrlSource::Text("amqp://127.0.0.1:1".to_owned()))
}

pub(super) fn hear(census: &watch::Sender<Census>, report: Report) {
    census.send_modify(|census| _ = census.record(report, std::time::Instant::now()));
}

impl Stage {
    /// Answers the next request as the message that begins at `first`, and gives its JSON.
    pub(super) async fn confirm(&mut self, first: u64) -> String {
        let Submission { writes, answer, .. } = self.submissions.recv().await.unwrap();
        let last = first + writes.len() as u64 - 1;
        answer.send(Ok(Placed { first, last, epoch: 7 })).unwrap();
        String::from_utf8(writes.into_json()).unwrap()
    }
}

pub(super) async fn ask(api: &Api, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = axum::http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request =
        request.header("content-length", body.len().to_string()).body(Body::from(body.to_owned())).unwrap();
    let response = router(api.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let retry_after =
        response.headers().get(RETRY_AFTER_HEADER).map(|value| value.to_str().unwrap().to_owned());
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    Answer { status, retry_after, body: serde_json::from_slice(&bytes).unwrap() }
}

pub(super) const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson; charset=utf-8");
const DELETE: &str = r#"{"op":"delete","collection":"c","key":"k"}"#;

#[tokio::test]
async fn writes_in_each_form_reach_the_reign_and_learn_their_numbers() {
    let two = format!("{DELETE}\n\n{DELETE}\n");
    let listed = format!(r#"{{"writes":[{DELETE}]}}"#);
    let long_key = format!("/v1/collections/users/{}", "%F0%9F%91%BB".repeat(200));
    for (method, path, headers, body, published, last) in [
        ("POST", "/v1/writes", &[JSON][..], listed.as_str(), format!("[{DELETE}]"), 41),
        ("POST", "/v1/writes?ack=broker", &[NDJSON][..], two.as_str(), format!("[{DELETE},{DELETE}]"), 42),
        (
            "PUT",
            "/v1/collections/users/a%2Fb%20c",
            &[("idempotency-key", "r-1")][..],
            r#"{ "name": "Ada" }"#,
            r#"[{"op":"put","collection":"users","key":"a/b c","value":{"name":"Ada"},"id":"r-1"}]"#
                .to_owned(),
            41,
        ),
        (
            "PUT",
            "/v1/collections/users/1",
            &[("if-none-match", "*")][..],
            "1",
            r#"[{"op":"put","collection":"users","key":"1","value":1,"if":{"absent":true}}]"#.to_owned(),
            41,
        ),
        (
            "DELETE",
            "/v1/collections/users/1",
            &[("if-match", "\"1041\"")][..],
            "",
            r#"[{"op":"delete","collection":"users","key":"1","if":{"seq":1041}}]"#.to_owned(),
            41,
        ),
        (
            "DELETE",
            long_key.as_str(),
            &[][..],
            "",
            format!(r#"[{{"op":"delete","collection":"users","key":"{}"}}]"#, "👻".repeat(200)),
            41,
        ),
    ] {
        let mut stage = stage();
        let api = stage.api.clone();
        let (answer, json) = tokio::join!(ask(&api, method, path, headers, body), stage.confirm(41));
        assert_eq!(json, published, "{method} {path}");
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        assert_eq!(answer.body, json!({"first": 41, "last": last, "epoch": 7, "ack": "broker"}));
    }
}

#[tokio::test]
async fn a_wrong_request_is_refused_with_the_place_and_what_is_allowed() {
    const KEY: &str = "/v1/collections/users/42";
    let wrong_key = format!(r#"{{"writes":[{DELETE},{{"op":"delete","collection":"c","key":""}}]}}"#);
    let json = &[JSON][..];
    for (method, path, headers, body, status, code, message) in [
        ("POST", "/v1/writes", &[][..], DELETE, 415, "unsupported_media_type", "application/x-ndjson"),
        ("POST", "/v1/writes", json, "{", 400, "invalid_write", "body: EOF"),
        ("POST", "/v1/writes", json, &*wrong_key, 400, "invalid_write", "writes[1].key: empty; 1 to 1024"),
        ("POST", "/v1/writes", json, r#"{"writes":[]}"#, 400, "invalid_write", "at least one"),
        ("POST", "/v1/writes?ack=two", json, DELETE, 400, "invalid_query", "expected one of `broker`, `one`"),
        ("POST", "/v1/writes?wait=1", json, DELETE, 400, "invalid_query", "unknown field `wait`"),
        ("POST", "/v1/writes?timeout=2m", json, DELETE, 400, "invalid_query", "timeout: \"2m\""),
        ("POST", "/v1/writes?timeout=61s", json, DELETE, 400, "invalid_query", "at most 60s"),
        ("POST", "/v1/writes", &[JSON, ("content-length", "8388609")][..], "", 413, "too_large", "8 MiB"),
        ("PUT", "/v1/collections/users/42", &[][..], "", 400, "invalid_write", "the body is the value"),
        (
            "PUT",
            "/v1/collections/Users/42",
            &[][..],
            "1",
            400,
            "invalid_write",
            "write.collection: \"Users\"",
        ),
        ("PUT", "/v1/collections/users/%ff", &[][..], "1", 400, "invalid_path", "UTF-8"),
        (
            "DELETE",
            "/v1/collections/users/42",
            &[("idempotency-key", "")][..],
            "",
            400,
            "invalid_write",
            "write.id",
        ),
        ("PUT", KEY, &[("if-match", "1")][..], "1", 400, "invalid_write", "header if-match: the number"),
        ("PUT", KEY, &[("if-match", "*")][..], "1", 400, "invalid_write", "header if-match: the number"),
        (
            "PUT",
            KEY,
            &[("if-match", "W/\"1\"")][..],
            "1",
            400,
            "invalid_write",
            "header if-match: the number",
        ),
        ("PUT", KEY, &[("if-match", "\"+1\"")][..], "1", 400, "invalid_write", "header if-match: the number"),
        ("PUT", KEY, &[("if-match", "\"1\", \"2\"")][..], "1", 400, "invalid_write", "in quotes"),
        ("PUT", KEY, &[("if-match", "\"1\""), ("if-match", "\"2\"")][..], "1", 400, "invalid_write", "one"),
        ("PUT", KEY, &[("if-match", "\"0\"")][..], "1", 400, "invalid_write", "write.if: seq is 0"),
        ("PUT", KEY, &[("if-none-match", "\"1\"")][..], "1", 400, "invalid_write", "only *"),
        (
            "PUT",
            KEY,
            &[("if-none-match", "*"), ("if-match", "\"1\"")][..],
            "1",
            400,
            "invalid_write",
            "not together",
        ),
        ("DELETE", KEY, &[("if-none-match", "*")][..], "", 400, "invalid_write", "write.if"),
        ("GET", "/v1/writes", &[][..], "", 405, "method_not_allowed", "Allow"),
        ("GET", "/v1/snapshot", &[][..], "", 404, "not_found", "/v1/snapshot"),
        ("GET", "/v1/log", &[][..], "", 400, "invalid_query", "missing field `after`"),
        ("GET", "/v1/log?after=1&limit=1", &[][..], "", 400, "invalid_query", "unknown field `limit`"),
        ("GET", "/v1/log?after=9223372036854775808", &[][..], "", 400, "invalid_query", "at most 922337"),
        ("GET", "/v1/status?all=1", &[][..], "", 400, "invalid_query", "unknown field `all`"),
        ("GET", "/v1/dead-letters?limit=0", &[][..], "", 400, "invalid_query", "1 to 1000"),
        ("GET", "/v1/dead-letters?limit=1001", &[][..], "", 400, "invalid_query", "1 to 1000"),
        ("GET", "/v1/dead-letters?id=1", &[][..], "", 400, "invalid_query", "unknown field `id`"),
        ("POST", "/v1/dead-letters/replay", &[][..], "", 400, "invalid_request", "body: EOF"),
        ("POST", "/v1/dead-letters/replay", &[][..], "{}", 400, "invalid_request", "either"),
        ("POST", "/v1/dead-letters/replay", &[][..], r#"{"all":false}"#, 400, "invalid_request", "either"),
        (
            "POST",
            "/v1/dead-letters/replay",
            &[][..],
            r#"{"all":true,"ids":["1"]}"#,
            400,
            "invalid_request",
            "either",
        ),
        (
            "POST",
            "/v1/dead-letters/replay",
            &[][..],
            r#"{"every":true}"#,
            400,
            "invalid_request",
            "unknown field",
        ),
    ] {
        let stage = stage();
        let answer = ask(&stage.api, method, path, headers, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert_eq!(answer.body["error"]["code"], code, "{method} {path}");
        let text = answer.body["error"]["message"].as_str().unwrap();
        assert!(text.contains(message), "{method} {path}: {text}");
        assert!(stage.submissions.is_empty(), "{method} {path}: nothing is taken");
    }
}

#[tokio::test]
async fn what_fails_for_now_says_whether_anything_was_written_and_when_to_try_again() {
    const KEY: &str = "/v1/collections/users/42";
    let expect = |answer: Answer, code: &str| {
        assert_eq!((answer.status, answer.retry_after.as_deref()), (503, Some("1")), "{}", answer.body);
        assert_eq!(answer.body["error"]["code"], code, "{}", answer.body);
    };

    let mut stage = stage();
    stage.census.send_replace(Census::default());
    expect(ask(&stage.api, "DELETE", KEY, &[], "").await, "no_nodes");
    hear(&stage.census, report(1, 0));

    let large = "x".repeat(64 << 10);
    let all = stage.api.memory.clone().try_acquire_many_owned(10).unwrap();
    expect(ask(&stage.api, "PUT", KEY, &[], &large).await, "overloaded");
    drop(all);

    let api = stage.api.clone();
    let doubt = async { drop(stage.submissions.recv().await.unwrap()) };
    expect(tokio::join!(ask(&api, "DELETE", KEY, &[], ""), doubt).0, "outcome_unknown");
    let end = async { stage.submissions.recv().await.unwrap().answer.send(Err(NotPublished)).unwrap() };
    expect(tokio::join!(ask(&api, "DELETE", KEY, &[], ""), end).0, "broker_unavailable");
    stage.submissions.close();
    expect(ask(&stage.api, "DELETE", KEY, &[], "").await, "broker_unavailable");

    expect(ask(&stage.api, "GET", "/v1/dead-letters", &[], "").await, "broker_unavailable");
    let all = r#"{"all":true}"#;
    expect(ask(&stage.api, "POST", "/v1/dead-letters/replay", &[], all).await, "broker_unavailable");

    for role in [
        Role::Connecting { reason: "refused".to_owned() },
        Role::Standby { active: None },
        Role::TakingOver,
        Role::HeadLost { reason: "purged".to_owned() },
    ] {
        stage.role.send_replace(role);
        expect(ask(&stage.api, "DELETE", KEY, &[], "").await, "broker_unavailable");
    }
    stage.api.shutdown.cancel();
    expect(ask(&stage.api, "DELETE", KEY, &[], "").await, "broker_unavailable");
    assert_eq!(stage.api.memory.available_permits(), 64, "what was reserved is given back");
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_no_memory_before_its_writes_are_confirmed() {
    let mut stage = stage();
    let api = stage.api.clone();
    let request = ask(&api, "PUT", "/v1/collections/users/1", &[], "1");
    let submission = tokio::select! {
        answer = request => panic!("answered without a confirm: {}", answer.body),
        submission = stage.submissions.recv() => submission.unwrap(),
    };
    assert!(submission.answer.is_closed(), "the client has gone");
    assert!(api.memory.available_permits() < 64, "its writes are still here");
    let (_, waiting) = crate::batch::Batch::new(submission).into_parts();
    assert!(api.memory.available_permits() < 64, "they are on their way to the broker");
    waiting.answer(7, 1);
    assert_eq!(api.memory.available_permits(), 64);
}

/// Serves the stage's API on loopback and gives its URL.
async fn serve(stage: &Stage) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = axum::serve(listener, router(stage.api.clone()));
    tokio::spawn(async { server.await });
    url
}

#[tokio::test]
async fn a_standby_brings_requests_to_the_active_heart_and_never_in_a_circle() {
    let (mut active, standby) = (stage(), stage());
    let url = serve(&active).await;
    standby.role.send_replace(Role::Standby { active: Some(url.clone()) });
    for (headers, found) in [
        (&[("idempotency-key", "r")], r#""id":"r""#),
        (&[("if-none-match", "*")], r#""if":{"absent":true}"#),
        (&[("if-match", "\"3\"")], r#""if":{"seq":3}"#),
    ] {
        let put = ask(&standby.api, "PUT", "/v1/collections/users/1?ack=broker", headers, "1");
        let (answer, json) = tokio::join!(put, active.confirm(5));
        assert_eq!((answer.status, &answer.body["first"]), (200, &5.into()));
        assert!(json.contains(found), "{json}");
    }

    let answer = ask(&standby.api, "POST", "/v1/writes", &[JSON], "{").await;
    assert_eq!((answer.status, &answer.body["error"]["code"]), (400, &"invalid_write".into()));
    let answer = ask(&standby.api, "GET", "/v1/status", &[], "").await;
    assert_eq!((&answer.body["role"], &answer.body["active"]), (&"standby".into(), &url.as_str().into()));

    let other = serve(&standby).await;
    active.role.send_replace(Role::Standby { active: Some(other) });
    let answer = ask(&standby.api, "DELETE", "/v1/collections/users/1", &[], "").await;
    assert_eq!((answer.status, &answer.body["error"]["code"]), (503, &"broker_unavailable".into()));

    standby.role.send_replace(Role::Standby { active: Some("http://127.0.0.1:1".to_owned()) });
    let answer = ask(&standby.api, "DELETE", "/v1/collections/users/1", &[], "").await;
    assert_eq!((answer.status, &answer.body["error"]["code"]), (503, &"broker_unavailable".into()));
}

#[tokio::test]
async fn the_status_shows_every_node_with_its_lag() {
    let mut stage = stage();
    let position =
        broadcast_protocol::chain::Position { last: 44, ..broadcast_protocol::chain::Position::genesis("c") };
    stage.api.progress = watch::channel(Some(Progress { epoch: 7, position })).1;
    hear(&stage.census, report(2, 40));
    let answer = ask(&stage.api, "GET", "/v1/status", &[], "").await;
    assert_eq!(
        (&answer.body["role"], &answer.body["epoch"], &answer.body["position"]),
        (&"active".into(), &7.into(), &44.into())
    );
    let node = &answer.body["nodes"][1];
    for (field, value) in [("id", 2), ("applied", 40), ("lag_writes", 4), ("rows", 3)] {
        assert_eq!(node[field], value, "{node}");
    }
    assert_eq!(node["state"], "ready");
    assert!(node.get("disagrees").is_none(), "{node}");
    for id in [2, 3, 4] {
        let mut report = report(id, 44);
        report.digest.add("c", "k", "1", if id == 3 { 1 } else { 2 });
        hear(&stage.census, report);
    }
    let answer = ask(&stage.api, "GET", "/v1/status", &[], "").await;
    let disagrees: Vec<bool> =
        answer.body["nodes"].as_array().unwrap().iter().map(|node| node["disagrees"] == true).collect();
    assert_eq!(disagrees, [false, false, true, false], "{}", answer.body);
}

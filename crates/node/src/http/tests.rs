use axum::body::{Body, to_bytes};
use axum::http::Request;
use broadcast_protocol::cut::Cut;
use broadcast_protocol::replica::Halt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::rebuild::Rebuilt;
use crate::scrub::{Findings, Found};
use crate::store::Store;
use crate::testing::{CLUSTER, History, put};

mod access;

/// A node without a broker.
struct Node {
    directory: TempDir,
    store: Store,
    history: History,
    status: watch::Sender<Status>,
    recomputing: Arc<Semaphore>,
    findings: Findings,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> (u16, Value) {
        (self.status.as_u16(), self.json()["error"]["code"].clone())
    }
}

impl Node {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let store = Store::open(directory.path(), CLUSTER, 1 << 20).unwrap();
        let (status, watched) =
            watch::channel(Status::starting(store.committed().unwrap(), unix_milliseconds()));
        let (wishes, findings) = Findings::channel();
        let api = Api::new(NodeId::new(7).unwrap(), watched, store.readers(), wishes);
        let (recomputing, history) = (Arc::clone(&api.recomputing), History::default());
        Self { directory, store, history, status, recomputing, findings, router: api_router(api) }
    }

    fn apply(&mut self, writes: &[String]) {
        let committed = self.store.apply(&[self.history.message(writes)]).unwrap().committed;
        self.status.send_modify(|status| status.committed = committed);
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Request::get(path)).await
    }

    async fn ask(&self, request: axum::http::request::Builder) -> Answer {
        let request = request.body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 26).await.unwrap().to_vec();
        Answer { status, headers, body }
    }
}

#[tokio::test]
async fn a_value_is_returned_byte_for_byte_with_its_seq_and_the_position() {
    let mut node = Node::new();
    let value = r#"{"name":"Ada","n":1.500,"big":12345678901234567890123}"#;
    node.apply(&[put("users", "42", value), put("users", "a/b ü", "[]")]);
    let answer = node.get("/v1/collections/users/42").await;
    assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, value.as_bytes()));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!((answer.header("broadcast-seq"), answer.header("broadcast-position")), (Some("1"), Some("2")));
    assert_eq!(answer.header("etag"), Some("\"1\""));
    let answer = node.get("/v1/collections/users/a%2Fb%20%C3%BC").await;
    assert_eq!((answer.body.as_slice(), answer.header("broadcast-seq")), (b"[]".as_slice(), Some("2")));
    let answer = node.get("/v1/collections/users/43").await;
    assert_eq!((answer.code(), answer.header("broadcast-position")), ((404, json!("not_found")), Some("2")));
}

#[tokio::test]
async fn a_read_waits_for_the_position_that_it_asks_for() {
    let mut node = Node::new();
    let mut reads = node.store.readers().waiting();
    node.apply(&[put("c", "k", "1")]);
    let answer = node.get("/v1/collections/c/k?at_least=2&timeout=20ms").await;
    assert_eq!((answer.code(), answer.header("broadcast-position")), ((504, json!("behind")), Some("1")));
    assert_eq!(node.get("/v1/collections/c/k?at_least=1&timeout=0s").await.body, b"1");
    let waiting = {
        let router = node.router.clone();
        let request = Request::get("/v1/collections/c/k?at_least=2&timeout=30s").body(Body::empty()).unwrap();
        tokio::spawn(router.oneshot(request))
    };
    reads.wait_for(|waiting| *waiting == 1).await.unwrap();
    node.apply(&[put("c", "k", "2")]);
    let body = to_bytes(waiting.await.unwrap().unwrap().into_body(), 100).await.unwrap();
    assert_eq!(body, "2");
    let answer = node.get("/v1/collections/c?at_least=3&timeout=20ms").await;
    assert_eq!(answer.code(), (504, json!("behind")));
    assert_eq!(node.get("/v1/collections/c?at_least=2").await.json()["position"], 2);
    assert_eq!(*reads.borrow(), 0, "nobody waits any more");
}

#[tokio::test]
async fn a_collection_is_listed_page_by_page_in_key_order() {
    let mut node = Node::new();
    let keys = ["b", "a2", "a10", "a1", "ä", "a"];
    node.apply(&keys.map(|key| put("c", key, "0")));
    node.apply(&[put("other", "a3", "0")]);
    for (query, expected, next) in [
        ("", vec!["a", "a1", "a10", "a2", "b", "ä"], Value::Null),
        ("?limit=2", vec!["a", "a1"], json!("a1")),
        ("?limit=2&after=a1", vec!["a10", "a2"], json!("a2")),
        ("?limit=4&after=a1", vec!["a10", "a2", "b", "ä"], Value::Null),
        ("?prefix=a", vec!["a", "a1", "a10", "a2"], Value::Null),
        ("?prefix=a1&limit=1", vec!["a1"], json!("a1")),
        ("?prefix=a1&after=a1", vec!["a10"], Value::Null),
        ("?prefix=a&after=b", vec![], Value::Null),
        ("?prefix=%C3%A4", vec!["ä"], Value::Null),
    ] {
        let page = node.get(&format!("/v1/collections/c{query}")).await.json();
        let found: Vec<_> =
            page["items"].as_array().unwrap().iter().map(|item| item["key"].clone()).collect();
        assert_eq!(
            (found, &page["next"], &page["position"]),
            (expected.into_iter().map(Value::from).collect(), &next, &json!(7)),
            "{query}"
        );
    }
    let collections = node.get("/v1/collections").await.json();
    assert_eq!(
        collections,
        json!({"collections": [{"name": "c", "rows": 6}, {"name": "other", "rows": 1}], "position": 7})
    );
}

#[tokio::test]
async fn the_status_says_where_the_node_is_and_why_it_is_not_ready() {
    let mut node = Node::new();
    node.apply(&[put("c", "k", "1")]);
    node.status.send_modify(|status| {
        status.state = NodeState::Repairing;
        status.reason = Some("no peer has 2".to_owned());
    });
    let status = node.get("/v1/status").await.json();
    let committed = node.store.committed().unwrap();
    for (key, expected) in [
        ("node", json!(7)),
        ("state", json!("repairing")),
        ("applied", json!(1)),
        ("hash", json!(committed.applied.position.hash)),
        ("epoch", json!(1)),
        ("digest", json!(committed.digest)),
        ("rows", json!(1)),
        ("reason", json!("no peer has 2")),
    ] {
        assert_eq!(status[key], expected, "{key}");
    }
    assert!(status["lag_seconds"].is_f64(), "{status}");
}

#[tokio::test]
async fn the_digest_shows_a_row_that_was_changed_behind_the_nodes_back() {
    let mut node = Node::new();
    node.apply(&[put("c", "k", "1")]);
    let digest = node.get("/v1/digest").await.json();
    assert_eq!((&digest["position"], &digest["recomputed"]), (&json!(1), &Value::Null));
    let digest = node.get("/v1/digest?recompute=true").await.json();
    assert_eq!(
        (&digest["recomputed"]["equal"], &digest["recomputed"]["digest"]),
        (&json!(true), &digest["digest"])
    );
    let file = rusqlite::Connection::open(node.directory.path().join(crate::store::FILE_NAME)).unwrap();
    file.execute("UPDATE documents SET value = '2'", []).unwrap();
    let digest = node.get("/v1/digest?recompute=true").await.json();
    assert_eq!(digest["recomputed"]["equal"], json!(false));
}

#[tokio::test]
async fn the_digest_is_recomputed_for_one_asker_at_a_time() {
    let node = Node::new();
    let somebody_else = node.recomputing.try_acquire().unwrap();
    let answer = node.get("/v1/digest?recompute=true").await;
    assert_eq!((answer.code(), answer.header("retry-after")), ((503, json!("overloaded")), Some("5")));
    assert_eq!(node.get("/v1/digest").await.status, StatusCode::OK);
    drop(somebody_else);
    for _ in 0..2 {
        assert_eq!(node.get("/v1/digest?recompute=true").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_log_is_one_message_a_line_and_gone_when_it_no_longer_reaches_back() {
    let mut node = Node::new();
    node.apply(&[put("c", "k", "1")]);
    node.apply(&[put("c", "k", "2")]);
    let answer = node.get("/v1/log?after=0").await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let firsts: Vec<Value> = String::from_utf8(answer.body)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["first"].clone())
        .collect();
    assert_eq!(firsts, [1, 2]);
    for after in [2, 99] {
        let answer = node.get(&format!("/v1/log?after={after}")).await;
        assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, b"".as_slice()));
    }
    let file = rusqlite::Connection::open(node.directory.path().join(crate::store::FILE_NAME)).unwrap();
    file.execute("DELETE FROM _broadcast_log WHERE last = 1", []).unwrap();
    let answer = node.get("/v1/log?after=0").await;
    assert_eq!(answer.code(), (410, json!("gone")));
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("the oldest kept is 2"));
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_in_one_shape() {
    let node = Node::new();
    for (path, status, code, message) in [
        ("/v1/collections/c/k?at_leas=1", 400, "invalid_query", "at_least"),
        ("/v1/collections/c/k?at_least=-1", 400, "invalid_query", "at_least"),
        ("/v1/collections/c/k?timeout=5", 400, "invalid_query", "5s, 500ms"),
        ("/v1/collections/c/k?timeout=61s", 400, "invalid_query", "at most 60s"),
        ("/v1/collections/c/%FF", 400, "invalid_path", "UTF-8"),
        ("/v1/collections/c?limit=0", 400, "invalid_query", "1 to 1000"),
        ("/v1/collections/c?limit=1001", 400, "invalid_query", "1 to 1000"),
        ("/v1/collections/c?x=1", 400, "invalid_query", "unknown field `x`"),
        ("/v1/collections/c?timeout=5", 400, "invalid_query", "5s, 500ms"),
        ("/v1/collections?x=1", 400, "invalid_query", "unknown field `x`"),
        ("/v1/status?x=1", 400, "invalid_query", "unknown field `x`"),
        ("/v1/digest?recompute=maybe", 400, "invalid_query", "recompute"),
        ("/v1/collections/c/k?at_least=9223372036854775808", 400, "invalid_query", "at most"),
        ("/v1/log", 400, "invalid_query", "after"),
        ("/v1/log?after=18446744073709551615", 400, "invalid_query", "at most"),
        ("/v1/snapshot?after=1", 400, "invalid_query", "unknown field `after`"),
        ("/v1/snapshots", 404, "not_found", "/v1/snapshots"),
    ] {
        let answer = node.get(path).await;
        assert_eq!(answer.code(), (status, json!(code)), "{path}");
        let text = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(text.contains(message), "{path}: {text}");
    }
    let request = Request::put("/v1/collections/c/k").body(Body::from("1")).unwrap();
    let response = node.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_diverged_node_answers_reads_and_gives_its_peers_nothing_that_is_known_to_be_wrong() {
    let mut node = Node::new();
    node.apply(&[put("users", "42", "1")]);
    let position = node.history.position;
    let differs = Halt::RowsDiffer { last: 1, own: Digest::default(), other: Digest::default() };
    let forked = Halt::Diverged { own: position, other: ChainHash::genesis("another") };
    let given_up = Halt::GivenUp { own: position, cut: Cut { epoch: 9, last: 0 } };
    for (halt, log, snapshot) in [
        (differs, 200, (503, json!("diverged"))),
        (forked, 503, (503, json!("diverged"))),
        (given_up, 200, (410, json!("given_up"))),
    ] {
        node.status.send_modify(|status| {
            status.state = NodeState::Diverged;
            status.divergence = Some(Divergence::Contradicted(halt));
            status.rebuilds = 2;
        });
        assert_eq!(node.get("/v1/collections/users/42").await.body, b"1");
        assert_eq!(node.get("/v1/status").await.json()["rebuilds"], 2);
        assert_eq!(node.get("/v1/log?after=0").await.status.as_u16(), log);
        assert_eq!(node.get("/v1/snapshot").await.code(), snapshot);
    }
}

#[tokio::test]
async fn a_wish_to_be_rebuilt_is_answered_by_whoever_rebuilds_and_refused_where_that_is_no_use() {
    let mut node = Node::new();
    let ask = async |node: &Node| node.ask(Request::post("/v1/rebuild")).await;
    assert_eq!(ask(&node).await.code(), (409, json!("not_rebuilt")), "there is nothing yet");
    node.apply(&[put("c", "k", "1")]);
    for (answer, expected) in [
        (Some(Ok(Rebuilt { position: 1, rows: 1, digest: Digest::default() })), (200, json!(null))),
        (Some(Err("no peer has 1".to_owned())), (409, json!("not_rebuilt"))),
        (None, (503, json!("stopping"))),
    ] {
        let router = node.router.clone();
        let asking = tokio::spawn(router.oneshot(Request::post("/v1/rebuild").body(Body::empty()).unwrap()));
        let Found::Asked(request) = node.findings.next(0).await else { panic!("another finding") };
        assert!(request.is_wanted());
        match answer {
            Some(answer) => request.answer(answer),
            None => drop(request),
        }
        let response = asking.await.unwrap().unwrap();
        let status = response.status().as_u16();
        let body: Value =
            serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap();
        assert_eq!((status, body["error"]["code"].clone()), expected, "{body}");
        let is_told = if status == 200 { body["node"] == 7 } else { body["error"]["message"].is_string() };
        assert!(is_told, "{body}");
    }
    for (state, rebuilding) in
        [(NodeState::Diverged, false), (NodeState::Failing, false), (NodeState::Ready, true)]
    {
        node.status.send_modify(|status| (status.state, status.rebuilding) = (state, rebuilding));
        assert_eq!(ask(&node).await.code(), (409, json!("not_rebuilt")), "{state:?} {rebuilding}");
    }
    assert_eq!(node.get("/v1/snapshot").await.code(), (503, json!("rebuilding")), "a peer may be itself");
}

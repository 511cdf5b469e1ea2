use axum::body::to_bytes;
use axum::http::{Request, StatusCode};
use broadcast_protocol::names::NodeId;
use broadcast_service::clock::unix_milliseconds;
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::sync::watch;
use tower::ServiceExt;

use super::*;
use crate::http::api_router;
use crate::scrub::Findings;
use crate::status::Status;
use crate::store::Store;
use crate::testing::{CLUSTER, History, put};

/// How long something may take that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A node with more rows than fit into the chunks that wait to be sent.
fn large_node() -> (TempDir, Store, Api) {
    let directory = TempDir::new().unwrap();
    let mut store = Store::open(directory.path(), CLUSTER, 1 << 20).unwrap();
    let mut history = History::default();
    // Not to be compressed away.
    let noise = |seed: u64| {
        let mut state = seed;
        let digits = (0..12_500).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{:016x}", state ^ (state >> 29))
        });
        format!("\"{}\"", digits.collect::<String>())
    };
    let writes: Vec<String> = (0..20).map(|key| put("c", &key.to_string(), &noise(key))).collect();
    store.apply(&[history.message(&writes)]).unwrap();
    let (_, status) = watch::channel(Status::starting(store.committed().unwrap(), unix_milliseconds()));
    let mut api = Api::new(NodeId::new(7).unwrap(), status, store.readers(), Findings::channel().0);
    api.snapshots.stall_deadline = Duration::from_millis(50);
    (directory, store, api)
}

async fn get(api: &Api) -> Response {
    let request = Request::get("/v1/snapshot").body(Body::empty()).unwrap();
    api_router(api.clone()).oneshot(request).await.unwrap()
}

async fn wait_for_turn(api: &Api) {
    drop(tokio::time::timeout(DEADLINE, api.snapshots.turn.acquire()).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_snapshot_is_what_another_database_becomes_equal_by() {
    let (_directory, store, api) = large_node();
    let answer = get(&api).await;
    assert_eq!(answer.headers()["content-type"], "application/x-lz4");
    let body = to_bytes(answer.into_body(), 1 << 26).await.unwrap();
    let empty = TempDir::new().unwrap();
    let mut other = Store::open(empty.path(), CLUSTER, 0).unwrap();
    assert_eq!(other.install(body.as_ref()).unwrap(), store.committed().unwrap());
}

#[tokio::test]
async fn one_snapshot_is_sent_at_a_time() {
    let (_directory, _store, api) = large_node();
    let first = get(&api).await;
    let second = get(&api).await;
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(second.headers()["retry-after"], "5");
    drop(first);
    wait_for_turn(&api).await;
    assert_eq!(get(&api).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_receiver_that_stalls_loses_its_snapshot_and_is_told() {
    let (_directory, _store, api) = large_node();
    let stalled = get(&api).await;
    wait_for_turn(&api).await;
    let mut chunks = stalled.into_body().into_data_stream();
    let mut last = chunks.next().await.unwrap();
    while let Some(next) = chunks.next().await {
        last = next;
    }
    assert!(last.unwrap_err().to_string().contains("took nothing for 50ms"));
}

#[tokio::test]
async fn a_database_that_cannot_be_read_is_said_at_once() {
    let (directory, store, api) = large_node();
    drop(store);
    let path = directory.path().join(crate::store::FILE_NAME);
    std::fs::write(&path, "no database".repeat(1000)).unwrap();
    assert_eq!(get(&api).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

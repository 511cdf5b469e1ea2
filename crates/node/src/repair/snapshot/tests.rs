use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::get;
use futures_util::{StreamExt, stream};
use tempfile::TempDir;
use tokio::net::TcpListener;

use broadcast_protocol::chain::Position;

use super::*;
use crate::store::Store;
use crate::testing::{CLUSTER, History, put};

/// What a peer does after its last byte.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    End,
    Stall,
}

/// A peer on loopback that sends this for a snapshot.
async fn peer(status: u16, body: Vec<u8>, then: Then) -> String {
    let answer = async move || {
        let pieces: Vec<_> = body.chunks(1000).map(Bytes::copy_from_slice).collect();
        let pieces = stream::iter(pieces).map(Ok::<_, io::Error>);
        let body = match then {
            Then::End => Body::from_stream(pieces),
            Then::Stall => Body::from_stream(pieces.chain(stream::pending())),
        };
        (StatusCode::from_u16(status).unwrap(), body)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/snapshot", get(answer));
    tokio::spawn(async { axum::serve(listener, router).await });
    url
}

fn peers(urls: &[&str]) -> Peers {
    let urls = urls.iter().map(|url| (*url).to_owned()).collect();
    let mut peers = Peers::new(CLUSTER, urls, broadcast_service::http::http_client().unwrap());
    peers.chunk_deadline = Duration::from_millis(500);
    peers
}

/// A database of so many rows.
fn store(cluster: &str, rows: u64) -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let mut store = Store::open(directory.path(), cluster, 1 << 20).unwrap();
    if cluster == CLUSTER && rows > 0 {
        let writes: Vec<String> =
            (0..rows).map(|key| put("c", &format!("{key:05}"), &format!("\"{key}\""))).collect();
        store.apply(&[History::default().message(&writes)]).unwrap();
    }
    (directory, store)
}

fn snapshot(cluster: &str, rows: u64) -> Vec<u8> {
    store(cluster, rows).1.readers().write_snapshot(Vec::new()).unwrap()
}

async fn install(peers: &Peers, joiner: &Arc<Mutex<Store>>) -> Result<Committed, RebuildError> {
    install_but_for(peers, joiner, Vec::new()).await
}

async fn install_but_for(
    peers: &Peers,
    joiner: &Arc<Mutex<Store>>,
    but_for: Vec<(String, PeerError)>,
) -> Result<Committed, RebuildError> {
    // Also of one that is another process's.
    let after = joiner.lock().unwrap().committed().map_or(0, |committed| committed.applied.position.last);
    let wanted = Wanted { after, cut: Cut::default() };
    let install = |snapshot: PeerSnapshot| {
        let joiner = Arc::clone(joiner);
        async move {
            let source = snapshot.into_source();
            let install = move || joiner.lock().unwrap().install(source);
            tokio::task::spawn_blocking(install).await.unwrap()
        }
    };
    peers.install_snapshot(wanted, but_for, install).await
}

#[tokio::test]
async fn a_peer_that_sends_a_bad_snapshot_is_refused_and_the_next_one_is_asked() {
    let good = snapshot(CLUSTER, 5_000);
    let mut corrupt = good.clone();
    corrupt[good.len() / 2] ^= 1;
    let truncated = good[..good.len() - 100].to_vec();
    let in_the_header = good[..20].to_vec();
    let helpful = peer(200, good, Then::End).await;
    let bad = [
        (200, truncated.clone(), Then::End, "refused: line"),
        (200, corrupt, Then::End, "sent a snapshot that is refused"),
        (200, in_the_header.clone(), Then::End, "the snapshot breaks off"),
        (200, truncated, Then::Stall, "not within 500ms"),
        (200, in_the_header, Then::Stall, "not within 500ms"),
        (200, snapshot("other", 0), Then::End, "snapshot of cluster \"other\", not of \"test\""),
        (200, snapshot(CLUSTER, 10), Then::End, "has nothing newer"),
        (200, b"certainly no snapshot".to_vec(), Then::End, "line 1 of the snapshot cannot be read"),
        (503, b"{}".to_vec(), Then::End, "answers 503"),
        (410, Vec::new(), Then::End, "no longer reaches back"),
    ];
    for (status, body, then, problem) in bad {
        let url = peer(status, body, then).await;
        let (_directory, joiner) = store(CLUSTER, 20);
        let before = joiner.readers().write_snapshot(Vec::new()).unwrap();
        let joiner = Arc::new(Mutex::new(joiner));
        let error = install(&peers(&[&url]), &joiner).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("no peer has 21 ({url} ")), "{error}");
        assert!(error.contains(problem), "{error}\n{problem}");
        let after = joiner.lock().unwrap().readers().write_snapshot(Vec::new()).unwrap();
        assert_eq!(after, before, "{problem}");
        let committed = install(&peers(&["http://127.0.0.1:1", &url, &helpful]), &joiner).await.unwrap();
        assert_eq!(committed, store(CLUSTER, 5_000).1.committed().unwrap(), "{problem}");
    }
}

#[tokio::test]
async fn a_database_that_fails_is_not_the_peers_fault() {
    let helpful = peer(200, snapshot(CLUSTER, 10), Then::End).await;
    let (directory, joiner) = store(CLUSTER, 0);
    let _other = Store::open(directory.path(), CLUSTER, 0).unwrap();
    let error = install(&peers(&[&helpful, &helpful]), &Arc::new(Mutex::new(joiner))).await.unwrap_err();
    assert!(matches!(error, RebuildError::Store(StoreError::TakenOver { .. })), "{error}");
}

#[tokio::test]
async fn whoever_tells_of_another_history_is_not_asked_for_its_rows() {
    let other = peer(200, snapshot(CLUSTER, 10), Then::End).await;
    let told = PeerError::BrokenLink(Position::genesis(CLUSTER));
    let logs = NoHelp {
        missing: 1,
        tried: vec![(other.clone(), told), ("http://gone".to_owned(), PeerError::Gone)],
    };
    let joiner = Arc::new(Mutex::new(store(CLUSTER, 0).1));
    let refused = install_but_for(&peers(&[&other]), &joiner, logs.of_other_history()).await.unwrap_err();
    assert!(refused.to_string().contains("has another history"), "{refused}");
    assert_eq!(install(&peers(&[&other]), &joiner).await.unwrap().applied.position.last, 10);
}

//! What the tests of several modules make their histories of, and the peers that have them.

use broadcast_protocol::chain::Position;
use broadcast_protocol::envelope::{Term, WriteMessage};
use broadcast_protocol::names::NodeId;
use broadcast_protocol::replica::Change;
use broadcast_protocol::write::{Write, WriteBatch};
use broadcast_service::admin::Readiness;
use broadcast_service::clock::unix_milliseconds;
use broadcast_service::http::http_client;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::http::{Api, api_router};
use crate::metrics::Metrics;
use crate::repair::Peers;
use crate::scrub::Findings;
use crate::status::Status;
use crate::store::{AppliedBatch, Committed, Store, StoreError};

pub(crate) const CLUSTER: &str = "test";

/// The cluster's history, continued message by message.
pub(crate) struct History {
    pub(crate) position: Position,
    pub(crate) epoch: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { position: Position::genesis(CLUSTER), epoch: 1 }
    }
}

impl History {
    /// The next message: each write is its JSON.
    pub(crate) fn message<S: AsRef<str>>(&mut self, writes: &[S]) -> WriteMessage {
        let mut batch = WriteBatch::default();
        for write in writes {
            batch.push(&Write::parse(write.as_ref(), "write").unwrap());
        }
        let message = WriteMessage::new(CLUSTER, Term::new(self.epoch, 1), self.position, 1_000, batch);
        self.position = message.position;
        message
    }

    /// `count` messages of one put each, to different keys.
    pub(crate) fn puts(&mut self, count: u64) -> Vec<WriteMessage> {
        (0..count)
            .map(|_| self.message(&[put("c", &format!("{:04}", self.position.last + 1), "1")]))
            .collect()
    }
}

pub(crate) fn put(collection: &str, key: &str, value: &str) -> String {
    format!(r#"{{"op":"put","collection":"{collection}","key":"{key}","value":{value}}}"#)
}

pub(crate) fn put_with_id(collection: &str, key: &str, value: &str, id: &str) -> String {
    with(&put(collection, key, value), "id", &format!("\"{id}\""))
}

pub(crate) fn delete(collection: &str, key: &str) -> String {
    format!(r#"{{"op":"delete","collection":"{collection}","key":"{key}"}}"#)
}

/// A write with one field more.
pub(crate) fn with(write: &str, field: &str, json: &str) -> String {
    let fields = write.strip_suffix('}').unwrap_or(write);
    format!(r#"{fields},"{field}":{json}}}"#)
}

impl Store {
    /// Applies messages in one transaction.
    pub(crate) fn apply(&mut self, messages: &[WriteMessage]) -> Result<AppliedBatch, StoreError> {
        self.change(&messages.iter().cloned().map(Change::Apply).collect::<Vec<_>>())
    }
}

/// A node that others ask, on loopback.
pub(crate) struct Peer {
    pub(crate) url: String,
    pub(crate) committed: Committed,
    pub(crate) history: History,
    store: Store,
    _directory: TempDir,
}

impl Peer {
    /// One that has applied so many writes, and keeps no log of them.
    pub(crate) async fn start(writes: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let store = Store::open(directory.path(), CLUSTER, 0).unwrap();
        let committed = store.committed().unwrap();
        let (_, status) = watch::channel(Status::starting(committed, unix_milliseconds()));
        let api = Api::new(NodeId::new(9).unwrap(), status, store.readers(), Findings::channel().0);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, api_router(api)).await });
        let mut peer = Self { url, committed, history: History::default(), store, _directory: directory };
        peer.apply(writes);
        peer
    }

    /// Lets it apply more.
    pub(crate) fn apply(&mut self, writes: u64) {
        let messages = self.history.puts(writes);
        self.apply_messages(&messages);
    }

    /// Lets it apply these.
    pub(crate) fn apply_messages(&mut self, messages: &[WriteMessage]) {
        self.committed = self.store.apply(messages).unwrap().committed;
    }
}

pub(crate) fn peers(urls: &[&str]) -> Peers {
    Peers::new(CLUSTER, urls.iter().map(|url| (*url).to_owned()).collect(), http_client().unwrap())
}

pub(crate) fn metrics() -> Metrics {
    let (_, status) = watch::channel(Status::starting(Committed::nothing(CLUSTER), 0));
    let (_, ready) = watch::channel(Readiness::Ready);
    Metrics::register(&mut Registry::default(), status, ready)
}

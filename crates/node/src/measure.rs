//! Parts of a node that need no broker, for measurements: what a snapshot costs its donor and its joiner, and what writes cost on their
//! way.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broadcast_protocol::chain::Position;
use broadcast_protocol::envelope::{Link, Message, Term, WriteMessage};
use broadcast_protocol::names::NodeId;
use broadcast_protocol::replica::Change;
use broadcast_protocol::write::{self, Write, WriteBatch};
use broadcast_service::clock::unix_milliseconds;
use broadcast_service::http::{http_client, serve};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http::{Api, api_router};
use crate::repair::{PeerSnapshot, Peers, Wanted};
use crate::scrub::Findings;
use crate::status::Status;
use crate::store::{InstallError, Store, StoreError};

const CLUSTER: &str = "measured";
const LOG_BYTES: u64 = 64 << 20;
const WRITES_IN_A_MESSAGE: u64 = 1_000;

/// Why something could not be measured.
pub type MeasureError = Box<dyn Error + Send + Sync>;

/// Fills a database with as many rows of 100 bytes, each of a write with a request id of its own if wanted, in
/// transactions of one message. Keys come in no order.
pub fn fill(directory: &Path, rows: u64, with_ids: bool) -> Result<(), MeasureError> {
    let mut database = Database::open(directory)?;
    let mut position = Position::genesis(CLUSTER);
    while position.last < rows {
        let message = build_message(position, WRITES_IN_A_MESSAGE.min(rows - position.last), with_ids)?;
        position = message.position;
        database.apply([message])?;
    }
    Ok(())
}

/// The first messages of a history, of 1,000 writes each, decoded as a node has them when it applies them.
pub fn build_messages(count: usize) -> Result<Vec<WriteMessage>, MeasureError> {
    let mut position = Position::genesis(CLUSTER);
    let mut messages = Vec::new();
    for _ in 0..count {
        let message = build_message(position, WRITES_IN_A_MESSAGE, false)?;
        position = message.position;
        let Message::Link(Link::Write(message)) = decode(message.body())? else {
            return Err("a message of writes is none".into());
        };
        messages.push(message);
    }
    Ok(messages)
}

/// What a heart makes of a request to write at the beginning of a history.
pub fn encode(request: &[u8]) -> Result<WriteMessage, MeasureError> {
    let mut batch = WriteBatch::default();
    for write in write::parse_request(request)? {
        batch.push(&write);
    }
    Ok(WriteMessage::new(CLUSTER, Term::new(1, 1), Position::genesis(CLUSTER), unix_milliseconds(), batch))
}

/// Decodes and verifies a message.
pub fn decode(body: &Bytes) -> Result<Message, MeasureError> {
    Ok(Message::decode(CLUSTER, body)?)
}

/// A request of 1,000 writes.
pub fn build_request() -> Vec<u8> {
    let writes: Vec<String> = (0..WRITES_IN_A_MESSAGE).map(|seq| build_write(seq, false)).collect();
    format!(r#"{{"writes":[{}]}}"#, writes.join(",")).into_bytes()
}

fn build_message(after: Position, writes: u64, with_ids: bool) -> Result<WriteMessage, MeasureError> {
    let mut batch = WriteBatch::default();
    for seq in after.last..after.last + writes {
        batch.push(&Write::parse(&build_write(seq, with_ids), "write")?);
    }
    Ok(WriteMessage::new(CLUSTER, Term::new(1, 1), after, unix_milliseconds(), batch))
}

/// A database that takes messages.
#[derive(Debug)]
pub struct Database(Store);

impl Database {
    /// Opens it.
    pub fn open(directory: &Path) -> Result<Self, MeasureError> {
        Ok(Self(Store::open(directory, CLUSTER, LOG_BYTES)?))
    }

    /// Applies the next messages in one transaction.
    pub fn apply(&mut self, messages: impl IntoIterator<Item = WriteMessage>) -> Result<(), MeasureError> {
        self.0.change(&messages.into_iter().map(Change::Apply).collect::<Vec<_>>())?;
        Ok(())
    }
}

fn build_write(seq: u64, with_ids: bool) -> String {
    // Odd, so that no two sequence numbers have one key.
    let noise = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let id = if with_ids { format!(r#","id":"{noise:016x}-{seq:016x}""#) } else { String::new() };
    let text = format!("{noise:016x}").repeat(4);
    format!(r#"{{"op":"put","collection":"c","key":"{noise:016x}","value":{{"text":"{text}"}}{id}}}"#)
}

/// Serves a database to peers until the shutdown.
pub async fn donate(
    directory: &Path,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), MeasureError> {
    let store = Store::open(directory, CLUSTER, LOG_BYTES)?;
    let (_, status) = watch::channel(Status::starting(store.committed()?, unix_milliseconds()));
    let api = Api::new(NodeId::new(1).ok_or("1 is an id")?, status, store.readers(), Findings::channel().0);
    Ok(serve(listener, api_router(api), shutdown, Duration::ZERO).await?)
}

/// A database that can take over a peer's.
#[derive(Debug, Clone)]
pub struct Joiner(Arc<Mutex<Store>>);

impl Joiner {
    /// Opens the database.
    pub fn open(directory: &Path) -> Result<Self, MeasureError> {
        Ok(Self(Arc::new(Mutex::new(Store::open(directory, CLUSTER, LOG_BYTES)?))))
    }

    /// Takes the peer's snapshot and returns how many rows there are.
    pub async fn join(&self, peer: String) -> Result<u64, MeasureError> {
        let peers = Peers::new(CLUSTER, vec![peer], http_client()?);
        let install = |snapshot: PeerSnapshot| {
            let store = Arc::clone(&self.0);
            async move {
                let source = snapshot.into_source();
                let install = move || store.lock().unwrap_or_else(PoisonError::into_inner).install(source);
                let installed = tokio::task::spawn_blocking(install).await;
                installed.unwrap_or(Err(InstallError::Store(StoreError::Stopping)))
            }
        };
        Ok(peers.install_snapshot(Wanted::default(), Vec::new(), install).await?.rows)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_is_measured_is_the_way_of_a_write() {
        let request = encode(&build_request()).unwrap();
        let messages = build_messages(2).unwrap();
        assert_eq!(request.position, messages[0].position);
        decode(messages[1].body()).unwrap();
        let folder = TempDir::new().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        for message in messages {
            database.apply([message]).unwrap();
        }
        assert_eq!(database.0.committed().unwrap().rows, 2_000);
    }

    #[tokio::test]
    async fn a_joiner_becomes_what_its_donor_is_over_the_network() {
        for with_ids in [false, true] {
            let (full, empty) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            fill(full.path(), 2_500, with_ids).unwrap();
            let expected = Store::open(full.path(), CLUSTER, LOG_BYTES).unwrap().committed().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let shutdown = CancellationToken::new();
            let (path, token) = (full.path().to_owned(), shutdown.clone());
            let donor = tokio::spawn(async move { donate(&path, listener, token).await });
            let joiner = Joiner::open(empty.path()).unwrap();
            assert_eq!(joiner.join(url).await.unwrap(), 2_500);
            assert_eq!(joiner.0.lock().unwrap().committed().unwrap(), expected);
            shutdown.cancel();
            donor.await.unwrap().unwrap();
        }
    }
}

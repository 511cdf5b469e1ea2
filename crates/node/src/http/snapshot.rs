//! The whole database for a peer: of one position, in bounded memory, and never for one that does not take it.
//!
//! One at a time: reading all rows keeps the write-ahead log from being cut. For the same reason a peer that takes
//! nothing for a while loses its snapshot; the broken-off answer says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use broadcast_service::http::{ApiError, StrictQuery};
use futures_util::stream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::{Api, NoQuery, refuse_read};
use crate::store::{ReadError, Readers, SendSnapshotError};

/// How much is sent at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How many chunks wait to be sent.
const CHUNKS_AHEAD: usize = 4;

/// How long a peer may take nothing.
const STALL_DEADLINE: Duration = Duration::from_secs(30);

/// When to ask again while somebody else gets one.
const RETRY: Duration = Duration::from_secs(5);

/// Gives snapshots away.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotDesk {
    turn: Arc<Semaphore>,
    pub(super) stall_deadline: Duration,
}

impl Default for SnapshotDesk {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), stall_deadline: STALL_DEADLINE }
    }
}

pub(super) async fn answer_snapshot(
    State(api): State<Api>,
    StrictQuery(NoQuery {}): StrictQuery<NoQuery>,
) -> Result<Response, ApiError> {
    api.refuse_if_diverged(|_| true)?;
    if api.status.borrow().rebuilding {
        // It asks all its peers, and one of them is itself.
        let message = "this node is being rebuilt; ask another node, or again later";
        return Err(ApiError::unavailable("rebuilding", message, RETRY));
    }
    let mut chunks = api.snapshots.start(api.readers)?;
    // The first one says whether the database can be read at all.
    let Some(first) = chunks.next().await.map_err(refuse_start)? else {
        return Err(refuse_read(ReadError::Stopping));
    };
    let rest = stream::try_unfold((Some(first), chunks), async |(first, mut chunks)| {
        let chunk = match first {
            Some(first) => Some(first),
            None => {
                chunks.next().await.inspect_err(|error| tracing::warn!(%error, "a snapshot broke off"))?
            }
        };
        Ok::<_, SendSnapshotError>(chunk.map(|chunk| (chunk, (None, chunks))))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-lz4")], Body::from_stream(rest)).into_response())
}

fn refuse_start(error: SendSnapshotError) -> ApiError {
    match error {
        SendSnapshotError::Store(error) => refuse_read(error.into()),
        SendSnapshotError::Send(_) => refuse_read(ReadError::Stopping),
    }
}

impl SnapshotDesk {
    /// Begins to read the database.
    fn start(&self, readers: Readers) -> Result<Chunks, ApiError> {
        let turn = Arc::clone(&self.turn).try_acquire_owned().map_err(|_| {
            let message = "a snapshot is being sent to somebody else; ask another node, or again later";
            ApiError::unavailable("overloaded", message, RETRY)
        })?;
        let (written, read) = mpsc::channel(CHUNKS_AHEAD);
        let writing = tokio::task::spawn_blocking(move || {
            // The next snapshot begins when this one no longer holds the database.
            let _turn = turn;
            readers.write_snapshot(ChunkWriter { chunks: written, buffer: Vec::new() })?.finish()?;
            Ok(())
        });
        let (sent, received) = mpsc::channel(1);
        let passing_on = tokio::spawn(pass_on(read, sent, self.stall_deadline, writing));
        Ok(Chunks { received, passing_on: Some(passing_on) })
    }
}

/// Passes chunks on until there are no more or the receiver stalls. Then the writer cannot go on either.
async fn pass_on(
    mut read: mpsc::Receiver<Bytes>,
    sent: mpsc::Sender<Bytes>,
    stall_deadline: Duration,
    writing: JoinHandle<Result<(), SendSnapshotError>>,
) -> Result<(), SendSnapshotError> {
    while let Some(chunk) = read.recv().await {
        match tokio::time::timeout(stall_deadline, sent.send(chunk)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            Err(_) => {
                let problem = format!("the receiver took nothing for {stall_deadline:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, problem).into());
            }
        }
    }
    writing.await.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}

/// What the peer gets.
struct Chunks {
    received: mpsc::Receiver<Bytes>,
    passing_on: Option<JoinHandle<Result<(), SendSnapshotError>>>,
}

impl Chunks {
    /// The next chunk, or `None` after the last one.
    async fn next(&mut self) -> Result<Option<Bytes>, SendSnapshotError> {
        if let Some(chunk) = self.received.recv().await {
            return Ok(Some(chunk));
        }
        let Some(passing_on) = self.passing_on.take() else { return Ok(None) };
        passing_on.await.unwrap_or_else(|error| Err(io::Error::other(error).into())).map(|()| None)
    }
}

/// Collects what is written into chunks, and waits while the receiver has enough of them.
struct ChunkWriter {
    chunks: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    fn finish(mut self) -> io::Result<()> {
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        let chunk = std::mem::take(&mut self.buffer);
        self.chunks.blocking_send(chunk.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.reserve(CHUNK_BYTES.saturating_sub(self.buffer.len()));
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    /// Only whole chunks are sent.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

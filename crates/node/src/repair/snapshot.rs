//! A peer's whole database, when no log reaches back far enough.
//!
//! A snapshot is read from the network and written to the database at the same time, a few chunks apart. A peer has a
//! deadline for each chunk and none for the whole: how long that takes depends on how much there is. What is wrong
//! with one shows at its end at the latest; then the next peer is asked, and nothing was installed.

use std::io::{self, Read};
use std::time::Duration;

use broadcast_protocol::cut::Cut;
use broadcast_protocol::snapshot::{SnapshotError, SnapshotHeader, SnapshotReader};
use bytes::{Buf, Bytes, BytesMut};
use reqwest::{Response, Url};
use tokio::sync::mpsc;

use super::{NoHelp, PeerError, Peers, name_of, resolve, unreachable};
use crate::store::{Committed, InstallError, StoreError};

/// How long a peer has to begin, and for each chunk.
pub(super) const CHUNK_DEADLINE: Duration = Duration::from_secs(30);

/// How many chunks wait to be written.
const CHUNKS_AHEAD: usize = 4;

/// How much is read until the header is complete, which is the first line of a compressed block.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// Why no snapshot was installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    /// Nobody has one, now.
    #[error(transparent)]
    NoHelp(#[from] NoHelp),
    /// This node's own database failed.
    #[error(transparent)]
    Store(StoreError),
}

/// Which snapshot is wanted; by default any that is of more than nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// One that is further on than this sequence number.
    pub(crate) after: u64,
    /// And of no history that was given up.
    pub(crate) cut: Cut,
}

/// The beginning of a peer's snapshot.
#[derive(Debug)]
pub(crate) struct PeerSnapshot {
    /// The peer.
    pub(crate) peer: String,
    /// What the snapshot is of.
    pub(crate) header: SnapshotHeader,
    begin: Bytes,
    rest: Response,
    chunk_deadline: Duration,
}

impl Peers {
    /// Installs the first peer's snapshot that is wanted, and whole. Those in `tried` are not asked. `install` hands the source of
    /// what it is given to [`crate::store::Store::install`], on a blocking thread.
    pub(crate) async fn install_snapshot<F, I>(
        &self,
        wanted: Wanted,
        mut tried: Vec<(String, PeerError)>,
        install: I,
    ) -> Result<Committed, RebuildError>
    where
        I: Fn(PeerSnapshot) -> F + Send,
        F: Future<Output = Result<Committed, InstallError>> + Send,
    {
        loop {
            let snapshot = self.fetch_snapshot(wanted, &mut tried).await?;
            let peer = snapshot.peer.clone();
            tracing::info!(
                peer,
                position = snapshot.header.last,
                rows = snapshot.header.rows,
                "taking a snapshot"
            );
            match install(snapshot).await {
                Ok(committed) => return Ok(committed),
                Err(InstallError::Store(error)) => return Err(RebuildError::Store(error)),
                Err(InstallError::Snapshot(error)) => tried.push((peer, error.into())),
                Err(InstallError::NotFurtherOn { .. }) => tried.push((peer, PeerError::NothingNewer)),
            }
        }
    }

    /// Opens the snapshot of the first peer that has one which is wanted. `tried` are those that are not
    /// asked (again); whoever cannot help is added.
    pub(crate) async fn fetch_snapshot(
        &self,
        wanted: Wanted,
        tried: &mut Vec<(String, PeerError)>,
    ) -> Result<PeerSnapshot, NoHelp> {
        let is_tried = |tried: &[(String, PeerError)], peer: &str| tried.iter().any(|(name, _)| name == peer);
        for base in self.urls.iter().filter(|base| !is_tried(tried, base)).collect::<Vec<_>>() {
            let addresses = match resolve(base).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    tried.push((base.clone(), error));
                    continue;
                }
            };
            for url in addresses {
                let peer = name_of(&url);
                if is_tried(tried, &peer) {
                    continue;
                }
                let opened = self.open_snapshot(&url, wanted);
                let opened = tokio::time::timeout(self.chunk_deadline, opened).await;
                match opened.unwrap_or_else(|_| Err(PeerError::too_late(self.chunk_deadline))) {
                    Ok(snapshot) => return Ok(snapshot),
                    Err(error) => tried.push((peer, error)),
                }
            }
        }
        Err(NoHelp { missing: wanted.after + 1, tried: tried.clone() })
    }

    async fn open_snapshot(&self, base: &Url, wanted: Wanted) -> Result<PeerSnapshot, PeerError> {
        let url = format!("{}/v1/snapshot", base.as_str().trim_end_matches('/'));
        let mut rest = self.get(&url).await?;
        let mut begin = BytesMut::new();
        let header = loop {
            let Some(chunk) = rest.chunk().await.map_err(unreachable)? else {
                return Err(SnapshotReader::open(&self.cluster, begin.as_ref())
                    .map_or_else(PeerError::from, |_| {
                        PeerError::Unreachable("the snapshot breaks off".to_owned())
                    }));
            };
            begin.extend_from_slice(&chunk);
            match SnapshotReader::open(&self.cluster, begin.as_ref()) {
                Ok(reader) => break reader.header().clone(),
                // The line may not be complete yet.
                Err(SnapshotError::Unreadable { .. }) if begin.len() < MAX_HEADER_BYTES => {}
                Err(error) => return Err(error.into()),
            }
        };
        if header.last <= wanted.after {
            return Err(PeerError::NothingNewer);
        }
        if wanted.cut.gives_up(header.applied().claim()) {
            return Err(PeerError::GivenUp(wanted.cut.last));
        }
        let (peer, begin) = (name_of(base), begin.freeze());
        Ok(PeerSnapshot { peer, header, begin, rest, chunk_deadline: self.chunk_deadline })
    }
}

impl PeerSnapshot {
    /// Goes on reading, a few chunks ahead of whoever reads what is returned.
    pub(crate) fn into_source(self) -> SnapshotSource {
        let (sent, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(pass_on(self.rest, sent, self.chunk_deadline));
        SnapshotSource { current: self.begin, chunks }
    }
}

/// Passes chunks on until the end, the first problem, or until nobody wants them any more.
async fn pass_on(mut rest: Response, sent: mpsc::Sender<Result<Bytes, String>>, deadline: Duration) {
    loop {
        let chunk = tokio::select! {
            () = sent.closed() => return,
            chunk = tokio::time::timeout(deadline, rest.chunk()) => chunk,
        };
        let chunk = match chunk {
            Ok(Ok(Some(chunk))) => Ok(chunk),
            Ok(Ok(None)) => return,
            Ok(Err(error)) => Err(unreachable(error).to_string()),
            Err(_) => Err(PeerError::too_late(deadline).to_string()),
        };
        let is_last = chunk.is_err();
        if sent.send(chunk).await.is_err() || is_last {
            return;
        }
    }
}

/// The bytes of a peer's snapshot, for a blocking thread. Nothing more is read from the peer when it is dropped.
#[derive(Debug)]
pub(crate) struct SnapshotSource {
    current: Bytes,
    chunks: mpsc::Receiver<Result<Bytes, String>>,
}

impl Read for SnapshotSource {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(into.len());
        self.current.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests;

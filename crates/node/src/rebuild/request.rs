//! Rebuilding because somebody asks for it: this node's rows are whole as far as it knows, and stay until others are.
//!
//! Peers are asked once. When none has rows that are as far, nothing has happened, and whoever asked is told what each
//! peer said: the last copy cannot be lost this way.

use broadcast_protocol::digest::Digest;
use broadcast_protocol::report::NodeState;
use broadcast_service::clock::unix_milliseconds;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Place;
use crate::consumer::QueueConsumer;
use crate::repair::{PeerSnapshot, RebuildError, Wanted};
use crate::store::{Committed, InstallError, StoreError};

/// The reason in metrics.
pub(crate) const ASKED: &str = "asked";

/// Somebody's wish that the database be a peer's.
#[derive(Debug)]
pub(crate) struct RebuildRequest {
    answer: oneshot::Sender<Result<Rebuilt, String>>,
}

/// What the database is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Rebuilt {
    /// What its rows are of.
    pub(crate) position: u64,
    /// How many there are.
    pub(crate) rows: u64,
    /// Their digest.
    pub(crate) digest: Digest,
}

impl RebuildRequest {
    /// And where the answer comes: an error says why nothing was changed. Dropped without one, nobody knows.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Result<Rebuilt, String>>) {
        let (answer, answered) = oneshot::channel();
        (Self { answer }, answered)
    }

    /// Says what became of it.
    pub(crate) fn answer(self, answer: Result<Rebuilt, String>) {
        // Whoever asked may be gone.
        let _ = self.answer.send(answer);
    }

    /// Whether somebody still waits for it.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }
}

impl QueueConsumer {
    /// Puts a peer's database in the place of this one, or leaves it as it was. False when the shutdown came first.
    pub(crate) async fn rebuild_as_asked(
        &self,
        request: RebuildRequest,
        shutdown: &CancellationToken,
    ) -> Result<bool, StoreError> {
        tracing::info!("somebody asks for this node to be rebuilt; asking peers for their rows");
        self.status.send_modify(|status| {
            status.rebuilding = true;
            status.fall_behind(unix_milliseconds());
        });
        let Some(rebuilt) = shutdown.run_until_cancelled(self.try_rebuild_as_asked()).await else {
            return Ok(false);
        };
        self.status.send_modify(|status| {
            status.rebuilding = false;
            status.reason = None;
        });
        let answer = match rebuilt {
            Ok(rebuilt) => {
                tracing::info!(position = rebuilt.position, "rebuilt");
                Ok(rebuilt)
            }
            Err(RebuildError::Store(error @ StoreError::TakenOver { .. })) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "not rebuilt");
                Err(error.to_string())
            }
        };
        request.answer(answer);
        Ok(true)
    }

    async fn try_rebuild_as_asked(&self) -> Result<Rebuilt, RebuildError> {
        let (own, cut) = {
            let status = self.status.borrow();
            (status.committed.applied.position, status.knowledge.cut)
        };
        let replace = async |snapshot: PeerSnapshot| {
            let found = snapshot.header.applied().position;
            if found.last == own.last && found != own {
                return Err(InstallError::NotFurtherOn { applied: own.last, found: found.last });
            }
            // It answers reads all the while, but nothing new.
            self.status.send_modify(|status| status.state = NodeState::Bootstrapping);
            self.install(snapshot, Place::Beside).await
        };
        let wanted = Wanted { after: own.last.saturating_sub(1), cut };
        let Committed { applied, rows, digest, .. } =
            self.peers.install_snapshot(wanted, Vec::new(), replace).await?;
        self.count_rebuild(ASKED);
        Ok(Rebuilt { position: applied.position.last, rows, digest })
    }
}

#[cfg(test)]
mod tests;

//! Whole databases from peers: in the place of what no log can continue, and of what is not to be trusted.
//!
//! - A snapshot replaces everything in one transaction, or nothing.
//! - A database that somebody wants rebuilt is put aside only once a peer's stands beside it, whole ([`request`]).
//! - A database that is not to be trusted is put aside only once a peer has begun to send another that is as far. Until
//!   then it is read from, and its log may be the only one that has what the peers miss.
//! - This node tries for ever, ever less often, and says whom it asked and what they answered.

mod request;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use broadcast_protocol::cut::Cut;
use broadcast_protocol::replica::Applied;
use broadcast_protocol::report::NodeState;
use broadcast_service::backoff::Backoff;
use broadcast_service::clock::unix_milliseconds;
use tokio_util::sync::CancellationToken;

pub(crate) use request::{ASKED, RebuildRequest, Rebuilt};

use crate::consumer::QueueConsumer;
use crate::divergence::Divergence;
use crate::outcomes::RecentOutcomes;
use crate::repair::{PeerError, PeerSnapshot, RebuildError, Wanted};
use crate::status::Lag;
use crate::store::{Committed, InstallError, StoreError};

/// A database that lasted for so long was rebuilt well.
const SOUND_AFTER: Duration = Duration::from_mins(1);

/// Between rebuilds that did not last, and between attempts: each may read and write everything.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When to rebuild: at once, unless it was done just now.
#[derive(Debug)]
pub(crate) struct RebuildPace {
    backoff: Backoff,
    rebuilt: Option<Instant>,
}

impl Default for RebuildPace {
    fn default() -> Self {
        Self { backoff: Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE), rebuilt: None }
    }
}

impl RebuildPace {
    fn first_delay(&mut self) -> Duration {
        if self.rebuilt.is_some_and(|at| at.elapsed() < SOUND_AFTER) {
            return self.backoff.next_delay();
        }
        self.backoff.reset();
        Duration::ZERO
    }
}

/// Where a snapshot becomes a database.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the one that is there.
    Here,
    /// Beside it, to take its place.
    Beside,
}

impl QueueConsumer {
    /// Replaces the database with the first peer's snapshot that is wanted; but for some, which are not
    /// asked.
    pub(crate) async fn install_snapshot(
        &self,
        wanted: Wanted,
        but_for: Vec<(String, PeerError)>,
    ) -> Result<Committed, RebuildError> {
        self.peers.install_snapshot(wanted, but_for, |snapshot| self.install(snapshot, Place::Here)).await
    }

    /// Puts the database aside and installs a peer's in its place. False when the shutdown came first.
    pub(crate) async fn rebuild(
        &self,
        divergence: &Divergence,
        pace: &mut RebuildPace,
        shutdown: &CancellationToken,
    ) -> Result<bool, StoreError> {
        tracing::error!(reason = %divergence, "the rows are not to be trusted; asking peers for theirs");
        self.show_diverged(divergence);
        let (own, cut) = {
            let status = self.status.borrow();
            (status.committed.applied, status.knowledge.cut.max(divergence.cut()))
        };
        let is_aside = AtomicBool::new(false);
        let mut delay = pace.first_delay();
        loop {
            let rebuilding = async {
                tokio::time::sleep(delay).await;
                self.try_rebuild(divergence, (own, cut), &is_aside).await
            };
            let Some(rebuilt) = shutdown.run_until_cancelled(rebuilding).await else { return Ok(false) };
            match rebuilt {
                Ok(_) => {
                    pace.rebuilt = Some(Instant::now());
                    self.show_rebuilt();
                    return Ok(true);
                }
                Err(RebuildError::Store(error @ StoreError::TakenOver { .. })) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "cannot rebuild the database");
                    self.show_reason(format!("{divergence}; {error}"));
                    delay = pace.backoff.next_delay();
                }
            }
        }
    }

    async fn try_rebuild(
        &self,
        divergence: &Divergence,
        (own, cut): (Applied, Cut),
        is_aside: &AtomicBool,
    ) -> Result<Committed, RebuildError> {
        // One that is not as far as what counts of this database would take something back.
        let last = own.position.last;
        let counts = if cut.gives_up(own.claim()) { cut.last } else { last };
        if counts == 0 {
            // The history begins anew: nobody has anything that this node needs.
            return self.put_aside(divergence, is_aside).await.map_err(RebuildError::Store);
        }
        let wanted = Wanted { after: counts.saturating_sub(1), cut };
        let install = async |snapshot: PeerSnapshot| {
            if divergence.contradicts(snapshot.header.applied().position) {
                return Err(InstallError::NotFurtherOn { applied: last, found: last });
            }
            if !is_aside.load(Ordering::Relaxed) {
                self.put_aside(divergence, is_aside).await?;
            }
            self.install(snapshot, Place::Here).await
        };
        self.peers.install_snapshot(wanted, Vec::new(), install).await
    }

    async fn put_aside(
        &self,
        divergence: &Divergence,
        is_aside: &AtomicBool,
    ) -> Result<Committed, StoreError> {
        let empty = self.writer.quarantine().await?;
        is_aside.store(true, Ordering::Relaxed);
        self.count_rebuild(divergence.as_str());
        self.show_replaced(empty);
        Ok(empty)
    }

    fn count_rebuild(&self, reason: &'static str) {
        self.metrics.count_rebuild(reason, 1);
        self.status.send_modify(|status| status.rebuilds += 1);
    }

    async fn install(&self, snapshot: PeerSnapshot, place: Place) -> Result<Committed, InstallError> {
        self.show_reason(format!(
            "installing a snapshot from {}: {} rows",
            snapshot.peer, snapshot.header.rows
        ));
        let started = Instant::now();
        let source = snapshot.into_source();
        let installed = match place {
            Place::Here => self.writer.install(source).await,
            Place::Beside => self.writer.replace(source).await,
        };
        match installed {
            Ok(committed) => {
                self.metrics.snapshots_installed.inc();
                self.metrics.snapshot_seconds.observe(started.elapsed().as_secs_f64());
                tracing::info!(
                    position = committed.applied.position.last,
                    rows = committed.rows,
                    "installed"
                );
                self.show_replaced(committed);
                Ok(committed)
            }
            Err(error) => {
                self.metrics.snapshots_failed.inc();
                tracing::warn!(%error, "a snapshot was not installed");
                Err(error)
            }
        }
    }

    fn show_replaced(&self, committed: Committed) {
        self.status.send_modify(|status| {
            status.committed = committed;
            status.outcomes = RecentOutcomes::known_after(committed.applied.position.last);
            status.lag = Lag::Behind { since: committed.at };
        });
    }

    fn show_diverged(&self, divergence: &Divergence) {
        self.status.send_modify(|status| {
            status.state = NodeState::Diverged;
            status.divergence = Some(divergence.clone());
            status.reason = Some(divergence.to_string());
            status.missing = None;
            status.fall_behind(unix_milliseconds());
        });
    }

    fn show_rebuilt(&self) {
        self.status.send_modify(|status| {
            status.state = NodeState::Bootstrapping;
            status.divergence = None;
            status.reason = None;
        });
    }

    fn show_reason(&self, reason: String) {
        self.status.send_modify(|status| status.reason = Some(reason));
    }
}

#[cfg(test)]
mod tests;

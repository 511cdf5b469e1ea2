//! What the node is doing, in one place: the consumer writes it, everything else (reads that wait, readiness, metrics,
//! reports) follows it.

use std::time::Duration;

use broadcast_protocol::chain::Position;
use broadcast_protocol::cut::Cut;
use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::replica;
use broadcast_protocol::report::{Claim, NodeState, Sealed};
use broadcast_service::admin::Readiness;
use broadcast_service::clock::unix_milliseconds;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::divergence::Divergence;
use crate::outcomes::RecentOutcomes;
use crate::store::Committed;

/// How often readiness is looked at: lag grows by itself, so there is no change to wait for.
const READINESS_INTERVAL: Duration = Duration::from_millis(100);

/// How current a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lag {
    /// Connected, and everything that the broker had for it is applied.
    Current,
    /// Everything newer than this may be missing, in milliseconds since the Unix epoch.
    Behind {
        /// When it was current last, or when the last applied message was made.
        since: u64,
    },
}

/// What a session was told by the broker, beyond what is applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Knowledge {
    /// The highest epoch that it has met.
    pub(crate) epoch: u64,
    /// What the history does without, as far as it has met it.
    pub(crate) cut: Cut,
    /// The highest position that is known to be part of the history, when it is not applied.
    pub(crate) shown: Option<Position>,
    /// The newest message that is here and not proven.
    pub(crate) tip: Option<Tip>,
    /// The session's random number, from its first delivery on.
    pub(crate) session: Option<u64>,
    /// The newest seal that it met.
    pub(crate) sealed: Option<Sealed>,
}

/// A message that is here and not proven.
#[derive(Debug, Clone)]
pub(crate) struct Tip {
    /// How far it goes.
    pub(crate) claim: Claim,
    /// Itself, unless it is in the database. Shares its bytes with whoever holds it.
    pub(crate) message: Option<WriteMessage>,
}

impl Tip {
    pub(crate) fn of(tip: replica::Tip<'_>) -> Self {
        Self { claim: tip.claim, message: tip.message.cloned() }
    }
}

/// A position has one content.
impl PartialEq for Tip {
    fn eq(&self, other: &Self) -> bool {
        self.claim == other.claim
    }
}

impl Eq for Tip {}

/// What the node is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// Where its database is.
    pub(crate) committed: Committed,
    /// What the newest session knows beyond that.
    pub(crate) knowledge: Knowledge,
    /// The last write of those applied that somebody waited for.
    pub(crate) awaited: u64,
    /// What became of the newest writes.
    pub(crate) outcomes: RecentOutcomes,
    /// Whether its queue has been bound: what is published from then on waits for it.
    pub(crate) attached: bool,
    /// What it does.
    pub(crate) state: NodeState,
    /// Why its rows are not to be trusted.
    pub(crate) divergence: Option<Divergence>,
    /// Whether its database is about to be replaced by a peer's.
    pub(crate) rebuilding: bool,
    /// Why it is not ready, or not connected.
    pub(crate) reason: Option<String>,
    /// How current it is.
    pub(crate) lag: Lag,
    /// How many writes it knows to be missing.
    pub(crate) lag_writes: u64,
    /// The sequence number that it misses and that nobody whom it asked has.
    pub(crate) missing: Option<u64>,
    /// How often a database was put aside to be rebuilt, since the start.
    pub(crate) rebuilds: u64,
    /// How often its queue was gone and made anew, since the start.
    pub(crate) queues_restored: u64,
    /// How often the queue was bound again because nothing had come out of it, since the start.
    pub(crate) silences: u64,
    /// For how long nothing had come when it was bound again last.
    pub(crate) silence: Duration,
    /// Messages given back to the broker because they could not be applied, since the start.
    pub(crate) failed: u64,
    /// Malformed messages rejected since the start.
    pub(crate) malformed: u64,
}

impl Status {
    /// The status of a node that has opened its database and nothing more.
    pub(crate) fn starting(committed: Committed, now: u64) -> Self {
        let since = if committed.at == 0 { now } else { committed.at };
        Self {
            committed,
            knowledge: Knowledge {
                epoch: committed.applied.epoch,
                cut: committed.applied.cut,
                ..Knowledge::default()
            },
            awaited: 0,
            outcomes: RecentOutcomes::known_after(committed.applied.position.last),
            attached: false,
            state: NodeState::Bootstrapping,
            divergence: None,
            rebuilding: false,
            reason: Some("not connected to the broker yet".to_owned()),
            lag: Lag::Behind { since },
            lag_writes: 0,
            missing: None,
            rebuilds: 0,
            queues_restored: 0,
            silences: 0,
            silence: Duration::ZERO,
            failed: 0,
            malformed: 0,
        }
    }

    /// The last sequence number that is applied.
    pub(crate) fn applied(&self) -> u64 {
        self.committed.applied.position.last
    }

    /// Whether nothing that it knows of is wrong or missing.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == NodeState::Ready
    }

    /// How far behind it is, in seconds.
    pub(crate) fn lag_seconds(&self, now: u64) -> f64 {
        match self.lag {
            Lag::Current => 0.0,
            Lag::Behind { since } => Duration::from_millis(now.saturating_sub(since)).as_secs_f64(),
        }
    }

    /// From now on it may miss something.
    pub(crate) fn fall_behind(&mut self, now: u64) {
        if self.lag == Lag::Current {
            self.lag = Lag::Behind { since: now };
        }
    }

    /// Whether clients should be sent here.
    pub(crate) fn readiness(&self, now: u64, max_lag: Duration) -> Readiness {
        let reason = self.reason.as_deref().unwrap_or("the queue is not drained yet");
        if !self.is_ready() {
            return Readiness::NotReady(format!("{}: {reason}", self.state.as_str()));
        }
        let lag = self.lag_seconds(now);
        if lag > max_lag.as_secs_f64() {
            let allowed = max_lag.as_secs();
            return Readiness::NotReady(format!("{lag:.0} s behind, {allowed} s are allowed: {reason}"));
        }
        Readiness::Ready
    }
}

/// Keeps readiness up to date until the shutdown, which ends it first of all.
pub(crate) async fn publish_readiness(
    status: watch::Receiver<Status>,
    readiness: watch::Sender<Readiness>,
    max_lag: Duration,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        publish(&readiness, status.borrow().readiness(unix_milliseconds(), max_lag));
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(READINESS_INTERVAL) => {}
        }
    }
    publish(&readiness, Readiness::NotReady("stopping".to_owned()));
}

fn publish(readiness: &watch::Sender<Readiness>, new: Readiness) {
    readiness.send_if_modified(|old| {
        if *old == new {
            return false;
        }
        match &new {
            Readiness::Ready => tracing::info!("ready"),
            Readiness::NotReady(reason) if *old == Readiness::Ready => tracing::warn!(%reason, "not ready"),
            Readiness::Standby | Readiness::NotReady(_) => {}
        }
        *old = new;
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_LAG: Duration = Duration::from_mins(1);

    fn status(state: NodeState, lag: Lag) -> Status {
        let starting = Status::starting(Committed::nothing("c"), 0);
        Status { state, lag, reason: Some("because".to_owned()), ..starting }
    }

    #[test]
    fn a_node_is_ready_when_it_has_no_gap_and_its_lag_is_allowed() {
        for (state, lag, reason) in [
            (NodeState::Ready, Lag::Current, None),
            (NodeState::Ready, Lag::Behind { since: 40_000 }, None),
            (NodeState::Ready, Lag::Behind { since: 200_000 }, None),
            (NodeState::Ready, Lag::Behind { since: 39_000 }, Some("61 s behind, 60 s are allowed: because")),
            (NodeState::Bootstrapping, Lag::Current, Some("bootstrapping: because")),
            (NodeState::Repairing, Lag::Current, Some("repairing: because")),
            (NodeState::Failing, Lag::Current, Some("failing: because")),
            (NodeState::Diverged, Lag::Current, Some("diverged: because")),
        ] {
            let expected = reason.map_or(Readiness::Ready, |reason| Readiness::NotReady(reason.to_owned()));
            assert_eq!(status(state, lag).readiness(100_000, MAX_LAG), expected, "{state:?} {lag:?}");
        }
    }

    #[test]
    fn lag_counts_from_when_the_node_was_current_last() {
        let mut status = status(NodeState::Ready, Lag::Current);
        assert!(status.lag_seconds(5_000).abs() < f64::EPSILON);
        status.fall_behind(5_000);
        status.fall_behind(9_000);
        assert!((status.lag_seconds(10_500) - 5.5).abs() < f64::EPSILON);
    }

    #[tokio::test]
    async fn a_shutdown_ends_readiness() {
        let (_sender, watched) = watch::channel(status(NodeState::Ready, Lag::Current));
        let (readiness, mut ready) = watch::channel(Readiness::NotReady("starting".to_owned()));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(publish_readiness(watched, readiness, MAX_LAG, shutdown.clone()));
        ready.wait_for(|ready| *ready == Readiness::Ready).await.unwrap();
        shutdown.cancel();
        task.await.unwrap();
        assert_eq!(*ready.borrow(), Readiness::NotReady("stopping".to_owned()));
    }
}

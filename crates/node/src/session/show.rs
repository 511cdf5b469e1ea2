//! What is shown: the status follows what the replica knows and what the database holds.

use std::time::Instant;

use broadcast_protocol::replica::Standing;
use broadcast_protocol::report::NodeState;
use broadcast_service::clock::unix_milliseconds;

use super::Session;
use crate::repair::NoHelp;
use crate::status::{Knowledge, Lag, Tip};
use crate::store::AppliedBatch;

/// A message that is not older than this shows that the node is current even though more keep coming.
const CURRENT_WITHIN_MILLISECONDS: u64 = 2_000;

impl Session<'_> {
    pub(super) fn show_applied(
        &mut self,
        applied: &AppliedBatch,
        started: Instant,
        (messages, repaired): (u64, u64),
        awaited: bool,
    ) {
        // To keep messages for later is no proof that their rows can be written.
        if messages > 0 {
            self.store_backoff.reset();
            self.store_works = true;
        }
        let metrics = &self.node.metrics;
        metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        metrics.messages_applied.inc_by(messages);
        metrics.messages_repaired.inc_by(repaired);
        let committed = applied.committed;
        let before = self.node.status.borrow().applied();
        metrics.writes_applied.inc_by(committed.applied.position.last.saturating_sub(before));
        let is_fresh = committed.at + CURRENT_WITHIN_MILLISECONDS >= unix_milliseconds();
        self.node.status.send_modify(|status| {
            status.committed = committed;
            if awaited {
                status.awaited = committed.applied.position.last;
            }
            status.outcomes.extend(&applied.rejected);
            let is_current = is_fresh && self.replica.standing() == Standing::Current;
            status.lag = if is_current { Lag::Current } else { Lag::Behind { since: committed.at } };
        });
    }

    pub(super) fn show_standing(&self) {
        let knowledge = self.build_knowledge();
        self.node.status.send_if_modified(|status| {
            let (state, lag_writes) = match self.replica.standing() {
                // A new session of a node that was ready: it stays so until it learns otherwise.
                Standing::Bootstrapping if status.is_ready() => (NodeState::Ready, 0),
                Standing::Bootstrapping => (NodeState::Bootstrapping, 0),
                Standing::Current if !self.store_works => (NodeState::Failing, 0),
                Standing::Current => (NodeState::Ready, 0),
                Standing::Gap { after, shown } => (NodeState::Repairing, shown.saturating_sub(after)),
            };
            if status.state != state && state == NodeState::Repairing {
                self.node.metrics.repairs.inc();
                tracing::warn!(
                    after = status.applied(),
                    missing = lag_writes,
                    "missed a message; asking peers"
                );
                status.fall_behind(unix_milliseconds());
            }
            let keeps_reason = status.state == state && status.reason.is_some();
            let reason = if state == NodeState::Ready || !keeps_reason {
                build_reason(state, status.applied())
            } else {
                status.reason.clone()
            };
            let next = status.applied() + 1;
            let missing = status.missing.filter(|missing| state == NodeState::Repairing && *missing == next);
            let shown = (status.state, status.lag_writes, status.missing, &status.reason, &status.knowledge);
            let changed = shown != (state, lag_writes, missing, &reason, &knowledge);
            (status.state, status.lag_writes, status.missing) = (state, lag_writes, missing);
            (status.reason, status.knowledge) = (reason, knowledge);
            changed
        });
    }

    fn build_knowledge(&self) -> Knowledge {
        Knowledge {
            epoch: self.replica.epoch(),
            cut: self.replica.cut(),
            shown: self.replica.shown(),
            tip: self.replica.tip().map(Tip::of),
            session: (self.next_tag > 0).then_some(self.number),
            sealed: self.replica.sealed(),
        }
    }

    /// What the reason was is over; the next look at the standing says what it is.
    pub(super) fn forget_reason(&self) {
        self.node.status.send_modify(|status| {
            status.reason = None;
            status.missing = None;
        });
    }

    /// `missing` is what nobody has, if everybody could be asked.
    pub(super) fn wait_for_help(&mut self, no_help: &NoHelp, missing: Option<u64>) {
        tracing::warn!(reason = %no_help, "cannot repair");
        self.repair_delay = self.repair_backoff.next_delay();
        self.node.status.send_modify(|status| {
            status.reason = Some(no_help.to_string());
            status.missing = missing.filter(|_| !no_help.is_refused());
        });
    }
}

fn build_reason(state: NodeState, applied: u64) -> Option<String> {
    match state {
        NodeState::Bootstrapping => {
            Some("waits for the first message or mark, which say where the cluster is".to_owned())
        }
        NodeState::Repairing => Some(format!("missed {}; asking peers", applied + 1)),
        NodeState::Failing => Some("the database failed; trying again what could not be written".to_owned()),
        _ => None,
    }
}

//! Tells the active heart where this node is, on a connection of its own: a broker alarm blocks whoever publishes,
//! and must not block the acknowledgements.
//!
//! The newest status wins; a report that is lost costs nothing, the next one follows within a second. The first one says
//! that the node's queue is bound. A heart that seals gets the node's tip itself, before each report that answers a seal
//! with it: neither the heart's inbox nor this connection lasts. Nobody else gets tips, which may be megabytes.

use std::convert::Infallible;
use std::time::Duration;

use broadcast_protocol::names::NodeId;
use broadcast_protocol::report::{Claim, REPORT_KIND, Report, Sealed, TIP_KIND};
use broadcast_service::amqp::{AmqpError, Channel, Connection, Outgoing};
use broadcast_service::amqp_url::{AmqpUrl, AmqpUrlSource};
use broadcast_service::backoff::Backoff;
use broadcast_service::clock::unix_milliseconds;
use broadcast_service::renewal::wait_for_renewal;
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::status::{Status, Tip};
use crate::store::Readers;

/// The shortest time between two reports that nobody waits for: each is a message for the broker.
const BUSY_INTERVAL: Duration = Duration::from_millis(200);

/// The longest.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Sends reports until the shutdown.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) broker: AmqpUrlSource,
    pub(crate) cluster: String,
    pub(crate) node: NodeId,
    pub(crate) heart_queue: String,
    pub(crate) status: watch::Receiver<Status>,
    /// Where messages wait.
    pub(crate) readers: Readers,
}

impl Reporter {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        // The heart takes writes on the strength of a report: none may be earlier than the queue that is to hold them.
        let attached = self.status.wait_for(|status| status.attached);
        if !matches!(shutdown.run_until_cancelled(attached).await, Some(Ok(_))) {
            return;
        }
        let mut backoff = Backoff::between_sessions();
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.hold_session(&mut backoff) => ended,
            };
            let Err(ended) = ended else { continue };
            tracing::debug!(error = %ended, "the connection for reports ended");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// Without an error it ends when it is to be renewed.
    async fn hold_session(&mut self, backoff: &mut Backoff) -> Result<(), AmqpError> {
        let (source, url) = (self.broker.clone(), self.broker.fetch()?);
        let name = format!("node {} reports", self.node);
        let connection = Connection::connect(&url, &name).await?;
        let channel = connection.open_channel().await?;
        tokio::select! {
            Err(error) = self.report(&channel, backoff) => return Err(error),
            () = wait_for_renewal(&source, &url, |url| try_to_connect(url, &name)) => {}
        }
        channel.close().await?;
        connection.close().await
    }

    async fn report(&mut self, channel: &Channel, backoff: &mut Backoff) -> Result<Infallible, AmqpError> {
        let mut told = Told::default();
        loop {
            self.send(channel, &mut told).await?;
            backoff.reset();
            // Whoever waits for what is applied by now, or for an answer to a seal, does not wait for the interval too.
            let mut watched = self.status.clone();
            let awaited = watched
                .wait_for(|status| status.awaited > told.position || status.knowledge.sealed != told.sealed);
            let _ = tokio::time::timeout(BUSY_INTERVAL, awaited).await;
            // An error is a closed sender: the process is stopping, and the caller sees the shutdown.
            let _ = tokio::time::timeout(IDLE_INTERVAL, self.status.changed()).await;
        }
    }

    async fn send(&mut self, channel: &Channel, told: &mut Told) -> Result<(), AmqpError> {
        let (report, tip) = {
            let status = self.status.borrow_and_update();
            let report = build_report(&self.cluster, self.node, &status, told.position);
            (report, plan_tip(&status, told.testimony.as_ref()))
        };
        if let Some((testimony, tip)) = tip
            && let Some(body) = self.find_body(tip).await
        {
            self.send_one(channel, TIP_KIND, &body).await?;
            told.testimony = Some(testimony);
        }
        // A struct of strings and numbers always encodes.
        self.send_one(channel, REPORT_KIND, &serde_json::to_vec(&report).unwrap_or_default()).await?;
        (told.position, told.sealed) = (report.applied.last, report.sealed);
        Ok(())
    }

    /// Nothing when the message waits no longer: the next report names another tip.
    async fn find_body(&self, tip: Tip) -> Option<Bytes> {
        if let Some(message) = tip.message {
            return Some(message.body().clone());
        }
        let found = self.readers.read(move |reader| reader.kept_body(tip.claim.position)).await;
        found
            .inspect_err(|error| tracing::warn!(%error, "cannot read the message that waits"))
            .ok()?
            .map(Bytes::from)
    }

    async fn send_one(&self, channel: &Channel, kind: &str, body: &[u8]) -> Result<(), AmqpError> {
        let app_id = self.node.to_string();
        let message =
            Outgoing { routing_key: &self.heart_queue, kind, app_id: &app_id, body, ..Outgoing::default() };
        channel.send(&message).await
    }
}

/// Whether the broker lets this node in.
async fn try_to_connect(url: AmqpUrl, name: &str) -> Result<(), AmqpError> {
    Connection::connect(&url, name).await?.close().await
}

/// What the heart was told on this connection.
#[derive(Debug, Default)]
struct Told {
    testimony: Option<Testimony>,
    /// The position of the last report.
    position: u64,
    /// The seal that the last report answered.
    sealed: Option<Sealed>,
}

/// A tip, named in the answer to a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Testimony {
    sealed: Sealed,
    tip: Claim,
}

/// The tip to send before the next report, unless the heart has been told it in answer to the same seal.
fn plan_tip(status: &Status, told: Option<&Testimony>) -> Option<(Testimony, Tip)> {
    let knowledge = &status.knowledge;
    let (sealed, tip) = (knowledge.sealed?, knowledge.tip.as_ref()?);
    let testimony = Testimony { sealed, tip: tip.claim };
    (told != Some(&testimony)).then(|| (testimony, tip.clone()))
}

/// `told` is the position of the report before.
fn build_report(cluster: &str, node: NodeId, status: &Status, told: u64) -> Report {
    let knowledge = &status.knowledge;
    Report {
        cluster: cluster.to_owned(),
        node,
        state: status.state,
        applied: status.committed.applied.position,
        applied_epoch: status.committed.applied.epoch,
        epoch: knowledge.epoch,
        cut: knowledge.cut,
        shown: knowledge.shown,
        tip: knowledge.tip.as_ref().map(|tip| tip.claim),
        session: knowledge.session,
        sealed: knowledge.sealed,
        missing: status.missing,
        outcomes: Some(status.outcomes.build_outcomes(told)),
        digest: status.committed.digest,
        rows: status.committed.rows,
        lag_seconds: status.lag_seconds(unix_milliseconds()),
        failed: status.failed,
        malformed: status.malformed,
        rebuilds: status.rebuilds,
        queues_restored: status.queues_restored,
        silences: status.silences,
        silent_seconds: status.silence.as_secs_f64(),
        reason: status.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use broadcast_protocol::envelope::WriteMessage;
    use broadcast_protocol::outcome::{Rejected, Rejection};
    use broadcast_protocol::replica::Replica;

    use super::*;
    use crate::status::Knowledge;
    use crate::store::Committed;
    use crate::testing::{CLUSTER, History};

    fn node() -> NodeId {
        NodeId::new(3).unwrap()
    }

    fn claim(message: &WriteMessage) -> Claim {
        Claim::new(message.term, message.position)
    }

    fn status(knowledge: Knowledge) -> Status {
        Status { knowledge, ..Status::starting(Committed::nothing(CLUSTER), 0) }
    }

    #[test]
    fn a_report_says_what_is_known_beyond_what_is_applied() {
        let mut history = History { epoch: 7, ..History::default() };
        let messages = history.puts(2);
        let mut replica = Replica::new(CLUSTER, Committed::nothing(CLUSTER).applied, [], 0);
        assert!(replica.receive(0, messages[1].body()).is_empty(), "it waits for the one before");
        let knowledge = Knowledge {
            epoch: replica.epoch(),
            cut: replica.cut(),
            shown: replica.shown(),
            tip: replica.tip().map(Tip::of),
            session: Some(5),
            sealed: Some(Sealed { nonce: 1, number: 2 }),
        };
        let mut status = status(knowledge);
        status.missing = Some(1);
        status.outcomes.extend(&[Rejected { seq: 4, reason: Rejection::IdReused }]);
        let report = build_report(CLUSTER, node(), &status, 0);
        assert_eq!((report.epoch, report.applied.last, report.missing), (7, 0, Some(1)));
        assert_eq!(report.shown, Some(messages[0].position));
        assert_eq!(report.tip, Some(claim(&messages[1])));
        assert_eq!((report.session, report.sealed), (Some(5), Some(Sealed { nonce: 1, number: 2 })));
        let outcomes = report.outcomes.unwrap();
        assert_eq!((outcomes.after, outcomes.rejected.len()), (0, 1));
    }

    #[test]
    fn a_tip_is_sent_once_in_answer_to_each_seal_and_never_without_one() {
        let mut history = History::default();
        let (first, second) = (history.puts(1).remove(0), history.puts(1).remove(0));
        let seal = |number| Some(Sealed { nonce: 1, number });
        let told = |sealed: Option<Sealed>, tip: &WriteMessage| Testimony {
            sealed: sealed.unwrap(),
            tip: claim(tip),
        };
        let before = told(seal(1), &first);
        for (sealed, tip, before, sends) in [
            (None, Some(&first), None, false),
            (seal(1), None, None, false),
            (seal(1), Some(&first), None, true),
            (seal(1), Some(&first), Some(&before), false),
            (seal(2), Some(&first), Some(&before), true),
            (seal(1), Some(&second), Some(&before), true),
        ] {
            let status = status(Knowledge {
                sealed,
                tip: tip.map(|tip| Tip { claim: claim(tip), message: Some(tip.clone()) }),
                ..Knowledge::default()
            });
            let planned = plan_tip(&status, before);
            assert_eq!(planned.is_some(), sends, "{sealed:?} {tip:?} {before:?}");
            if let (Some((testimony, sent)), Some(tip)) = (planned, tip) {
                assert_eq!((testimony, sent.claim), (told(sealed, tip), claim(tip)));
            }
        }
    }
}

//! Tells the active heart where this node is, on a connection of its own: a broker alarm blocks whoever publishes,
//! and must not block the acknowledgements.
//!
//! The newest status wins; a report that is lost costs nothing, the next one follows within a second. The first one says
//! that the node's queue is bound.

use std::time::Duration;

use broadcast_protocol::names::NodeId;
use broadcast_protocol::report::{REPORT_KIND, Report};
use broadcast_service::amqp::{AmqpError, Channel, Connection, Outgoing};
use broadcast_service::amqp_url::AmqpUrlSource;
use broadcast_service::backoff::Backoff;
use broadcast_service::clock::unix_milliseconds;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::status::Status;

/// The shortest time between two reports.
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

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
                Err(error) = self.report(&mut backoff) => error,
            };
            tracing::debug!(error = %ended, "the connection for reports ended");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    async fn report(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, AmqpError> {
        let name = format!("node {} reports", self.node);
        let connection = Connection::connect(&self.broker.fetch()?, &name).await?;
        let channel = connection.open_channel().await?;
        loop {
            self.send(&channel).await?;
            backoff.reset();
            tokio::time::sleep(BUSY_INTERVAL).await;
            // An error is a closed sender: the process is stopping, and the caller sees the shutdown.
            let _ = tokio::time::timeout(IDLE_INTERVAL, self.status.changed()).await;
        }
    }

    async fn send(&mut self, channel: &Channel) -> Result<(), AmqpError> {
        let report = build_report(&self.cluster, self.node, &self.status.borrow_and_update());
        // A struct of strings and numbers always encodes.
        let body = serde_json::to_vec(&report).unwrap_or_default();
        let message = Outgoing {
            routing_key: &self.heart_queue,
            kind: REPORT_KIND,
            body: &body,
            ..Outgoing::default()
        };
        channel.send(&message).await
    }
}

fn build_report(cluster: &str, node: NodeId, status: &Status) -> Report {
    Report {
        cluster: cluster.to_owned(),
        node,
        state: status.state,
        applied: status.committed.applied.position,
        epoch: status.committed.applied.epoch,
        digest: status.committed.digest,
        rows: status.committed.rows,
        lag_seconds: status.lag_seconds(unix_milliseconds()),
        failed: status.failed,
        malformed: status.malformed,
        reason: status.reason.clone(),
    }
}

//! Consumes the node's queue for ever: one session with the broker after the other, until the shutdown.
//!
//! - A session that is renewed, because the credentials were changed, is followed by the next one at once.
//! - A lost session is followed by a new one, after a delay that grows and has jitter. The replica is made anew from
//!   the database each time: what it believed of unproven messages ends with the deliveries that it was told by.
//! - A database that fails gets everything back to the broker and no session until it can be written to again: no
//!   hot loop of redeliveries. The delay shrinks only once a transaction succeeded.
//! - Rows that are not to be trusted, or not wanted any more, end the session, not reading: the database is rebuilt, then
//!   consuming goes on.
//! - What a node cannot go on from by itself (a newer version's message) ends consuming, not reading.

use std::convert::Infallible;

use broadcast_protocol::config::NodeConfig;
use broadcast_protocol::names::NodeId;
use broadcast_protocol::replica::Replica;
use broadcast_protocol::report::NodeState;
use broadcast_protocol::topology::QueueType;
use broadcast_service::amqp::{AmqpError, Channel, Connection, Consumer};
use broadcast_service::amqp_url::{AmqpUrl, AmqpUrlSource};
use broadcast_service::backoff::Backoff;
use broadcast_service::clock::unix_milliseconds;
use broadcast_service::renewal::wait_for_renewal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::divergence::Divergence;
use crate::metrics::Metrics;
use crate::rebuild::RebuildPace;
use crate::repair::Peers;
use crate::scrub::Findings;
use crate::session::{End, Session};
use crate::status::Status;
use crate::store::StoreError;
use crate::writer::Writer;

/// How many deliveries the broker may have given without an acknowledgement: 16 messages of at most 9 MiB are 144 MiB.
pub(crate) const PREFETCH: u16 = 16;

/// A queue that did not answer so often in a row is made anew.
const REPLACE_AFTER: u32 = 3;

/// Keeps the database up to date with the queue.
#[derive(Debug)]
pub(crate) struct QueueConsumer {
    pub(crate) config: NodeConfig,
    pub(crate) node: NodeId,
    pub(crate) broker: AmqpUrlSource,
    pub(crate) writer: Writer,
    pub(crate) peers: Peers,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) metrics: Metrics,
    /// How many reads wait until something is applied.
    pub(crate) waiting_reads: watch::Receiver<usize>,
}

/// How long to wait before the next of each.
#[derive(Debug)]
struct Delays {
    lost: Backoff,
    failed: Backoff,
    rebuild: RebuildPace,
    /// How often in a row the queue did not answer to its consumer.
    unanswered: u32,
}

impl Default for Delays {
    fn default() -> Self {
        let (lost, failed) = (Backoff::between_sessions(), Backoff::between_sessions());
        Self { lost, failed, rebuild: RebuildPace::default(), unanswered: 0 }
    }
}

impl QueueConsumer {
    /// Runs until the shutdown; the only error is a database that is another process's now.
    pub(crate) async fn run(
        self,
        mut findings: Findings,
        shutdown: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut delays = Delays::default();
        let mut end = self.run_session(&mut findings, &mut delays, &shutdown).await;
        loop {
            let goes_on = match end {
                End::Stopped => {
                    self.status.send_modify(|status| status.fall_behind(unix_milliseconds()));
                    !shutdown.is_cancelled()
                }
                End::Halted(halt) => {
                    tracing::error!(reason = %halt, "stopped consuming");
                    self.show_failing(halt.to_string());
                    shutdown.cancelled().await;
                    false
                }
                End::Diverged(divergence) => {
                    self.rebuild(&divergence, &mut delays.rebuild, &shutdown).await?
                }
                End::Asked(request) => self.rebuild_as_asked(request, &shutdown).await?,
                End::StoreFailed(error) => self.wait_for_store(error, &mut delays, &shutdown).await?,
                End::Lost(error) => {
                    tracing::warn!(%error, reason = error.reason(), "not connected to the broker");
                    self.show_lost(&error);
                    let rebuilds = self.status.borrow().rebuilds;
                    tokio::select! {
                        () = shutdown.cancelled() => false,
                        found = findings.next(rebuilds) => {
                            end = found.into();
                            continue;
                        }
                        () = tokio::time::sleep(delays.lost.next_delay()) => true,
                    }
                }
            };
            if !goes_on {
                return Ok(());
            }
            end = self.run_session(&mut findings, &mut delays, &shutdown).await;
        }
    }

    async fn run_session(
        &self,
        findings: &mut Findings,
        delays: &mut Delays,
        shutdown: &CancellationToken,
    ) -> End {
        let (committed, kept) = match self.writer.load().await {
            Ok(loaded) => loaded,
            Err(error) => return End::StoreFailed(error),
        };
        let url = match self.broker.fetch() {
            Ok(url) => url,
            Err(error) => return End::Lost(error.into()),
        };
        let connecting = self.connect(&url, &mut delays.unanswered);
        let Some(connected) = shutdown.run_until_cancelled(connecting).await else {
            return End::Stopped;
        };
        let (connection, channel, consumer) = match connected {
            Ok(connected) => connected,
            Err(error) => return End::Lost(error),
        };
        delays.lost.reset();
        self.metrics.sessions.inc();
        tracing::info!(applied = committed.applied.position.last, waiting = kept.len(), "consuming");
        let replica = Replica::new(&self.config.cluster, committed.applied, kept, self.config.backlog_bytes);
        let mut session = Session::new(self, (&connection, consumer), replica, &mut delays.failed, findings);
        let stop = shutdown.child_token();
        let renewal = async {
            wait_for_renewal(&self.broker, &url, |url| self.try_to_connect(url)).await;
            stop.cancel();
            std::future::pending::<Infallible>().await
        };
        let end = tokio::select! {
            end = session.run(&stop) => end,
            never = Box::pin(renewal) => match never {},
        };
        // The channel first: to drop the consumer before would cancel it, and another consumer of this queue would
        // start ahead of what is unsettled. An error says that all is closed already.
        let closed = channel.close().await;
        drop(session);
        if closed.is_ok() {
            let _ = connection.close().await;
        }
        end
    }

    async fn connect(
        &self,
        url: &AmqpUrl,
        unanswered: &mut u32,
    ) -> Result<(Connection, Channel, Consumer), AmqpError> {
        let connecting = Connection::connect(url, &format!("node {}", self.node)).await;
        // A broker that was away has begun anew.
        let connection = connecting.inspect_err(|_| *unanswered = 0)?;
        if *unanswered >= REPLACE_AFTER && self.config.queue_type == QueueType::Quorum {
            self.remove_queue(&connection).await?;
        }
        let queue = self.config.topology().names().node_queue(self.node);
        let is_gone = connection.inspect_queue(&queue).await?.is_none();
        self.declare(&connection).await?;
        self.status.send_modify(|status| {
            if is_gone && status.attached {
                tracing::warn!(queue, "the queue was gone; it is made anew");
                status.queues_restored += 1;
            }
            status.attached = true;
        });
        let channel = connection.open_channel().await?;
        let consumer = channel.consume(&queue, PREFETCH).await;
        *unanswered = match &consumer {
            // 4.0 says nothing, 3.10 ends the connection.
            Err(AmqpError::Timeout { .. } | AmqpError::ConnectionClosed(_)) => *unanswered + 1,
            _ => 0,
        };
        Ok((connection, channel, consumer?))
    }

    /// Whether the broker lets this node in, and to what it needs.
    async fn try_to_connect(&self, url: AmqpUrl) -> Result<(), AmqpError> {
        let connection = Connection::connect(&url, &format!("node {}", self.node)).await?;
        self.declare(&connection).await?;
        connection.close().await
    }

    /// Declares what this node needs on the broker. What is there already stays as it is.
    pub(crate) async fn declare(&self, connection: &Connection) -> Result<(), AmqpError> {
        let topology = self.config.topology();
        connection.declare_exchange(&topology.exchange()).await?;
        connection.declare_exchange(&topology.dead_exchange()).await?;
        connection.declare_queue(&topology.dead_queue()).await?;
        connection.declare_queue(&topology.node_queue(self.node)).await
    }

    /// A quorum queue that lost its leader for good gives nothing and takes nothing, and no confirm comes while it is bound.
    /// What it holds is out of reach; peers and hearts have it too.
    async fn remove_queue(&self, connection: &Connection) -> Result<(), AmqpError> {
        let queue = self.config.topology().node_queue(self.node);
        tracing::error!(queue = queue.name, "the queue does not answer; making it anew");
        connection.unbind_queue(&queue.name, &queue.bound_to).await?;
        connection.delete_queue(&queue.name).await
    }

    /// Waits until the database can be written to, or has been rebuilt. False when the shutdown came first.
    async fn wait_for_store(
        &self,
        mut error: StoreError,
        delays: &mut Delays,
        shutdown: &CancellationToken,
    ) -> Result<bool, StoreError> {
        loop {
            if matches!(error, StoreError::TakenOver { .. }) {
                return Err(error);
            }
            if error.is_damage() {
                let divergence = Divergence::of_damage(&error);
                return self.rebuild(&divergence, &mut delays.rebuild, shutdown).await;
            }
            tracing::error!(%error, "the database fails; everything went back to the broker");
            self.show_failing(error.to_string());
            let delay = tokio::time::sleep(delays.failed.next_delay());
            if shutdown.run_until_cancelled(delay).await.is_none() {
                return Ok(false);
            }
            match self.writer.probe().await {
                Ok(()) => return Ok(true),
                Err(again) => error = again,
            }
        }
    }

    fn show_failing(&self, reason: String) {
        self.status.send_modify(|status| {
            status.state = NodeState::Failing;
            status.reason = Some(reason);
            status.fall_behind(unix_milliseconds());
        });
    }

    /// The state stays what it was: a node without a broker is as current as it was, for a while.
    fn show_lost(&self, error: &AmqpError) {
        self.status.send_modify(|status| {
            status.reason = Some(format!("not connected: {error}"));
            status.fall_behind(unix_milliseconds());
        });
    }
}

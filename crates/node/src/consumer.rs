//! Consumes the node's queue for ever: one session with the broker after the other, until the shutdown.
//!
//! - A lost session is followed by a new one, after a delay that grows and has jitter. The replica is made anew from
//!   the database each time: what it believed of unproven messages ends with the deliveries that it was told by.
//! - A database that fails gets everything back to the broker and no session until it can be written to again: no
//!   hot loop of redeliveries. The delay shrinks only once a transaction succeeded.
//! - What a node cannot go on from by itself (a newer version's message, another history) ends consuming, not reading.

use std::sync::{Arc, Mutex, PoisonError};

use broadcast_protocol::config::NodeConfig;
use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::names::NodeId;
use broadcast_protocol::replica::{Halt, Replica};
use broadcast_protocol::report::NodeState;
use broadcast_service::amqp::{AmqpError, Channel, Connection, Consumer};
use broadcast_service::amqp_url::AmqpUrlSource;
use broadcast_service::backoff::Backoff;
use broadcast_service::clock::unix_milliseconds;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::repair::Peers;
use crate::session::{End, Session};
use crate::status::Status;
use crate::store::{AppliedBatch, Committed, Store, StoreError};

/// How many deliveries the broker may have given without an acknowledgement. All of them are in memory while a gap is
/// open: 16 messages of at most 9 MiB are 144 MiB.
const PREFETCH: u16 = 16;

/// The writing side of the database, off the async threads.
#[derive(Debug, Clone)]
pub(crate) struct Writer(Arc<Mutex<Store>>);

impl Writer {
    pub(crate) fn new(store: Store) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// Applies messages in one transaction, which goes on even when nobody waits for it any more.
    pub(crate) async fn apply(&self, messages: Vec<WriteMessage>) -> Result<AppliedBatch, StoreError> {
        self.run(move |store| store.apply(&messages)).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.run(Store::probe).await
    }

    async fn committed(&self) -> Result<Committed, StoreError> {
        self.run(|store| store.committed()).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.0);
        let work = tokio::task::spawn_blocking(move || {
            work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
        });
        work.await.unwrap_or(Err(StoreError::Stopping))
    }
}

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
}

impl QueueConsumer {
    /// Runs until the shutdown; the only error is a database that is another process's now.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), StoreError> {
        let (mut lost, mut failed) = (Backoff::between_sessions(), Backoff::between_sessions());
        loop {
            let delay = match self.run_session(&shutdown, &mut lost, &mut failed).await {
                End::Stopped => return Ok(()),
                End::Halted(halt) => {
                    self.show_halt(&halt);
                    shutdown.cancelled().await;
                    return Ok(());
                }
                End::Lost(error) => {
                    tracing::warn!(%error, reason = error.reason(), "not connected to the broker");
                    self.show_lost(&error);
                    lost.next_delay()
                }
                End::StoreFailed(error) => {
                    if !self.wait_for_store(error, &mut failed, &shutdown).await? {
                        return Ok(());
                    }
                    continue;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    async fn run_session(
        &self,
        shutdown: &CancellationToken,
        lost: &mut Backoff,
        failed: &mut Backoff,
    ) -> End {
        let committed = match self.writer.committed().await {
            Ok(committed) => committed,
            Err(error) => return End::StoreFailed(error),
        };
        let connected = tokio::select! {
            () = shutdown.cancelled() => return End::Stopped,
            connected = self.connect() => connected,
        };
        let (connection, channel, consumer) = match connected {
            Ok(connected) => connected,
            Err(error) => return End::Lost(error),
        };
        lost.reset();
        self.metrics.sessions.inc();
        tracing::info!(applied = committed.applied.position.last, "consuming");
        let replica = Replica::new(&self.config.cluster, committed.applied);
        let mut session = Session::new(self, consumer, replica, failed);
        let end = session.run(shutdown).await;
        // The channel first: to drop the consumer before would cancel it, and another consumer of this queue would
        // start ahead of what is unsettled. An error says that all is closed already.
        if channel.close().await.is_ok() {
            let _ = connection.close().await;
        }
        end
    }

    async fn connect(&self) -> Result<(Connection, Channel, Consumer), AmqpError> {
        let connection = Connection::connect(&self.broker.fetch()?, &format!("node {}", self.node)).await?;
        let topology = self.config.topology();
        connection.declare_exchange(&topology.exchange()).await?;
        connection.declare_exchange(&topology.dead_exchange()).await?;
        connection.declare_queue(&topology.dead_queue()).await?;
        let queue = topology.node_queue(self.node);
        connection.declare_queue(&queue).await?;
        self.status.send_modify(|status| status.attached = true);
        let channel = connection.open_channel().await?;
        let consumer = channel.consume(&queue.name, PREFETCH).await?;
        Ok((connection, channel, consumer))
    }

    /// Waits until the database can be written to. False when the shutdown came first.
    async fn wait_for_store(
        &self,
        mut error: StoreError,
        backoff: &mut Backoff,
        shutdown: &CancellationToken,
    ) -> Result<bool, StoreError> {
        loop {
            if matches!(error, StoreError::TakenOver { .. }) {
                return Err(error);
            }
            tracing::error!(%error, "the database fails; everything went back to the broker");
            self.show_failing(NodeState::Failing, error.to_string());
            tokio::select! {
                () = shutdown.cancelled() => return Ok(false),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
            match self.writer.probe().await {
                Ok(()) => return Ok(true),
                Err(again) => error = again,
            }
        }
    }

    fn show_halt(&self, halt: &Halt) {
        tracing::error!(reason = %halt, "stopped consuming");
        let state = match halt {
            Halt::NewerVersion(_) => NodeState::Failing,
            Halt::Diverged { .. } => NodeState::Diverged,
        };
        self.show_failing(state, halt.to_string());
    }

    fn show_failing(&self, state: NodeState, reason: String) {
        self.status.send_modify(|status| {
            status.state = state;
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

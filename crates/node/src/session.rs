//! One session with the broker: deliveries in, transactions, acknowledgements out.
//!
//! - A delivery is acknowledged after the transaction that applied it, through its own receipt: it cannot reach
//!   another session.
//! - Whatever is there already goes into one transaction, up to [`MAX_BATCH_BYTES`] or [`MAX_BATCH_TIME`]; a single
//!   message is applied at once.
//! - While a gap is repaired from a peer, deliveries go on being taken: the missing one may come after all.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, Instant};

use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::replica::{Dropped, Halt, Replica, Standing, Step};
use broadcast_protocol::report::NodeState;
use broadcast_service::amqp::{AmqpError, Consumer, Delivery, Receipt};
use broadcast_service::backoff::Backoff;
use broadcast_service::clock::unix_milliseconds;
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::consumer::QueueConsumer;
use crate::repair::NoHelp;
use crate::status::Lag;
use crate::store::{Committed, StoreError};

/// The most that one transaction takes, in bytes of messages.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// How long messages are collected for one transaction.
const MAX_BATCH_TIME: Duration = Duration::from_millis(50);

/// A queue that gives nothing for so long is drained: the broker sends what it has at once.
const DRAINED_AFTER: Duration = Duration::from_millis(500);

/// A message that is not older than this shows that the node is current even though more keep coming.
const CURRENT_WITHIN_MILLISECONDS: u64 = 2_000;

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// The broker, the connection or the channel failed.
    Lost(AmqpError),
    /// The database failed; everything unsettled went back to the queue.
    StoreFailed(StoreError),
    /// The node cannot go on by itself.
    Halted(Halt),
}

impl From<AmqpError> for End {
    fn from(error: AmqpError) -> Self {
        Self::Lost(error)
    }
}

/// The order of a session's deliveries.
type Tag = u64;

type Fetch = Pin<Box<dyn Future<Output = Result<Vec<WriteMessage>, NoHelp>> + Send>>;

/// A session.
pub(crate) struct Session<'a> {
    node: &'a QueueConsumer,
    consumer: Consumer,
    replica: Replica<Tag>,
    next_tag: Tag,
    unsettled: BTreeMap<Tag, Receipt>,
    fetch: Option<Fetch>,
    /// Before the next question to the peers: nothing as long as they help.
    repair_delay: Duration,
    repair_backoff: Backoff,
    store_backoff: &'a mut Backoff,
}

/// What the replica decided, for one transaction.
#[derive(Default)]
struct Batch {
    messages: Vec<WriteMessage>,
    bytes: usize,
    repaired: u64,
    acks: Vec<Tag>,
    rejects: Vec<Tag>,
    halt: Option<Halt>,
}

enum Event {
    Delivery(Result<Delivery, AmqpError>),
    Fetched(Result<Vec<WriteMessage>, NoHelp>),
    Drained,
    Stop,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        node: &'a QueueConsumer,
        consumer: Consumer,
        replica: Replica<Tag>,
        store_backoff: &'a mut Backoff,
    ) -> Self {
        Self {
            node,
            consumer,
            replica,
            next_tag: 0,
            unsettled: BTreeMap::new(),
            fetch: None,
            repair_delay: Duration::ZERO,
            repair_backoff: Backoff::between_sessions(),
            store_backoff,
        }
    }

    /// Runs until the shutdown or the first error.
    pub(crate) async fn run(&mut self, shutdown: &CancellationToken) -> End {
        self.forget_reason();
        loop {
            self.show_standing();
            self.plan_repair();
            let event = self.next_event(shutdown).await;
            let handled = match event {
                Event::Stop => return End::Stopped,
                Event::Drained => {
                    self.node.status.send_modify(|status| status.lag = Lag::Current);
                    Ok(())
                }
                Event::Delivery(delivery) => self.handle_deliveries(delivery).await,
                Event::Fetched(Ok(messages)) => self.handle_repair(messages).await,
                Event::Fetched(Err(no_help)) => {
                    self.wait_for_help(&no_help);
                    Ok(())
                }
            };
            if let Err(end) = handled {
                return end;
            }
        }
    }

    async fn next_event(&mut self, shutdown: &CancellationToken) -> Event {
        let may_be_drained = self.has_no_gap() && self.node.status.borrow().lag != Lag::Current;
        let Self { fetch, consumer, .. } = self;
        let fetched = async {
            match fetch {
                Some(fetch) => fetch.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Event::Stop,
            fetched = fetched => {
                self.fetch = None;
                Event::Fetched(fetched)
            }
            delivery = consumer.next() => Event::Delivery(delivery),
            () = tokio::time::sleep(DRAINED_AFTER), if may_be_drained => Event::Drained,
        }
    }

    async fn handle_deliveries(&mut self, first: Result<Delivery, AmqpError>) -> Result<(), End> {
        let started = Instant::now();
        let mut batch = Batch::default();
        let mut next = Some(first);
        while let Some(delivery) = next {
            self.take(delivery?, &mut batch);
            let is_full =
                batch.halt.is_some() || batch.bytes >= MAX_BATCH_BYTES || started.elapsed() >= MAX_BATCH_TIME;
            next = if is_full { None } else { self.consumer.next().now_or_never() };
        }
        self.commit(batch).await
    }

    async fn handle_repair(&mut self, messages: Vec<WriteMessage>) -> Result<(), End> {
        let mut batch = Batch::default();
        for message in messages {
            // The missing message may have been delivered meanwhile; what does not follow is asked for again.
            if message.position.last <= self.replica.position().last {
                continue;
            }
            match self.replica.repair(message) {
                Ok(steps) => self.sort(steps, &mut batch),
                Err(broken) => {
                    tracing::warn!(%broken, "a peer's answer was overtaken");
                    break;
                }
            }
        }
        self.repair_backoff.reset();
        self.repair_delay = Duration::ZERO;
        self.forget_reason();
        self.commit(batch).await
    }

    fn take(&mut self, delivery: Delivery, batch: &mut Batch) {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.unsettled.insert(tag, delivery.receipt);
        let steps = self.replica.receive(tag, &delivery.body);
        self.sort(steps, batch);
    }

    fn sort(&self, steps: Vec<Step<Tag>>, batch: &mut Batch) {
        for step in steps {
            match step {
                Step::Ack(tag, why) => {
                    self.node.metrics.count_dropped(why);
                    if why != Dropped::Mark {
                        tracing::debug!(?why, "a message was not needed");
                    }
                    batch.acks.push(tag);
                }
                Step::Reject(tag, error) => {
                    self.node.metrics.count_malformed();
                    self.node.status.send_modify(|status| status.malformed += 1);
                    tracing::warn!(%error, "a message was rejected; the dead letters keep it");
                    batch.rejects.push(tag);
                }
                Step::Apply { ack, message } => {
                    batch.bytes += message.body().len();
                    batch.repaired += u64::from(ack.is_none());
                    batch.acks.extend(ack);
                    batch.messages.push(message);
                }
                Step::Halt(halt) => batch.halt = Some(halt),
            }
        }
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), End> {
        let Batch { messages, repaired, acks, rejects, halt, .. } = batch;
        let count = messages.len() as u64;
        if let (Some(first), Some(last)) = (messages.first(), messages.last()) {
            let writes = last.position.last + 1 - first.first;
            let started = Instant::now();
            match self.node.writer.apply(messages).await {
                Ok(applied) => self.show_committed(applied.committed, started, (count, repaired, writes)),
                Err(error) => return Err(self.give_back(error, count).await),
            }
        }
        self.settle(acks, rejects, halt.is_none()).await?;
        halt.map_or(Ok(()), |halt| Err(End::Halted(halt)))
    }

    /// After the transaction: nothing of these deliveries is needed any more.
    async fn settle(
        &mut self,
        mut acks: Vec<Tag>,
        rejects: Vec<Tag>,
        may_ack_multiple: bool,
    ) -> Result<(), AmqpError> {
        for tag in rejects {
            if let Some(receipt) = self.unsettled.remove(&tag) {
                receipt.reject().await?;
            }
        }
        acks.sort_unstable();
        // One acknowledgement for all up to the last one that has nothing unsettled before it. A replica that has
        // halted no longer knows what is unsettled.
        let covers_all_before = |tag: &&Tag| may_ack_multiple && self.replica.may_ack_multiple(**tag);
        if let Some(through) = acks.iter().rev().find(covers_all_before).copied()
            && let Some(receipt) = self.unsettled.remove(&through)
        {
            receipt.ack_through().await?;
            self.unsettled.retain(|tag, _| *tag > through);
        }
        for tag in acks {
            if let Some(receipt) = self.unsettled.remove(&tag) {
                receipt.ack().await?;
            }
        }
        Ok(())
    }

    /// The transaction failed: the broker gets everything back that is not settled.
    async fn give_back(&mut self, error: StoreError, messages: u64) -> End {
        self.node.metrics.count_failed(messages);
        self.node.status.send_modify(|status| status.failed += messages);
        if let Some((_, receipt)) = self.unsettled.pop_last() {
            // If it cannot be said, closing the channel says the same.
            if let Err(error) = receipt.requeue_through().await {
                tracing::debug!(%error, "giving the deliveries back");
            }
        }
        End::StoreFailed(error)
    }

    /// As far as it knows. A new session knows nothing yet, but a node that was ready has not lost its place by that: when
    /// the broker has nothing for it, it is current, even if no heart says so.
    fn has_no_gap(&self) -> bool {
        match self.replica.standing() {
            Standing::Current => true,
            Standing::Bootstrapping => self.node.status.borrow().state == NodeState::Ready,
            Standing::Gap { .. } => false,
        }
    }

    /// Asks the peers as long as something is missing, and no longer.
    fn plan_repair(&mut self) {
        if !matches!(self.replica.standing(), Standing::Gap { .. }) {
            self.fetch = None;
            return;
        }
        if self.fetch.is_some() {
            return;
        }
        let (peers, position) = (self.node.peers.clone(), self.replica.position());
        let delay = self.repair_delay;
        self.fetch = Some(Box::pin(async move {
            tokio::time::sleep(delay).await;
            peers.fetch_after(position).await
        }));
    }

    fn show_committed(
        &mut self,
        committed: Committed,
        started: Instant,
        (messages, repaired, writes): (u64, u64, u64),
    ) {
        self.store_backoff.reset();
        let metrics = &self.node.metrics;
        metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        metrics.messages_applied.inc_by(messages);
        metrics.messages_repaired.inc_by(repaired);
        metrics.writes_applied.inc_by(writes);
        let is_fresh = committed.at + CURRENT_WITHIN_MILLISECONDS >= unix_milliseconds();
        self.node.status.send_modify(|status| {
            status.committed = committed;
            let is_current = is_fresh && self.replica.standing() == Standing::Current;
            status.lag = if is_current { Lag::Current } else { Lag::Behind { since: committed.at } };
        });
    }

    fn show_standing(&self) {
        self.node.status.send_if_modified(|status| {
            let (state, lag_writes) = match self.replica.standing() {
                // A new session of a node that was ready: it stays so until it learns otherwise.
                Standing::Bootstrapping if status.state == NodeState::Ready => (NodeState::Ready, 0),
                Standing::Bootstrapping => (NodeState::Bootstrapping, 0),
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
            let changed = (status.state, status.lag_writes, &status.reason) != (state, lag_writes, &reason);
            (status.state, status.lag_writes, status.reason) = (state, lag_writes, reason);
            changed
        });
    }

    /// What the reason was is over; the next look at the standing says what it is.
    fn forget_reason(&self) {
        self.node.status.send_modify(|status| status.reason = None);
    }

    fn wait_for_help(&mut self, no_help: &NoHelp) {
        tracing::warn!(reason = %no_help, "cannot repair");
        self.repair_delay = self.repair_backoff.next_delay();
        self.node.status.send_modify(|status| status.reason = Some(no_help.to_string()));
    }
}

fn build_reason(state: NodeState, applied: u64) -> Option<String> {
    match state {
        NodeState::Bootstrapping => {
            Some("waits for the first message or mark, which say where the cluster is".to_owned())
        }
        NodeState::Repairing => Some(format!("missed {}; asking peers", applied + 1)),
        _ => None,
    }
}

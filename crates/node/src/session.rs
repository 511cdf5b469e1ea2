//! One session with the broker: deliveries in, transactions, acknowledgements out.
//!
//! - A delivery is acknowledged after the transaction that applied it, through its own receipt: it cannot reach
//!   another session.
//! - Whatever is there already goes into one transaction, up to [`MAX_BATCH_BYTES`] or [`MAX_BATCH_TIME`]. After a
//!   transaction the database rests, for a time that grows with what it took, and what comes meanwhile is collected: syncs
//!   that are too many slow down the disk that others need too. What comes after the rest is applied at once; when somebody
//!   waits for a message, or to read what is applied, the rest is short.
//! - While a gap is repaired from a peer's log, deliveries go on being taken: the missing one may come after all. While a
//!   snapshot is installed none are: the broker's prefetch bounds what waits.
//! - Silence is not trusted: a heart says something every second, so the queue may not be bound any more.

mod batch;
mod show;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::replica::{Halt, Replica, Standing};
use broadcast_protocol::report::NodeState;
use broadcast_service::amqp::{AmqpError, Connection, Consumer, Delivery, Receipt};
use broadcast_service::backoff::Backoff;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::batch::Batch;
use crate::consumer::{PREFETCH, QueueConsumer};
use crate::divergence::Divergence;
use crate::rebuild::RebuildRequest;
use crate::repair::{NoHelp, RebuildError, Wanted};
use crate::scrub::{Findings, Found};
use crate::status::Lag;
use crate::store::StoreError;

/// The most that one transaction takes, in bytes of messages.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// How long messages are collected for one transaction.
const MAX_BATCH_TIME: Duration = Duration::from_millis(50);

/// How many times as long as a transaction took the database rests after it, up to [`MAX_BATCH_TIME`], and when somebody
/// waits.
const REST: u32 = 4;
const REST_WHEN_AWAITED: u32 = 1;

/// A queue that gives nothing for so long is drained: the broker sends what it has at once.
const DRAINED_AFTER: Duration = Duration::from_millis(500);

/// After so long without a delivery the broker's objects are declared again.
const SILENCE: Duration = Duration::from_secs(3);

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was told to: the node stops, or the session is renewed.
    Stopped,
    /// The broker, the connection or the channel failed.
    Lost(AmqpError),
    /// The database failed; everything unsettled went back to the queue.
    StoreFailed(StoreError),
    /// The rows are not to be trusted.
    Diverged(Divergence),
    /// Somebody wants a peer's rows in the place of these.
    Asked(RebuildRequest),
    /// A newer node has to go on.
    Halted(Halt),
}

impl From<AmqpError> for End {
    fn from(error: AmqpError) -> Self {
        Self::Lost(error)
    }
}

impl From<Found> for End {
    fn from(found: Found) -> Self {
        match found {
            Found::Diverged(divergence) => Self::Diverged(divergence),
            Found::Asked(request) => Self::Asked(request),
        }
    }
}

impl From<Halt> for End {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::NewerVersion(_) => Self::Halted(halt),
            Halt::Diverged { .. } | Halt::GivenUp { .. } | Halt::RowsDiffer { .. } => {
                Self::Diverged(Divergence::Contradicted(halt))
            }
        }
    }
}

/// The order of a session's deliveries.
type Tag = u64;

type Fetch = Pin<Box<dyn Future<Output = Result<Vec<WriteMessage>, NoHelp>> + Send>>;

/// A session.
pub(crate) struct Session<'a> {
    node: &'a QueueConsumer,
    connection: &'a Connection,
    consumer: Consumer,
    replica: Replica<Tag>,
    /// Its random number.
    number: u64,
    next_tag: Tag,
    unsettled: BTreeMap<Tag, Receipt>,
    newest_awaited: Option<Tag>,
    /// When the last transaction ended, and how long it took.
    committed: Instant,
    commit_time: Duration,
    /// When the last delivery came.
    heard: Instant,
    /// When that came, or everything was declared again.
    checked: Instant,
    fetch: Option<Fetch>,
    /// Before the next question to the peers: nothing as long as they help.
    repair_delay: Duration,
    repair_backoff: Backoff,
    store_backoff: &'a mut Backoff,
    /// Whether the database is trusted to take what comes: a trial after a failure says little.
    store_works: bool,
    findings: &'a mut Findings,
    /// How many reads wait until something is applied.
    waiting_reads: watch::Receiver<usize>,
}

enum Event {
    Delivery(Result<Delivery, AmqpError>),
    Fetched(Result<Vec<WriteMessage>, NoHelp>),
    Found(Found),
    Drained,
    Silence,
    Stop,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        node: &'a QueueConsumer,
        (connection, consumer): (&'a Connection, Consumer),
        replica: Replica<Tag>,
        store_backoff: &'a mut Backoff,
        findings: &'a mut Findings,
    ) -> Self {
        Self {
            node,
            connection,
            consumer,
            replica,
            number: rand::random(),
            next_tag: 0,
            unsettled: BTreeMap::new(),
            newest_awaited: None,
            committed: Instant::now(),
            commit_time: Duration::ZERO,
            heard: Instant::now(),
            checked: Instant::now(),
            fetch: None,
            repair_delay: Duration::ZERO,
            repair_backoff: Backoff::between_sessions(),
            store_backoff,
            store_works: node.status.borrow().state != NodeState::Failing,
            findings,
            waiting_reads: node.waiting_reads.clone(),
        }
    }

    /// Runs until the shutdown or the first error.
    pub(crate) async fn run(&mut self, shutdown: &CancellationToken) -> End {
        self.forget_reason();
        loop {
            self.show_standing();
            self.plan_repair();
            let handled = match self.next_event(shutdown).await {
                Event::Stop => return End::Stopped,
                Event::Found(found) => return found.into(),
                Event::Drained => {
                    self.store_works = true;
                    self.node.status.send_modify(|status| status.lag = Lag::Current);
                    Ok(())
                }
                Event::Silence => self.declare_again(shutdown).await,
                Event::Delivery(delivery) => self.handle_deliveries(delivery).await,
                Event::Fetched(Ok(messages)) => self.handle_repair(messages).await,
                Event::Fetched(Err(no_help)) => self.handle_no_help(&no_help, shutdown).await,
            };
            if let Err(end) = handled {
                return end;
            }
        }
    }

    async fn next_event(&mut self, shutdown: &CancellationToken) -> Event {
        let may_be_drained = self.has_no_gap() && self.node.status.borrow().lag != Lag::Current;
        let rebuilds = self.node.status.borrow().rebuilds;
        let silence = self.checked + SILENCE;
        let Self { fetch, consumer, findings, .. } = self;
        let fetched = async {
            match fetch {
                Some(fetch) => fetch.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Event::Stop,
            found = findings.next(rebuilds) => Event::Found(found),
            fetched = fetched => {
                self.fetch = None;
                Event::Fetched(fetched)
            }
            delivery = consumer.next() => Event::Delivery(delivery),
            () = tokio::time::sleep(DRAINED_AFTER), if may_be_drained => Event::Drained,
            () = tokio::time::sleep_until(silence) => Event::Silence,
        }
    }

    async fn handle_deliveries(&mut self, first: Result<Delivery, AmqpError>) -> Result<(), End> {
        let started = Instant::now();
        (self.heard, self.checked) = (started, started);
        let mut batch = Batch::default();
        let mut next = Some(first);
        while let Some(delivery) = next {
            self.take(delivery?, &mut batch);
            let is_full = batch.is_halted()
                || batch.bytes() >= MAX_BATCH_BYTES
                || started.elapsed() >= MAX_BATCH_TIME
                || self.unsettled.len() >= usize::from(PREFETCH);
            next = if is_full { None } else { self.next_before_rest_ends().await };
        }
        self.commit(batch).await
    }

    /// The next delivery that comes while the database rests. What is there already is taken even when the time is over.
    async fn next_before_rest_ends(&mut self) -> Option<Result<Delivery, AmqpError>> {
        loop {
            let is_awaited = self.awaited().is_some() || *self.waiting_reads.borrow_and_update() > 0;
            let rest = if is_awaited { REST_WHEN_AWAITED } else { REST };
            let until = self.committed + (rest * self.commit_time).min(MAX_BATCH_TIME);
            tokio::select! {
                biased;
                delivery = self.consumer.next() => return Some(delivery),
                () = tokio::time::sleep_until(until) => return None,
                // Somebody came who waits.
                Ok(()) = self.waiting_reads.changed(), if !is_awaited => {}
            }
        }
    }

    fn take(&mut self, delivery: Delivery, batch: &mut Batch) {
        let tag = self.next_tag;
        self.next_tag += 1;
        if delivery.awaited {
            self.newest_awaited = Some(tag);
        }
        self.unsettled.insert(tag, delivery.receipt);
        let steps = self.replica.receive(tag, &delivery.body);
        self.sort(steps, batch);
    }

    /// The newest delivery that somebody waits for, while it waits for the one that proves it.
    fn awaited(&self) -> Option<Tag> {
        self.newest_awaited.filter(|tag| self.unsettled.contains_key(tag))
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
                Err(error) => {
                    tracing::warn!(%error, "a peer's answer was overtaken");
                    break;
                }
            }
        }
        self.was_helped();
        self.commit(batch).await
    }

    /// Nobody's messages continue what is applied. When that is because it is not part of the history, waiting does not help.
    async fn handle_no_help(&mut self, no_help: &NoHelp, shutdown: &CancellationToken) -> Result<(), End> {
        let own = self.replica.position();
        if let Some(shown) = self.replica.shown().filter(|_| !no_help.of_other_history().is_empty()) {
            let proof = self.node.peers.prove_bypass(own, shown);
            if shutdown.run_until_cancelled(proof).await.ok_or(End::Stopped)? {
                return Err(End::Diverged(Divergence::Bypassed { own, shown }));
            }
        }
        if no_help.is_out_of_reach() {
            return self.take_snapshot(no_help, shutdown).await;
        }
        self.wait_for_help(no_help, Some(no_help.missing));
        Ok(())
    }

    /// No peer's log reaches back far enough: `logs` is what they said.
    async fn take_snapshot(&mut self, logs: &NoHelp, shutdown: &CancellationToken) -> Result<(), End> {
        let wanted = Wanted { after: self.replica.position().last, cut: self.replica.cut() };
        let installed = self.node.install_snapshot(wanted, logs.of_other_history());
        let Some(installed) = shutdown.run_until_cancelled(installed).await else { return Err(End::Stopped) };
        match installed {
            Ok(committed) => {
                let mut batch = Batch::default();
                let steps = self.replica.adopt(committed.applied);
                self.sort(steps, &mut batch);
                self.was_helped();
                self.commit(batch).await
            }
            Err(RebuildError::NoHelp(no_help)) => {
                let missing = (!no_help.may_have_snapshot_later(logs)).then_some(no_help.missing);
                self.wait_for_help(&no_help, missing);
                Ok(())
            }
            Err(RebuildError::Store(error)) => Err(self.give_back(error, 0).await),
        }
    }

    /// Repairs an exchange that was deleted and a queue that is not bound; the broker ends the consumer of a queue that
    /// was deleted.
    async fn declare_again(&mut self, shutdown: &CancellationToken) -> Result<(), End> {
        tracing::debug!("nothing came for {SILENCE:?}; declaring everything again");
        let declared = shutdown.run_until_cancelled(self.node.declare(self.connection)).await;
        let silence = self.heard.elapsed();
        self.node.status.send_modify(|status| {
            status.silences += 1;
            status.silence = silence;
        });
        self.checked = Instant::now();
        Ok(declared.ok_or(End::Stopped)??)
    }

    /// As far as it knows. A new session knows nothing yet, but a node that was ready has not lost its place by that: when
    /// the broker has nothing for it, it is current, even if no heart says so.
    fn has_no_gap(&self) -> bool {
        match self.replica.standing() {
            Standing::Current => true,
            Standing::Bootstrapping => self.node.status.borrow().is_ready(),
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
        let (peers, position, cut) = (self.node.peers.clone(), self.replica.position(), self.replica.cut());
        let delay = self.repair_delay;
        self.fetch = Some(Box::pin(async move {
            tokio::time::sleep(delay).await;
            peers.fetch_after(position, cut).await
        }));
    }

    fn was_helped(&mut self) {
        self.repair_backoff.reset();
        self.repair_delay = Duration::ZERO;
        self.forget_reason();
    }
}

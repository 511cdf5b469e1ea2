//! A reign: from the moment a heart is active to the first doubt.
//!
//! One message of writes is in flight. While it is, the inbox is attended and requests gather; after the confirm they are
//! the next message. Any error of publishing, confirm or inbox ends the reign: whoever waits for the message in
//! flight learns that its outcome is unknown, whoever was not published learns that.
//!
//! Exchange and head queue are declared again and again: a head queue that somebody deleted is back before the
//! next heart needs it.

use std::future::pending;
use std::time::Duration;

use broadcast_protocol::envelope::Message;
use broadcast_protocol::names::NodeId;
use broadcast_protocol::report::{NodeState, Report, WHO_KIND, Who};
use broadcast_protocol::sequencer::{Reign, StaleHead};
use broadcast_protocol::topology::Topology;
use broadcast_service::amqp::{
    AmqpError, Channel, Confirm, Connection, Consumer, Delivery, Outgoing, Publisher,
};
use broadcast_service::clock::unix_milliseconds;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::batch::Batch;
use crate::census::Census;
use crate::gathering::Gathering;
use crate::inbox::Letter;
use crate::memory::SharedMemory;
use crate::metrics::Metrics;
use crate::role::Progress;
use crate::take_over::{CONFIRM_DEADLINE, publish};
use crate::upkeep::Upkeep;

/// How often an idle heart says that it lives, and where the history ends.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// Why a reign ended that was not told to.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// The broker, or the connection to it, failed.
    #[error(transparent)]
    Amqp(#[from] AmqpError),
    /// A node has seen a later history.
    #[error(transparent)]
    StaleHead(#[from] StaleHead),
    /// Nobody has what the nodes wait for, and a human gave it up.
    #[error("no node can go on, and the loss of what they wait for is accepted: the history is cut")]
    CutShort,
}

/// What an active heart works with.
pub struct Court {
    /// The cluster's id.
    pub cluster: String,
    /// The exchange.
    pub exchange: String,
    /// The base URL of this heart's HTTP interface.
    pub url: String,
    /// The channel that messages are published on.
    pub publisher: Publisher,
    /// The channel that answers to questions are sent on.
    pub channel: Channel,
    /// Reports and questions.
    pub inbox: Consumer,
    /// What the nodes say of themselves.
    pub census: watch::Sender<Census>,
    /// How far the history goes.
    pub progress: watch::Sender<Option<Progress>>,
    /// The requests of clients.
    pub(crate) gathering: Gathering,
    /// What outlives the reign.
    pub memory: SharedMemory,
    /// Counters.
    pub metrics: Metrics,
    /// Exchange and head queue.
    pub upkeep: Upkeep,
}

/// The last mark's confirm, while it is to come.
type MarkConfirm = BoxFuture<'static, Result<(), AmqpError>>;

struct Rule<'a> {
    court: &'a mut Court,
    mark: Option<MarkConfirm>,
    next_mark: Instant,
}

impl Court {
    /// Rules until the first doubt, or until told to stop: then everything that was submitted is finished first.
    /// `connection` is the court's.
    pub async fn rule(
        &mut self,
        reign: Reign,
        connection: &Connection,
        topology: &Topology,
        stop: &CancellationToken,
    ) -> Result<(), Doubt> {
        self.census.send_modify(|census| census.forget_reports_if(|report| reign.gives_up(report)));
        let upkeep = self.upkeep.clone();
        let mut rule = Rule { court: self, mark: None, next_mark: Instant::now() };
        let result = tokio::select! {
            result = rule.beat(reign, stop) => result,
            Err(error) = upkeep.keep_declared(connection, topology) => Err(error.into()),
        };
        self.gathering.refuse_all();
        result
    }

    /// Closes the channels, in order.
    pub async fn close(self) -> Result<(), AmqpError> {
        self.channel.close().await?;
        self.publisher.close().await
    }

    async fn publish(&self, message: &Message, awaited: bool) -> Result<Confirm, AmqpError> {
        publish(&self.publisher, (&self.exchange, &self.url), message, awaited).await
    }

    /// Reads a message of the inbox.
    pub(crate) fn read(&self, delivery: &Delivery) -> Letter {
        Letter::read(&self.cluster, &delivery.kind, delivery.reply_to.as_deref(), &delivery.body)
    }

    /// Takes note of a report.
    pub(crate) fn record(&self, report: Report) {
        let now = std::time::Instant::now();
        let mut disagreeing = None;
        self.census.send_modify(|census| {
            census.note_silence(&report, now);
            if census.record(report, now) {
                disagreeing = Some(census.disagreeing().collect::<Vec<NodeId>>());
            }
        });
        if let Some(nodes) = disagreeing {
            self.metrics.nodes_disagreeing.set(i64::try_from(nodes.len()).unwrap_or(i64::MAX));
            if nodes.is_empty() {
                tracing::info!("all nodes that can be compared have the same rows again");
            } else {
                tracing::warn!(?nodes, "these nodes have other rows than most at the same position");
            }
        }
    }

    /// Attends to one message of the inbox.
    async fn attend(&self, delivery: Delivery, reign: &mut Reign) -> Result<(), Doubt> {
        match self.read(&delivery) {
            Letter::Report(mut report) => {
                reign.hear(&report)?;
                if reign.gives_up(&report) {
                    report.state = NodeState::Diverged;
                }
                self.record(*report);
            }
            Letter::Question { claim, reply_to } => {
                claim.map_or(Ok(()), |claim| reign.judge_claim(claim))?;
                self.answer_who(reign.epoch(), &reply_to).await?;
            }
            // Meant for a heart that takes over: an earlier one, by now.
            Letter::Tip(_) => {}
            Letter::Foreign => _ = self.metrics.inbox_ignored.inc(),
        }
        Ok(delivery.receipt.ack().await?)
    }

    async fn answer_who(&self, epoch: u64, reply_to: &str) -> Result<(), AmqpError> {
        let who = Who { url: self.url.clone(), epoch };
        // Two fields of text and number always encode.
        let body = serde_json::to_vec(&who).unwrap_or_default();
        let answer = Outgoing { routing_key: reply_to, kind: WHO_KIND, body: &body, ..Outgoing::default() };
        self.channel.send(&answer).await
    }
}

impl Rule<'_> {
    async fn beat(&mut self, mut reign: Reign, stop: &CancellationToken) -> Result<(), Doubt> {
        self.judge_reports(&mut reign)?;
        self.show_progress(&reign);
        while let Some(batch) = self.next_batch(&mut reign, stop).await? {
            reign = self.commit(reign, batch).await?;
            self.show_progress(&reign);
        }
        Ok(())
    }

    /// What was heard before the reign began may contradict it: nothing may be published then.
    fn judge_reports(&self, reign: &mut Reign) -> Result<(), Doubt> {
        let census = self.court.census.borrow();
        Ok(census.nodes().try_for_each(|seen| reign.hear(&seen.report))?)
    }

    /// Waits for requests, and marks the time; `None` when there will be no more.
    async fn next_batch(
        &mut self,
        reign: &mut Reign,
        stop: &CancellationToken,
    ) -> Result<Option<Batch>, Doubt> {
        self.draw_conclusions(reign)?;
        if !self.court.gathering.has_begun() {
            // Who comes before that brings what is as good as a mark.
            self.next_mark = self.court.gathering.until();
            // A timer would come a millisecond later.
            if self.next_mark <= Instant::now() {
                self.publish_mark(reign).await?;
            }
        }
        loop {
            let may_mark = self.mark.is_none() && !self.court.gathering.has_begun();
            tokio::select! {
                batch = self.court.gathering.next() => return Ok(batch),
                delivery = self.court.inbox.next() => {
                    self.court.attend(delivery?, reign).await?;
                    self.draw_conclusions(reign)?;
                }
                confirmed = option(&mut self.mark) => {
                    self.mark = None;
                    confirmed?;
                    self.note_confirm();
                }
                // A message may have begun meanwhile.
                () = sleep_until(self.next_mark), if may_mark => if !self.court.gathering.has_begun() {
                    self.publish_mark(reign).await?;
                },
                // What is in the channel already still comes out of it.
                () = stop.cancelled(), if !self.court.gathering.is_closed() => self.court.gathering.close(),
            }
        }
    }

    /// Publishes a message of writes and waits for its confirm, and for that of the mark before it.
    async fn commit(&mut self, reign: Reign, batch: Batch) -> Result<Reign, Doubt> {
        let awaited = batch.is_awaited();
        let (writes, waiting) = batch.into_parts();
        let count = writes.len() as u64;
        let mut in_flight = reign.publish(writes, unix_milliseconds());
        let epoch = in_flight.message().term.epoch;
        let started = Instant::now();
        let confirm = self.court.publish(&in_flight.message().clone().into(), awaited).await?;
        let mut mark = self.mark.take();
        let confirmed = async {
            option_or_ready(&mut mark).await?;
            confirm.confirmed(CONFIRM_DEADLINE).await
        };
        tokio::pin!(confirmed);
        loop {
            tokio::select! {
                result = &mut confirmed => break result?,
                delivery = self.court.inbox.next() => self.court.attend(delivery?, in_flight.reign()).await?,
            }
        }
        self.note_confirm();
        self.court.memory.with(|memory| memory.retained.push(in_flight.message().clone()));
        let metrics = &self.court.metrics;
        metrics.messages_published.inc();
        metrics.writes.inc_by(count);
        let took = started.elapsed();
        metrics.confirm_seconds.observe(took.as_secs_f64());
        self.court.gathering.note_confirm(took, waiting.let_go());
        waiting.answer(epoch, in_flight.message().first);
        Ok(in_flight.confirmed())
    }

    /// A node that hears nothing although the broker took something for it has no queue that is bound.
    fn note_confirm(&self) {
        let now = std::time::Instant::now();
        self.court.census.send_if_modified(|census| {
            census.note_confirm(now);
            false
        });
    }

    /// The next message need not wait for a mark, but a mark that is refused is a doubt as well.
    async fn publish_mark(&mut self, reign: &Reign) -> Result<(), Doubt> {
        let digest = self.court.census.borrow().agreed_digest(reign.position(), std::time::Instant::now());
        let confirm = self.court.publish(&reign.mark(digest, unix_milliseconds()).into(), false).await?;
        self.mark = Some(Box::pin(confirm.confirmed(CONFIRM_DEADLINE)));
        self.next_mark = Instant::now() + MARK_EVERY;
        Ok(())
    }

    /// What follows from all reports together.
    fn draw_conclusions(&self, reign: &Reign) -> Result<(), Doubt> {
        let census = self.court.census.borrow();
        let reports: Vec<&Report> = census.nodes().map(|seen| &seen.report).collect();
        let applied_by_all = census.applied_by_all(std::time::Instant::now());
        let is_cut_short = self.court.memory.with(|memory| {
            if let Some(last) = applied_by_all {
                memory.retained.forget_through(last);
            }
            memory.is_cut_short = reign.is_cut_short(memory, &reports);
            memory.is_cut_short
        });
        if is_cut_short { Err(Doubt::CutShort) } else { Ok(()) }
    }

    fn show_progress(&self, reign: &Reign) {
        let progress = Progress { epoch: reign.epoch(), position: reign.position() };
        self.court.metrics.position.set(i64::try_from(progress.position.last).unwrap_or(i64::MAX));
        self.court.progress.send_replace(Some(progress));
    }
}

/// The future, or one that never ends when there is none.
async fn option(future: &mut Option<MarkConfirm>) -> Result<(), AmqpError> {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// The future, or success when there is none.
async fn option_or_ready(future: &mut Option<MarkConfirm>) -> Result<(), AmqpError> {
    match future {
        Some(future) => future.await,
        None => Ok(()),
    }
}

//! Taking over: does what [`TakeOver`] needs, and attends to the inbox at the same time.
//!
//! Nothing that the head queue gave is acknowledged before the new end of the history is confirmed, so a heart that
//! dies anywhere in here leaves the head queue able to tell the next one the same.

use std::pin::pin;
use std::time::Duration;

use broadcast_protocol::envelope::{DecodeError, MAX_NUMBER, Mark, Message};
use broadcast_protocol::sequencer::{Need, Reign, TakeOver};
use broadcast_protocol::topology::HEAD_QUEUE_LENGTH;
use broadcast_service::amqp::{AmqpError, Channel, Confirm, Delivery, Outgoing, Publisher, Receipt};
use broadcast_service::clock::unix_milliseconds;
use broadcast_service::genesis::publish_beginning;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::inbox::{Letter, Tips};
use crate::reign::Court;
use crate::role::Role;

/// How long the broker has to confirm a message.
pub const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);

/// How many messages the head queue may give. It holds fewer; that there are more means that somebody publishes.
const MAX_HEAD_MESSAGES: u32 = 4 * HEAD_QUEUE_LENGTH;

/// Why a heart did not become active.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The broker failed.
    #[error(transparent)]
    Amqp(#[from] AmqpError),
    /// The last heart was of a newer version.
    #[error("the head queue holds a message of a newer version: {0}")]
    NewerVersion(DecodeError),
    /// Somebody else publishes to the exchange.
    #[error(
        "the head queue gave {MAX_HEAD_MESSAGES} messages and has more, though it holds {HEAD_QUEUE_LENGTH}: \
         something that is no heart publishes to the exchange"
    )]
    HeadGrows,
}

/// A heart that holds the lock and is to reign.
pub struct Heir<'a> {
    court: &'a mut Court,
    /// What the head queue is read with.
    channel: &'a Channel,
    head_queue: String,
    role: &'a watch::Sender<Role>,
    started: Instant,
    take_over: TakeOver<u32>,
    tips: Tips,
    taken: u32,
    receipt: Option<Receipt>,
}

impl<'a> Heir<'a> {
    /// `channel` is a channel of its own, to be closed afterwards.
    pub fn new(
        court: &'a mut Court,
        channel: &'a Channel,
        head_queue: String,
        role: &'a watch::Sender<Role>,
    ) -> Self {
        let take_over = TakeOver::new(&court.cluster, rand::random_range(0..=MAX_NUMBER), 0);
        let (started, tips) = (Instant::now(), Tips::default());
        Self { court, channel, head_queue, role, started, take_over, tips, taken: 0, receipt: None }
    }

    /// Takes over, however long that takes: on success this heart is the active one.
    pub async fn take_over(mut self) -> Result<Reign, TakeOverError> {
        loop {
            let (now, at) = (self.now(), unix_milliseconds());
            let need = self.court.memory.with(|memory| self.take_over.next(memory, now, at));
            self.show_role();
            match need {
                Need::Take => self.take().await?,
                Need::Begin(mark) => self.begin(&mark).await?,
                Need::Publish(message) => self.publish(&message).await?,
                Need::Wait(until) => self.wait(until).await?,
                Need::Reign { reign, link, before, .. } => {
                    self.court.memory.with(|memory| memory.begin_reign(link, before));
                    // The newest receipt stands for all that was taken.
                    if let Some(receipt) = self.receipt {
                        receipt.ack_through().await?;
                    }
                    return Ok(reign);
                }
            }
        }
    }

    async fn take(&mut self) -> Result<(), TakeOverError> {
        let channel = self.channel;
        let head_queue = self.head_queue.clone();
        let Some(delivery) = self.attend_during(channel.get(&head_queue)).await? else {
            let (now, at) = (self.now(), unix_milliseconds());
            self.court.memory.with(|memory| self.take_over.took_nothing(memory, now, at));
            return Ok(());
        };
        self.taken += 1;
        if self.taken > MAX_HEAD_MESSAGES {
            return Err(TakeOverError::HeadGrows);
        }
        let message = match Message::decode(&self.court.cluster, &delivery.body) {
            Ok(message) => Some(message),
            Err(error @ DecodeError::NewerVersion(_)) => return Err(TakeOverError::NewerVersion(error)),
            Err(error) => {
                tracing::warn!(%error, "ignoring what is no message in the head queue");
                None
            }
        };
        self.take_over.took(self.taken, message);
        self.receipt = Some(delivery.receipt);
        Ok(())
    }

    async fn begin(&mut self, mark: &Mark) -> Result<(), AmqpError> {
        let (publisher, head_queue) = (self.court.publisher.clone(), self.head_queue.clone());
        let url = self.court.url.clone();
        tracing::info!(cluster = self.court.cluster, "the head queue is empty: the history begins here");
        let confirmed = async {
            publish_beginning(&publisher, mark, &head_queue, &url).await?.confirmed(CONFIRM_DEADLINE).await
        };
        self.attend_during(confirmed).await?;
        self.take_over.confirmed(unix_milliseconds());
        Ok(())
    }

    async fn publish(&mut self, message: &Message) -> Result<(), AmqpError> {
        let (publisher, exchange) = (self.court.publisher.clone(), self.court.exchange.clone());
        let url = self.court.url.clone();
        let confirmed = async {
            publish(&publisher, (&exchange, &url), message, false).await?.confirmed(CONFIRM_DEADLINE).await
        };
        self.attend_during(confirmed).await?;
        self.take_over.confirmed(unix_milliseconds());
        Ok(())
    }

    /// Until a time, or the next message of the inbox.
    async fn wait(&mut self, until: u64) -> Result<(), AmqpError> {
        let until = self.started + Duration::from_millis(until);
        tokio::select! {
            () = sleep_until(until) => Ok(()),
            delivery = self.court.inbox.next() => self.attend(delivery?).await,
        }
    }

    /// Attends to the inbox until the work is done.
    async fn attend_during<T>(
        &mut self,
        work: impl Future<Output = Result<T, AmqpError>>,
    ) -> Result<T, AmqpError> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                delivery = self.court.inbox.next() => self.attend(delivery?).await?,
            }
        }
    }

    /// Nobody is told who is active while nobody is: who asks now asks again.
    async fn attend(&mut self, delivery: Delivery) -> Result<(), AmqpError> {
        match self.court.read(&delivery) {
            Letter::Report(report) => {
                if let Some(tip) = report.tip.and_then(|named| self.tips.find(named)) {
                    self.take_over.hear_tip(report.node, tip.clone());
                }
                self.take_over.hear(&report);
                self.court.record(*report);
            }
            Letter::Tip(message) => self.tips.keep(message),
            Letter::Question { claim: Some(claim), .. } => self.take_over.hear_claim(claim),
            Letter::Question { claim: None, .. } => {}
            Letter::Foreign => _ = self.court.metrics.inbox_ignored.inc(),
        }
        delivery.receipt.ack().await
    }

    /// Says what it waits for, when that is a node or a human.
    fn show_role(&self) {
        let role = match self.take_over.open() {
            Some(open) => Role::HeadLost { reason: open.to_string() },
            None => Role::TakingOver,
        };
        self.role.send_if_modified(|shown| {
            let news = (shown.name(), shown.reason()) != (role.name(), role.reason());
            if news {
                if let Role::HeadLost { reason } = &role {
                    tracing::warn!(reason, "the end of the history is not known");
                }
                *shown = role;
            }
            news
        });
    }

    /// Milliseconds since it got the lock.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Publishes a message of the history. The head queue is always bound, so a return is a doubt like any other.
pub async fn publish(
    publisher: &Publisher,
    (exchange, app_id): (&str, &str),
    message: &Message,
    awaited: bool,
) -> Result<Confirm, AmqpError> {
    let outgoing = Outgoing {
        exchange,
        mandatory: true,
        persistent: true,
        kind: message.kind(),
        message_id: &message.id(),
        app_id,
        awaited,
        body: &message.body(),
        ..Outgoing::default()
    };
    publisher.publish(&outgoing).await
}

//! Taking over: read where the history ends, publish that end again under the next epoch, and only then begin.
//!
//! Nothing is acknowledged before the new copy is confirmed, so a heart that dies anywhere in here leaves the head
//! queue able to tell the next one the same.

use std::time::Duration;

use broadcast_protocol::envelope::{DecodeError, Message};
use broadcast_protocol::report::{REPORT_KIND, Report};
use broadcast_protocol::sequencer::{HeadLost, Reign, StaleHead, TakeOver, judge_genesis, later};
use broadcast_protocol::topology::HEAD_QUEUE_LENGTH;
use broadcast_service::amqp::{AmqpError, Channel, Confirm, Consumer, Outgoing, Publisher, Receipt};
use broadcast_service::genesis::publish_genesis;
use tokio::time::{Instant, sleep, timeout_at};

/// How long the broker has to confirm a message.
pub const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);

/// How long an empty head queue may be about to get back what a dead heart had taken from it.
const EMPTY_MAY_PASS_WITHIN: Duration = Duration::from_secs(2);

/// How long a heart listens for nodes that know better before it begins a history; they report every second.
const LISTEN_BEFORE_GENESIS: Duration = Duration::from_secs(2);

/// How many messages the head queue may give. It holds fewer; that there are more means that somebody publishes.
const MAX_HEAD_MESSAGES: u32 = 4 * HEAD_QUEUE_LENGTH;

/// Why a heart did not become active.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The broker failed.
    #[error(transparent)]
    Amqp(#[from] AmqpError),
    /// The head queue is empty.
    #[error(transparent)]
    HeadLost(#[from] HeadLost),
    /// The head is older than what a node has seen.
    #[error(transparent)]
    StaleHead(#[from] StaleHead),
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

/// What a take-over needs.
#[derive(Debug)]
pub struct Claim<'a> {
    /// A channel to read the head queue with.
    pub channel: &'a Channel,
    /// A channel to publish with.
    pub publisher: &'a Publisher,
    /// The cluster's id.
    pub cluster: &'a str,
    /// The exchange.
    pub exchange: &'a str,
    /// The head queue.
    pub head_queue: &'a str,
    /// Who publishes.
    pub app_id: &'a str,
    /// Reports and questions.
    pub inbox: &'a mut Consumer,
    /// Whether an empty head queue is the beginning of the history.
    pub genesis: bool,
    /// What contradicted an earlier head.
    pub contradiction: Option<StaleHead>,
}

/// What the head queue holds.
#[derive(Debug, Default)]
struct Head {
    latest: Option<Message>,
    receipt: Option<Receipt>,
}

impl Claim<'_> {
    /// Takes over: on success this heart is the active one.
    pub async fn take_over(mut self) -> Result<Reign, TakeOverError> {
        let mut head = self.read_head().await?;
        if head.latest.is_none() && self.genesis {
            head.latest = Some(self.begin().await?);
        }
        let take_over = TakeOver::decide(self.cluster, head.latest)?;
        if let Some(earlier) = self.contradiction {
            take_over.judge(earlier)?;
        }
        let publication = take_over.publication();
        publish(self.publisher, self.exchange, self.app_id, publication)
            .await?
            .confirmed(CONFIRM_DEADLINE)
            .await?;
        if let Some(receipt) = head.receipt {
            receipt.ack_through().await?;
        }
        Ok(take_over.confirmed())
    }

    async fn read_head(&self) -> Result<Head, TakeOverError> {
        let give_up = Instant::now() + EMPTY_MAY_PASS_WITHIN;
        let (mut head, mut messages) = (Head::default(), 0);
        loop {
            let Some(delivery) = self.channel.get(self.head_queue).await? else {
                if head.receipt.is_some() || Instant::now() >= give_up {
                    return Ok(head);
                }
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            messages += 1;
            if messages > MAX_HEAD_MESSAGES {
                return Err(TakeOverError::HeadGrows);
            }
            match Message::decode(self.cluster, &delivery.body) {
                Ok(message) => {
                    head.latest = Some(match head.latest {
                        Some(other) => later(other, message),
                        None => message,
                    });
                }
                Err(error @ DecodeError::NewerVersion(_)) => return Err(TakeOverError::NewerVersion(error)),
                Err(error) => tracing::warn!(%error, "ignoring what is no message in the head queue"),
            }
            head.receipt = Some(delivery.receipt);
        }
    }

    /// Begins the history, unless a node has seen one.
    async fn begin(&mut self) -> Result<Message, TakeOverError> {
        if let Some(earlier) = self.contradiction {
            return Err(earlier.into());
        }
        let give_up = Instant::now() + LISTEN_BEFORE_GENESIS;
        while let Ok(delivery) = timeout_at(give_up, self.inbox.next()).await {
            let delivery = delivery?;
            match serde_json::from_slice::<Report>(&delivery.body) {
                Ok(report) if delivery.kind == REPORT_KIND && report.cluster == self.cluster => {
                    judge_genesis(&report)?;
                }
                // Whoever asks now asks again.
                _ => {}
            }
            delivery.receipt.ack().await?;
        }
        let mark = publish_genesis(self.publisher, self.cluster, self.head_queue, self.app_id).await?;
        tracing::info!(cluster = self.cluster, "the head queue was empty: the history begins here");
        Ok(Message::Mark(mark))
    }
}

/// Publishes a message of the history. The head queue is always bound, so a return is a doubt like any other.
pub async fn publish(
    publisher: &Publisher,
    exchange: &str,
    app_id: &str,
    message: &Message,
) -> Result<Confirm, AmqpError> {
    let outgoing = Outgoing {
        exchange,
        mandatory: true,
        persistent: true,
        kind: message.kind(),
        message_id: &message.id(),
        app_id,
        body: &message.body(),
        ..Outgoing::default()
    };
    publisher.publish(&outgoing).await
}

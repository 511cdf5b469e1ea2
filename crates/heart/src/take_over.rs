//! Taking over: read where the history ends, publish that end again under the next epoch, and only then begin.
//!
//! Nothing is acknowledged before the new copy is confirmed, so a heart that dies anywhere in here leaves the head
//! queue able to tell the next one the same.

use std::time::Duration;

use broadcast_protocol::envelope::{DecodeError, Mark, Message};
use broadcast_protocol::report::Report;
use broadcast_protocol::sequencer::{HeadLost, Reign, StaleHead, TakeOver};
use broadcast_service::amqp::{AmqpError, Channel, Confirm, Outgoing, Publisher, Receipt};
use tokio::time::{Instant, sleep};

use crate::clock::unix_milliseconds;

/// How long the broker has to confirm a message.
pub const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);

/// How long an empty head queue may be about to get back what a dead heart had taken from it.
const EMPTY_MAY_PASS_WITHIN: Duration = Duration::from_secs(2);

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
    /// Whether an empty head queue is the beginning of the history.
    pub genesis: bool,
    /// The report that contradicted an earlier head.
    pub contradiction: Option<&'a Report>,
}

/// What the head queue holds.
#[derive(Debug, Default)]
struct Head {
    messages: Vec<Message>,
    receipt: Option<Receipt>,
}

impl Claim<'_> {
    /// Takes over: on success this heart is the active one.
    pub async fn take_over(&self) -> Result<Reign, TakeOverError> {
        let mut head = self.read_head().await?;
        if head.messages.is_empty() && self.genesis {
            head.messages.push(Message::Mark(self.publish_genesis().await?));
        }
        let take_over = TakeOver::decide(self.cluster, head.messages)?;
        if let Some(report) = self.contradiction {
            take_over.judge(report)?;
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
        let mut head = Head::default();
        loop {
            let Some(delivery) = self.channel.get(self.head_queue).await? else {
                if head.receipt.is_some() || Instant::now() >= give_up {
                    return Ok(head);
                }
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            match Message::decode(self.cluster, &delivery.body) {
                Ok(message) => head.messages.push(message),
                Err(error @ DecodeError::NewerVersion(_)) => return Err(TakeOverError::NewerVersion(error)),
                Err(error) => tracing::warn!(%error, "ignoring what is no message in the head queue"),
            }
            head.receipt = Some(delivery.receipt);
        }
    }

    /// Into the head queue alone: it tells where the history begins, there is nothing to apply.
    async fn publish_genesis(&self) -> Result<Mark, TakeOverError> {
        let mark = Mark::genesis(self.cluster, unix_milliseconds());
        let message = Message::Mark(mark.clone());
        let outgoing = Outgoing {
            routing_key: self.head_queue,
            mandatory: true,
            persistent: true,
            kind: message.kind(),
            message_id: &message.id(),
            app_id: self.app_id,
            body: &message.body(),
            ..Outgoing::default()
        };
        self.publisher.publish(&outgoing).await?.confirmed(CONFIRM_DEADLINE).await?;
        tracing::info!(cluster = self.cluster, "the head queue was empty: the history begins here");
        Ok(mark)
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

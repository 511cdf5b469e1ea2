//! Channels: deliveries come in order and are settled through their receipts; messages go out with or without
//! confirms, but never with confirms that nobody looks at.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    BasicQosOptions, BasicRejectOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};

use super::death::Death;
use super::{AmqpError, CALL_DEADLINE, short, within};

/// The header of a message that somebody waits for.
const AWAITED: &str = "awaited";

/// A channel for deliveries, and for messages that may get lost.
#[derive(Debug, Clone)]
pub struct Channel {
    pub(super) inner: lapin::Channel,
}

/// A channel whose every message is confirmed.
#[derive(Debug, Clone)]
pub struct Publisher {
    channel: Channel,
}

/// The broker's word on one message, still to come.
#[must_use = "a message counts only when it is confirmed"]
#[derive(Debug)]
pub struct Confirm(lapin::PublisherConfirm);

/// A message to send: JSON.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing<'a> {
    /// The exchange; empty is the default one, which routes by queue name.
    pub exchange: &'a str,
    /// The routing key.
    pub routing_key: &'a str,
    /// Whether it is returned when no queue takes it. For a [`Publisher`] only.
    pub mandatory: bool,
    /// Whether it survives a restart of the broker.
    pub persistent: bool,
    /// The property `type`.
    pub kind: &'a str,
    /// The property `message_id`; empty is none.
    pub message_id: &'a str,
    /// The property `app_id`; empty is none.
    pub app_id: &'a str,
    /// The property `reply_to`.
    pub reply_to: Option<&'a str>,
    /// Whether somebody waits until it is applied: the header `awaited`, which is left out otherwise.
    pub awaited: bool,
    /// The body.
    pub body: &'a [u8],
}

/// A message from a queue.
#[derive(Debug)]
pub struct Delivery {
    /// The body.
    pub body: Bytes,
    /// The property `type`, empty when there is none.
    pub kind: String,
    /// The property `reply_to`.
    pub reply_to: Option<String>,
    /// Where it comes from, when that was by the dead letters.
    pub death: Option<Death>,
    /// Whether somebody waits until it is applied.
    pub awaited: bool,
    /// What settles it. Dropping it leaves the delivery unsettled until its channel ends.
    pub receipt: Receipt,
}

/// Settles one delivery, once, on the channel that it came by.
#[must_use = "a delivery is the consumer's until it is settled"]
#[derive(Debug)]
pub struct Receipt(lapin::Acker);

/// The deliveries of one queue, in order.
#[derive(Debug)]
pub struct Consumer {
    queue: String,
    inner: lapin::Consumer,
}

impl Channel {
    pub(super) fn new(inner: lapin::Channel) -> Self {
        Self { inner }
    }

    /// Consumes a queue with at most `prefetch` deliveries unsettled.
    ///
    /// To stop, close the channel before the consumer is dropped: a cancelled consumer's unsettled deliveries come
    /// back behind those that the next consumer has got by then.
    pub async fn consume(&self, queue: &str, prefetch: u16) -> Result<Consumer, AmqpError> {
        // Without a limit the library would buffer the whole queue.
        let limit = self.inner.basic_qos(prefetch, BasicQosOptions::default());
        within("basic.qos", CALL_DEADLINE, limit).await?;
        self.start_consumer(queue, BasicConsumeOptions::default()).await
    }

    /// Consumes without acknowledgements; for direct replies, which come at most once for each question.
    pub(super) async fn consume_automatically(&self, queue: &str) -> Result<Consumer, AmqpError> {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        self.start_consumer(queue, options).await
    }

    async fn start_consumer(&self, queue: &str, options: BasicConsumeOptions) -> Result<Consumer, AmqpError> {
        let consume =
            self.inner.basic_consume(short(queue)?, ShortString::default(), options, FieldTable::default());
        let inner = within("basic.consume", CALL_DEADLINE, consume).await?;
        Ok(Consumer { queue: queue.to_owned(), inner })
    }

    /// The first message of a queue, or `None` when it has none ready.
    pub async fn get(&self, queue: &str) -> Result<Option<Delivery>, AmqpError> {
        let get = self.inner.basic_get(short(queue)?, BasicGetOptions::default());
        let message = within("basic.get", CALL_DEADLINE, get).await?;
        Ok(message.map(|message| Delivery::new(message.delivery)))
    }

    /// Sends a message that may get lost: nobody learns whether it arrived.
    pub async fn send(&self, message: &Outgoing<'_>) -> Result<(), AmqpError> {
        let unreturned = Outgoing { mandatory: false, ..*message };
        self.publish(&unreturned).await.map(drop)
    }

    async fn publish(&self, message: &Outgoing<'_>) -> Result<lapin::PublisherConfirm, AmqpError> {
        let options = BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
        let publish = self.inner.basic_publish(
            short(message.exchange)?,
            short(message.routing_key)?,
            options,
            message.body,
            build_properties(message)?,
        );
        within("basic.publish", CALL_DEADLINE, publish).await
    }

    /// Closes the channel: its unsettled deliveries go back to their places in their queues.
    pub async fn close(self) -> Result<(), AmqpError> {
        within("channel.close", CALL_DEADLINE, self.inner.close(200, short("bye")?)).await
    }
}

impl Publisher {
    pub(super) async fn open(channel: Channel) -> Result<Self, AmqpError> {
        let select = channel.inner.confirm_select(ConfirmSelectOptions::default());
        within("confirm.select", CALL_DEADLINE, select).await?;
        Ok(Self { channel })
    }

    /// Publishes a message; only its [`Confirm`] says whether the broker has it.
    pub async fn publish(&self, message: &Outgoing<'_>) -> Result<Confirm, AmqpError> {
        self.channel.publish(message).await.map(Confirm)
    }

    /// Closes the channel.
    pub async fn close(self) -> Result<(), AmqpError> {
        self.channel.close().await
    }
}

impl Confirm {
    /// Waits until the broker has the message in every queue that it was routed to. Any error is a doubt: the
    /// message may still arrive, even after a time-out.
    pub async fn confirmed(self, deadline: Duration) -> Result<(), AmqpError> {
        match within("confirm", deadline, self.0).await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) => Err(AmqpError::Returned(returned.reply_text.to_string())),
            Confirmation::Nack(_) => Err(AmqpError::Nacked),
            Confirmation::NotRequested => {
                Err(AmqpError::ChannelClosed("confirms are not switched on".to_owned()))
            }
        }
    }
}

impl Consumer {
    /// The next delivery. Cancel safe.
    pub async fn next(&mut self) -> Result<Delivery, AmqpError> {
        match self.inner.next().await {
            Some(Ok(delivery)) => Ok(Delivery::new(delivery)),
            Some(Err(error)) => Err(AmqpError::of_session("basic.deliver", &error)),
            None => Err(AmqpError::ConsumerCancelled(self.queue.clone())),
        }
    }
}

impl Delivery {
    fn new(delivery: lapin::message::Delivery) -> Self {
        let properties = &delivery.properties;
        let headers = properties.headers().as_ref();
        Self {
            kind: properties.kind().as_ref().map(ToString::to_string).unwrap_or_default(),
            reply_to: properties.reply_to().as_ref().map(ToString::to_string),
            death: headers.and_then(Death::read),
            awaited: headers.is_some_and(|headers| headers.contains_key(AWAITED)),
            body: Bytes::from(delivery.data),
            receipt: Receipt(delivery.acker),
        }
    }
}

impl Receipt {
    /// Done with this delivery.
    pub async fn ack(self) -> Result<(), AmqpError> {
        settle("basic.ack", self.0.ack(BasicAckOptions { multiple: false })).await
    }

    /// Done with this delivery and all unsettled ones before it on its channel.
    pub async fn ack_through(self) -> Result<(), AmqpError> {
        settle("basic.ack", self.0.ack(BasicAckOptions { multiple: true })).await
    }

    /// Never deliver this one again: to the dead letters.
    pub async fn reject(self) -> Result<(), AmqpError> {
        settle("basic.reject", self.0.reject(BasicRejectOptions { requeue: false })).await
    }

    /// Back to the queue with this one and all unsettled ones before it on its channel.
    pub async fn requeue_through(self) -> Result<(), AmqpError> {
        settle("basic.nack", self.0.nack(BasicNackOptions { multiple: true, requeue: true })).await
    }
}

async fn settle(
    operation: &'static str,
    call: impl Future<Output = lapin::Result<bool>>,
) -> Result<(), AmqpError> {
    if within(operation, CALL_DEADLINE, call).await? { Ok(()) } else { Err(AmqpError::AcknowledgementLost) }
}

fn build_properties(message: &Outgoing<'_>) -> Result<BasicProperties, AmqpError> {
    const TRANSIENT: u8 = 1;
    const PERSISTENT: u8 = 2;
    let mut properties = BasicProperties::default()
        .with_content_type(short("application/json")?)
        .with_delivery_mode(if message.persistent { PERSISTENT } else { TRANSIENT })
        .with_type(short(message.kind)?);
    if !message.message_id.is_empty() {
        properties = properties.with_message_id(short(message.message_id)?);
    }
    if !message.app_id.is_empty() {
        properties = properties.with_app_id(short(message.app_id)?);
    }
    if let Some(reply_to) = message.reply_to {
        properties = properties.with_reply_to(short(reply_to)?);
    }
    if message.awaited {
        let mut headers = FieldTable::default();
        headers.insert(short(AWAITED)?, AMQPValue::Boolean(true));
        properties = properties.with_headers(headers);
    }
    Ok(properties)
}

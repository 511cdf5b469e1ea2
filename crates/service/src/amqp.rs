//! Sessions with the broker: they work until the first error, and are then thrown away whole.
//!
//! - Every call has a deadline ([`CALL_DEADLINE`]); an error says which of the known reasons it was ([`AmqpError`]).
//! - A session is never repaired behind its user's back. The library's own recovery gives up after a while, repairs
//!   no channel errors, and would let a delivery of the old session be acknowledged on the new one.
//! - A published message counts only when the broker has acknowledged it without returning it ([`Confirm`]).
//! - Declarations and deletions use channels of their own: the broker closes the channel that a refusal happens on, and
//!   nobody else shall notice.

mod calls;
mod channel;
mod connect;
mod death;
mod error;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use broadcast_protocol::topology::{Argument, ExchangeDeclaration, QueueDeclaration};
use bytes::Bytes;
use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

pub use calls::Calls;
pub use channel::{Channel, Confirm, Consumer, Delivery, Outgoing, Publisher, Receipt};
pub use death::Death;
pub use error::AmqpError;

use crate::amqp_url::AmqpUrl;

/// How long the broker has to answer a call.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// How many channels a connection opens before their numbers come round (RabbitMQ's `channel_max` is 2047).
const CHANNEL_NUMBERS: usize = 2_000;

/// How often each side shows that it lives; it is taken for dead after two of them.
const HEARTBEAT_SECONDS: u16 = 5;

/// A connection to the broker. Dropping it cuts it at once: what is buffered on this side is never sent, and the broker
/// takes back what it gave.
#[derive(Debug)]
pub struct Connection {
    inner: lapin::Connection,
    socket: connect::Socket,
    /// How many channels there have been.
    opened: AtomicUsize,
}

/// What the broker says of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueDepth {
    /// Messages that wait for delivery.
    pub messages: u32,
    /// Its consumers.
    pub consumers: u32,
}

impl Connection {
    /// Connects within [`CALL_DEADLINE`]; `name` is what the broker's tools show.
    pub async fn connect(url: &AmqpUrl, name: &str) -> Result<Self, AmqpError> {
        let (inner, socket) = connect::connect(url, name).await?;
        Ok(Self { inner, socket, opened: AtomicUsize::new(0) })
    }

    /// Opens a channel that consumes, gets, or sends without confirms.
    pub async fn open_channel(&self) -> Result<Channel, AmqpError> {
        loop {
            let opened = self.opened.fetch_add(1, Ordering::Relaxed);
            match within("channel.open", CALL_DEADLINE, self.inner.create_channel()).await {
                // The broker refuses no channel so. The library (lapin 4.12) says of a channel's number that comes round what
                // the broker closed its last channel for, and the number is of no use any more.
                Err(error) if error.is_of_a_call() && opened >= CHANNEL_NUMBERS => {
                    tracing::debug!(%error, "a channel's number is spent");
                }
                channel => return channel.map(Channel::new),
            }
        }
    }

    /// Whether the numbers of its channels have come round. What the broker has closed a channel for is remembered by its number,
    /// so that there are fewer and fewer: who opens many channels does better with a new connection.
    pub fn is_spent(&self) -> bool {
        self.opened.load(Ordering::Relaxed) >= CHANNEL_NUMBERS
    }

    /// Opens a channel whose every message is confirmed.
    pub async fn open_publisher(&self) -> Result<Publisher, AmqpError> {
        Publisher::open(self.open_channel().await?).await
    }

    /// Whether it works, as far as is known here.
    pub fn is_alive(&self) -> bool {
        self.inner.status().connected()
    }

    /// This side's address in the network that the broker is in.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.socket.local_ip()
    }

    /// Closes the connection; its exclusive queues are free as soon as the broker notices. Close or keep the channels
    /// before: one that is being closed gets in the way.
    pub async fn close(self) -> Result<(), AmqpError> {
        within("connection.close", CALL_DEADLINE, self.inner.close(200, short("bye")?)).await
    }

    /// Declares an exchange, which may exist.
    pub async fn declare_exchange(&self, exchange: &ExchangeDeclaration) -> Result<(), AmqpError> {
        let calls = Calls::new(self);
        calls.declare_exchange(exchange).await?;
        calls.close().await
    }

    /// Declares a queue, which may exist, and binds it.
    pub async fn declare_queue(&self, queue: &QueueDeclaration) -> Result<(), AmqpError> {
        let calls = Calls::new(self);
        calls.declare_queue(queue).await?;
        calls.close().await
    }

    /// Declares a queue that is this connection's alone and ends with it; [`AmqpError::Locked`] when it is another's.
    pub async fn lock_queue(
        &self,
        name: &str,
        arguments: &[(&'static str, Argument)],
    ) -> Result<(), AmqpError> {
        let channel = self.open_channel().await?;
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let declare = channel.inner.queue_declare(short(name)?, options, build_field_table(arguments)?);
        within("queue.declare", CALL_DEADLINE, declare).await?;
        channel.close().await
    }

    /// A queue's depth, or `None` when there is no such queue.
    pub async fn inspect_queue(&self, name: &str) -> Result<Option<QueueDepth>, AmqpError> {
        let calls = Calls::new(self);
        let depth = calls.inspect_queue(name).await?;
        calls.close().await.map(|()| depth)
    }

    /// Whether there is an exchange of this name.
    pub async fn has_exchange(&self, name: &str) -> Result<bool, AmqpError> {
        let calls = Calls::new(self);
        let found = calls.has_exchange(name).await?;
        calls.close().await.map(|()| found)
    }

    /// Unbinds a queue; one that is not bound, or not there, is fine.
    pub async fn unbind_queue(&self, name: &str, exchange: &str) -> Result<(), AmqpError> {
        let channel = self.open_channel().await?;
        let (name, exchange) = (short(name)?, short(exchange)?);
        let unbind =
            channel.inner.queue_unbind(name, exchange, ShortString::default(), FieldTable::default());
        match within("queue.unbind", CALL_DEADLINE, unbind).await {
            Ok(()) => channel.close().await,
            Err(AmqpError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes a queue with its messages; one that is not there is fine. Unbind it first: a broker may close a
    /// publisher's connection when a bound quorum queue goes away.
    pub async fn delete_queue(&self, name: &str) -> Result<(), AmqpError> {
        let channel = self.open_channel().await?;
        let delete = channel.inner.queue_delete(short(name)?, QueueDeleteOptions::default());
        match within("queue.delete", CALL_DEADLINE, delete).await {
            Ok(_) => channel.close().await,
            Err(AmqpError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes an exchange; one that is not there is fine.
    pub async fn delete_exchange(&self, name: &str) -> Result<(), AmqpError> {
        let channel = self.open_channel().await?;
        let delete = channel.inner.exchange_delete(short(name)?, ExchangeDeleteOptions::default());
        match within("exchange.delete", CALL_DEADLINE, delete).await {
            Ok(()) => channel.close().await,
            Err(AmqpError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends a question of the given `kind` and `body` to a queue and waits for the one answer (direct reply-to). No such queue
    /// looks like no answer.
    pub async fn ask(
        &self,
        queue: &str,
        kind: &str,
        body: &[u8],
        deadline: Duration,
    ) -> Result<Bytes, AmqpError> {
        const REPLY_TO: &str = "amq.rabbitmq.reply-to";
        let channel = self.open_channel().await?;
        let mut answers = channel.consume_automatically(REPLY_TO).await?;
        let question =
            Outgoing { routing_key: queue, kind, body, reply_to: Some(REPLY_TO), ..Outgoing::default() };
        channel.send(&question).await?;
        let answer = tokio::time::timeout(deadline, answers.next())
            .await
            .map_err(|_| AmqpError::Timeout { operation: "request", deadline })??;
        channel.close().await?;
        Ok(answer.body)
    }
}

/// Turns a declaration's arguments into the library's.
fn build_field_table(arguments: &[(&'static str, Argument)]) -> Result<FieldTable, AmqpError> {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Flag(flag) => AMQPValue::Boolean(*flag),
            Argument::Integer(number) => AMQPValue::LongLongInt(*number),
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
        };
        table.insert(short(name)?, value);
    }
    Ok(table)
}

/// The library's type of names; its own conversion panics on a long one.
fn short(name: &str) -> Result<ShortString, AmqpError> {
    ShortString::try_new(name).map_err(|error| AmqpError::NameTooLong(error.to_string()))
}

/// Waits for a call of an established connection.
async fn within<T>(
    operation: &'static str,
    deadline: Duration,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, AmqpError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result.map_err(|error| AmqpError::of_session(operation, &error)),
        Err(_) => Err(AmqpError::Timeout { operation, deadline }),
    }
}

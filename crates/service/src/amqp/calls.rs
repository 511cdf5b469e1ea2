//! Calls that the broker may refuse, one after the other on one channel: it closes the channel that a refusal happens on, and only then
//! is there another one.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use broadcast_protocol::topology::{ExchangeDeclaration, QueueDeclaration};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};

use super::{AmqpError, CALL_DEADLINE, Channel, Connection, QueueDepth, build_field_table, short, within};

/// Calls over one connection, which others may use as well.
#[derive(Debug)]
pub struct Calls<C> {
    connection: C,
    /// The one that nobody uses just now.
    channel: Mutex<Option<Channel>>,
}

impl<C: Deref<Target = Connection>> Calls<C> {
    /// Calls over this connection.
    pub fn new(connection: C) -> Self {
        Self { connection, channel: Mutex::default() }
    }

    /// What it goes over.
    pub fn connection(&self) -> &C {
        &self.connection
    }

    /// Closes the channel. Without that it stays for as long as the connection does.
    pub async fn close(self) -> Result<(), AmqpError> {
        match self.channel.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(channel) => channel.close().await,
            None => Ok(()),
        }
    }

    /// Declares an exchange, which may exist.
    pub async fn declare_exchange(&self, exchange: &ExchangeDeclaration) -> Result<(), AmqpError> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = short(&exchange.name)?;
        self.exchange_declare(name, options).await
    }

    /// Declares a queue, which may exist, and binds it.
    pub async fn declare_queue(&self, queue: &QueueDeclaration) -> Result<(), AmqpError> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let arguments = build_field_table(&queue.arguments)?;
        self.queue_declare(short(&queue.name)?, options, arguments).await?;
        let (name, exchange) = (short(&queue.name)?, short(&queue.bound_to)?);
        let channel = self.take().await?;
        let bind = channel.inner.queue_bind(
            name,
            exchange,
            ShortString::default(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        let bound = within("queue.bind", CALL_DEADLINE, bind).await;
        self.give_back(channel, bound)
    }

    /// A queue's depth, or `None` when there is no such queue.
    pub async fn inspect_queue(&self, name: &str) -> Result<Option<QueueDepth>, AmqpError> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match self.queue_declare(short(name)?, options, FieldTable::default()).await {
            Err(AmqpError::NotFound(_)) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Whether there is an exchange of this name.
    pub async fn has_exchange(&self, name: &str) -> Result<bool, AmqpError> {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        match self.exchange_declare(short(name)?, options).await {
            Err(AmqpError::NotFound(_)) => Ok(false),
            found => found.map(|()| true),
        }
    }

    async fn exchange_declare(
        &self,
        name: ShortString,
        options: ExchangeDeclareOptions,
    ) -> Result<(), AmqpError> {
        let channel = self.take().await?;
        let declare =
            channel.inner.exchange_declare(name, ExchangeKind::Fanout, options, FieldTable::default());
        let declared = within("exchange.declare", CALL_DEADLINE, declare).await;
        self.give_back(channel, declared)
    }

    async fn queue_declare(
        &self,
        name: ShortString,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<QueueDepth, AmqpError> {
        let channel = self.take().await?;
        let declare = channel.inner.queue_declare(name, options, arguments);
        let declared = within("queue.declare", CALL_DEADLINE, declare).await;
        let depth = declared
            .map(|queue| QueueDepth { messages: queue.message_count(), consumers: queue.consumer_count() });
        self.give_back(channel, depth)
    }

    async fn take(&self) -> Result<Channel, AmqpError> {
        let idle = self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
        match idle {
            Some(channel) => Ok(channel),
            None => self.connection.open_channel().await,
        }
    }

    /// After an error the channel is closed, or nobody knows what it is about.
    fn give_back<T>(&self, channel: Channel, result: Result<T, AmqpError>) -> Result<T, AmqpError> {
        if result.is_ok() {
            *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        }
        result
    }
}

//! The cluster's objects on the broker: looked at, declared and removed over AMQP alone.
//!
//! The clusters of one broker share a connection; within a pass, calls share a channel.

mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use broadcast_protocol::envelope::{DecodeError, Message};
use broadcast_protocol::names::{BrokerNames, NodeId};
use broadcast_protocol::topology::{ExchangeDeclaration, QueueDeclaration};
use broadcast_service::amqp::{AmqpError, Calls, Connection, QueueDepth};
use broadcast_service::genesis;

pub use pool::Brokers;

use crate::metrics::Queue;
use crate::names::MANAGER;
use crate::secret::BrokerAccess;

/// What a pass does at a broker goes through one.
pub type Session = Calls<Arc<Connection>>;

/// An error of the broker, with what was being done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {source}")]
pub struct BrokerError {
    /// The object that it is about: an exchange, a queue, or the Secret with the address.
    pub object: String,
    /// What the broker or the network says.
    pub source: AmqpError,
}

impl BrokerError {
    /// Adds the object to an error.
    pub fn about(object: impl Into<String>) -> impl FnOnce(AmqpError) -> Self {
        let object = object.into();
        move |source| Self { object, source }
    }

    /// Whether the broker answered, and refused this object alone.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.source,
            AmqpError::ArgumentsDiffer(_)
                | AmqpError::AccessRefused(_)
                | AmqpError::Locked(_)
                | AmqpError::NameTooLong(_)
                | AmqpError::Returned(_)
        )
    }

    /// Whether only a person can mend it.
    pub fn needs_a_change(&self) -> bool {
        self.is_refusal()
            || matches!(
                self.source,
                AmqpError::Tls { .. }
                    | AmqpError::CredentialsRefused { .. }
                    | AmqpError::VhostRefused { .. }
                    | AmqpError::Url(_)
            )
    }
}

/// What a cluster has on the broker, as far as it is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedBroker {
    /// The nodes' queues that exist.
    pub node_queues: BTreeMap<NodeId, QueueDepth>,
    /// The queues that exist of those that every cluster has: of the newest messages, and of rejected ones.
    pub common_queues: Vec<(Queue, QueueDepth)>,
    /// What was looked for and is not there, such as `exchange orders`.
    pub missing: Vec<String>,
    /// The id of the history that the head queue has a message of. Looked at only before the cluster's own has begun.
    pub history: Option<String>,
}

impl ObservedBroker {
    /// The queues that exist, as they are shown.
    pub fn queues(&self) -> Vec<(Queue, QueueDepth)> {
        let of_nodes = self.node_queues.iter().map(|(id, depth)| (Queue::Node(*id), *depth));
        of_nodes.chain(self.common_queues.iter().copied()).collect()
    }
}

/// Connects, if nobody has, and looks at the queues of `ids`. Before a history has begun, `beginning` is its id.
pub async fn fetch_broker(
    brokers: &Brokers,
    access: &BrokerAccess,
    names: &BrokerNames,
    ids: &BTreeSet<NodeId>,
    beginning: Option<&str>,
) -> Result<(Session, ObservedBroker), BrokerError> {
    let connect = async || {
        brokers.connect(access.url()).await.map_err(BrokerError::about(format!("Secret {}", access.secret())))
    };
    let (connection, is_new) = connect().await?;
    match look(&connection, names, ids, beginning).await {
        Err(error) if !is_new && !error.is_refusal() => {
            // It had died, which nobody noticed before it was used.
            brokers.discard(&connection);
            look(&connect().await?.0, names, ids, beginning).await
        }
        looked => looked,
    }
}

async fn look(
    connection: &Arc<Connection>,
    names: &BrokerNames,
    ids: &BTreeSet<NodeId>,
    beginning: Option<&str>,
) -> Result<(Session, ObservedBroker), BrokerError> {
    let session = Calls::new(connection.clone());
    let mut observed = ObservedBroker::default();
    if let Some(own) = beginning {
        observed.history = fetch_history(&session, &names.head_queue(), own).await?;
        // Nothing was made yet.
        if ids.is_empty() {
            return Ok((session, observed));
        }
    }
    for id in ids {
        let queue = names.node_queue(*id);
        match inspect_queue(&session, &queue).await? {
            Some(depth) => _ = observed.node_queues.insert(*id, depth),
            None => observed.missing.push(describe_queue(&queue)),
        }
    }
    for exchange in [names.exchange().to_owned(), names.dead_exchange()] {
        let about = BrokerError::about(describe_exchange(&exchange));
        if !session.has_exchange(&exchange).await.map_err(about)? {
            observed.missing.push(describe_exchange(&exchange));
        }
    }
    for (kind, queue) in [(Queue::Head, names.head_queue()), (Queue::Dead, names.dead_queue())] {
        match inspect_queue(&session, &queue).await? {
            Some(depth) => observed.common_queues.push((kind, depth)),
            None => observed.missing.push(describe_queue(&queue)),
        }
    }
    Ok((session, observed))
}

/// What an exchange is called in messages.
pub fn describe_exchange(name: &str) -> String {
    format!("exchange {name}")
}

/// What a queue is called in messages.
pub fn describe_queue(name: &str) -> String {
    format!("queue {name}")
}

async fn inspect_queue(session: &Session, queue: &str) -> Result<Option<QueueDepth>, BrokerError> {
    session.inspect_queue(queue).await.map_err(BrokerError::about(describe_queue(queue)))
}

/// The id of the history that a head queue has a message of; the message stays there.
/// `own` is the id of the one that is expected.
async fn fetch_history(
    session: &Session,
    head_queue: &str,
    own: &str,
) -> Result<Option<String>, BrokerError> {
    let fetch = async {
        if session.inspect_queue(head_queue).await?.is_none() {
            return Ok(None);
        }
        let channel = session.connection().open_channel().await?;
        let first = channel.get(head_queue).await?;
        let history = first.and_then(|first| match Message::decode(own, &first.body) {
            Ok(_) | Err(DecodeError::NewerVersion(_)) => Some(own.to_owned()),
            Err(DecodeError::OtherCluster { found, .. }) => Some(found),
            Err(_) => None,
        });
        // What is unsettled goes back to its place.
        channel.close().await?;
        Ok(history)
    };
    fetch.await.map_err(BrokerError::about(describe_queue(head_queue)))
}

/// Puts the mark of a new cluster into the head queue. Only when this returns without error is it there for sure.
pub async fn publish_genesis(session: &Session, cluster: &str, head_queue: &str) -> Result<(), BrokerError> {
    let publish = async {
        let publisher = session.connection().open_publisher().await?;
        genesis::publish_genesis(&publisher, cluster, head_queue, MANAGER).await?;
        publisher.close().await
    };
    publish.await.map_err(BrokerError::about(describe_queue(head_queue)))
}

/// Declares an exchange, and says whether it was not there, if that `matters`. That is looked at once more, as others may have deleted
/// or declared it since all was looked at.
pub async fn declare_exchange(
    session: &Session,
    exchange: &ExchangeDeclaration,
    matters: bool,
) -> Result<bool, BrokerError> {
    let declare = async {
        let is_there = !matters || session.has_exchange(&exchange.name).await?;
        session.declare_exchange(exchange).await.map(|()| !is_there)
    };
    declare.await.map_err(BrokerError::about(describe_exchange(&exchange.name)))
}

/// Declares a queue and binds it, and says whether it was not there, if that `matters`.
pub async fn declare_queue(
    session: &Session,
    queue: &QueueDeclaration,
    matters: bool,
) -> Result<bool, BrokerError> {
    let declare = async {
        let is_there = !matters || session.inspect_queue(&queue.name).await?.is_some();
        session.declare_queue(queue).await.map(|()| !is_there)
    };
    declare.await.map_err(BrokerError::about(describe_queue(&queue.name)))
}

/// Removes a queue. It is unbound first: a broker may close a publisher's connection when a bound one goes. One with
/// other arguments is somebody else's and stays.
pub async fn remove_queue(session: &Session, queue: &QueueDeclaration) -> Result<(), BrokerError> {
    let remove = async {
        if session.inspect_queue(&queue.name).await?.is_none() {
            return Ok(());
        }
        match session.declare_queue(queue).await {
            // Not found is its exchange: then it is not bound.
            Ok(()) | Err(AmqpError::NotFound(_)) => {}
            Err(AmqpError::ArgumentsDiffer(text)) => {
                note_left(&queue.name, &text);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        session.connection().unbind_queue(&queue.name, &queue.bound_to).await?;
        session.connection().delete_queue(&queue.name).await
    };
    remove.await.map_err(BrokerError::about(describe_queue(&queue.name)))
}

/// Removes an exchange. One of another type is somebody else's and stays.
pub async fn remove_exchange(session: &Session, exchange: &ExchangeDeclaration) -> Result<(), BrokerError> {
    let remove = async {
        match session.declare_exchange(exchange).await {
            Ok(()) => session.connection().delete_exchange(&exchange.name).await,
            Err(AmqpError::ArgumentsDiffer(text)) => {
                note_left(&exchange.name, &text);
                Ok(())
            }
            Err(error) => Err(error),
        }
    };
    remove.await.map_err(BrokerError::about(describe_exchange(&exchange.name)))
}

/// Declares a node's queue; one that has been declared with one of the `former` limits is made anew. What it holds, other
/// nodes and the hearts have too.
pub async fn replace_queue(
    session: &Session,
    queue: &QueueDeclaration,
    former: &[QueueDeclaration],
) -> Result<(), BrokerError> {
    let replace = async {
        let refused = match session.declare_queue(queue).await {
            Err(error @ AmqpError::ArgumentsDiffer(_)) => error,
            result => return result,
        };
        for candidate in former {
            match session.declare_queue(candidate).await {
                Err(AmqpError::ArgumentsDiffer(_)) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    session.connection().unbind_queue(&queue.name, &queue.bound_to).await?;
                    session.connection().delete_queue(&queue.name).await?;
                    return session.declare_queue(queue).await;
                }
            }
        }
        Err(refused)
    };
    replace.await.map_err(BrokerError::about(describe_queue(&queue.name)))
}

fn note_left(name: &str, text: &str) {
    tracing::warn!(name, text, "not removed: it is somebody else's");
}

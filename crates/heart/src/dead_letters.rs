//! The dead letters: what nodes rejected, and what was dropped from a queue that was full. To look at them, and to give
//! them back to the queues that they come from.
//!
//! - Each visit has a connection of its own: what goes wrong there ends no reign.
//! - A letter is removed only once the broker has confirmed it in the queue that it goes back to. A crash in between
//!   leaves it twice, which is harmless: nodes check every message.
//! - A visit is bounded in time, in letters and in bytes. There is one at a time, because letters that somebody holds are
//!   not there for anybody else.

mod letter;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use broadcast_protocol::topology::Topology;
use broadcast_service::amqp::{AmqpError, Channel, Connection, Delivery, Outgoing, Publisher};
use broadcast_service::amqp_url::AmqpUrlSource;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use letter::Letter;
use letter::{find_way_back, identify};

/// How long a visit lasts; what is not done by then is left.
const VISIT: Duration = Duration::from_secs(10);

/// How long the broker has to confirm a letter.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(5);

/// How much of the letters a visit takes from the broker, in bytes of bodies.
const MAX_VISIT_BYTES: usize = 64 << 20;

/// How many it takes.
const MAX_VISIT_LETTERS: u32 = 10_000;

/// How many letters that had to stay are named.
const MAX_NAMED: usize = 100;

/// What there is.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// The oldest ones.
    pub letters: Vec<Letter>,
    /// How many there are.
    pub total: u32,
}

/// Which ones are to be given back.
#[derive(Debug, Clone)]
pub enum Selection {
    /// All that are there now.
    All,
    /// Those with these ids.
    Ids(BTreeSet<String>),
}

/// What a replay has done.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// How many are in their queues again.
    pub replayed: u32,
    /// Those that had to stay, up to 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// Ids that no letter has that was looked at.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unknown: BTreeSet<String>,
    /// How many were not looked at: ask again.
    pub left: u32,
}

/// A letter that stays.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// Why.
    pub problem: String,
}

/// Why nothing was done, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// Somebody else is there.
    #[error("somebody else is looking at the dead letters")]
    Busy,
    /// The broker failed.
    #[error("{source}; {replayed} letters had been replayed by then, the others are where they were")]
    Amqp {
        /// How many are done.
        replayed: u32,
        /// What it says.
        source: AmqpError,
    },
}

impl From<AmqpError> for DeadLetterError {
    fn from(source: AmqpError) -> Self {
        Self::Amqp { replayed: 0, source }
    }
}

/// Access to the dead letters of a cluster.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    cluster: String,
    topology: Topology,
    broker: AmqpUrlSource,
    turn: Arc<Semaphore>,
}

/// A connection for one visit.
struct Visit<'a> {
    letters: &'a DeadLetters,
    queue: String,
    connection: Connection,
    channel: Channel,
    ends: Instant,
    /// How many there were.
    total: u32,
    taken: u32,
    bytes: usize,
}

impl DeadLetters {
    /// Asks nothing yet.
    pub fn new(cluster: String, topology: Topology, broker: AmqpUrlSource) -> Self {
        Self { cluster, topology, broker, turn: Arc::new(Semaphore::new(1)) }
    }

    /// The oldest letters, up to `limit`. They stay where they are.
    pub async fn list(&self, limit: u32) -> Result<Listing, DeadLetterError> {
        let _turn = self.turn.try_acquire().map_err(|_| DeadLetterError::Busy)?;
        let mut visit = self.open().await?;
        let (mut letters, total) = (Vec::new(), visit.total);
        while visit.taken < limit
            && let Some(held) = visit.take().await?
        {
            letters.push(Letter::read(&self.cluster, self.topology.names(), held.death.as_ref(), &held.body));
        }
        visit.close().await?;
        Ok(Listing { letters, total })
    }

    /// Gives letters back to the queues that they come from.
    pub async fn replay(&self, selection: &Selection) -> Result<Replayed, DeadLetterError> {
        let _turn = self.turn.try_acquire().map_err(|_| DeadLetterError::Busy)?;
        let visit = self.open().await?;
        let mut done = Replayed::default();
        match visit.replay(selection, &mut done).await {
            Ok(()) => Ok(done),
            Err(source) => Err(DeadLetterError::Amqp { replayed: done.replayed, source }),
        }
    }

    async fn open(&self) -> Result<Visit<'_>, AmqpError> {
        let name = format!("dead letters of {}", self.cluster);
        let connection = Connection::connect(&self.broker.fetch()?, &name).await?;
        let queue = self.topology.names().dead_queue();
        // Nodes declare it: without any there is nothing.
        let total = connection.inspect_queue(&queue).await?.map_or(0, |depth| depth.messages);
        let channel = connection.open_channel().await?;
        let ends = Instant::now() + VISIT;
        Ok(Visit { letters: self, queue, connection, channel, ends, total, taken: 0, bytes: 0 })
    }
}

impl Visit<'_> {
    /// The next letter of those that were there at the beginning, as long as the visit may go on. Unless it is settled it
    /// stays, and is nobody else's until the visit is over.
    async fn take(&mut self) -> Result<Option<Delivery>, AmqpError> {
        let may_go_on = Instant::now() < self.ends
            && self.taken < self.total.min(MAX_VISIT_LETTERS)
            && self.bytes < MAX_VISIT_BYTES;
        if !may_go_on {
            return Ok(None);
        }
        let Some(delivery) = self.channel.get(&self.queue).await? else {
            self.total = self.taken;
            return Ok(None);
        };
        self.taken += 1;
        self.bytes += delivery.body.len();
        Ok(Some(delivery))
    }

    async fn replay(mut self, selection: &Selection, done: &mut Replayed) -> Result<(), AmqpError> {
        let publisher = self.connection.open_publisher().await?;
        let mut wanted = match selection {
            Selection::All => BTreeSet::new(),
            Selection::Ids(ids) => ids.clone(),
        };
        while let Some(delivery) = self.take().await? {
            let id = identify(delivery.death.as_ref(), &delivery.body);
            if let Selection::Ids(ids) = selection {
                if !ids.contains(&id) {
                    continue;
                }
                wanted.remove(&id);
            }
            match self.give_back(&publisher, delivery).await? {
                Ok(()) => done.replayed += 1,
                Err(problem) if done.kept.len() < MAX_NAMED => done.kept.push(Kept { id, problem }),
                Err(_) => {}
            }
        }
        done.left = self.total - self.taken;
        done.unknown = wanted;
        publisher.close().await?;
        self.close().await
    }

    /// The inner error says why it stays.
    async fn give_back(
        &self,
        publisher: &Publisher,
        delivery: Delivery,
    ) -> Result<Result<(), String>, AmqpError> {
        let queue = match find_way_back(self.letters.topology.names(), delivery.death.as_ref()) {
            Ok(queue) => queue,
            Err(problem) => return Ok(Err(problem)),
        };
        let message = Outgoing {
            routing_key: queue,
            mandatory: true,
            persistent: true,
            kind: &delivery.kind,
            body: &delivery.body,
            ..Outgoing::default()
        };
        match publisher.publish(&message).await?.confirmed(CONFIRM_DEADLINE).await {
            Ok(()) => delivery.receipt.ack().await.map(Ok),
            Err(AmqpError::Returned(_)) => Ok(Err(format!("the queue {queue:?} is gone"))),
            Err(error) => Err(error),
        }
    }

    /// What was taken and not settled goes back to its place.
    async fn close(self) -> Result<(), AmqpError> {
        self.channel.close().await?;
        self.connection.close().await
    }
}

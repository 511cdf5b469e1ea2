//! A model of the broker: one fanout exchange, the head queue, the nodes' queues, the lock. It does everything that a
//! real one has been seen to do, and none of it at a time that suits anybody.

use std::collections::{BTreeMap, BTreeSet};

use broadcast_protocol::chain::Position;
use broadcast_protocol::envelope::{Link, Message, WriteMessage};
use broadcast_protocol::report::{Claim, Report};
use broadcast_protocol::topology::HEAD_QUEUE_LENGTH;
use bytes::Bytes;

use crate::agenda::{Event, Time};
use crate::context::Context;
use crate::mutations::Mutation;
use crate::network::Conn;
use crate::report::Seen;

mod damage;
mod queue;
mod routing;

use queue::{Entry, Queue};
use routing::drop_oldest;

/// A queue of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum QueueId {
    Head,
    Node(u32),
}

/// What a message carries of the history, for those who watch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carried {
    pub(crate) position: Position,
    /// With its writes, not only by name.
    pub(crate) has_writes: bool,
}

/// A message on its way.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    pub(crate) body: Bytes,
    pub(crate) carried: Option<Carried>,
}

impl Payload {
    pub(crate) fn of(message: &Message) -> Self {
        let carried = match message {
            Message::Link(link) => {
                Some(Carried { position: link.position(), has_writes: matches!(link, Link::Write(_)) })
            }
            Message::Seal(_) => None,
        };
        Self { body: message.body(), carried }
    }
}

/// What comes to the active heart's inbox.
#[derive(Debug, Clone)]
pub(crate) enum Letter {
    Report(Box<Report>),
    Tip(WriteMessage),
    Question(Option<Claim>, Conn),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Declared {
    Exchange,
    Queue(QueueId),
}

/// What clients ask of the broker.
#[derive(Debug)]
pub(crate) enum Request {
    /// The first on a connection.
    Open(Vec<Declared>),
    Declare(Vec<Declared>),
    Lock,
    /// Take the letters of the inbox.
    ReadInbox,
    Consume(QueueId),
    /// One message of the head queue.
    Get,
    /// Through the exchange, or into one queue alone.
    Publish {
        number: u64,
        to: Option<QueueId>,
        payload: Payload,
    },
    Ack {
        tag: u64,
        multiple: bool,
    },
    Reject(u64),
    /// Everything that is not settled.
    GiveBack,
    Ask(Option<Claim>),
    Answer(Conn),
    Close,
}

/// What the broker answers.
#[derive(Debug)]
pub(crate) enum Reply {
    Opened,
    Declared,
    Locked(bool),
    Delivery(u64, Bytes),
    Got(Option<(u64, Bytes)>),
    Confirmed(u64),
    Returned,
    Letter(Letter),
    /// A heart says that it is active.
    Active,
    /// The broker ends the connection: the client did what is an error there.
    Closed,
}

#[derive(Debug)]
struct Lock {
    conn: Conn,
    is_read: bool,
    letters: Vec<Letter>,
}

/// A message on its way to one queue.
#[derive(Debug)]
struct Route {
    conn: Conn,
    queue: QueueId,
    payload: Payload,
    publish: u64,
    at: Time,
}

/// A message that is not confirmed.
#[derive(Debug)]
struct Publish {
    conn: Conn,
    number: u64,
    missing: usize,
    carried: Option<Carried>,
}

#[derive(Debug, Default)]
pub(crate) struct Broker {
    is_down: bool,
    has_exchange: bool,
    queues: BTreeMap<QueueId, Queue>,
    /// The next delivery's tag on each open connection.
    open: BTreeMap<Conn, u64>,
    /// The queues that a fault has taken away and nobody has declared again.
    taken_away: BTreeSet<QueueId>,
    lock: Option<Lock>,
    routes: BTreeMap<u64, Route>,
    publishes: BTreeMap<u64, Publish>,
    /// When the last message of a connection arrives at a queue.
    pipes: BTreeMap<(Conn, QueueId), Time>,
    number: u64,
}

impl Broker {
    pub(crate) fn handle(&mut self, ctx: &mut Context, conn: Conn, request: Request) {
        if self.is_down || !(self.open.contains_key(&conn) || matches!(request, Request::Open(_))) {
            return ctx.reply(conn, Reply::Closed);
        }
        match request {
            Request::Open(declared) => {
                self.open.insert(conn, 1);
                ctx.set_open(conn, true);
                self.declare(ctx, &declared);
                ctx.reply(conn, Reply::Opened);
            }
            Request::Declare(declared) => {
                self.declare(ctx, &declared);
                ctx.reply(conn, Reply::Declared);
            }
            Request::Lock => {
                let is_free = self.lock.as_ref().is_none_or(|lock| lock.conn == conn);
                if is_free {
                    self.lock = Some(Lock { conn, is_read: false, letters: Vec::new() });
                } else {
                    ctx.count(Seen::LockRefused);
                }
                ctx.reply(conn, Reply::Locked(is_free || ctx.is_mutated(Mutation::LockIgnored)));
            }
            Request::ReadInbox => self.read_inbox(ctx, conn),
            Request::Consume(id) => match self.queues.get_mut(&id) {
                Some(queue) => {
                    queue.consumers.push(conn);
                    self.deliver(ctx, id);
                }
                None => self.refuse(ctx, conn),
            },
            Request::Get => self.get(ctx, conn),
            Request::Publish { number, to, payload } => self.publish(ctx, conn, number, to, &payload),
            Request::Ack { tag, multiple } => {
                self.settle(ctx, conn, |each| each == tag || multiple && each < tag);
            }
            Request::Reject(tag) => self.settle(ctx, conn, |each| each == tag),
            Request::GiveBack => {
                let ids: Vec<QueueId> = self.queues.keys().copied().collect();
                for id in ids {
                    self.take_back(ctx, conn, id);
                    self.deliver(ctx, id);
                }
            }
            Request::Ask(claim) => self.take_letter(ctx, Letter::Question(claim, conn)),
            Request::Answer(to) => ctx.reply(to, Reply::Active),
            Request::Close => self.close(ctx, conn),
        }
    }

    fn declare(&mut self, ctx: &mut Context, declared: &[Declared]) {
        for each in declared {
            match each {
                Declared::Exchange => self.has_exchange = true,
                Declared::Queue(id) => {
                    let length = match id {
                        QueueId::Head if ctx.is_mutated(Mutation::HeadQueueOfOne) => 1,
                        QueueId::Head => HEAD_QUEUE_LENGTH as usize,
                        QueueId::Node(_) => ctx.settings.queue_length,
                    };
                    self.taken_away.remove(id);
                    self.queues.entry(*id).or_insert_with(|| Queue::new(length)).is_bound = true;
                }
            }
        }
    }

    /// An error of the client's ends its connection.
    fn refuse(&mut self, ctx: &mut Context, conn: Conn) {
        ctx.reply(conn, Reply::Closed);
        self.close(ctx, conn);
    }

    fn read_inbox(&mut self, ctx: &mut Context, conn: Conn) {
        // Whoever ignores that the lock was refused reads the inbox of the one who has it.
        match &mut self.lock {
            Some(lock) if lock.conn == conn => {
                lock.is_read = true;
                for letter in std::mem::take(&mut lock.letters) {
                    ctx.reply(conn, Reply::Letter(letter));
                }
            }
            _ if ctx.is_mutated(Mutation::LockIgnored) => {}
            _ => self.refuse(ctx, conn),
        }
    }

    /// A letter for the active heart: without one it is lost.
    pub(crate) fn take_letter(&mut self, ctx: &mut Context, letter: Letter) {
        match &mut self.lock {
            Some(lock) if lock.is_read => ctx.reply(lock.conn, Reply::Letter(letter)),
            Some(lock) => lock.letters.push(letter),
            None => ctx.count(Seen::LetterLost),
        }
    }

    fn get(&mut self, ctx: &mut Context, conn: Conn) {
        let Some(queue) = self.queues.get_mut(&QueueId::Head) else { return self.refuse(ctx, conn) };
        let got = queue.ready.pop_front().map(|entry| {
            let tag = next_tag(&mut self.open, conn);
            let body = entry.payload.body.clone();
            queue.unsettled.insert((conn, tag), entry);
            (tag, body)
        });
        ctx.reply(conn, Reply::Got(got));
    }

    /// Gives a queue's active consumer as much as it may have.
    fn deliver(&mut self, ctx: &mut Context, id: QueueId) {
        const PREFETCH: usize = 16;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(&consumer) = queue.consumers.first() else { return };
        let mut unsettled = queue.unsettled_of(consumer).len();
        while unsettled < PREFETCH
            && let Some(mut entry) = queue.ready.pop_front()
        {
            if entry.deliveries > 0 {
                ctx.count(Seen::Redelivered);
            }
            entry.deliveries += 1;
            let tag = next_tag(&mut self.open, consumer);
            ctx.reply(consumer, Reply::Delivery(tag, entry.payload.body.clone()));
            queue.unsettled.insert((consumer, tag), entry);
            unsettled += 1;
        }
    }

    fn settle(&mut self, ctx: &mut Context, conn: Conn, covers: impl Fn(u64) -> bool) {
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        for id in ids {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            let before = queue.unsettled.len();
            queue.unsettled.retain(|(of, tag), _| *of != conn || !covers(*tag));
            if queue.unsettled.len() < before {
                ctx.oracle.holders_changed();
                self.deliver(ctx, id);
            }
        }
    }

    /// What a connection did not settle goes back into the queue.
    fn take_back(&mut self, ctx: &mut Context, conn: Conn, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let mut entries: Vec<Entry> =
            queue.unsettled_of(conn).into_iter().filter_map(|key| queue.unsettled.remove(&key)).collect();
        if entries.is_empty() {
            return;
        }
        if matches!(id, QueueId::Node(_)) {
            let limit = ctx.settings.delivery_limit;
            entries.retain(|entry| {
                let is_kept = entry.deliveries <= limit;
                if !is_kept {
                    ctx.count(Seen::DeliveryLimitDropped);
                    if let Some(carried) = entry.payload.carried {
                        ctx.oracle.excuse(carried.position);
                    }
                }
                is_kept
            });
        }
        let at_tail = ctx.settings.requeues_at_tail && matches!(id, QueueId::Node(_));
        ctx.count(if at_tail { Seen::RequeuedAtTail } else { Seen::RequeuedAtHead });
        let dropped = queue.give_back(entries, at_tail);
        drop_oldest(ctx, id, dropped);
        ctx.oracle.holders_changed();
    }

    /// A connection is gone. What it had published may be lost on the way to some queues, or come late.
    pub(crate) fn close(&mut self, ctx: &mut Context, conn: Conn) {
        if self.open.remove(&conn).is_none() {
            return;
        }
        ctx.set_open(conn, false);
        self.scatter_routes(ctx, conn);
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        for id in ids {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.consumers.retain(|consumer| *consumer != conn);
            }
            self.take_back(ctx, conn, id);
            self.deliver(ctx, id);
        }
        if self.lock.as_ref().is_some_and(|lock| lock.conn == conn) {
            let delay = if ctx.rng.chance(300) { ctx.rng.within(0, 2_000) } else { 0 };
            ctx.plan_in(delay, Event::Unlock(conn));
        }
    }

    pub(crate) fn unlock(&mut self, conn: Conn) {
        if self.lock.as_ref().is_some_and(|lock| lock.conn == conn) {
            self.lock = None;
        }
    }
}

fn next_tag(open: &mut BTreeMap<Conn, u64>, conn: Conn) -> u64 {
    let next = open.entry(conn).or_insert(1);
    *next += 1;
    *next - 1
}

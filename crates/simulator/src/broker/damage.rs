//! What happens to a broker: deleted, purged and unbound objects, crashes, lost disks.

use std::collections::BTreeMap;

use broadcast_protocol::chain::Position;

use super::{Broker, Payload, QueueId, Route};
use crate::agenda::{Event, Time};
use crate::context::Context;
use crate::network::Conn;
use crate::report::Seen;

impl Broker {
    /// Of what a lost connection had published, each queue gets a part, now or later.
    pub(super) fn scatter_routes(&mut self, ctx: &mut Context, conn: Conn) {
        let of_conn: Vec<u64> =
            self.routes.iter().filter(|(_, route)| route.conn == conn).map(|(number, _)| *number).collect();
        let mut fates: BTreeMap<QueueId, (bool, Time)> = BTreeMap::new();
        for number in of_conn {
            let Some(route) = self.routes.get_mut(&number) else { continue };
            let fate = fates.entry(route.queue).or_insert_with(|| {
                let late = if ctx.rng.chance(400) { ctx.rng.within(1, 3_000) } else { 0 };
                (true, late)
            });
            // What comes after something lost is lost, too.
            fate.0 &= ctx.rng.chance(600);
            if fate.0 {
                route.at = (ctx.now + fate.1).max(route.at);
                if fate.1 > 0 {
                    ctx.count(Seen::RoutedLate);
                }
            } else {
                self.drop_route(ctx, number);
            }
        }
        self.publishes.retain(|_, publish| publish.conn != conn);
    }

    fn drop_route(&mut self, ctx: &mut Context, number: u64) {
        self.routes.remove(&number);
        ctx.count(Seen::RouteLost);
        ctx.oracle.holders_changed();
    }

    /// The process dies and comes back: everything confirmed is still there, of the rest each queue has a part.
    pub(crate) fn crash(&mut self, ctx: &mut Context, down: Time) {
        self.is_down = true;
        ctx.plan_in(down, Event::BrokerUp);
        let numbers: Vec<u64> = self.routes.keys().copied().collect();
        for number in numbers {
            self.drop_route(ctx, number);
        }
        for queue in self.queues.values_mut() {
            if ctx.rng.chance(500) {
                let publishes = &self.publishes;
                let is_unconfirmed =
                    |publish: Option<u64>| publish.is_some_and(|number| publishes.contains_key(&number));
                let before = queue.ready.len();
                queue.entries_mut().retain(|entry| !is_unconfirmed(entry.publish));
                if queue.ready.len() < before {
                    ctx.count(Seen::UnconfirmedTailLost);
                }
            }
        }
        self.publishes.clear();
        let conns: Vec<Conn> = self.open.keys().copied().collect();
        for conn in conns {
            ctx.cut_by_broker(conn);
            self.close(ctx, conn);
        }
        self.lock = None;
        ctx.oracle.holders_changed();
    }

    pub(crate) fn come_up(&mut self) {
        self.is_down = false;
    }

    /// The broker's disk is lost.
    pub(crate) fn wipe(&mut self, ctx: &mut Context, down: Time) {
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        for id in ids {
            self.excuse_all(ctx, id);
        }
        self.crash(ctx, down);
        self.taken_away.extend(self.queues.keys());
        self.queues.clear();
        self.has_exchange = false;
        ctx.oracle.head_damaged();
        ctx.oracle.holders_changed();
    }

    pub(crate) fn delete_exchange(&mut self, ctx: &mut Context) {
        self.has_exchange = false;
        self.taken_away.extend(self.queues.keys());
        for queue in self.queues.values_mut() {
            queue.is_bound = false;
        }
        ctx.oracle.head_damaged();
    }

    /// Consumers are told; a publisher is not.
    pub(crate) fn delete_queue(&mut self, ctx: &mut Context, id: QueueId) {
        self.excuse_all(ctx, id);
        let Some(queue) = self.queues.remove(&id) else { return };
        self.taken_away.insert(id);
        for conn in queue.consumers {
            self.refuse(ctx, conn);
        }
        if id == QueueId::Head {
            ctx.oracle.head_damaged();
        }
        ctx.oracle.holders_changed();
    }

    /// The operator removes the queue of a node that is no more.
    pub(crate) fn remove_queue(&mut self, ctx: &mut Context, id: QueueId) {
        self.delete_queue(ctx, id);
        self.taken_away.remove(&id);
    }

    /// What is out for settling stays.
    pub(crate) fn purge_queue(&mut self, ctx: &mut Context, id: QueueId) {
        self.excuse_all(ctx, id);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.entries_mut().clear();
        }
        if id == QueueId::Head {
            ctx.oracle.head_damaged();
        }
        ctx.oracle.holders_changed();
    }

    pub(crate) fn unbind_queue(&mut self, ctx: &mut Context, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.is_bound = false;
            self.taken_away.insert(id);
            if id == QueueId::Head {
                ctx.oracle.head_damaged();
            }
        }
    }

    /// Somebody copies a message to the end of its queue.
    pub(crate) fn duplicate(&mut self, ctx: &mut Context, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let payloads: Vec<Payload> = queue.payloads().cloned().collect();
        if payloads.is_empty() {
            return;
        }
        let payload = payloads[ctx.rng.index(payloads.len())].clone();
        self.insert(ctx, id, payload);
    }

    /// Somebody puts a message into a queue.
    pub(crate) fn insert(&mut self, ctx: &mut Context, queue: QueueId, payload: Payload) {
        self.number += 1;
        let (conn, publish, at) = (Conn(usize::MAX), 0, ctx.now);
        self.routes.insert(self.number, Route { conn, queue, payload, publish, at });
        ctx.plan_at(at, Event::Route(self.number));
    }

    /// Removes what no node here can take, as a newer node would.
    pub(crate) fn take_foreign(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.entries_mut().retain(|entry| !entry.payload.body.starts_with(br#"{"v":2"#));
        }
    }

    fn excuse_all(&self, ctx: &mut Context, id: QueueId) {
        let of_routes = self.routes.values().filter(|route| route.queue == id).map(|route| &route.payload);
        let payloads = self.queues.get(&id).into_iter().flat_map(super::Queue::payloads).chain(of_routes);
        for carried in payloads.filter_map(|payload| payload.carried) {
            ctx.oracle.excuse(carried.position);
        }
    }

    /// Whether a node was given it and has not settled it.
    pub(crate) fn is_out(&self, position: Position) -> bool {
        let of_nodes = self.queues.iter().filter(|(id, _)| **id != QueueId::Head);
        let mut out = of_nodes.flat_map(|(_, queue)| queue.unsettled.values());
        out.any(|entry| {
            entry.payload.carried.is_some_and(|carried| carried.has_writes && carried.position == position)
        })
    }

    /// Everything that is in a queue or on its way into one.
    pub(crate) fn payloads(&self) -> impl Iterator<Item = &Payload> {
        let on_their_way = self.routes.values().map(|route| &route.payload);
        self.queues.values().flat_map(super::Queue::payloads).chain(on_their_way)
    }
}

//! From a publisher to the queues, each on a way of its own.

use super::queue::Entry;
use super::{Broker, Payload, Publish, QueueId, Reply, Route};
use crate::agenda::Event;
use crate::context::Context;
use crate::network::Conn;
use crate::report::Seen;

impl Broker {
    pub(super) fn publish(
        &mut self,
        ctx: &mut Context,
        conn: Conn,
        number: u64,
        to: Option<QueueId>,
        payload: &Payload,
    ) {
        let targets: Vec<QueueId> = match to {
            Some(id) => self.queues.contains_key(&id).then_some(id).into_iter().collect(),
            None if !self.has_exchange => return self.refuse(ctx, conn),
            None => self.queues.iter().filter(|(_, queue)| queue.is_bound).map(|(id, _)| *id).collect(),
        };
        if targets.is_empty() {
            ctx.count(Seen::Returned);
            return ctx.reply(conn, Reply::Returned);
        }
        if let Some(carried) = payload.carried
            && !self.taken_away.is_empty()
        {
            ctx.oracle.excuse(carried.position);
        }
        self.number += 1;
        let publish = self.number;
        self.publishes
            .insert(publish, Publish { conn, number, missing: targets.len(), carried: payload.carried });
        for queue in targets {
            let delay = ctx.rng.within(0, ctx.settings.routing);
            self.route(ctx, Route { conn, queue, payload: payload.clone(), publish, at: ctx.now + delay });
        }
    }

    fn route(&mut self, ctx: &mut Context, mut route: Route) {
        let last = self.pipes.entry((route.conn, route.queue)).or_default();
        *last = (*last).max(route.at);
        route.at = *last;
        self.number += 1;
        ctx.plan_at(route.at, Event::Route(self.number));
        self.routes.insert(self.number, route);
    }

    /// A message arrives at a queue.
    pub(crate) fn arrive(&mut self, ctx: &mut Context, number: u64) {
        let Some(route) = self.routes.remove(&number) else { return };
        if route.at > ctx.now {
            // It was made to come later.
            ctx.plan_at(route.at, Event::Route(number));
            self.routes.insert(number, route);
            return;
        }
        if let Some(queue) = self.queues.get_mut(&route.queue) {
            if route.queue == QueueId::Head
                && queue.is_bound
                && let Some(carried) = route.payload.carried
            {
                ctx.oracle.head_took(carried);
            }
            let dropped = queue.push(route.payload, Some(route.publish));
            drop_oldest(ctx, route.queue, dropped);
        }
        self.confirm_one(ctx, route.publish);
        self.deliver(ctx, route.queue);
    }

    fn confirm_one(&mut self, ctx: &mut Context, number: u64) {
        let Some(publish) = self.publishes.get_mut(&number) else { return };
        publish.missing -= 1;
        if publish.missing == 0 {
            publish.carried.into_iter().for_each(|carried| ctx.oracle.confirmed(carried));
            if self.open.contains_key(&publish.conn) {
                ctx.reply(publish.conn, Reply::Confirmed(publish.number));
            }
            self.publishes.remove(&number);
        }
    }
}

/// A queue was too long. That of the head queue is by design.
pub(super) fn drop_oldest(ctx: &mut Context, id: QueueId, dropped: impl IntoIterator<Item = Entry>) {
    for entry in dropped {
        ctx.oracle.holders_changed();
        if let (QueueId::Node(_), Some(carried)) = (id, entry.payload.carried) {
            ctx.count(Seen::OverflowDropped);
            ctx.oracle.excuse(carried.position);
        }
    }
}

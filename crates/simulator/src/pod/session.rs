//! One session with the broker: whatever is there goes into one batch; peers are asked as long as something is missing.

use broadcast_protocol::cut::Cut;
use broadcast_protocol::envelope::{Link, Mark, Message, Term, WriteMessage};
use broadcast_protocol::replica::{Replica, Standing, Step};
use broadcast_protocol::report::NodeState;
use bytes::Bytes;

use super::{Batch, Busy, Pod, State};
use crate::agenda::{Fetched, PodEvent};
use crate::context::{CLUSTER, Context};
use crate::database::{Database, Snapshot};
use crate::heart::brief;
use crate::mutations::Mutation;
use crate::report::Seen;

impl Pod {
    /// Goes on until something has to be waited for.
    pub(super) fn work(&mut self, ctx: &mut Context, disk: &mut Database) {
        loop {
            let State::Running(session) = &self.state else { return };
            if session.busy.is_some() {
                return;
            }
            self.show_standing(ctx);
            self.plan_repair(ctx);
            let State::Running(session) = &mut self.state else { return };
            if let Some(fetched) = session.fetched.take() {
                self.handle_fetched(ctx, disk, fetched);
            } else if !session.deliveries.is_empty() {
                self.handle_deliveries(ctx, disk);
            } else {
                return;
            }
        }
    }

    fn handle_deliveries(&mut self, ctx: &mut Context, disk: &mut Database) {
        let State::Running(session) = &mut self.state else { return };
        session.heard = ctx.now;
        let mut batch = Batch::default();
        let mut deliveries = std::mem::take(&mut session.deliveries).into_iter();
        for (broker_tag, body) in deliveries.by_ref() {
            let tag = session.next_tag;
            session.next_tag += 1;
            session.unsettled.insert(tag, broker_tag);
            let steps = receive(ctx, &mut session.replica, tag, &body);
            ctx.tell(format!("node {}", self.node), || {
                let message = Message::decode(CLUSTER, &body);
                let what = message.map_or_else(|error| error.to_string(), |message| brief(&message));
                format!("gets {what} as {tag}: {}", describe(&steps))
            });
            batch.sort(ctx, steps);
            if batch.is_halted() {
                break;
            }
        }
        session.deliveries.extend(deliveries);
        self.begin_commit(ctx, disk, batch);
    }

    fn handle_fetched(&mut self, ctx: &mut Context, disk: &mut Database, fetched: Fetched) {
        let State::Running(session) = &mut self.state else { return };
        match fetched {
            Fetched::Messages(messages) => {
                let mut batch = Batch::default();
                for message in messages {
                    if message.position.last <= session.replica.position().last {
                        continue;
                    }
                    let Ok(steps) = session.replica.repair(message) else { break };
                    ctx.count(Seen::Repaired);
                    batch.sort(ctx, steps);
                }
                self.was_helped();
                ctx.tell(&*self, || format!("is helped: {batch:?}"));
                self.begin_commit(ctx, disk, batch);
            }
            Fetched::OutOfReach { has_node } => {
                session.busy = Some(Busy::Snapshot { may_come_later: has_node });
                self.plan(ctx, 0, PodEvent::Ask);
            }
            Fetched::Nobody => {
                let missing = session.replica.position().last + 1;
                self.wait_for_help(ctx, Some(missing));
            }
        }
    }

    pub(super) fn take_snapshot(
        &mut self,
        ctx: &mut Context,
        disk: &mut Database,
        snapshot: Option<Box<Snapshot>>,
    ) {
        let State::Running(session) = &mut self.state else { return };
        let Some(Busy::Snapshot { may_come_later }) = session.busy else { return };
        session.busy = None;
        let next = session.replica.position().last + 1;
        if disk.incarnation != self.incarnation {
            return self.be_replaced(ctx);
        }
        if !disk.works {
            return self.give_back(ctx);
        }
        let Some(snapshot) = snapshot.filter(|snapshot| disk.install(ctx, Snapshot::clone(snapshot))) else {
            self.wait_for_help(ctx, (!may_come_later).then_some(next));
            return self.work(ctx, disk);
        };
        ctx.count(Seen::SnapshotInstalled);
        ctx.tell(format!("node {}", self.node), || {
            format!("installed a snapshot of {}", snapshot.applied.position.last)
        });
        let steps = session.replica.adopt(disk.applied());
        self.status.show_database(disk);
        self.touch(ctx);
        let mut batch = Batch::default();
        batch.sort(ctx, steps);
        self.was_helped();
        self.begin_commit(ctx, disk, batch);
        self.work(ctx, disk);
    }

    fn wait_for_help(&mut self, ctx: &mut Context, missing: Option<u64>) {
        let State::Running(session) = &mut self.state else { return };
        session.repair_delay = session.repair_backoff.next_delay(&mut ctx.rng);
        ctx.count(Seen::NobodyHelps);
        ctx.tell(format!("node {}", self.node), || format!("nobody helps with {missing:?}"));
        self.status.missing = missing;
        self.touch(ctx);
    }

    fn was_helped(&mut self) {
        let State::Running(session) = &mut self.state else { return };
        session.repair_backoff.reset();
        session.repair_delay = 0;
        self.status.missing = None;
    }

    fn plan_repair(&mut self, ctx: &mut Context) {
        let State::Running(session) = &mut self.state else { return };
        if !matches!(session.replica.standing(), Standing::Gap { .. }) {
            session.is_fetching = false;
            return;
        }
        if !session.is_fetching && session.fetched.is_none() {
            session.is_fetching = true;
            let delay = session.repair_delay + ctx.rng.within(0, 5);
            self.plan(ctx, delay, PodEvent::Ask);
        }
    }

    fn show_standing(&mut self, ctx: &mut Context) {
        let State::Running(session) = &self.state else { return };
        let replica = &session.replica;
        let status = &mut self.status;
        let state = match replica.standing() {
            Standing::Bootstrapping if status.state == NodeState::Ready => NodeState::Ready,
            Standing::Bootstrapping => NodeState::Bootstrapping,
            Standing::Current => NodeState::Ready,
            Standing::Gap { .. } => NodeState::Repairing,
        };
        if state == NodeState::Repairing && status.state != state {
            ctx.count(Seen::Gap);
        }
        let next = status.applied.position.last + 1;
        status.missing = status.missing.filter(|missing| state == NodeState::Repairing && *missing == next);
        status.state = state;
        (status.epoch, status.cut) = (replica.epoch(), replica.cut());
        (status.shown, status.sealed) = (replica.shown(), replica.sealed());
        status.tip = replica.tip().map(|tip| (tip.claim, tip.message.cloned()));
        status.session = (session.next_tag > 0).then_some(session.number);
        self.touch(ctx);
    }
}

/// Takes a delivery, in the way that is to be tried.
fn receive(ctx: &Context, replica: &mut Replica<u64>, tag: u64, body: &Bytes) -> Vec<Step<u64>> {
    if ctx.is_mutated(Mutation::CutNotTold)
        && let Ok(Message::Link(link)) = Message::decode(CLUSTER, body)
    {
        let term = Term { cut: Cut::default(), ..link.term() };
        return replica.receive(tag, &Message::Link(link.with_term(term)).body());
    }
    let mut steps = replica.receive(tag, body);
    if ctx.is_mutated(Mutation::AppliedWithoutProof)
        && let Ok(Message::Link(Link::Write(WriteMessage { term, position, at, .. }))) =
            Message::decode(CLUSTER, body)
    {
        // Takes the message's own word that it is held for everyone.
        let mark = Mark { cluster: CLUSTER.to_owned(), term, position, at, digest: None };
        steps.extend(replica.receive(u64::MAX, &mark.body()));
    }
    steps
}

fn describe(steps: &[Step<u64>]) -> String {
    let one = |step: &Step<u64>| match step {
        Step::Ack(tag, why) => format!("ack {tag} {why:?}"),
        Step::Reject(tag, _) => format!("reject {tag}"),
        Step::Do { ack, change } => format!("{} then ack {ack:?}", super::commit::name(change)),
        Step::Compare(position, _) => format!("compare at {}", position.last),
        Step::Halt(halt) => halt.to_string(),
    };
    steps.iter().map(one).collect::<Vec<_>>().join(", ")
}

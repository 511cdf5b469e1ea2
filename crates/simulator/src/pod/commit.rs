//! What is done: the replica's decisions become one transaction, and after it acknowledgements.

use broadcast_protocol::chain::Position;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::replica::{Change, Dropped, Halt, Step};
use broadcast_protocol::report::NodeState;

use super::{Busy, Pod, State};
use crate::agenda::{Event, PodEvent};
use crate::broker::Request;
use crate::context::Context;
use crate::database::Database;
use crate::mutations::Mutation;
use crate::report::Seen;

/// What the replica decided, for one transaction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    changes: Vec<Change>,
    acks: Vec<u64>,
    rejects: Vec<u64>,
    compare: Option<(Position, Digest)>,
    halt: Option<Halt>,
}

impl Batch {
    pub(super) fn is_halted(&self) -> bool {
        self.halt.is_some()
    }

    pub(super) fn sort(&mut self, ctx: &mut Context, steps: Vec<Step<u64>>) {
        for step in steps {
            match step {
                Step::Ack(tag, why) => {
                    ctx.count(match why {
                        Dropped::Stale => Seen::DroppedStale,
                        // Superseded is what waits in memory only because the waiting room is full: never here.
                        Dropped::Duplicate | Dropped::Superseded => Seen::DroppedDuplicate,
                        Dropped::Mark => Seen::DroppedMark,
                        Dropped::Seal => Seen::DroppedSeal,
                    });
                    self.acks.push(tag);
                }
                Step::Reject(tag, _) => {
                    ctx.count(Seen::Rejected);
                    self.rejects.push(tag);
                }
                Step::Do { ack, change } => {
                    if matches!(change, Change::Apply(_)) && ack.is_some() {
                        ctx.count(Seen::Applied);
                    }
                    self.acks.extend(ack);
                    self.changes.push(change);
                }
                Step::Compare(position, digest) => self.compare = Some((position, digest)),
                Step::Halt(halt) => self.halt = Some(halt),
            }
        }
    }
}

impl Pod {
    pub(super) fn begin_commit(&mut self, ctx: &mut Context, disk: &mut Database, batch: Batch) {
        if ctx.is_mutated(Mutation::AckedBeforeTransaction) {
            self.acknowledge(ctx, &batch);
        }
        let State::Running(session) = &mut self.state else { return };
        let has_changes = !batch.changes.is_empty();
        session.busy = Some(Busy::Committing(batch));
        if has_changes {
            let delay = ctx.rng.within(0, ctx.settings.commit);
            self.plan(ctx, delay, PodEvent::Commit);
        } else {
            self.commit(ctx, disk);
        }
    }

    pub(super) fn commit(&mut self, ctx: &mut Context, disk: &mut Database) {
        let State::Running(session) = &mut self.state else { return };
        let Some(Busy::Committing(mut batch)) = session.busy.take() else { return };
        let changes = std::mem::take(&mut batch.changes);
        let has_changes = !changes.is_empty();
        if has_changes {
            if disk.incarnation != self.incarnation {
                return self.be_replaced(ctx);
            }
            if !disk.works {
                return self.give_back(ctx);
            }
            ctx.tell(format!("node {}", self.node), || {
                let names: Vec<String> = changes.iter().map(name).collect();
                format!("commits: {}", names.join(", "))
            });
            disk.commit(ctx, self.node, changes);
            self.status.show_database(disk);
            self.store_backoff.reset();
            self.touch(ctx);
        }
        if batch.halt.is_none()
            && let Some((position, other)) = batch.compare
        {
            ctx.count(Seen::Compared);
            let (applied, own) = (disk.applied().position, disk.content.digest);
            if applied == position && own != other {
                batch.halt = Some(Halt::RowsDiffer { last: position.last, own, other });
            }
        }
        let State::Running(session) = &mut self.state else { return };
        session.busy = Some(Busy::Settling(batch));
        if has_changes {
            let delay = ctx.rng.within(0, 3);
            self.plan(ctx, delay, PodEvent::Settle);
        } else {
            self.settle(ctx, disk);
        }
    }

    /// After the transaction.
    pub(super) fn settle(&mut self, ctx: &mut Context, disk: &mut Database) {
        let State::Running(session) = &mut self.state else { return };
        let Some(Busy::Settling(batch)) = session.busy.take() else { return };
        self.acknowledge(ctx, &batch);
        match batch.halt {
            Some(halt) => self.halt(ctx, halt),
            None => self.work(ctx, disk),
        }
    }

    fn acknowledge(&mut self, ctx: &mut Context, batch: &Batch) {
        let State::Running(session) = &mut self.state else { return };
        for tag in &batch.rejects {
            if let Some(tag) = session.unsettled.remove(tag) {
                ctx.send(session.conn, Request::Reject(tag));
            }
        }
        let mut acks = batch.acks.clone();
        acks.sort_unstable();
        let covers_all_before = |tag: &&u64| batch.halt.is_none() && session.replica.may_ack_multiple(**tag);
        let through = acks.iter().rev().find(covers_all_before).copied();
        if let Some(through) = through
            && let Some(tag) = session.unsettled.remove(&through)
        {
            ctx.send(session.conn, Request::Ack { tag, multiple: true });
            session.unsettled.retain(|tag, _| *tag > through);
        }
        for tag in acks {
            if let Some(tag) = session.unsettled.remove(&tag) {
                ctx.send(session.conn, Request::Ack { tag, multiple: false });
            }
        }
    }

    /// The transaction failed: the broker gets everything back that is not settled.
    pub(super) fn give_back(&mut self, ctx: &mut Context) {
        ctx.count(Seen::GivenBack);
        ctx.tell(&*self, || "the database fails; gives everything back".to_owned());
        if let Some(conn) = self.connection() {
            ctx.send(conn, Request::GiveBack);
            ctx.send(conn, Request::Close);
        }
        self.generation += 1;
        self.state = State::Failing;
        self.status.state = NodeState::Failing;
        let delay = self.store_backoff.next_delay(&mut ctx.rng);
        self.plan(ctx, delay, PodEvent::Wake);
    }

    pub(super) fn probe(&mut self, ctx: &mut Context, disk: &Database) {
        if disk.incarnation != self.incarnation {
            self.be_replaced(ctx);
        } else if disk.works {
            self.open(ctx);
        } else {
            let delay = self.store_backoff.next_delay(&mut ctx.rng);
            self.plan(ctx, delay, PodEvent::Wake);
        }
    }

    /// The database is another process's now.
    pub(super) fn be_replaced(&mut self, ctx: &mut Context) {
        ctx.count(Seen::TakenOver);
        self.stop(ctx);
        let delay = ctx.rng.within(500, 3_000);
        ctx.plan_in(delay, Event::PodUp(self.index));
    }
}

pub(super) fn name(change: &Change) -> String {
    match change {
        Change::Apply(message) => format!("apply {}..={}", message.first, message.position.last),
        Change::ApplyKept(position) => format!("apply kept {}", position.last),
        Change::Keep(message) => format!("keep {}..={}", message.first, message.position.last),
        Change::Discard(position) => format!("discard {}", position.last),
    }
}

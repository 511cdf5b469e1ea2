//! What is not to be trusted is put aside once a peer has another.

use broadcast_protocol::replica::Halt;
use broadcast_protocol::report::NodeState;

use super::{Pod, Rebuild, State};
use crate::agenda::PodEvent;
use crate::broker::Request;
use crate::context::{Backoff, Context};
use crate::database::{Database, Snapshot};
use crate::report::Seen;

impl Pod {
    pub(super) fn halt(&mut self, ctx: &mut Context, halt: Halt) {
        ctx.tell(&*self, || format!("halts: {halt}"));
        if let Some(conn) = self.connection() {
            ctx.send(conn, Request::Close);
        }
        self.generation += 1;
        ctx.count(match halt {
            Halt::NewerVersion(_) => Seen::HaltNewerVersion,
            Halt::Diverged { .. } => Seen::HaltDiverged,
            Halt::GivenUp { .. } => Seen::HaltGivenUp,
            Halt::RowsDiffer { .. } => Seen::HaltRowsDiffer,
        });
        if let Halt::NewerVersion(_) = halt {
            self.state = State::Halted;
            self.status.state = NodeState::Failing;
            return;
        }
        self.status.divergence = Some(halt.clone());
        self.status.state = NodeState::Diverged;
        self.status.missing = None;
        if let Halt::GivenUp { cut, .. } = halt {
            self.status.cut = self.status.cut.max(cut);
        }
        let (cut, own) = (self.status.cut, self.status.applied.claim());
        let counts = if cut.gives_up(own) { cut.last } else { own.position.last };
        self.state =
            State::Rebuilding(Rebuild { halt, counts, is_aside: false, backoff: Backoff::default() });
        self.touch(ctx);
        self.plan(ctx, 0, PodEvent::Ask);
    }

    pub(super) fn rebuild_from(
        &mut self,
        ctx: &mut Context,
        disk: &mut Database,
        snapshot: Option<Box<Snapshot>>,
    ) {
        if disk.incarnation != self.incarnation {
            return self.be_replaced(ctx);
        }
        let works = disk.works;
        let State::Rebuilding(rebuild) = &mut self.state else { return };
        if rebuild.counts == 0 && works {
            self.put_aside(ctx, disk);
            return self.resume(ctx, disk);
        }
        let contradicted = match rebuild.halt {
            Halt::Diverged { own, .. } => Some(own),
            _ => None,
        };
        let usable = snapshot.filter(|snapshot| works && contradicted != Some(snapshot.applied.position));
        let Some(snapshot) = usable else {
            let delay = rebuild.backoff.next_delay(&mut ctx.rng);
            return self.plan(ctx, delay, PodEvent::Ask);
        };
        if !rebuild.is_aside {
            rebuild.is_aside = true;
            self.put_aside(ctx, disk);
            let delay = ctx.rng.within(0, 50);
            return self.plan(ctx, delay, PodEvent::Snapshot(Some(snapshot)));
        }
        if !disk.install(ctx, *snapshot) {
            let delay = rebuild.backoff.next_delay(&mut ctx.rng);
            return self.plan(ctx, delay, PodEvent::Ask);
        }
        ctx.count(Seen::Rebuilt);
        self.resume(ctx, disk);
    }

    fn put_aside(&mut self, ctx: &mut Context, disk: &mut Database) {
        ctx.oracle.put_aside(disk.applied().position);
        disk.quarantine();
        ctx.oracle.holders_changed();
        self.status.show_database(disk);
        self.touch(ctx);
    }

    fn resume(&mut self, ctx: &mut Context, disk: &Database) {
        ctx.tell(&*self, || format!("is rebuilt at {}", disk.applied().position.last));
        self.status.show_database(disk);
        self.status.divergence = None;
        self.status.state = NodeState::Bootstrapping;
        self.touch(ctx);
        self.open(ctx);
    }
}

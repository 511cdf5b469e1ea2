//! Tells the active heart where this node is, on a connection of its own: at once when something changes, but not too
//! often, and every second.

use broadcast_protocol::report::{Claim, Report, Sealed};

use super::{Pod, node_id};
use crate::agenda::{Event, Time};
use crate::broker::Letter;
use crate::context::{CLUSTER, Context};
use crate::database::Database;
use crate::report::Seen;

/// The longest time between two reports.
const IDLE_INTERVAL: Time = 1_000;

#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// Which process it is of.
    life: u64,
    sent: Time,
    next: Time,
    /// When the last letter arrives.
    arrives: Time,
    /// The tip that the heart was told last, and in answer to which seal.
    told: Option<(Sealed, Claim)>,
}

impl Reporter {
    pub(super) fn end(&mut self) {
        self.life += 1;
    }
}

impl Pod {
    pub(super) fn begin_reports(&mut self, ctx: &mut Context) {
        let life = self.reporter.life + 1;
        let arrives = self.reporter.arrives;
        self.reporter = Reporter { life, arrives, next: ctx.now, ..Reporter::default() };
        ctx.plan_in(0, Event::Report(self.index, life));
    }

    /// The status has changed.
    pub(super) fn touch(&mut self, ctx: &mut Context) {
        let next = ctx.now.max(self.reporter.sent + ctx.settings.report_interval);
        if next < self.reporter.next {
            self.reporter.next = next;
            ctx.plan_at(next, Event::Report(self.index, self.reporter.life));
        }
    }

    pub(crate) fn report(&mut self, ctx: &mut Context, disk: &Database, life: u64) {
        if life != self.reporter.life || ctx.now < self.reporter.next {
            return;
        }
        self.reporter.sent = ctx.now;
        self.reporter.next = ctx.now + IDLE_INTERVAL;
        ctx.plan_in(IDLE_INTERVAL, Event::Report(self.index, life));
        if !self.status.is_attached {
            return;
        }
        if ctx.rng.chance(5) {
            // Another connection.
            self.reporter.told = None;
        }
        if let (Some(sealed), Some((claim, message))) = (self.status.sealed, &self.status.tip)
            && self.reporter.told != Some((sealed, *claim))
        {
            let kept = || disk.kept.iter().find(|kept| kept.position == claim.position);
            if let Some(tip) = message.as_ref().or_else(kept).cloned() {
                ctx.count(Seen::TipSent);
                self.reporter.told = Some((sealed, *claim));
                self.post(ctx, Letter::Tip(tip));
            }
        }
        if let Some(report) = self.build_report() {
            self.post(ctx, Letter::Report(Box::new(report)));
        }
    }

    fn post(&mut self, ctx: &mut Context, letter: Letter) {
        let at = ctx.now + ctx.latency();
        self.reporter.arrives = self.reporter.arrives.max(at);
        if ctx.rng.chance(ctx.settings.letters_lost) {
            ctx.count(Seen::LetterLost);
            return;
        }
        ctx.plan_at(self.reporter.arrives, Event::Letter(letter));
    }

    fn build_report(&self) -> Option<Report> {
        let status = &self.status;
        Some(Report {
            cluster: CLUSTER.to_owned(),
            node: node_id(self.node)?,
            state: status.state,
            applied: status.applied.position,
            applied_epoch: status.applied.epoch,
            epoch: status.epoch,
            cut: status.cut,
            shown: status.shown,
            tip: status.tip.as_ref().map(|(claim, _)| *claim),
            session: status.session,
            sealed: status.sealed,
            missing: status.missing,
            outcomes: None,
            digest: status.digest,
            rows: 0,
            lag_seconds: 0.0,
            failed: 0,
            malformed: 0,
            rebuilds: 0,
            queues_restored: 0,
            silences: 0,
            silent_seconds: 0.0,
            reason: None,
        })
    }
}

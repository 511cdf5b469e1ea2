//! Reigning, as the program does: one message in flight, requests gather meanwhile, marks when there are none.

use std::collections::VecDeque;

use broadcast_protocol::chain::Position;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::envelope::Message;
use broadcast_protocol::names::NodeId;
use broadcast_protocol::report::Report;
use broadcast_protocol::sequencer::{InFlight, Reign};
use broadcast_protocol::write::WriteBatch;

use super::heir::brief;
use super::{CONFIRM_DEADLINE, DECLARED, Doubt, Heart, Session};
use crate::agenda::Time;
use crate::broker::{Letter, Payload, Reply, Request};
use crate::client::{Answer, Submission};
use crate::context::Context;
use crate::mutations::Mutation;
use crate::network::Conn;

/// How often an idle heart says that it lives.
const MARK_EVERY: Time = 1_000;

/// How often the exchange and the head queue are declared again.
const DECLARE_EVERY: Time = 1_000;

/// The most requests of one message.
const BATCH: usize = 4;

/// The active heart.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(super) conn: Conn,
    beat: Option<Beat>,
    pub(super) submissions: VecDeque<Submission>,
    /// The mark that is not confirmed.
    mark: Option<u64>,
    next_mark: Time,
    next_declare: Time,
}

#[derive(Debug)]
enum Beat {
    Idle(Reign),
    InFlight(Box<Flight>),
}

#[derive(Debug)]
struct Flight {
    message: InFlight,
    number: u64,
    is_confirmed: bool,
    deadline: Time,
    waiting: Vec<Submission>,
}

impl Rule {
    pub(super) fn new(ctx: &Context, conn: Conn, reign: Reign) -> Self {
        Self {
            conn,
            beat: Some(Beat::Idle(reign)),
            submissions: VecDeque::new(),
            mark: None,
            next_mark: ctx.now,
            next_declare: ctx.now + DECLARE_EVERY,
        }
    }

    /// Who waits learns that the outcome is unknown, or that there is none.
    pub(super) fn give_up(&mut self, ctx: &mut Context) {
        if let Some(Beat::InFlight(flight)) = self.beat.take() {
            ctx.answers.extend(flight.waiting.into_iter().map(|waiting| (waiting, Answer::Unknown)));
        }
        ctx.answers.extend(self.submissions.drain(..).map(|left| (left, Answer::NotPublished)));
    }

    /// The position after the last confirmed write, when none is in flight.
    pub(super) fn position(&self) -> Option<Position> {
        match &self.beat {
            Some(Beat::Idle(reign)) if self.submissions.is_empty() => Some(reign.position()),
            _ => None,
        }
    }
}

impl Heart {
    pub(super) fn begin_rule(&mut self, ctx: &mut Context) {
        if let Session::Reigning(rule) = &mut self.session
            && let Some(Beat::Idle(reign)) = &mut rule.beat
            && let Err(stale) = self.census.values().try_for_each(|(report, _)| reign.hear(report))
        {
            return self.end(ctx, Doubt::StaleHead(stale));
        }
        self.wake_in(ctx, DECLARE_EVERY);
        self.next_batch(ctx);
    }

    /// Looks whether something is due.
    pub(super) fn beat(&mut self, ctx: &mut Context) {
        let Session::Reigning(rule) = &mut self.session else { return };
        if rule.next_declare <= ctx.now {
            rule.next_declare = ctx.now + DECLARE_EVERY;
            ctx.send(rule.conn, Request::Declare(DECLARED.to_vec()));
            self.wake_in(ctx, DECLARE_EVERY);
        }
        let Session::Reigning(rule) = &mut self.session else { return };
        match &rule.beat {
            Some(Beat::InFlight(flight)) if flight.deadline <= ctx.now => self.end(ctx, Doubt::Late),
            Some(Beat::Idle(_)) if !rule.submissions.is_empty() => self.publish_batch(ctx),
            Some(Beat::Idle(_)) if self.is_stopping => {
                let conn = rule.conn;
                self.end_in_order(ctx, Some(conn));
            }
            Some(Beat::Idle(_)) if rule.mark.is_none() && rule.next_mark <= ctx.now => self.publish_mark(ctx),
            _ => {}
        }
    }

    /// After a message is confirmed: the next one, or a mark.
    fn next_batch(&mut self, ctx: &mut Context) {
        if !self.draw_conclusions(ctx) {
            return;
        }
        let Session::Reigning(rule) = &mut self.session else { return };
        if rule.submissions.is_empty() {
            self.publish_mark(ctx);
        }
        self.beat(ctx);
    }

    fn publish_mark(&mut self, ctx: &mut Context) {
        let number = self.next_number();
        let Session::Reigning(rule) = &mut self.session else { return };
        let Some(Beat::Idle(reign)) = &rule.beat else { return };
        let digest = self.memory.members.as_ref().and_then(|members| {
            let here: Vec<Digest> =
                members.iter().filter_map(|node| digest_at(&self.census, *node, reign)).collect();
            let count = |digest: &Digest| here.iter().filter(|other| *other == digest).count();
            here.iter().find(|digest| count(digest) >= 2 && count(digest) * 2 > here.len()).copied()
        });
        let message: Message = reign.mark(digest, ctx.wall(self.clock_offset)).into();
        ctx.tell(format!("heart {}", self.index), || format!("publishes {}", brief(&message)));
        rule.mark = Some(number);
        rule.next_mark = ctx.now + MARK_EVERY;
        ctx.send(rule.conn, Request::Publish { number, to: None, payload: Payload::of(&message) });
        self.wake_in(ctx, MARK_EVERY);
    }

    fn publish_batch(&mut self, ctx: &mut Context) {
        let number = self.next_number();
        let Session::Reigning(rule) = &mut self.session else { return };
        let Some(Beat::Idle(reign)) = rule.beat.take() else { return };
        let mut batch = WriteBatch::default();
        let mut waiting = Vec::new();
        while waiting.len() < BATCH
            && let Some(next) = rule.submissions.pop_front()
        {
            batch.append(&next.writes);
            waiting.push(next);
        }
        let in_flight = reign.publish(batch, ctx.wall(self.clock_offset));
        let message: Message = in_flight.message().clone().into();
        ctx.oracle.published(in_flight.message());
        ctx.tell(format!("heart {}", self.index), || format!("publishes {}", brief(&message)));
        let deadline = ctx.now + CONFIRM_DEADLINE;
        ctx.send(rule.conn, Request::Publish { number, to: None, payload: Payload::of(&message) });
        let flight = Flight { message: in_flight, number, is_confirmed: false, deadline, waiting };
        rule.beat = Some(Beat::InFlight(Box::new(flight)));
        self.wake_in(ctx, CONFIRM_DEADLINE);
        if ctx.is_mutated(Mutation::ConfirmNotAwaited) {
            self.confirm(ctx, number);
        }
    }

    fn confirm(&mut self, ctx: &mut Context, number: u64) {
        let Session::Reigning(rule) = &mut self.session else { return };
        if rule.mark == Some(number) {
            rule.mark = None;
        }
        if let Some(Beat::InFlight(flight)) = &mut rule.beat {
            flight.is_confirmed |= flight.number == number;
        }
        let is_done = matches!(&rule.beat, Some(Beat::InFlight(flight)) if flight.is_confirmed);
        if !is_done || rule.mark.is_some() {
            // A mark that was to be confirmed is due again.
            return self.beat(ctx);
        }
        let Some(Beat::InFlight(flight)) = rule.beat.take() else { return };
        let Flight { message: in_flight, waiting, .. } = *flight;
        ctx.tell(format!("heart {}", self.index), || {
            format!("{} is confirmed", brief(&in_flight.message().clone().into()))
        });
        self.memory.retained.push(in_flight.message().clone());
        ctx.oracle.acknowledged(&format!("heart {}", self.index), in_flight.message());
        ctx.answers.extend(waiting.into_iter().map(|waiting| (waiting, Answer::Placed)));
        rule.beat = Some(Beat::Idle(in_flight.confirmed()));
        self.next_batch(ctx);
    }

    pub(super) fn rule_hears(&mut self, ctx: &mut Context, reply: Reply) {
        match reply {
            Reply::Confirmed(number) => self.confirm(ctx, number),
            Reply::Letter(letter) => self.attend(ctx, letter),
            _ => {}
        }
    }

    fn attend(&mut self, ctx: &mut Context, letter: Letter) {
        let Session::Reigning(rule) = &mut self.session else { return };
        let reign = match &mut rule.beat {
            Some(Beat::Idle(reign)) => reign,
            Some(Beat::InFlight(flight)) => flight.message.reign(),
            None => return,
        };
        let judged = match &letter {
            Letter::Report(report) => reign.hear(report),
            Letter::Question(Some(claim), _) => reign.judge_claim(*claim),
            _ => Ok(()),
        };
        if let Err(stale) = judged {
            return self.end(ctx, Doubt::StaleHead(stale));
        }
        match letter {
            Letter::Report(report) => self.record(ctx.now, *report),
            Letter::Question(_, asker) => ctx.send(rule.conn, Request::Answer(asker)),
            Letter::Tip(_) => {}
        }
        let Session::Reigning(rule) = &self.session else { return };
        if matches!(rule.beat, Some(Beat::Idle(_))) && self.draw_conclusions(ctx) {
            self.beat(ctx);
        }
    }

    /// What follows from all reports together; false when the reign is over.
    fn draw_conclusions(&mut self, ctx: &mut Context) -> bool {
        let Session::Reigning(rule) = &self.session else { return false };
        let Some(Beat::Idle(reign)) = &rule.beat else { return true };
        let members = self.memory.members.clone().unwrap_or_default();
        let reports: Vec<&Report> =
            members.iter().filter_map(|node| Some(&self.census.get(node)?.0)).collect();
        if reports.len() == members.len()
            && let Some(last) = reports.iter().map(|report| report.applied.last).min()
        {
            self.memory.retained.forget_through(last);
        }
        self.memory.is_cut_short = reign.is_cut_short(&self.memory, &reports);
        if self.memory.is_cut_short {
            self.end(ctx, Doubt::CutShort);
        }
        !self.memory.is_cut_short
    }
}

fn digest_at(
    census: &std::collections::BTreeMap<NodeId, (Report, Time)>,
    node: NodeId,
    reign: &Reign,
) -> Option<Digest> {
    census
        .get(&node)
        .filter(|(report, _)| report.applied == reign.position())
        .map(|(report, _)| report.digest)
}

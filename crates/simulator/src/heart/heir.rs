//! Taking over, as the program does: what [`TakeOver`] needs is done one after the other, the inbox is attended to.

use std::collections::BTreeSet;

use broadcast_protocol::envelope::{DecodeError, Link, Message, WriteMessage};
use broadcast_protocol::report::{Claim, Report};
use broadcast_protocol::sequencer::{Need, TakeOver};

use super::{CONFIRM_DEADLINE, Doubt, Heart, Rule, Session};
use crate::agenda::Time;
use crate::broker::{Letter, Payload, QueueId, Reply, Request};
use crate::context::{CLUSTER, Context};
use crate::mutations::Mutation;
use crate::network::Conn;
use crate::report::Seen;

/// A heart that holds the lock and is to reign.
#[derive(Debug)]
pub(crate) struct Heir {
    pub(super) conn: Conn,
    started: Time,
    pub(super) take_over: TakeOver<u64>,
    tips: Vec<WriteMessage>,
    /// The newest delivery that was taken from the head queue.
    taken: Option<u64>,
    pending: Option<Pending>,
    has_sealed: bool,
}

/// What the broker has to do first.
#[derive(Debug)]
enum Pending {
    Get,
    Confirm { number: u64, deadline: Time },
}

impl Heir {
    pub(super) fn new(ctx: &mut Context, conn: Conn) -> Self {
        Self {
            conn,
            started: ctx.now,
            take_over: TakeOver::new(CLUSTER, ctx.rng.nonce(), 0),
            tips: Vec::new(),
            taken: None,
            pending: None,
            has_sealed: false,
        }
    }
}

impl Heart {
    /// Does what is needed next, unless something is being done.
    pub(super) fn take_over(&mut self, ctx: &mut Context) {
        loop {
            let Session::Heir(heir) = &mut self.session else { return };
            match heir.pending {
                Some(Pending::Confirm { deadline, .. }) if deadline <= ctx.now => {
                    return self.end(ctx, Doubt::Late);
                }
                Some(_) => return,
                None => {}
            }
            let (now, at) = (ctx.now - heir.started, ctx.wall(self.clock_offset));
            let members = self.memory.members.clone();
            if ctx.is_mutated(Mutation::SealWaitsForNobody) {
                self.memory.members = Some(BTreeSet::new());
            }
            let need = heir.take_over.next(&self.memory, now, at);
            self.memory.members = members;
            let conn = heir.conn;
            match need {
                Need::Take => {
                    heir.pending = Some(Pending::Get);
                    ctx.send(conn, Request::Get);
                }
                Need::Begin(mark) => {
                    ctx.count(Seen::Genesis);
                    self.publish_as_heir(ctx, Some(QueueId::Head), &mark.into());
                }
                Need::Publish(Message::Link(_)) if ctx.is_mutated(Mutation::HeadNotPublishedAgain) => {
                    heir.take_over.confirmed(at);
                }
                Need::Publish(message) => {
                    heir.has_sealed |= matches!(message, Message::Seal(_));
                    ctx.count(match &message {
                        Message::Seal(_) => Seen::SealPublished,
                        Message::Link(Link::Mark(_)) => Seen::MarkPublishedAgain,
                        Message::Link(Link::Write(_)) => Seen::WritePublishedAgain,
                    });
                    self.publish_as_heir(ctx, None, &message);
                }
                Need::Wait(until) => {
                    let delay = until.saturating_sub(now);
                    return self.wake_in(ctx, delay);
                }
                Need::Reign { reign, link, before, .. } => {
                    // One that woke up too late can do nothing any more.
                    if ctx.is_open(conn) {
                        if link.term().cut.epoch == reign.epoch() {
                            ctx.oracle.cut(reign.position());
                        }
                        ctx.oracle.reign_begins(
                            &format!("heart {}", self.index),
                            reign.position(),
                            heir.has_sealed,
                        );
                    }
                    ctx.tell(format!("heart {}", self.index), || {
                        format!("reigns from {} of epoch {}", reign.position().last, reign.epoch())
                    });
                    ctx.count(if heir.has_sealed { Seen::SealDecided } else { Seen::Reign });
                    self.memory.begin_reign(link, before);
                    if let Some(tag) = heir.taken {
                        ctx.send(conn, Request::Ack { tag, multiple: true });
                    }
                    self.backoff.reset();
                    self.session = Session::Reigning(Box::new(Rule::new(ctx, conn, reign)));
                    return self.begin_rule(ctx);
                }
            }
        }
    }

    fn publish_as_heir(&mut self, ctx: &mut Context, to: Option<QueueId>, message: &Message) {
        ctx.tell(&*self, || format!("publishes {}", brief(message)));
        let number = self.next_number();
        let Session::Heir(heir) = &mut self.session else { return };
        heir.pending = Some(Pending::Confirm { number, deadline: ctx.now + CONFIRM_DEADLINE });
        ctx.send(heir.conn, Request::Publish { number, to, payload: Payload::of(message) });
        self.wake_in(ctx, CONFIRM_DEADLINE);
    }

    pub(super) fn heir_hears(&mut self, ctx: &mut Context, reply: Reply) {
        let Session::Heir(heir) = &mut self.session else { return };
        let (now, at) = (ctx.now - heir.started, ctx.wall(self.clock_offset));
        match (reply, &heir.pending) {
            (Reply::Got(None), Some(Pending::Get)) => {
                heir.pending = None;
                heir.take_over.took_nothing(&self.memory, now, at);
            }
            (Reply::Got(Some((tag, body))), Some(Pending::Get)) => {
                heir.pending = None;
                let message = match Message::decode(CLUSTER, &body) {
                    Ok(message) => Some(message),
                    Err(DecodeError::NewerVersion(_)) => return self.end(ctx, Doubt::Lost),
                    Err(_) => None,
                };
                heir.take_over.took(tag, message);
                heir.taken = Some(tag);
            }
            (Reply::Confirmed(number), Some(Pending::Confirm { number: expected, .. }))
                if number == *expected =>
            {
                heir.pending = None;
                heir.take_over.confirmed(at);
            }
            (Reply::Letter(letter), _) => self.heir_reads(ctx, letter),
            _ => {}
        }
        self.take_over(ctx);
    }

    fn heir_reads(&mut self, ctx: &mut Context, letter: Letter) {
        let Session::Heir(heir) = &mut self.session else { return };
        let is_deaf = ctx.is_mutated(Mutation::SealBestAppliedOnly);
        match letter {
            Letter::Report(report) if is_deaf => {
                let report = Report { shown: None, tip: None, ..*report };
                heir.take_over.hear(&report);
                self.record(ctx.now, report);
            }
            Letter::Report(report) => {
                let is_named = |tip: &&WriteMessage| report.tip == Some(Claim::new(tip.term, tip.position));
                if let Some(tip) = heir.tips.iter().find(is_named) {
                    ctx.count(Seen::TipHeard);
                    heir.take_over.hear_tip(report.node, tip.clone());
                }
                heir.take_over.hear(&report);
                self.record(ctx.now, *report);
            }
            Letter::Tip(message) => heir.tips.push(message),
            Letter::Question(Some(claim), _) if !is_deaf => {
                ctx.count(Seen::ClaimHeard);
                heir.take_over.hear_claim(claim);
            }
            Letter::Question(..) => {}
        }
    }
}

/// A message in a few characters.
pub(crate) fn brief(message: &Message) -> String {
    match message {
        Message::Link(Link::Write(write)) => {
            let hash = write.position.hash.to_string();
            format!(
                "write {}..={} {} of {:?}",
                write.first,
                write.position.last,
                &hash[..6],
                write.term.epoch
            )
        }
        Message::Link(Link::Mark(mark)) => {
            let hash = mark.position.hash.to_string();
            format!("mark {} {} of {:?}", mark.position.last, &hash[..6], mark.term.epoch)
        }
        Message::Seal(seal) => format!("seal {} of {}", seal.number, seal.epoch),
    }
}

//! A heart: the protocol's take-over and reign, driven as the program drives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use broadcast_protocol::chain::Position;
use broadcast_protocol::names::NodeId;
use broadcast_protocol::report::Report;
use broadcast_protocol::sequencer::{Memory, RetainedAfter, StaleHead};

use crate::agenda::{Actor, Event, Time};
use crate::broker::{Declared, QueueId, Reply, Request};
use crate::client::{Answer, Submission};
use crate::context::{Backoff, Context};
use crate::network::Conn;
use crate::report::Seen;

mod heir;
mod rule;

use heir::Heir;
pub(crate) use heir::brief;
use rule::Rule;

/// How often a standby asks who is active, and how long it waits for the answer.
const ASK_EVERY: Time = 500;

/// How long the broker has to confirm a message.
const CONFIRM_DEADLINE: Time = 10_000;

/// What every heart declares.
const DECLARED: [Declared; 2] = [Declared::Exchange, Declared::Queue(QueueId::Head)];

/// How long a node counts as attached after a report.
const ATTACHED_FOR: Time = 30_000;

/// Why a session ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Doubt {
    /// The connection is gone, or the broker said no.
    Lost,
    /// The broker did not answer in time.
    Late,
    StaleHead(StaleHead),
    CutShort,
}

#[derive(Debug)]
enum Session {
    Down,
    /// Between two sessions.
    Waiting,
    Opening(Conn),
    Locking(Conn),
    Asking(Conn, Time),
    Resting(Conn, Time),
    Heir(Box<Heir>),
    Reigning(Box<Rule>),
}

/// A heart's process.
#[derive(Debug)]
pub(crate) struct Heart {
    index: usize,
    pub(crate) memory: Memory,
    /// The newest report of each node in this session, and when it came.
    census: BTreeMap<NodeId, (Report, Time)>,
    session: Session,
    /// Which session it is; what was planned for an earlier one is void.
    generation: u64,
    backoff: Backoff,
    /// Counts what it publishes.
    number: u64,
    /// How far its wall clock is off, in milliseconds.
    pub(crate) clock_offset: i64,
    /// It was told to end.
    is_stopping: bool,
}

impl fmt::Display for Heart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "heart {}", self.index)
    }
}

impl Heart {
    pub(crate) fn new(index: usize) -> Self {
        Self {
            index,
            memory: Memory::new(false, 0),
            census: BTreeMap::new(),
            session: Session::Down,
            generation: 0,
            backoff: Backoff::default(),
            number: 0,
            clock_offset: 0,
            is_stopping: false,
        }
    }

    /// A new process starts.
    pub(crate) fn start(&mut self, ctx: &mut Context, members: BTreeSet<NodeId>, accepted_loss: Option<u64>) {
        if !matches!(self.session, Session::Down) {
            return;
        }
        ctx.tell(&*self, || "starts".to_owned());
        self.memory = Memory::new(ctx.settings.is_standalone, ctx.settings.retained_bytes);
        self.replace_nodes(members, accepted_loss);
        self.census.clear();
        self.backoff = Backoff::default();
        self.is_stopping = false;
        self.open(ctx);
    }

    /// The process dies: nothing that it remembers is left.
    pub(crate) fn crash(&mut self, ctx: &mut Context) {
        ctx.tell(&*self, || "dies".to_owned());
        self.leave(ctx);
        self.memory = Memory::new(false, 0);
        self.session = Session::Down;
        ctx.oracle.holders_changed();
    }

    /// The process is told to end, and does so in order.
    pub(crate) fn stop(&mut self, ctx: &mut Context) {
        self.is_stopping = true;
        let conn = match &mut self.session {
            Session::Reigning(_) => return self.beat(ctx),
            Session::Down => return,
            Session::Heir(heir) => Some(heir.conn),
            session => connection(session),
        };
        self.end_in_order(ctx, conn);
    }

    fn end_in_order(&mut self, ctx: &mut Context, conn: Option<Conn>) {
        ctx.tell(&*self, || "ends".to_owned());
        if let Some(conn) = conn {
            ctx.send(conn, Request::Close);
        }
        self.give_up_requests(ctx);
        self.generation += 1;
        self.session = Session::Down;
        self.memory = Memory::new(false, 0);
        ctx.oracle.holders_changed();
        let delay = ctx.rng.within(100, 3_000);
        ctx.plan_in(delay, Event::HeartUp(self.index));
    }

    pub(crate) fn is_up(&self) -> bool {
        !matches!(self.session, Session::Down)
    }

    pub(crate) fn connection(&self) -> Option<Conn> {
        connection(&self.session)
    }

    /// Takes the list of the cluster's nodes, and what may be lost.
    pub(crate) fn replace_nodes(&mut self, members: BTreeSet<NodeId>, accepted_loss: Option<u64>) {
        self.memory.members = Some(members);
        self.memory.accept_loss(accepted_loss);
    }

    fn open(&mut self, ctx: &mut Context) {
        self.generation += 1;
        let conn = ctx.connect(Actor::Heart(self.index));
        ctx.send(conn, Request::Open(DECLARED.to_vec()));
        self.session = Session::Opening(conn);
    }

    /// The session ends in doubt; another one follows.
    fn end(&mut self, ctx: &mut Context, doubt: Doubt) {
        ctx.tell(&*self, || format!("session ended: {doubt:?}"));
        ctx.count(match doubt {
            Doubt::Lost => Seen::DoubtLost,
            Doubt::Late => Seen::DoubtLate,
            Doubt::StaleHead(_) => Seen::DoubtStaleHead,
            Doubt::CutShort => Seen::DoubtCutShort,
        });
        if let Doubt::StaleHead(seen) = doubt {
            self.memory.contradiction = Some(seen);
        }
        self.leave(ctx);
        self.session = Session::Waiting;
        let delay = self.backoff.next_delay(&mut ctx.rng);
        self.wake_in(ctx, delay);
    }

    /// Leaves the session as it is; nobody is told.
    fn leave(&mut self, ctx: &mut Context) {
        self.give_up_requests(ctx);
        if let Some(conn) = self.connection() {
            ctx.abandon(conn);
        }
        self.generation += 1;
    }

    fn give_up_requests(&mut self, ctx: &mut Context) {
        if let Session::Reigning(rule) = &mut self.session {
            rule.give_up(ctx);
        }
    }

    fn wake_in(&self, ctx: &mut Context, delay: Time) {
        ctx.plan_in(delay, Event::HeartTimer(self.index, self.generation));
    }

    /// A planned look at the time.
    pub(crate) fn wake(&mut self, ctx: &mut Context, generation: u64) {
        if generation != self.generation {
            return;
        }
        match self.session {
            Session::Waiting => self.open(ctx),
            Session::Asking(conn, until) if until <= ctx.now => {
                // Nobody answers: the lock may be free.
                ctx.send(conn, Request::Lock);
                self.session = Session::Locking(conn);
            }
            Session::Resting(conn, until) if until <= ctx.now => self.ask(ctx, conn),
            Session::Heir(_) => self.take_over(ctx),
            Session::Reigning(_) => self.beat(ctx),
            _ => {}
        }
    }

    fn ask(&mut self, ctx: &mut Context, conn: Conn) {
        ctx.send(conn, Request::Ask(self.memory.claim()));
        self.session = Session::Asking(conn, ctx.now + ASK_EVERY);
        self.wake_in(ctx, ASK_EVERY);
    }

    pub(crate) fn handle_reply(&mut self, ctx: &mut Context, conn: Conn, reply: Reply) {
        if self.connection() != Some(conn) {
            return;
        }
        if matches!(reply, Reply::Closed | Reply::Returned) {
            return self.end(ctx, Doubt::Lost);
        }
        match (&mut self.session, reply) {
            (Session::Opening(_), Reply::Opened) => {
                ctx.send(conn, Request::Lock);
                self.session = Session::Locking(conn);
            }
            (Session::Locking(_), Reply::Locked(true)) => {
                self.census.clear();
                ctx.send(conn, Request::Declare(DECLARED.to_vec()));
                ctx.send(conn, Request::ReadInbox);
                self.session = Session::Heir(Box::new(Heir::new(ctx, conn)));
                self.take_over(ctx);
            }
            (Session::Locking(_), Reply::Locked(false)) => self.ask(ctx, conn),
            (Session::Asking(..), Reply::Active) => {
                self.session = Session::Resting(conn, ctx.now + ASK_EVERY);
                self.wake_in(ctx, ASK_EVERY);
            }
            (Session::Heir(_), reply) => self.heir_hears(ctx, reply),
            (Session::Reigning(_), reply) => self.rule_hears(ctx, reply),
            _ => {}
        }
    }

    pub(crate) fn handle_lost(&mut self, ctx: &mut Context, conn: Conn) {
        if self.connection() == Some(conn) {
            self.end(ctx, Doubt::Lost);
        }
    }

    /// Requests of a client.
    pub(crate) fn submit(&mut self, ctx: &mut Context, submission: Submission) {
        let now = ctx.now;
        let members = self.memory.members.as_ref();
        let attached = self.census.iter().any(|(node, (_, at))| {
            members.is_none_or(|members| members.contains(node)) && at + ATTACHED_FOR > now
        });
        match &mut self.session {
            Session::Reigning(rule) if attached && !self.is_stopping => {
                rule.submissions.push_back(submission);
                self.beat(ctx);
            }
            _ => ctx.answers.push((submission, Answer::NotPublished)),
        }
    }

    fn record(&mut self, now: Time, report: Report) {
        self.census.insert(report.node, (report, now));
    }

    pub(crate) fn is_reigning(&self) -> bool {
        matches!(self.session, Session::Reigning(_))
    }

    pub(crate) fn reigns_at(&self) -> Option<Position> {
        if let Session::Reigning(rule) = &self.session { rule.position() } else { None }
    }

    /// Whether it could give this position's writes to a node.
    pub(crate) fn remembers(&self, position: Position) -> bool {
        let RetainedAfter::Messages(mut after) = self.memory.retained.after(position.last - 1) else {
            return false;
        };
        after.next().is_some_and(|message| message.position == position)
    }

    /// Why the end of the history is not known, and the best known position, while that is so.
    pub(crate) fn open_question(&self) -> Option<(Vec<NodeId>, u64)> {
        let Session::Heir(heir) = &self.session else { return None };
        heir.take_over.open().map(|open| (open.unanswered.clone(), open.best))
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

fn connection(session: &Session) -> Option<Conn> {
    match session {
        Session::Down | Session::Waiting => None,
        Session::Opening(conn)
        | Session::Locking(conn)
        | Session::Asking(conn, _)
        | Session::Resting(conn, _) => Some(*conn),
        Session::Heir(heir) => Some(heir.conn),
        Session::Reigning(rule) => Some(rule.conn),
    }
}

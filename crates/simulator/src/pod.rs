//! A node's process: the protocol's replica, driven as the program drives it. Two of them may have one database.

use std::collections::BTreeMap;
use std::fmt;

use broadcast_protocol::chain::Position;
use broadcast_protocol::cut::Cut;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::names::NodeId;
use broadcast_protocol::replica::{Applied, Halt, Replica, Standing};
use broadcast_protocol::report::{Claim, NodeState, Sealed};

use crate::agenda::{Actor, Event, Fetched, PodEvent, Time};
use crate::broker::{Declared, QueueId, Reply, Request};
use crate::context::{Backoff, CLUSTER, Context};
use crate::database::Database;
use crate::mutations::Mutation;
use crate::network::Conn;
use crate::report::Seen;

mod commit;
mod rebuild;
mod reporter;
mod session;

use commit::Batch;
use reporter::Reporter;

/// After so long without a delivery the broker's objects are declared again.
const SILENCE: Time = 3_000;

/// What a node says of itself; changes where the program's status changes.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) applied: Applied,
    digest: Digest,
    pub(crate) state: NodeState,
    epoch: u64,
    pub(crate) cut: Cut,
    shown: Option<Position>,
    tip: Option<(Claim, Option<WriteMessage>)>,
    session: Option<u64>,
    sealed: Option<Sealed>,
    pub(crate) missing: Option<u64>,
    is_attached: bool,
    pub(crate) divergence: Option<Halt>,
}

#[derive(Debug)]
enum State {
    Down,
    /// Before the next session.
    Waiting,
    Opening(Conn),
    Running(Box<Session>),
    /// The database fails.
    Failing,
    Rebuilding(Rebuild),
    /// Met a message of a newer version.
    Halted,
}

#[derive(Debug)]
struct Session {
    conn: Conn,
    replica: Replica<u64>,
    /// Its random number.
    number: u64,
    next_tag: u64,
    /// The broker's tags of what is not settled, by those of the replica.
    unsettled: BTreeMap<u64, u64>,
    /// When the last delivery came, or everything was declared again.
    heard: Time,
    /// Peers are being asked.
    is_fetching: bool,
    repair_delay: Time,
    repair_backoff: Backoff,
    /// What came while something else was being done.
    deliveries: Vec<(u64, bytes::Bytes)>,
    fetched: Option<Fetched>,
    busy: Option<Busy>,
}

#[derive(Debug)]
enum Busy {
    Committing(Batch),
    Settling(Batch),
    /// Waits for a peer's snapshot.
    Snapshot {
        may_come_later: bool,
    },
}

/// The way from a database that is not to be trusted to a peer's.
#[derive(Debug)]
struct Rebuild {
    halt: Halt,
    /// Up to where what it has counts: a peer has to be as far.
    counts: u64,
    is_aside: bool,
    backoff: Backoff,
}

#[derive(Debug)]
pub(crate) struct Pod {
    index: usize,
    pub(crate) node: u32,
    /// The process that it is to its database.
    incarnation: u64,
    state: State,
    generation: u64,
    pub(crate) status: Status,
    reporter: Reporter,
    lost_backoff: Backoff,
    store_backoff: Backoff,
    /// Whether its node has another pod, which is there to stay.
    pub(crate) is_second: bool,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}{}", self.node, if self.is_second { " (second pod)" } else { "" })
    }
}

impl Pod {
    pub(crate) fn new(index: usize, node: u32) -> Self {
        Self {
            index,
            node,
            incarnation: 0,
            state: State::Down,
            generation: 0,
            status: Status::starting(&Database::new()),
            reporter: Reporter::default(),
            lost_backoff: Backoff::default(),
            store_backoff: Backoff::default(),
            is_second: false,
        }
    }

    /// A new process starts with the database.
    pub(crate) fn start(&mut self, ctx: &mut Context, disk: &mut Database) {
        if self.is_up() {
            return;
        }
        ctx.tell(&*self, || format!("starts at {}", disk.applied().position.last));
        disk.incarnation += 1;
        self.incarnation = disk.incarnation;
        self.status = Status::starting(disk);
        self.status.is_attached = ctx.is_mutated(Mutation::ReportBeforeQueue);
        self.lost_backoff = Backoff::default();
        self.store_backoff = Backoff::default();
        self.begin_reports(ctx);
        self.open(ctx);
    }

    /// The process dies; its database stays.
    pub(crate) fn crash(&mut self, ctx: &mut Context) {
        if !self.is_up() {
            return;
        }
        ctx.tell(&*self, || "dies".to_owned());
        self.leave(ctx);
        self.state = State::Down;
        self.reporter.end();
    }

    /// The process is told to end: what it does not finish goes back to the broker.
    pub(crate) fn stop(&mut self, ctx: &mut Context) {
        ctx.tell(&*self, || "ends".to_owned());
        if let Some(conn) = self.connection() {
            ctx.send(conn, Request::Close);
        }
        self.generation += 1;
        self.state = State::Down;
        self.reporter.end();
    }

    pub(crate) fn is_up(&self) -> bool {
        !matches!(self.state, State::Down)
    }

    pub(crate) fn is_halted(&self) -> bool {
        matches!(self.state, State::Halted)
    }

    /// Whether it consumes its queue and misses nothing that it knows of.
    pub(crate) fn is_current(&self) -> bool {
        matches!(&self.state, State::Running(session) if session.replica.standing() == Standing::Current)
    }

    pub(crate) fn connection(&self) -> Option<Conn> {
        match &self.state {
            State::Opening(conn) => Some(*conn),
            State::Running(session) => Some(session.conn),
            _ => None,
        }
    }

    fn open(&mut self, ctx: &mut Context) {
        self.generation += 1;
        let conn = ctx.connect(Actor::Pod(self.index));
        ctx.send(conn, Request::Open(vec![Declared::Exchange, Declared::Queue(QueueId::Node(self.node))]));
        self.state = State::Opening(conn);
    }

    fn leave(&mut self, ctx: &mut Context) {
        if let Some(conn) = self.connection() {
            ctx.abandon(conn);
        }
        self.generation += 1;
    }

    /// The connection is gone; another session follows.
    fn lose(&mut self, ctx: &mut Context) {
        self.leave(ctx);
        self.state = State::Waiting;
        let delay = self.lost_backoff.next_delay(&mut ctx.rng);
        self.plan(ctx, delay, PodEvent::Wake);
    }

    fn plan(&self, ctx: &mut Context, delay: Time, event: PodEvent) {
        ctx.plan_in(delay, Event::Pod(self.index, self.generation, event));
    }

    pub(crate) fn handle_lost(&mut self, ctx: &mut Context, conn: Conn) {
        if self.connection() == Some(conn) {
            self.lose(ctx);
        }
    }

    pub(crate) fn handle_reply(&mut self, ctx: &mut Context, disk: &mut Database, conn: Conn, reply: Reply) {
        if self.connection() != Some(conn) {
            return;
        }
        match (&mut self.state, reply) {
            (_, Reply::Closed) => self.lose(ctx),
            (State::Opening(_), Reply::Opened) => self.consume(ctx, disk, conn),
            (State::Running(session), Reply::Delivery(tag, body)) => {
                session.deliveries.push((tag, body));
                self.work(ctx, disk);
            }
            _ => {}
        }
    }

    fn consume(&mut self, ctx: &mut Context, disk: &Database, conn: Conn) {
        if disk.incarnation != self.incarnation {
            return self.be_replaced(ctx);
        }
        self.lost_backoff.reset();
        self.status.is_attached = true;
        self.touch(ctx);
        ctx.send(conn, Request::Consume(QueueId::Node(self.node)));
        let replica = Replica::new(CLUSTER, disk.applied(), disk.kept_headers(), ctx.settings.kept_bytes);
        self.state = State::Running(Box::new(Session {
            conn,
            replica,
            number: ctx.rng.nonce(),
            next_tag: 0,
            unsettled: BTreeMap::new(),
            heard: ctx.now,
            is_fetching: false,
            repair_delay: 0,
            repair_backoff: Backoff::default(),
            deliveries: Vec::new(),
            fetched: None,
            busy: None,
        }));
        self.plan(ctx, SILENCE, PodEvent::Silence);
    }

    /// Something of its own; `generation` says of which session.
    pub(crate) fn handle(
        &mut self,
        ctx: &mut Context,
        disk: &mut Database,
        generation: u64,
        event: PodEvent,
    ) {
        if generation != self.generation {
            return;
        }
        match (&mut self.state, event) {
            (State::Waiting, PodEvent::Wake) => self.open(ctx),
            (State::Failing, PodEvent::Wake) => self.probe(ctx, disk),
            (State::Running(session), PodEvent::Fetched(fetched)) if session.is_fetching => {
                session.is_fetching = false;
                session.fetched = Some(fetched);
                self.work(ctx, disk);
            }
            (State::Running(_), PodEvent::Snapshot(snapshot)) => self.take_snapshot(ctx, disk, snapshot),
            (State::Rebuilding(_), PodEvent::Snapshot(snapshot)) => self.rebuild_from(ctx, disk, snapshot),
            (State::Running(_), PodEvent::Commit) => self.commit(ctx, disk),
            (State::Running(_), PodEvent::Settle) => self.settle(ctx, disk),
            (State::Running(session), PodEvent::Silence) => {
                if session.heard + SILENCE <= ctx.now {
                    session.heard = ctx.now;
                    ctx.count(Seen::DeclaredAfterSilence);
                    let declared = vec![Declared::Exchange, Declared::Queue(QueueId::Node(self.node))];
                    ctx.send(session.conn, Request::Declare(declared));
                }
                let delay = session.heard + SILENCE - ctx.now;
                self.plan(ctx, delay, PodEvent::Silence);
            }
            _ => {}
        }
    }

    /// The position that peers are asked to continue, while they are asked.
    pub(crate) fn asks_after(&self, generation: u64) -> Option<Position> {
        match &self.state {
            State::Running(session) if session.is_fetching && generation == self.generation => {
                Some(session.replica.position())
            }
            _ => None,
        }
    }

    /// The position that a peer's snapshot has to be further on than, while one is asked for.
    pub(crate) fn wants_snapshot_after(&self, generation: u64) -> Option<u64> {
        match &self.state {
            _ if generation != self.generation => None,
            State::Running(session) if matches!(session.busy, Some(Busy::Snapshot { .. })) => {
                Some(session.replica.position().last)
            }
            State::Rebuilding(rebuild) => Some(rebuild.counts.saturating_sub(1)),
            _ => None,
        }
    }
}

impl Status {
    fn starting(disk: &Database) -> Self {
        Self {
            applied: disk.applied(),
            digest: disk.content.digest,
            state: NodeState::Bootstrapping,
            epoch: disk.applied().epoch,
            cut: disk.applied().cut,
            shown: None,
            tip: None,
            session: None,
            sealed: None,
            missing: None,
            is_attached: false,
            divergence: None,
        }
    }

    fn show_database(&mut self, disk: &Database) {
        self.applied = disk.applied();
        self.digest = disk.content.digest;
    }
}

/// A node's id as the protocol has it.
pub(crate) fn node_id(node: u32) -> Option<NodeId> {
    NodeId::new(node)
}

//! One simulation: everybody who takes part, and who is told of which event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use broadcast_protocol::chain::Position;
use broadcast_protocol::envelope::{Mark, Message};
use broadcast_protocol::names::NodeId;

use crate::agenda::{Actor, Event, Mend, PodEvent, Time};
use crate::broker::{Broker, Declared, Reply, Request};
use crate::client::Client;
use crate::context::{CLUSTER, Context};
use crate::database::Database;
use crate::heart::Heart;
use crate::invariants::Violation;
use crate::mutations::Mutation;
use crate::network::HEARTBEAT;
use crate::operator::Operator;
use crate::pod::{Pod, node_id};
use crate::report::{Seen, Tally};

pub(crate) struct World {
    pub(crate) ctx: Context,
    pub(crate) broker: Broker,
    pub(crate) hearts: Vec<Heart>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) disks: BTreeMap<u32, Database>,
    pub(crate) backups: BTreeMap<u32, Database>,
    pub(crate) clients: Vec<Client>,
    /// The cluster's nodes.
    pub(crate) members: BTreeSet<u32>,
    pub(crate) operator: Operator,
    pub(crate) are_peers_cut: bool,
    /// What stopped processes will find when they go on.
    stopped: Vec<(Actor, VecDeque<Event>)>,
}

/// How a simulation ended.
#[derive(Debug)]
pub struct Outcome {
    /// The first promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// What was exercised.
    pub tally: Tally,
}

/// Runs the simulation of one seed to its end.
pub fn simulate(seed: u64, mutation: Option<Mutation>, trace: bool) -> Outcome {
    let mut world = World::new(Context::new(seed, mutation, trace));
    while world.step() {}
    let World { mut ctx, .. } = world;
    ctx.tally.simulated = ctx.now;
    ctx.tally.acknowledged = ctx.oracle.acknowledged;
    if ctx.oracle.taints > 0 {
        ctx.count(Seen::Tainted);
    }
    Outcome { violation: ctx.oracle.violation, tally: ctx.tally }
}

impl World {
    fn new(ctx: Context) -> Self {
        let hearts = (0..ctx.settings.hearts).map(Heart::new).collect();
        let clients = (0..ctx.settings.clients).map(Client::new).collect();
        let mut world = Self {
            broker: Broker::default(),
            hearts,
            pods: Vec::new(),
            disks: BTreeMap::new(),
            backups: BTreeMap::new(),
            clients,
            members: BTreeSet::new(),
            operator: Operator::default(),
            are_peers_cut: false,
            stopped: Vec::new(),
            ctx,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let ctx = &mut self.ctx;
        ctx.tell("settings", || format!("{:#?}", ctx.settings));
        self.broker.come_up();
        if !self.ctx.settings.is_standalone {
            let conn = self.ctx.connect(Actor::Heart(usize::MAX));
            let declared = vec![Declared::Exchange, Declared::Queue(crate::broker::QueueId::Head)];
            self.broker.handle(&mut self.ctx, conn, Request::Open(declared));
            self.publish_genesis(&Message::from(Mark::genesis(CLUSTER, 0)));
            self.broker.close(&mut self.ctx, conn);
        }
        for node in 1..=self.ctx.settings.nodes {
            self.add_node(node);
        }
        for heart in 0..self.hearts.len() {
            let at = self.ctx.rng.within(0, 1_000);
            self.ctx.plan_at(at, Event::HeartUp(heart));
        }
        for client in 0..self.clients.len() {
            let at = self.ctx.rng.within(0, 2_000);
            self.ctx.plan_at(at, Event::Client(client));
        }
        self.ctx.plan_at(1_500, Event::Fault);
        self.ctx.plan_at(500, Event::Operate);
    }

    pub(crate) fn add_node(&mut self, node: u32) {
        self.members.insert(node);
        self.disks.insert(node, Database::new());
        let pod = self.add_pod(node);
        let delay = self.ctx.rng.within(0, 3_000);
        self.ctx.plan_in(delay, Event::PodUp(pod));
    }

    pub(crate) fn add_pod(&mut self, node: u32) -> usize {
        self.pods.push(Pod::new(self.pods.len(), node));
        self.pods.len() - 1
    }

    /// The first pod of a node.
    pub(crate) fn pod_of(&self, node: u32) -> Option<usize> {
        self.pods.iter().position(|pod| pod.node == node && !pod.is_second)
    }

    pub(crate) fn member_ids(&self) -> BTreeSet<NodeId> {
        self.members.iter().filter_map(|node| node_id(*node)).collect()
    }

    /// The next event; false at the end.
    fn step(&mut self) -> bool {
        let Some(event) = self.ctx.next_event() else { return false };
        self.ctx.tally.events += 1;
        let actor = self.actor(&event);
        if let Some(actor) = actor
            && let Some((_, waiting)) = self.stopped.iter_mut().find(|(stopped, _)| *stopped == actor)
        {
            waiting.push_back(event);
            return true;
        }
        let goes_on = self.dispatch(event);
        self.pass_on_answers();
        if let Some(actor) = actor {
            self.maybe_kill(actor);
        }
        if let Some(lost) = self.ctx.oracle.take_left_out() {
            let was_known = self.was_known(lost);
            self.ctx.oracle.judge_left_out(lost, was_known);
        }
        if self.ctx.oracle.take_holders_changed() {
            self.look_who_holds_what();
        }
        goes_on && self.ctx.oracle.violation.is_none()
    }

    fn actor(&self, event: &Event) -> Option<Actor> {
        match event {
            Event::ToClient(conn, _) | Event::Lost(conn) => Some(self.ctx.owner(*conn)),
            Event::HeartTimer(heart, _) | Event::Submit(heart, _) => Some(Actor::Heart(*heart)),
            Event::Pod(pod, ..) | Event::Report(pod, _) => Some(Actor::Pod(*pod)),
            _ => None,
        }
    }

    fn dispatch(&mut self, event: Event) -> bool {
        let ctx = &mut self.ctx;
        match event {
            Event::ToBroker(conn, request) => {
                if ctx.reaches_broker(conn) {
                    self.broker.handle(ctx, conn, request);
                }
            }
            Event::ToClient(conn, reply) => {
                if ctx.reaches_client(conn) {
                    self.reply(conn, reply);
                }
            }
            Event::Lost(conn) => match ctx.owner(conn) {
                Actor::Heart(heart) => self.hearts[heart].handle_lost(ctx, conn),
                Actor::Pod(pod) => self.pods[pod].handle_lost(ctx, conn),
            },
            Event::Close(conn) => {
                self.broker.close(ctx, conn);
                ctx.reply(conn, Reply::Closed);
            }
            Event::Route(number) => self.broker.arrive(ctx, number),
            Event::Unlock(conn) => self.broker.unlock(conn),
            Event::BrokerUp => self.broker.come_up(),
            Event::Letter(letter) => self.broker.take_letter(ctx, letter),
            Event::HeartUp(heart) => {
                let (members, accepted) = (self.member_ids(), self.operator.accepted_loss);
                self.hearts[heart].start(&mut self.ctx, members, accepted);
            }
            Event::HeartTimer(heart, generation) => self.hearts[heart].wake(ctx, generation),
            Event::Submit(heart, submission) => self.hearts[heart].submit(ctx, submission),
            Event::PodUp(pod) => self.start_pod(pod),
            Event::Pod(pod, generation, PodEvent::Ask) => self.ask_peers(pod, generation),
            Event::Pod(pod, generation, event) => {
                if let Some(disk) = self.disks.get_mut(&self.pods[pod].node) {
                    self.pods[pod].handle(ctx, disk, generation, event);
                }
            }
            Event::Report(pod, life) => {
                if let Some(disk) = self.disks.get(&self.pods[pod].node) {
                    self.pods[pod].report(ctx, disk, life);
                }
            }
            Event::Resume(actor) => self.resume(actor),
            Event::Client(client) => {
                let reigning: Vec<usize> =
                    (0..self.hearts.len()).filter(|heart| self.hearts[*heart].is_reigning()).collect();
                let heart = ctx.rng.pick(&reigning);
                self.clients[client].act(ctx, heart);
            }
            Event::Fault => self.next_fault(),
            Event::Operate => return self.operate(),
            Event::Mend(mend) => self.mend(mend),
        }
        true
    }

    fn reply(&mut self, conn: crate::network::Conn, reply: Reply) {
        match self.ctx.owner(conn) {
            Actor::Heart(heart) => {
                if let Some(heart) = self.hearts.get_mut(heart) {
                    heart.handle_reply(&mut self.ctx, conn, reply);
                }
            }
            Actor::Pod(pod) => {
                if let Some(disk) = self.disks.get_mut(&self.pods[pod].node) {
                    self.pods[pod].handle_reply(&mut self.ctx, disk, conn, reply);
                }
            }
        }
    }

    fn pass_on_answers(&mut self) {
        for (submission, answer) in std::mem::take(&mut self.ctx.answers) {
            self.clients[submission.client].hear(&mut self.ctx, submission.attempt, answer);
        }
    }

    /// Whoever acts may die before it acts again.
    fn maybe_kill(&mut self, actor: Actor) {
        let is_quiet = self.ctx.now >= self.ctx.settings.quiet_from;
        if is_quiet || self.ctx.rng.next() % 1_000_000 >= self.ctx.settings.crash_per_million {
            return;
        }
        match actor {
            Actor::Heart(heart) if self.hearts.get(heart).is_some_and(Heart::is_up) => {
                self.ctx.count(Seen::HeartCrashedActing);
                self.crash_heart(heart);
            }
            Actor::Pod(pod) if self.pods[pod].is_up() => {
                self.ctx.count(Seen::PodCrashedActing);
                self.pods[pod].crash(&mut self.ctx);
                let delay = self.ctx.rng.within(10, 5_000);
                self.ctx.plan_in(delay, Event::PodUp(pod));
            }
            _ => {}
        }
    }

    pub(crate) fn crash_heart(&mut self, heart: usize) {
        self.stopped.retain(|(actor, _)| *actor != Actor::Heart(heart));
        self.hearts[heart].crash(&mut self.ctx);
        let delay = self.ctx.rng.within(10, 8_000);
        self.ctx.plan_in(delay, Event::HeartUp(heart));
    }

    fn start_pod(&mut self, pod: usize) {
        let node = self.pods[pod].node;
        let is_wanted =
            self.members.contains(&node) && !self.operator.has_ended(pod) && !self.pods[pod].is_up();
        if let Some(disk) = self.disks.get_mut(&node).filter(|_| is_wanted) {
            self.stopped.retain(|(actor, _)| *actor != Actor::Pod(pod));
            self.pods[pod].start(&mut self.ctx, disk);
        }
    }

    /// Kills every pod of a node; they come back, but for a second one.
    pub(crate) fn stop_pods_hard(&mut self, node: u32) {
        for pod in 0..self.pods.len() {
            if self.pods[pod].node == node {
                self.pods[pod].crash(&mut self.ctx);
                self.stopped.retain(|(actor, _)| *actor != Actor::Pod(pod));
                let delay = self.ctx.rng.within(10, 5_000);
                self.ctx.plan_in(delay, Event::PodUp(pod));
            }
        }
    }

    pub(crate) fn replace_disk(&mut self, node: u32, mut new: Database) {
        let Some(old) = self.disks.get_mut(&node) else { return };
        self.ctx.oracle.put_aside(old.applied().position);
        for kept in &old.kept {
            self.ctx.oracle.excuse(kept.position);
        }
        new.incarnation = old.incarnation + 1;
        new.works = true;
        *old = new;
        self.ctx.oracle.holders_changed();
    }

    /// A process gets no time for a while. Its connections may not outlive that.
    pub(crate) fn pause(&mut self, actor: Actor) {
        if self.stopped.iter().any(|(stopped, _)| *stopped == actor) {
            return;
        }
        let time: Time = if self.ctx.rng.chance(500) {
            self.ctx.rng.within(20, 3_000)
        } else {
            self.ctx.rng.within(HEARTBEAT, 30_000)
        };
        let conn = match actor {
            Actor::Heart(heart) => self.hearts[heart].connection(),
            Actor::Pod(pod) => self.pods[pod].connection(),
        };
        if let Some(conn) = conn.filter(|_| time >= HEARTBEAT) {
            let noticed = self.ctx.rng.within(HEARTBEAT / 2, HEARTBEAT);
            self.ctx.plan_in(noticed, Event::Close(conn));
        }
        self.stopped.push((actor, VecDeque::new()));
        self.ctx.plan_in(time, Event::Resume(actor));
    }

    pub(crate) fn is_stopped(&self, actor: Actor) -> bool {
        self.stopped.iter().any(|(stopped, _)| *stopped == actor)
    }

    fn resume(&mut self, actor: Actor) {
        let Some(index) = self.stopped.iter().position(|(stopped, _)| *stopped == actor) else { return };
        self.ctx.tell("world", || format!("{actor:?} goes on"));
        for event in self.stopped.remove(index).1 {
            self.dispatch(event);
        }
    }

    fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Peers => self.are_peers_cut = false,
            Mend::Disk(node) => {
                if let Some(disk) = self.disks.get_mut(&node) {
                    disk.works = true;
                }
            }
            Mend::SecondPod(pod) => {
                self.operator.end_pod(pod);
                if self.pods[pod].is_up() {
                    self.pods[pod].stop(&mut self.ctx);
                }
            }
        }
    }

    /// Whether a node has applied or just got it, or a heart that is awake remembers it.
    fn was_known(&self, position: Position) -> bool {
        let is_awake = |heart: usize| !self.is_stopped(Actor::Heart(heart));
        let remembers = |heart: usize| is_awake(heart) && self.hearts[heart].remembers(position);
        self.disks.values().any(|disk| self.ctx.oracle.leads_to(position, disk.applied().position))
            || (0..self.hearts.len()).any(remembers)
            || self.broker.is_out(position)
    }

    /// What must stay is somewhere: in a database, a queue or a heart's memory.
    fn look_who_holds_what(&mut self) {
        let applied: Vec<_> = self.disks.values().map(|disk| disk.applied().position).collect();
        let furthest = applied.iter().map(|position| position.last).max().unwrap_or(0);
        self.ctx.oracle.disks = applied;
        for position in self.ctx.oracle.beyond(furthest) {
            let in_broker = || {
                let mut carried = self.broker.payloads().filter_map(|payload| payload.carried);
                carried.any(|carried| carried.has_writes && carried.position == position)
            };
            let in_waiting_room =
                || self.disks.values().flat_map(|disk| &disk.kept).any(|kept| kept.position == position);
            let in_memory = || self.hearts.iter().any(|heart| heart.remembers(position));
            if !(in_broker() || in_memory() || in_waiting_room()) {
                self.ctx.tell("world", || format!("nobody holds {} any more", position.last));
                self.ctx.oracle.lost(position);
                return;
            }
        }
    }
}

//! The operator, and the human behind it: faults at their times, nodes added and removed, losses accepted, and at the end
//! the question whether everything is the same everywhere again.

use std::collections::BTreeSet;

use broadcast_protocol::chain::Position;
use broadcast_protocol::names::NodeId;
use broadcast_protocol::replica::Halt;

use crate::agenda::{Actor, Event, Time};
use crate::broker::QueueId;
use crate::client::Client;
use crate::database::Database;
use crate::heart::Heart;
use crate::report::Seen;
use crate::world::World;

/// How often the operator looks.
const LOOK_EVERY: Time = 500;

/// How long it may take from the last fault until everything is the same everywhere.
const CONVERGED_WITHIN: Time = 400_000;

/// How long a human lets the word stand that something may be lost.
const ACCEPTED_FOR: Time = 20_000;

#[derive(Debug, Default)]
pub(crate) struct Operator {
    /// A human's word that everything from this sequence number on may be lost.
    pub(crate) accepted_loss: Option<u64>,
    accepted_at: Option<Time>,
    /// What each heart was told last.
    told: Vec<Option<(BTreeSet<NodeId>, Option<u64>)>>,
    /// What keeps the cluster from going on, and since when.
    stuck: Option<(Stuck, Time)>,
    /// When the faults ended.
    quiet_since: Option<Time>,
    /// Pods that do not come back.
    ended: BTreeSet<usize>,
    /// A node that does not come back.
    dead: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stuck {
    /// A sealing heart knows nothing better than this.
    Sealing(u64),
    /// Nodes miss this and nobody has it.
    Missing(u64),
}

impl Operator {
    pub(crate) fn has_ended(&self, pod: usize) -> bool {
        self.ended.contains(&pod)
    }

    pub(crate) fn end_pod(&mut self, pod: usize) {
        self.ended.insert(pod);
    }
}

impl World {
    pub(crate) fn next_fault(&mut self) {
        if self.ctx.now >= self.ctx.settings.quiet_from {
            return self.be_quiet();
        }
        for (node, disk) in &self.disks {
            if self.ctx.rng.chance(200) {
                self.backups.insert(*node, disk.clone());
            }
        }
        let faults = self.ctx.settings.faults.clone();
        if let Some(fault) = self.ctx.rng.pick(&faults) {
            self.strike(fault);
        }
        let gap = self.ctx.settings.fault_gap;
        let delay = self.ctx.rng.within(1, gap * 2);
        self.ctx.plan_in(delay, Event::Fault);
    }

    /// No more faults. What was broken on purpose works again, but for a node that may stay dead.
    fn be_quiet(&mut self) {
        self.ctx.tell("world", || "no more faults".to_owned());
        self.operator.quiet_since = Some(self.ctx.now);
        if self.members.len() > 1 && self.ctx.rng.chance(100) {
            let nodes: Vec<u32> = self.members.iter().copied().collect();
            if let Some(node) = self.ctx.rng.pick(&nodes).filter(|node| self.is_dispensable(*node)) {
                self.ctx.tell("world", || format!("node {node} stays dead"));
                self.operator.dead = Some(node);
                self.end_pods_of(node);
            }
        }
    }

    fn end_pods_of(&mut self, node: u32) {
        for pod in 0..self.pods.len() {
            if self.pods[pod].node == node {
                self.pods[pod].crash(&mut self.ctx);
                self.operator.end_pod(pod);
            }
        }
        if let Some(disk) = self.disks.remove(&node) {
            self.ctx.oracle.put_aside(disk.applied().position);
            for kept in &disk.kept {
                self.ctx.oracle.excuse(kept.position);
            }
            self.ctx.oracle.holders_changed();
        }
    }

    /// Whether another node is about as far: the only copy of everything is no fault's to take. While rows are wrong
    /// somewhere, most nodes have to be there to say so.
    pub(crate) fn is_dispensable(&self, node: u32) -> bool {
        let applied = |disk: &Database| disk.applied().position.last;
        let own = self.disks.get(&node).map_or(0, applied);
        let is_corrupt = self.disks.values().any(|disk| disk.content.is_corrupt);
        let is_as_far = |(other, disk): (&u32, &Database)| *other != node && applied(disk) + 10 >= own;
        !is_corrupt && self.ctx.oracle.is_calm() && self.disks.iter().any(is_as_far)
    }

    fn is_another_current(&self, node: u32) -> bool {
        self.pods.iter().any(|pod| pod.node != node && pod.is_current())
    }

    pub(crate) fn scale_up(&mut self) {
        let used = self.pods.iter().map(|pod| pod.node).max().unwrap_or(0);
        if self.members.len() < 6 {
            self.ctx.count(Seen::ScaledUp);
            self.add_node(used + 1);
        }
    }

    pub(crate) fn scale_down(&mut self) {
        let nodes: Vec<u32> = self.members.iter().copied().collect();
        if let Some(node) = self
            .ctx
            .rng
            .pick(&nodes)
            .filter(|node| self.is_dispensable(*node) && self.is_another_current(*node))
        {
            self.ctx.count(Seen::ScaledDown);
            self.remove_node(node);
        }
    }

    fn remove_node(&mut self, node: u32) {
        self.ctx.tell("operator", || format!("removes node {node}"));
        self.members.remove(&node);
        self.end_pods_of(node);
        self.broker.remove_queue(&mut self.ctx, QueueId::Node(node));
    }

    /// Looks at the cluster; false when there is nothing more to see.
    pub(crate) fn operate(&mut self) -> bool {
        self.tell_hearts();
        self.restart_what_ended();
        self.watch();
        // What a stopped heart will claim when it goes on, nobody knows.
        let is_any_stopped = (0..self.hearts.len()).any(|heart| self.is_stopped(Actor::Heart(heart)));
        let end = self.hearts.iter().find_map(Heart::reigns_at).filter(|_| !is_any_stopped);
        if let Some(end) = end {
            let carried = self.broker.payloads().filter_map(|payload| payload.carried);
            let claimed = self.hearts.iter().filter_map(|heart| heart.memory.claim());
            let claimed = claimed.map(|claim| claim.position);
            self.ctx.oracle.settle(end, carried.map(|carried| carried.position).chain(claimed));
        }
        self.ctx.plan_in(LOOK_EVERY, Event::Operate);
        let Some(since) = self.operator.quiet_since else { return true };
        for client in &mut self.clients {
            if client.answered > since {
                client.finish();
            }
        }
        match self.look_around() {
            Ok(position) => {
                self.ctx.tally.convergence = self.ctx.now - since;
                self.judge_end(position);
                false
            }
            Err(_) if self.ctx.now > since + CONVERGED_WITHIN && self.is_dead_end() => {
                self.ctx.count(Seen::DeadEnd);
                false
            }
            Err(why) if self.ctx.now > since + CONVERGED_WITHIN => {
                let text = format!("not within {} s of simulated time: {why}", CONVERGED_WITHIN / 1_000);
                self.ctx.oracle.violate("5: everything gets the same everywhere", text);
                false
            }
            Err(_) => true,
        }
    }

    /// The list of nodes reaches each heart at another time.
    fn tell_hearts(&mut self) {
        self.operator.told.resize(self.hearts.len(), None);
        let news = (self.member_ids(), self.operator.accepted_loss);
        for heart in 0..self.hearts.len() {
            let is_told = self.operator.told[heart].as_ref() == Some(&news);
            if !is_told && !self.is_stopped(Actor::Heart(heart)) && self.ctx.rng.chance(500) {
                self.hearts[heart].replace_nodes(news.0.clone(), news.1);
                self.operator.told[heart] = Some(news.clone());
            }
        }
    }

    /// A process that ended by itself is started again; one that met a newer version is upgraded.
    fn restart_what_ended(&mut self) {
        for pod in 0..self.pods.len() {
            if self.pods[pod].is_halted() {
                self.broker.take_foreign(QueueId::Node(self.pods[pod].node));
                self.pods[pod].stop(&mut self.ctx);
                self.ctx.plan_in(1_000, Event::PodUp(pod));
            }
        }
    }

    /// A human looks whether the cluster goes on, for as long as patience lasts.
    fn watch(&mut self) {
        let stuck = self.find_stuck();
        let since = match (stuck, self.operator.stuck) {
            (Some(now), Some((before, since))) if now == before => since,
            _ => self.ctx.now,
        };
        self.operator.stuck = stuck.map(|stuck| (stuck, since));
        let waited = self.ctx.now - since;
        match stuck {
            None if self.hearts.iter().any(Heart::is_reigning)
                && self.operator.accepted_at.is_some_and(|at| at + ACCEPTED_FOR < self.ctx.now) =>
            {
                (self.operator.accepted_loss, self.operator.accepted_at) = (None, None);
            }
            Some(stuck) if waited > self.ctx.settings.patience => self.give_up(stuck),
            _ => {}
        }
    }

    fn find_stuck(&self) -> Option<Stuck> {
        let open = self.hearts.iter().find_map(Heart::open_question);
        if let Some((_, best)) = open {
            return Some(Stuck::Sealing(best));
        }
        let cut = self.pods.iter().map(|pod| pod.status.cut).max()?;
        let applied = self.disks.values().map(|disk| disk.applied().claim());
        let furthest =
            applied.filter(|claim| !cut.gives_up(*claim)).map(|claim| claim.position.last).max()?;
        let misses_next = |pod: &crate::pod::Pod| pod.is_up() && pod.status.missing == Some(furthest + 1);
        self.pods.iter().any(misses_next).then_some(Stuck::Missing(furthest + 1))
    }

    fn give_up(&mut self, stuck: Stuck) {
        if let Some(dead) = self.operator.dead.filter(|dead| self.members.contains(dead))
            && (self.ctx.rng.chance(500) || matches!(stuck, Stuck::Missing(_)))
        {
            return self.remove_node(dead);
        }
        let is_well = |pod: usize| {
            let pod_is_up = self.pods[pod].is_up() && !self.is_stopped(Actor::Pod(pod));
            pod_is_up && self.pods[pod].status.divergence.is_none()
        };
        let all_are_well = self.members.iter().all(|node| self.pod_of(*node).is_some_and(is_well));
        // Nobody gives up what comes by itself; in the middle of faults some are rash.
        let (lost, is_needed) = match stuck {
            Stuck::Sealing(best) => (best + 1, !all_are_well),
            Stuck::Missing(seq) => {
                let is_given_up =
                    |pod: &crate::pod::Pod| matches!(pod.status.divergence, Some(Halt::GivenUp { .. }));
                let is_known = !self.ctx.oracle.is_calm() || self.ctx.oracle.is_excused(seq);
                (seq, is_known || self.pods.iter().any(is_given_up))
            }
        };
        if !is_needed && self.operator.quiet_since.is_some() {
            return;
        }
        // The word is for one time. It has to be taken back before it is given again.
        self.operator.stuck = None;
        if self.operator.accepted_loss == Some(lost) {
            self.operator.accepted_loss = None;
        } else {
            self.ctx.count(Seen::LossAccepted);
            self.ctx.tell("human", || format!("accepts the loss of everything from {lost} on"));
            (self.operator.accepted_loss, self.operator.accepted_at) = (Some(lost), Some(self.ctx.now));
            self.ctx.oracle.taint(lost);
        }
    }

    /// Whether everything is the same everywhere, or what is not.
    fn look_around(&self) -> Result<Position, String> {
        if !self.clients.iter().all(Client::is_idle) {
            return Err("a client waits".to_owned());
        }
        let reigning: Vec<_> = (0..self.hearts.len())
            .filter(|heart| !self.is_stopped(Actor::Heart(*heart)))
            .filter_map(|heart| self.hearts[heart].reigns_at())
            .collect();
        let [position] = reigning[..] else { return Err(format!("{} hearts reign", reigning.len())) };
        let mut digests = Vec::new();
        for node in self.members.iter().filter(|node| Some(**node) != self.operator.dead) {
            let Some(disk) = self.disks.get(node) else { return Err(format!("node {node} has no disk")) };
            if disk.applied().position != position {
                return Err(format!(
                    "node {node} is at {}, not {}",
                    disk.applied().position.last,
                    position.last
                ));
            }
            if self.pod_of(*node).is_none_or(|pod| !self.pods[pod].is_current()) {
                return Err(format!("node {node} is not current"));
            }
            digests.push(disk.content.digest);
        }
        digests.dedup();
        if digests.len() == 1 { Ok(position) } else { Err("rows differ".to_owned()) }
    }

    /// After a loss outside of the promise a database may have what the history went on without, and never find out: no
    /// message ends where it is, or no peer is healthy. A node may also wait for what a reign had shown that the next one,
    /// of the same epoch, went on without.
    fn is_dead_end(&self) -> bool {
        let Some(end) = self.hearts.iter().find_map(Heart::reigns_at) else { return false };
        let mut applied = self.disks.values().map(|disk| disk.applied().position);
        let is_forked = !self.ctx.oracle.is_calm() && applied.any(|at| !self.ctx.oracle.leads_to(at, end));
        let are_all_there = self.disks.values().all(|disk| disk.applied().position == end);
        let waits_for_peer = self.pods.iter().any(|pod| pod.is_up() && pod.status.divergence.is_some());
        is_forked || self.ctx.oracle.taints > 0 && (are_all_there || waits_for_peer)
    }

    fn judge_end(&mut self, position: Position) {
        if let Some(missing) = self.ctx.oracle.find_missing(position) {
            let text = format!("all nodes are at {}, without {missing}", position.last);
            self.ctx.oracle.violate("1: acknowledged writes stay", text);
        }
    }
}

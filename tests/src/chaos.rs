//! Faults by chance, the next one before the last one is overcome.
//!
//! What is promised at `ack=broker` survives any process at any time, and the loss of one queue or one disk at a time. So such a loss comes
//! only when the last one is overcome; everything else comes at any time, during the recovery from a loss too. A head queue that lost
//! its binding, alone or with the whole exchange, goes stale, and is only survived while a heart lives: until the heart has bound it again, all
//! are left alone.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::broker::Broker;
use crate::client::wait_for;
use crate::dice::Dice;
use crate::proxy::{Direction, Fault};
use crate::standalone::{Cluster, RECOVERY};

mod by_hand;

use by_hand::Change;

/// How often a process in a crash loop is killed.
const CRASHES: usize = 30;

/// The shortest and the longest pause between two faults, in milliseconds.
const PAUSE: (usize, usize) = (50, 1_500);

/// For how long a process stands still or has a bad network, in milliseconds: the longest is noticed by heartbeats.
const AILING: (usize, usize) = (300, 14_000);

/// How long a heart may take to bind its queue again.
const BOUND_WITHIN: Duration = Duration::from_secs(6);

/// A broker and a cluster that are tormented.
#[derive(Debug)]
pub struct Chaos {
    /// The broker.
    pub broker: Broker,
    /// The cluster, with a proxy before each process.
    pub cluster: Cluster,
    dice: Dice,
    counts: BTreeMap<String, usize>,
    kills: usize,
    ailing: Vec<Ailing>,
    /// The nodes that always run, and the one that comes and goes.
    nodes: Vec<u32>,
    guest: u32,
    started: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Broker,
    Heart(usize),
    Node(u32),
}

/// Something that lasts.
#[derive(Debug)]
struct Ailing {
    who: Who,
    stands_still: bool,
    until: Instant,
}

const CHANGES: [(Change, &str); 3] =
    [(Change::Delete, "deleted"), (Change::Purge, "purged"), (Change::Unbind, "unbound")];

impl Chaos {
    /// `nodes` always run, `guest` comes and goes.
    pub fn new(broker: Broker, cluster: Cluster, dice: Dice, nodes: &[u32], guest: u32) -> Self {
        let (counts, ailing, nodes) = (BTreeMap::new(), Vec::new(), nodes.to_vec());
        let started = Instant::now();
        Self { broker, cluster, dice, counts, kills: 0, ailing, nodes, guest, started }
    }

    /// What was done, and how often.
    pub fn describe(&self) -> String {
        let counts: Vec<String> = self.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
        format!("{} processes killed; {}", self.kills, counts.join(", "))
    }

    /// Does one thing after the other for so long, then lets everything be well again.
    pub async fn rage(&mut self, length: Duration) {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.heal_those_due(Instant::now());
            self.strike().await;
            sleep(self.dice.pause(PAUSE.0, PAUSE.1)).await;
        }
        self.heal_all();
    }

    async fn strike(&mut self) {
        match self.dice.roll(20) {
            0 => self.kill_broker().await,
            1..4 => {
                let heart = self.heart();
                self.kill(Who::Heart(heart));
                self.pause_and_start(Who::Heart(heart)).await;
            }
            4 => {
                let (one, other) = (Who::Heart(0), Who::Heart(1));
                self.kill(one);
                self.kill(other);
                self.pause_and_start(one).await;
                self.start(other);
            }
            5..8 => {
                let node = Who::Node(self.node());
                self.kill(node);
                self.pause_and_start(node).await;
            }
            8 => self.kill_all_nodes().await,
            9..11 => self.stand_still(),
            11..14 => self.trouble_network(),
            14 => self.crash_again_and_again().await,
            15 => self.publish_garbage().await,
            _ => self.lose_something().await,
        }
    }

    /// One loss at a time.
    async fn lose_something(&mut self) {
        self.settle().await;
        let (change, how) = *self.dice.pick(&CHANGES);
        match self.dice.roll(10) {
            0..3 => {
                let id = self.node();
                let queue = self.cluster.queue(id);
                if self.dice.roll(2) == 0 {
                    self.change_queue(&queue, change, &format!("node queue {how}")).await;
                } else {
                    self.kill(Who::Node(id));
                    sleep(self.dice.pause(0, 2_000)).await;
                    self.change_queue(&queue, change, &format!("node queue {how} while its node is down"))
                        .await;
                    self.pause_and_start(Who::Node(id)).await;
                }
            }
            3..6 => {
                let queue = self.cluster.names().head_queue();
                self.change_queue(&queue, change, &format!("head queue {how}")).await;
                if matches!(change, Change::Unbind) {
                    self.wait_until_bound().await;
                }
            }
            6 => self.delete_exchange().await,
            7 | 8 => {
                let id = self.node();
                self.kill(Who::Node(id));
                sleep(self.dice.pause(0, 2_000)).await;
                self.cluster.empty_disk(id);
                self.count("disk emptied", &format!("of node {id}"));
                self.start(Who::Node(id));
            }
            _ => self.change_node_count().await,
        }
    }

    async fn kill_broker(&mut self) {
        self.ailing.retain(|ailing| ailing.who != Who::Broker);
        self.broker.kill();
        self.kills += 1;
        self.count("broker killed", "");
        sleep(self.dice.pause(0, 3_000)).await;
        self.broker.restart().await;
    }

    fn kill(&mut self, who: Who) {
        self.ailing.retain(|ailing| ailing.who != who || !ailing.stands_still);
        self.kills += 1;
        match who {
            Who::Heart(index) => {
                self.cluster.take_heart(index).kill();
                self.count("heart killed", &index.to_string());
            }
            Who::Node(id) => {
                self.cluster.take_node(id).kill();
                self.count("node killed", &id.to_string());
            }
            Who::Broker => unreachable!("it is killed and started in one step"),
        }
    }

    fn start(&mut self, who: Who) {
        match who {
            Who::Heart(index) => self.cluster.start_heart(index),
            Who::Node(id) => self.cluster.start_node(id),
            Who::Broker => unreachable!("it is killed and started in one step"),
        }
    }

    async fn pause_and_start(&mut self, who: Who) {
        if self.dice.roll(2) == 0 {
            sleep(self.dice.pause(0, 3_000)).await;
        }
        self.start(who);
    }

    async fn kill_all_nodes(&mut self) {
        let nodes: Vec<Who> = self.cluster.running_nodes().map(Who::Node).collect();
        for node in &nodes {
            self.kill(*node);
        }
        sleep(self.dice.pause(0, 2_000)).await;
        for node in nodes {
            self.start(node);
        }
    }

    async fn crash_again_and_again(&mut self) {
        let who = if self.dice.roll(2) == 0 { Who::Heart(self.heart()) } else { Who::Node(self.node()) };
        for _ in 0..CRASHES {
            self.kill(who);
            self.start(who);
            sleep(self.dice.pause(20, 300)).await;
        }
        self.count(&format!("crash loop of {CRASHES}"), &format!("{who:?}"));
    }

    fn stand_still(&mut self) {
        let who = self.anyone();
        if self.ailing.iter().any(|ailing| ailing.who == who) {
            return;
        }
        self.signal(who, "STOP");
        self.count("stood still", &format!("{who:?}"));
        self.ail(who, true);
    }

    fn trouble_network(&mut self) {
        let who = self.anyone();
        let faults = [
            (Fault::Refuse, "connections refused"),
            (Fault::Delay(self.dice.pause(5, 300)), "network slow"),
            (Fault::Throttle(20_000), "network throttled"),
            (Fault::Hold, "partitioned"),
            (Fault::Lose(Direction::ToBroker), "sent into the void"),
            (Fault::Lose(Direction::FromBroker), "received nothing"),
        ];
        let (fault, what) = *self.dice.pick(&faults);
        let cut = self.dice.roll(3) == 0;
        if who == Who::Broker || self.ailing.iter().any(|ailing| ailing.who == who) {
            return;
        }
        let proxy = match who {
            Who::Heart(index) => self.cluster.heart_proxy(index),
            Who::Node(id) => self.cluster.node_proxy(id),
            Who::Broker => return,
        };
        if cut {
            proxy.cut();
            self.count("connections cut", &format!("{who:?}"));
            return;
        }
        proxy.set(fault);
        self.count(what, &format!("{who:?}"));
        self.ail(who, false);
    }

    async fn change_node_count(&mut self) {
        let guest = self.guest;
        if self.cluster.running_nodes().any(|id| id == guest) {
            self.kill(Who::Node(guest));
            self.cluster.list_nodes(&self.nodes, None);
            let queue = self.cluster.queue(guest);
            self.change_queue(&queue, Change::Delete, "node removed").await;
        } else {
            let all: Vec<u32> = self.nodes.iter().copied().chain([guest]).collect();
            self.cluster.list_nodes(&all, None);
            self.start(Who::Node(guest));
            self.count("node added", "");
        }
    }

    /// Lets everything be well, and waits until every node has what was written up to now.
    async fn settle(&mut self) {
        self.heal_all();
        let cluster = &self.cluster;
        let goal = wait_for("an active heart", RECOVERY, async || cluster.active().await).await.position;
        wait_for("the last loss to be overcome", RECOVERY, async || {
            for id in cluster.running_nodes() {
                cluster.node_readiness(id).await?;
                let status =
                    cluster.node(id).node_status().await.map_err(|refused| format!("{refused:?}"))?;
                if status.applied < goal {
                    return Err(format!("{status:?}, not yet at {goal}"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Nothing tells that a heart has bound what it binds again and again.
    async fn wait_until_bound(&mut self) {
        sleep(BOUND_WITHIN).await;
        self.settle().await;
    }

    fn ail(&mut self, who: Who, stands_still: bool) {
        let until = Instant::now() + self.dice.pause(AILING.0, AILING.1);
        self.ailing.push(Ailing { who, stands_still, until });
    }

    fn heal_all(&mut self) {
        self.heal_those_due(Instant::now() + Duration::from_millis(AILING.1 as u64));
    }

    fn heal_those_due(&mut self, now: Instant) {
        let due: Vec<Ailing> = self.ailing.extract_if(.., |ailing| ailing.until <= now).collect();
        for Ailing { who, stands_still, .. } in due {
            match who {
                _ if stands_still => self.signal(who, "CONT"),
                Who::Heart(index) => self.cluster.heart_proxy(index).set(Fault::None),
                Who::Node(id) => self.cluster.node_proxy(id).set(Fault::None),
                Who::Broker => {}
            }
        }
    }

    fn signal(&self, who: Who, signal: &str) {
        match who {
            Who::Broker => self.broker.signal(signal),
            Who::Heart(index) => self.cluster.heart_process(index).signal(signal),
            Who::Node(id) => self.cluster.node_process(id).signal(signal),
        }
    }

    fn heart(&mut self) -> usize {
        self.dice.roll(2)
    }

    fn node(&mut self) -> u32 {
        *self.dice.pick(&self.nodes)
    }

    fn anyone(&mut self) -> Who {
        match self.dice.roll(6) {
            0 => Who::Broker,
            1 | 2 => Who::Heart(self.heart()),
            _ => Who::Node(self.node()),
        }
    }

    /// Counts a fault, and prints it for whoever looks for the cause of a failure.
    fn count(&mut self, what: &str, detail: &str) {
        println!("{:7.2} {what} {detail}", self.started.elapsed().as_secs_f32());
        *self.counts.entry(what.to_owned()).or_insert(0) += 1;
    }
}

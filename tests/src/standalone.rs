//! A cluster without Kubernetes: hearts and nodes as processes beside a broker, and the proof that they agree.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use broadcast_protocol::names::{BrokerNames, NodeId};
use reqwest::Url;
use serde_json::Value;

mod member;

use crate::client::{Client, Digests, HeartStatus, Refused, Written, wait_for};
use crate::load::Load;
use crate::oracle::{Oracle, Rows, digest_of, read_log, read_rows};
use crate::processes::{Folder, Process, program};
use crate::proxy::Proxy;
use crate::report::{Counted, count};
use crate::tokens::Tokens;
use member::Member;

/// How long a cluster may take to become ready, or to recover from a fault. A broker that is gone without a word is noticed after
/// 10 s, a peer that was away may be asked again after some more.
pub const RECOVERY: Duration = Duration::from_mins(1);

/// How long a process may take to stop in order.
pub const STOP: Duration = Duration::from_secs(20);

/// The list of the nodes, if there is one.
const NODES_FILE: &str = "nodes.yaml";

/// Hearts and nodes under names of their own. All end when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// What was written.
    pub oracle: Oracle,
    /// What is added to `heart.yaml` and `node.yaml`.
    pub settings: String,
    /// What is added to `heart.yaml` alone.
    pub heart_settings: String,
    /// What is added to `node.yaml` alone.
    pub node_settings: String,
    /// Whether nodes know of hearts and of other nodes.
    pub has_peers: bool,
    /// Whom a node asks before its peers.
    pub first_peers: Vec<String>,
    /// A file with the broker's address, which the processes read instead of being told.
    pub url_file: Option<PathBuf>,
    names: BrokerNames,
    amqp_url: Url,
    common: String,
    hearts: Vec<Member>,
    nodes: BTreeMap<u32, Member>,
    // The last to go: the processes write into it.
    folder: Folder,
}

impl Cluster {
    /// Decides names and addresses of two hearts and of the nodes 1 to `nodes`; starts none.
    pub fn prepare(amqp_url: &str, nodes: u32) -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let exchange = format!("{name}_fanout");
        Self {
            oracle: Oracle::default(),
            settings: String::new(),
            heart_settings: String::new(),
            node_settings: String::new(),
            has_peers: true,
            first_peers: Vec::new(),
            url_file: None,
            names: BrokerNames::new(&*exchange, &*name),
            amqp_url: Url::parse(amqp_url).unwrap(),
            common: format!("exchange: {exchange}\nqueue_name: {name}\n"),
            hearts: (0..2).map(|index| Member::new(format!("heart-{index}"))).collect(),
            nodes: (1..=nodes).map(|id| (id, Member::new(format!("node-{id}")))).collect(),
            folder: Folder::new(),
        }
    }

    /// What clients of hearts and nodes show from now on.
    pub fn show(&mut self, tokens: &Tokens) {
        for member in self.hearts.iter_mut().chain(self.nodes.values_mut()) {
            member.client = member.client.showing(tokens);
        }
    }

    /// Puts a proxy between every process and the broker, for those that are started from now on.
    pub fn put_proxies_between(&mut self) {
        let broker = self.amqp_url.port().unwrap();
        for member in self.hearts.iter_mut().chain(self.nodes.values_mut()) {
            member.proxy = Some(Proxy::start(broker));
        }
    }

    /// One heart and the nodes 1 to `nodes`, all ready.
    pub async fn start(amqp_url: &str, nodes: u32) -> Self {
        let mut cluster = Self::prepare(amqp_url, nodes);
        cluster.start_all(1).await;
        cluster
    }

    /// Starts the first `hearts` hearts and every node, and waits until all is ready.
    pub async fn start_all(&mut self, hearts: usize) {
        for index in 0..hearts {
            self.start_heart(index);
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.start_node(id);
        }
        self.wait_until_ready().await;
    }

    /// The names of its objects on the broker.
    pub fn names(&self) -> &BrokerNames {
        &self.names
    }

    /// The name of a node's queue.
    pub fn queue(&self, id: u32) -> String {
        self.names.node_queue(NodeId::new(id).unwrap())
    }

    /// Tells the hearts which nodes there are, and from which sequence number on the loss of writes is accepted. Those that
    /// start later know it at once, those that were started after the first call within seconds.
    pub fn list_nodes(&self, ids: &[u32], accepted_loss: Option<u64>) {
        let loss = accepted_loss.map(|from| format!("accepted_loss: {from}\n")).unwrap_or_default();
        self.folder.write(NODES_FILE, &format!("node_ids: {ids:?}\n{loss}"));
    }

    /// Starts a heart, again if need be.
    pub fn start_heart(&mut self, index: usize) {
        let heart = &self.hearts[index];
        let nodes = self.folder.join(NODES_FILE);
        let own = if nodes.exists() { format!("nodes_file: {}\n", nodes.display()) } else { String::new() };
        let config = self.config(heart, &(own + &self.heart_settings));
        self.hearts[index].process = Some(self.spawn("heart", heart, &config));
    }

    /// Starts a node, again if need be.
    pub fn start_node(&mut self, id: u32) {
        let node = &self.nodes[&id];
        let peers = self.nodes.iter().filter(|(peer, _)| **peer != id).map(|(_, peer)| peer);
        let peers = peers.chain(&self.hearts).filter(|_| self.has_peers);
        let peers = peers.map(|peer| format!("http://127.0.0.1:{}", peer.http));
        let peers: Vec<String> = self.first_peers.iter().cloned().chain(peers).collect();
        let data_dir = self.folder.join(&node.name);
        let own = format!("node_id: {id}\ndata_dir: {}\npeers: [{}]\n", data_dir.display(), peers.join(", "));
        let process = self.spawn("node", node, &self.config(node, &(own + &self.node_settings)));
        self.nodes.get_mut(&id).unwrap().process = Some(process);
    }

    fn config(&self, member: &Member, own: &str) -> String {
        let Self { common, settings, .. } = self;
        let (http, admin) = (member.http, member.admin);
        format!("{common}http: 127.0.0.1:{http}\nadmin: 127.0.0.1:{admin}\n{own}{settings}")
    }

    fn spawn(&self, kind: &str, member: &Member, config: &str) -> Process {
        let config = self.folder.write(&format!("{}.yaml", member.name), config);
        let mut amqp_url = self.amqp_url.clone();
        if let Some(proxy) = &member.proxy {
            amqp_url.set_port(Some(proxy.port())).unwrap();
        }
        let mut command = Command::new(program(kind));
        command.arg("--config").arg(config).current_dir(self.folder.path());
        match &self.url_file {
            Some(file) => command.env("AMQP_URL_FILE", file),
            None => command.env("AMQP_URL", amqp_url.as_str()),
        };
        Process::start(&member.name, &mut command, &self.folder.join(format!("{}.log", member.name)))
    }

    /// The HTTP interface of a heart.
    pub fn heart(&self, index: usize) -> &Client {
        &self.hearts[index].client
    }

    /// The HTTP interface of a node.
    pub fn node(&self, id: u32) -> &Client {
        &self.nodes[&id].client
    }

    /// What is between a heart and the broker.
    pub fn heart_proxy(&self, index: usize) -> &Proxy {
        self.hearts[index].proxy()
    }

    /// What is between a node and the broker.
    pub fn node_proxy(&self, id: u32) -> &Proxy {
        self.nodes[&id].proxy()
    }

    /// The process of a heart.
    pub fn heart_process(&self, index: usize) -> &Process {
        self.hearts[index].process()
    }

    /// The process of a node.
    pub fn node_process(&self, id: u32) -> &Process {
        self.nodes[&id].process()
    }

    /// Takes a heart's process away, to stop or to kill it.
    pub fn take_heart(&mut self, index: usize) -> Process {
        self.hearts[index].process.take().unwrap()
    }

    /// Takes a node's process away, to stop or to kill it.
    pub fn take_node(&mut self, id: u32) -> Process {
        self.nodes.get_mut(&id).unwrap().process.take().unwrap()
    }

    /// Removes everything that a node, which does not run, has stored.
    pub fn empty_disk(&self, id: u32) {
        count(Counted::Faults, 1);
        assert!(self.nodes[&id].process.is_none(), "node {id} runs");
        std::fs::remove_dir_all(self.folder.join(&self.nodes[&id].name)).unwrap();
    }

    /// The database of a node.
    pub fn database(&self, id: u32) -> PathBuf {
        self.folder.join(&self.nodes[&id].name).join("node.db")
    }

    /// What a node counts: `broadcast_node_repairs_total`.
    pub async fn node_metric(&self, id: u32, name: &str) -> u64 {
        Client::new(self.nodes[&id].admin).metric(name).await
    }

    /// The same of a heart: `broadcast_heart_writes_published_total`.
    pub async fn heart_metric(&self, index: usize, name: &str) -> u64 {
        Client::new(self.hearts[index].admin).metric(name).await
    }

    /// Whether a node says that it is ready, as an orchestrator asks it: the error is why not.
    pub async fn node_readiness(&self, id: u32) -> Result<(), String> {
        self.nodes[&id].readiness().await
    }

    /// The same of a heart.
    pub async fn heart_readiness(&self, index: usize) -> Result<(), String> {
        self.hearts[index].readiness().await
    }

    /// Stores a value through the active heart, which has to take it.
    pub async fn put(&self, collection: &str, key: &str, value: &Value) -> Written {
        let active = self.active_heart().await.unwrap();
        let written = self.heart(active).put(collection, key, value, None).await.unwrap();
        self.oracle.acknowledged(collection, key, Some(value), written.last, 1);
        written
    }

    /// Starts writers that use all running hearts.
    pub fn start_load(&self, writers: usize) -> Load {
        let running = self.hearts.iter().filter(|heart| heart.process.is_some());
        let hearts: Vec<Client> = running.map(|heart| heart.client.clone()).collect();
        Load::start(&format!("load{}", self.oracle.count()), &hearts, &self.oracle, writers, 100_000)
    }

    /// Which hearts run.
    pub fn running_hearts(&self) -> impl Iterator<Item = usize> {
        (0..).zip(&self.hearts).filter(|(_, heart)| heart.process.is_some()).map(|(index, _)| index)
    }

    /// Which heart of those that run is active.
    pub async fn active_heart(&self) -> Result<usize, String> {
        self.find_active().await.map(|(index, _)| index)
    }

    /// The status of the active heart among those that run.
    pub async fn active(&self) -> Result<HeartStatus, String> {
        self.find_active().await.map(|(_, status)| status)
    }

    async fn find_active(&self) -> Result<(usize, HeartStatus), String> {
        let mut seen = Vec::new();
        for index in self.running_hearts() {
            match self.heart(index).heart_status().await {
                Ok(status) if status.role == "active" => return Ok((index, status)),
                other => seen.push(format!("heart {index}: {other:?}")),
            }
        }
        Err(format!("no heart is active: {seen:?}"))
    }

    /// Waits until a heart that does not know where the history ends says so, and whom it waits for; gives what it says.
    pub async fn wait_for_seal(&self, whom: &str) -> String {
        wait_for("a heart to wait for a node", RECOVERY, async || {
            let mut seen = Vec::new();
            for index in self.running_hearts() {
                let status =
                    self.heart(index).heart_status().await.map_err(|refused| format!("{refused:?}"))?;
                match status.reason {
                    Some(reason) if status.role == "head_lost" && reason.contains(whom) => {
                        return match self.heart_readiness(index).await {
                            Err(readiness) if readiness.contains(whom) => Ok(reason),
                            readiness => Err(format!("{reason}, and {readiness:?}")),
                        };
                    }
                    _ => seen.push(status),
                }
            }
            Err(format!("{seen:?}"))
        })
        .await
    }

    /// Waits until a heart is active and has heard of every running node that it is ready and has applied everything.
    pub async fn wait_until_ready(&self) -> HeartStatus {
        let running: Vec<u32> = self.running_nodes().collect();
        wait_for("the cluster to be ready", RECOVERY, async || {
            let status = self.active().await?;
            for id in &running {
                self.node_readiness(*id)
                    .await
                    .map_err(|reason| format!("node {id}: {reason}; {status:?}"))?;
                let node = status.nodes.iter().find(|node| node.id == *id);
                let node = node.ok_or_else(|| format!("node {id} has not reported: {status:?}"))?;
                if node.state != "ready" || node.applied != status.position {
                    return Err(format!("{status:?}"));
                }
            }
            Ok(status)
        })
        .await
    }

    /// Waits until every running node has applied everything, and proves that all contain exactly what the oracle says. Returns the
    /// position and the rows that all of them have.
    pub async fn converge(&self) -> (u64, Rows) {
        let status = self.wait_until_ready().await;
        assert!(
            status.position >= self.oracle.highest(),
            "{status:?} but {} was acknowledged",
            self.oracle.highest()
        );
        let acknowledged = self.oracle.count_anew();
        let mut first: Option<(u32, Rows, String)> = None;
        for id in self.running_nodes() {
            let rows = read_rows(&self.database(id));
            self.oracle.check(&format!("node {id}"), &rows);
            self.oracle.check_log(&format!("node {id}"), &read_log(&self.database(id)));
            let node = self.node(id).node_status().await.unwrap();
            assert_eq!((node.applied, node.rows), (status.position, rows.len() as u64), "node {id}");
            let digests = self.recompute_digest(id).await;
            let expected = digest_of(&rows);
            assert_eq!((&digests.digest, &digests.recomputed.digest), (&expected, &expected), "node {id}");
            match &first {
                None => first = Some((id, rows, node.hash)),
                Some((other, others, hash)) => {
                    assert_eq!(*hash, node.hash, "nodes {other} and {id} have different histories");
                    assert!(*others == rows, "nodes {other} and {id} have different rows");
                }
            }
        }
        count(Counted::Acknowledged, acknowledged);
        let (_, rows, _) = first.expect("a node runs");
        (status.position, rows)
    }

    /// Asks again while the node reads all its rows for itself.
    async fn recompute_digest(&self, id: u32) -> Digests {
        wait_for("the digest", RECOVERY, async || {
            let digests = self.node(id).get("v1/digest?recompute=true").await;
            digests.map_err(|refused: Refused| format!("{refused:?}"))
        })
        .await
    }

    /// Which nodes run.
    pub fn running_nodes(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().filter(|(_, node)| node.process.is_some()).map(|(id, _)| *id)
    }
}

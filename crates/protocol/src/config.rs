//! The configuration files `heart.yaml` and `node.yaml`: read with every error at once, written by the operator.
//!
//! Nothing is guessed: an unknown key, a missing one, or a value out of range is an error that names the file, the
//! key and what is allowed.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::names::{BrokerNames, DEFAULT_EXCHANGE, NodeId};
use crate::topology::{DEFAULT_BACKLOG_BYTES, QueueType, Topology};

mod reader;

pub use reader::ConfigError;
use reader::Reader;

/// What the clients of a heart may keep waiting in its memory, in bytes, where nothing else is said.
pub const DEFAULT_PENDING_BYTES: u64 = 64 << 20;

/// How much a heart keeps of what it confirmed, for nodes that miss it, in bytes, where nothing else is said.
pub const DEFAULT_RETAINED_BYTES: u64 = 64 << 20;

/// How much of the log a node keeps for its peers, in bytes, where nothing else is said.
pub const DEFAULT_LOG_BYTES: u64 = 64 << 20;

/// How far behind a node may be and still be ready, in seconds, where nothing else is said.
pub const DEFAULT_MAX_LAG_SECONDS: u64 = 60;

/// How often a node compares all its rows with what it has written, in seconds, where nothing else is said.
pub const DEFAULT_SCRUB_INTERVAL_SECONDS: u64 = 3_600;

/// `heart.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeartConfig {
    /// The fanout exchange.
    pub exchange: String,
    /// The base name of the queues.
    pub queue_name: String,
    /// The cluster's id; by default made of the two names.
    pub cluster: String,
    /// How the broker stores the queues.
    pub queue_type: QueueType,
    /// How many nodes must have reported lately for writes to be taken.
    pub min_attached: u32,
    /// Whether this heart begins the history when the head queue is empty.
    pub genesis: bool,
    /// A [`NodesFile`] (`node_ids: [1, 2, 3]`), read again when it changes. Without one, the nodes that report are the
    /// cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes_file: Option<PathBuf>,
    /// What bounds its memory.
    pub limits: HeartLimits,
    /// Who may use the HTTP interface; without it everybody may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthConfig>,
    /// Where the HTTP interface listens.
    pub http: SocketAddr,
    /// Where health, readiness and metrics are served.
    pub admin: SocketAddr,
}

/// `auth` of both files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuthConfig {
    /// A folder with the files `write`, `read` and `peer`, each with the tokens that are valid, one a line. Read again when they
    /// change.
    pub tokens_dir: PathBuf,
}

/// `limits` of `heart.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeartLimits {
    /// The bytes of writes that may wait to be published; above it writes are refused as `overloaded`.
    pub pending_bytes: u64,
    /// The bytes of confirmed messages that are kept until every node has applied them.
    pub retained_bytes: u64,
}

/// `node.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeConfig {
    /// The node's id; the environment's `NODE_ID` wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// The base name of the queues.
    pub queue_name: String,
    /// The fanout exchange.
    pub exchange: String,
    /// The cluster's id; by default made of the two names.
    pub cluster: String,
    /// How the broker stores the queues.
    pub queue_type: QueueType,
    /// What this node's queue may cost the broker, in bytes.
    pub backlog_bytes: u64,
    /// The folder of the database.
    pub data_dir: PathBuf,
    /// Base URLs of the other nodes; a name that resolves to several addresses stands for all of them.
    pub peers: Vec<String>,
    /// How much of the log is kept for peers, in bytes.
    pub log_bytes: u64,
    /// How far behind the node may be and still be ready, in seconds.
    pub max_lag_seconds: u64,
    /// How often all rows are compared with what the node has written, in seconds.
    pub scrub_interval_seconds: u64,
    /// Who may use the HTTP interface; without it everybody may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthConfig>,
    /// Where the HTTP interface listens.
    pub http: SocketAddr,
    /// Where health, readiness and metrics are served.
    pub admin: SocketAddr,
}

/// The file with the ids of the cluster's nodes, and with what a human decides about its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodesFile {
    /// The ids.
    pub node_ids: Vec<NodeId>,
    /// A human's word that everything from this sequence number on may be lost, when nobody has it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_loss: Option<u64>,
}

impl HeartConfig {
    /// Reads the text of `file`.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(file, text)?;
        let exchange = reader.name("exchange", None);
        let queue_name = reader.name("queue_name", None);
        let mut limits = reader.section("limits");
        let pending_bytes = limits.number("pending_bytes", 1 << 20..=1 << 32, DEFAULT_PENDING_BYTES);
        let retained_bytes = limits.number("retained_bytes", 1 << 20..=1 << 32, DEFAULT_RETAINED_BYTES);
        reader.close_section(limits);
        let config = Self {
            cluster: reader.cluster(&exchange, &queue_name),
            queue_type: reader.queue_type(),
            min_attached: reader.number("min_attached", 0..=100, 1),
            genesis: reader.flag("genesis", true),
            nodes_file: reader.path("nodes_file"),
            limits: HeartLimits { pending_bytes, retained_bytes },
            auth: reader.auth(),
            http: reader.address("http", loopback(8080)),
            admin: reader.address("admin", loopback(9090)),
            exchange,
            queue_name,
        };
        reader.finish(config)
    }

    /// The broker objects that it names. What depends on a node's settings is not among what a heart declares.
    pub fn topology(&self) -> Topology {
        let names = BrokerNames::new(&*self.exchange, &*self.queue_name);
        Topology::new(names, self.queue_type, DEFAULT_BACKLOG_BYTES)
    }
}

impl NodeConfig {
    /// Reads the text of `file`; `node_id` is the environment's `NODE_ID`, which wins. The result has an id.
    pub fn parse(file: &str, text: &str, node_id: Option<&str>) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(file, text)?;
        let id = reader.node_id(node_id);
        let queue_name = reader.name("queue_name", None);
        let exchange = reader.name("exchange", Some(DEFAULT_EXCHANGE));
        let offset = id.and_then(|id| u16::try_from(id.get()).ok()).unwrap_or_default();
        let config = Self {
            node_id: id,
            cluster: reader.cluster(&exchange, &queue_name),
            queue_type: reader.queue_type(),
            backlog_bytes: reader.number("backlog_bytes", 1 << 20..=1 << 50, DEFAULT_BACKLOG_BYTES),
            data_dir: reader.path("data_dir").unwrap_or_else(|| PathBuf::from(format!("data/node-{offset}"))),
            peers: reader.urls("peers"),
            log_bytes: reader.number("log_bytes", 1 << 20..=1 << 40, DEFAULT_LOG_BYTES),
            max_lag_seconds: reader.number("max_lag_seconds", 1..=86_400, DEFAULT_MAX_LAG_SECONDS),
            scrub_interval_seconds: reader.number(
                "scrub_interval_seconds",
                1..=604_800,
                DEFAULT_SCRUB_INTERVAL_SECONDS,
            ),
            auth: reader.auth(),
            http: reader.address("http", loopback(8080 + offset)),
            admin: reader.address("admin", loopback(9090 + offset)),
            exchange,
            queue_name,
        };
        reader.finish(config)
    }

    /// The broker objects that it names.
    pub fn topology(&self) -> Topology {
        let names = BrokerNames::new(&*self.exchange, &*self.queue_name);
        Topology::new(names, self.queue_type, self.backlog_bytes)
    }
}

impl NodesFile {
    /// Reads the text of `file`.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        serde_yaml::from_str(text).map_err(|error| ConfigError::new(file, vec![error.to_string()]))
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests;

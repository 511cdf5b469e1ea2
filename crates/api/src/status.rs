//! What is answered. Only what a person or a program acts on; numbers that move all the time belong to metrics.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator found and did.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastClusterStatus {
    /// The generation of the resource that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// How many nodes there are, for the scale subresource.
    #[serde(default)]
    pub replicas: u32,

    /// The label selector of the nodes' pods, for the scale subresource.
    #[serde(default)]
    pub selector: String,

    /// How many nodes are ready.
    #[serde(default)]
    pub ready_replicas: u32,

    /// Ready nodes of the wanted ones, as `3/3`.
    #[serde(default)]
    pub nodes_ready: String,

    /// The active heart, as far as one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heart: Option<HeartStatus>,

    /// Every node, by id. A node is listed before anything is made for it and until nothing of it is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub nodes: Vec<NodeStatus>,

    /// The most writes that a node has still to apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_writes: Option<u64>,

    /// The id of that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_node: Option<u32>,

    /// What was done on the broker and must not be done again.
    #[serde(default)]
    pub topology: TopologyStatus,

    /// The latest observations, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The active heart.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HeartStatus {
    /// Its pod's name, or its address where no pod is known by it.
    pub active: String,

    /// Its reign: every take-over has a higher one.
    pub epoch: u64,

    /// The number of writes so far.
    pub position: u64,
}

/// One node.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its id, unique in the cluster.
    pub id: u32,

    /// Where it stands.
    pub phase: NodePhase,

    /// Its queue on the broker.
    pub queue: String,

    /// Messages in its queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,

    /// Consumers of its queue: 1 for a node at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<u32>,

    /// The number of writes that it has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,

    /// Writes that it has still to apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_writes: Option<u64>,

    /// How old the oldest of them is, in seconds, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<u64>,

    /// The digest of its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// How often its process, since it started, has rebuilt the database because the rows were not what they should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilds: Option<u64>,
}

/// Where a node stands.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NodePhase {
    /// Nothing runs yet.
    #[default]
    Pending,
    /// Its pod is not ready yet and nothing else is known of it.
    Starting,
    /// It builds its database from the other nodes.
    Bootstrapping,
    /// It fetches what it missed from the other nodes.
    Repairing,
    /// It cannot apply writes now; they wait in its queue.
    Failing,
    /// Its rows are not what they should be.
    Diverged,
    /// It has applied what was written and takes what is written next.
    Ready,
    /// It is being removed.
    Removing,
}

/// What was done on the broker and must not be done again.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TopologyStatus {
    /// The mark that tells a new cluster from one that lost its broker is published. It is published once.
    #[serde(default)]
    pub genesis: bool,

    /// The limits, in bytes, that queues of nodes may have: one, or several while a change is under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backlog_bytes: Vec<u64>,
}

//! What a user asks for. Defaults stand in the schema, so that `kubectl get -o yaml` shows what is in force.

#![allow(unreachable_pub, reason = "the derive repeats each type in a module of its own")]

mod auth;
mod network;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use self::auth::AuthSpec;
pub use self::network::{NetworkPolicySpec, PeerSpec};
use crate::status::BroadcastClusterStatus;

/// The longest `metadata.name`: it is the prefix of everything that is made for a cluster, and names of Services
/// end at 63.
pub const MAX_CLUSTER_NAME_LENGTH: usize = 40;

/// The highest `spec.heart.replicas`.
pub const MAX_HEARTS: u32 = 5;

/// The highest `spec.nodes.replicas`.
pub const MAX_NODES: u32 = 100;

/// What is wanted.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "broadcast.dev",
    version = "v1alpha1",
    kind = "BroadcastCluster",
    plural = "broadcastclusters",
    shortname = "bcast",
    namespaced,
    derive = "PartialEq",
    status = "BroadcastClusterStatus",
    doc = "Databases that are kept identical by broadcasting every write over a RabbitMQ fanout exchange.",
    annotation("helm.sh/resource-policy", "keep"),
    scale(
        spec_replicas_path = ".spec.nodes.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether every node holds what was written and takes what is written next"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "string",
        json_path = ".status.nodesReady",
        description = "Ready nodes of the wanted ones"
    ),
    printcolumn(
        name = "Heart",
        type_ = "string",
        json_path = ".status.heart.active",
        description = "The active heart"
    ),
    printcolumn(
        name = "Lag",
        type_ = "integer",
        json_path = ".status.lagWrites",
        description = "Writes that the slowest node has still to apply"
    ),
    printcolumn(
        name = "Position",
        type_ = "integer",
        json_path = ".status.heart.position",
        description = "Number of writes so far"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Exchange", type_ = "string", json_path = ".spec.exchange", priority = 1),
    printcolumn(
        name = "Worst node",
        type_ = "integer",
        json_path = ".status.worstNode",
        description = "The id of the slowest node",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    ),
    validation = Rule::new(
        "has(self.spec.historyId) == has(oldSelf.spec.historyId) && \
         (!has(self.spec.historyId) || self.spec.historyId == oldSelf.spec.historyId)"
    ).message("historyId is immutable"),
    validation = Rule::new("has(self.spec.auth) || !has(oldSelf.spec.auth)").message(
        "auth cannot be taken away again: nodes with tokens and nodes without would not talk to each other"
    ),
    validation = Rule::new(
        "!has(self.spec.auth) || !has(self.spec.auth.secretRef) || \
         !(self.spec.auth.secretRef.name in [self.metadata.name + '-auth', self.metadata.name + '-amqp'])"
    ).message("auth.secretRef names a Secret that the operator makes: leave it out, or name one of your own"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name is the prefix of other names: at most 40 characters are allowed"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "metadata.name is the prefix of other names: a lower-case letter, then lower-case letters, digits and '-', \
         not '-' at the end"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastClusterSpec {
    /// The broker that carries the writes.
    pub rabbitmq: RabbitmqSpec,

    /// The fanout exchange that every write goes through. Immutable: it is where acknowledged writes are.
    #[serde(default = "default_exchange")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.:-]*$"))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("exchange is immutable"),
        validation = Rule::new("!self.startsWith('amq.')").message(
            "names that begin with 'amq.' are reserved by the broker"
        )
    )]
    pub exchange: String,

    /// The base name of the queues: a node's queue is `{queueName}_node_{id}`. Immutable: it is where acknowledged
    /// writes are.
    #[serde(default = "default_queue_name")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.:-]*$"))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("queueName is immutable"),
        validation = Rule::new("!self.startsWith('amq.')").message(
            "names that begin with 'amq.' are reserved by the broker"
        )
    )]
    pub queue_name: String,

    /// How the broker stores the queues: on one broker node (classic) or replicated over broker nodes (quorum).
    /// Immutable: the broker cannot change a queue's type.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("queueType is immutable"))]
    pub queue_type: QueueType,

    /// What a node that is away may cost the broker.
    #[serde(default)]
    pub backlog: BacklogSpec,

    /// The processes that take writes: one is active, the others stand by.
    #[serde(default)]
    pub heart: HeartSpec,

    /// The processes that apply every write, each to a database of its own.
    #[serde(default)]
    pub nodes: NodesSpec,

    /// Who may talk to hearts and nodes.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,

    /// Tokens for the HTTP interfaces of hearts and nodes; `{}` will do. Without it whoever reaches them may use them. It can
    /// be added at any time, which replaces every pod, and not taken away again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,

    /// What happens to exchange, queues and volumes when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// The id of a history that another resource has left behind (`deletionPolicy: Retain`), to go on with it. Its
    /// default, the resource's uid, begins a new one. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$"))]
    pub history_id: Option<String>,
}

/// The broker, by a Secret of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "has(self.vhost) == has(oldSelf.vhost) && (!has(self.vhost) || self.vhost == oldSelf.vhost)"
    ).message("vhost is immutable")
)]
pub struct RabbitmqSpec {
    /// The Secret with the broker's address and credentials: the key `uri` or `connection_string`, or the keys
    /// `host`, `port`, `username`, `password` and, if need be, `vhost`.
    pub secret_ref: SecretReference,

    /// The virtual host, where it is not the Secret's. Immutable: it is where acknowledged writes are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub vhost: Option<String>,

    /// TLS to the broker; `{}` will do where its certificate is signed by a CA that browsers trust. Without a port in the Secret
    /// it is 5671 then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
}

/// TLS to the broker.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// The Secret whose key `ca.crt` has the certificates of the CAs that are trusted, in PEM, where they are not those that
    /// browsers trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretReference>,

    /// The Secret of type `kubernetes.io/tls` with the client certificate that the broker asks for, and its private key: the keys
    /// `tls.crt` and `tls.key`, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_secret_ref: Option<SecretReference>,

    /// The name that the broker's certificate is for, where it is not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-A-Za-z0-9_.:]+$"))]
    pub server_name: Option<String>,
}

/// A Secret of the same namespace.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// The Secret's name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub name: String,
}

/// How the broker stores a queue.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// On one broker node.
    #[default]
    Classic,
    /// Replicated over broker nodes.
    Quorum,
}

/// What waits on the broker.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BacklogSpec {
    /// How much the queue of one node holds, at least 16Mi. Of what is more the oldest goes, and the node fetches it from the
    /// other nodes. A change makes the queues anew, one after the other.
    #[serde(default = "default_backlog")]
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[1-9][0-9]*(k|M|G|T|Ki|Mi|Gi|Ti)?$"))]
    pub max_bytes: String,
}

impl Default for BacklogSpec {
    fn default() -> Self {
        Self { max_bytes: default_backlog() }
    }
}

/// What happens with what a resource has made when it is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// Everything goes.
    #[default]
    Delete,
    /// Exchange, queues and volumes stay: a resource with the same name and this one's `historyId` goes on with them.
    Retain,
}

/// The processes that take writes.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeartSpec {
    /// How many: one is active, the others take over when it dies.
    #[serde(default = "default_hearts")]
    #[schemars(range(min = 1, max = 5))]
    pub replicas: u32,

    /// The container image, where it is not the operator's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub image: Option<String>,

    /// What each of them may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesSpec>,
}

impl Default for HeartSpec {
    fn default() -> Self {
        Self { replicas: default_hearts(), image: None, resources: None }
    }
}

/// The processes that apply every write.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || self.storage == oldSelf.storage)"
    ).message("storage is immutable")
)]
pub struct NodesSpec {
    /// How many, each with an id of its own.
    #[serde(default = "default_nodes")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: u32,

    /// The container image, where it is not the operator's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub image: Option<String>,

    /// What each of them may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesSpec>,

    /// A volume for each node's database. Without it a database lives and dies with its pod, and is rebuilt from
    /// the other nodes. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
}

impl Default for NodesSpec {
    fn default() -> Self {
        Self { replicas: default_nodes(), image: None, resources: None, storage: None }
    }
}

/// What a container may use, as in a pod.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResourcesSpec {
    /// What it has for itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Quantity>,

    /// What it may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

/// A volume.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Its size, for example `10Gi`.
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[1-9][0-9]*(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"))]
    pub size: String,

    /// The storage class, where it is not the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// The type's own schema brings two pages of documentation and no check.
fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": r"^[0-9]+(\.[0-9]*)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
        },
    })
}

fn default_exchange() -> String {
    "write_requests_fanout".to_owned()
}

fn default_queue_name() -> String {
    "write_requests".to_owned()
}

fn default_backlog() -> String {
    "1Gi".to_owned()
}

fn default_hearts() -> u32 {
    2
}

fn default_nodes() -> u32 {
    3
}

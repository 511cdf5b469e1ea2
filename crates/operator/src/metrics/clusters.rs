//! What is shown of each cluster: how it stood in its last pass. All of it goes when the cluster goes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broadcast_api::{BroadcastClusterStatus, ConditionType, NodePhase};
use broadcast_protocol::names::NodeId;
use broadcast_service::amqp::QueueDepth;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::controller::status::condition;

/// A queue that every cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// A node's own.
    Node(NodeId),
    /// Of the newest messages.
    Head,
    /// Of rejected messages.
    Dead,
}

/// All clusters, by `namespace/name`.
#[derive(Debug, Clone, Default)]
pub(super) struct Clusters(Arc<Mutex<BTreeMap<String, Cluster>>>);

/// How a cluster stood.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) queues: Vec<(Queue, QueueDepth)>,
    pub(super) is_backing_off: bool,
    phases: Vec<(u32, NodePhase)>,
    conditions: Vec<(ConditionType, i64)>,
}

/// Names and values. An empty value is as good as no label.
type Labels = Vec<(&'static str, String)>;

impl Queue {
    fn labels(self, cluster: &str) -> Labels {
        let (queue, node) = match self {
            Self::Node(id) => ("node", id.to_string()),
            Self::Head => ("head", String::new()),
            Self::Dead => ("dead", String::new()),
        };
        vec![("cluster", cluster.to_owned()), ("queue", queue.to_owned()), ("node", node)]
    }
}

impl Clusters {
    /// Changes what is shown of a cluster, from now on if nothing was.
    pub(super) fn change(&self, cluster: &str, change: impl FnOnce(&mut Cluster)) {
        change(self.all().entry(cluster.to_owned()).or_default());
    }

    /// Changes what is shown of a cluster, if anything is.
    pub(super) fn change_known(&self, cluster: &str, change: impl FnOnce(&mut Cluster)) {
        self.all().get_mut(cluster).map(change);
    }

    /// Shows nothing of a cluster any more.
    pub(super) fn forget(&self, cluster: &str) {
        self.all().remove(cluster);
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Cluster>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster {
    pub(super) fn set_status(&mut self, status: &BroadcastClusterStatus) {
        self.phases = status.nodes.iter().map(|node| (node.id, node.phase)).collect();
        let standing = |type_| {
            let condition = condition(&status.conditions, type_)?;
            Some((
                type_,
                match condition.status.as_str() {
                    "True" => 1,
                    "False" => 0,
                    _ => -1,
                },
            ))
        };
        self.conditions = ConditionType::ALL.into_iter().filter_map(standing).collect();
    }
}

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.all();
        let mut families = Families::default();
        for (name, cluster) in all.iter() {
            families.add(name, cluster);
        }
        drop(all);
        for (name, help, series) in [
            (
                "broadcast_queue_messages",
                "Messages in a queue: of a node, head (the newest), dead (rejected).",
                families.messages,
            ),
            ("broadcast_queue_consumers", "Consumers of a node's queue.", families.consumers),
            ("broadcast_cluster_node_phase", "1 for the phase that a node is in.", families.phases),
            (
                "broadcast_cluster_condition",
                "A condition of the resource: 1 true, 0 false, -1 unknown.",
                families.conditions,
            ),
            (
                "broadcast_cluster_backing_off",
                "1 while the last pass over the resource failed and the next one waits.",
                families.backing_off,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in series {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// The series of all clusters: a family is encoded in one piece.
#[derive(Default)]
struct Families {
    messages: Vec<(Labels, i64)>,
    consumers: Vec<(Labels, i64)>,
    phases: Vec<(Labels, i64)>,
    conditions: Vec<(Labels, i64)>,
    backing_off: Vec<(Labels, i64)>,
}

impl Families {
    fn add(&mut self, name: &str, cluster: &Cluster) {
        let of_cluster = ("cluster", name.to_owned());
        for (queue, depth) in &cluster.queues {
            self.messages.push((queue.labels(name), depth.messages.into()));
            if matches!(queue, Queue::Node(_)) {
                self.consumers.push((queue.labels(name), depth.consumers.into()));
            }
        }
        for (node, phase) in &cluster.phases {
            let labels =
                vec![of_cluster.clone(), ("node", node.to_string()), ("phase", format!("{phase:?}"))];
            self.phases.push((labels, 1));
        }
        for (type_, standing) in &cluster.conditions {
            self.conditions.push((vec![of_cluster.clone(), ("type", type_.to_string())], *standing));
        }
        self.backing_off.push((vec![of_cluster], cluster.is_backing_off.into()));
    }
}

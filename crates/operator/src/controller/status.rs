//! The answer in the resource: built from what was found and done, written only when it says something new.
//!
//! Numbers move all the time; they alone are written at most every [`NUMBERS_EVERY`]. A status that is written on
//! every pass would trigger the next pass itself.

mod conditions;

use std::time::Duration;

use broadcast_api::{
    BroadcastCluster, BroadcastClusterStatus, ConditionType, HeartStatus, NodePhase, NodeStatus,
};
use broadcast_protocol::names::NodeId;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Client, CustomResourceExt};
use serde_json::json;

use crate::controller::error::ReconcileError;
use crate::controller::members::Members;
use crate::controller::observe::Observed;
use crate::controller::status::conditions::{decide_conditions, decide_failure_conditions, merge_conditions};
use crate::controller::validate::ValidCluster;
use crate::heart::NodeReport;
use crate::names::MANAGER;

/// How often numbers are written when nothing else changed.
pub const NUMBERS_EVERY: Duration = Duration::from_secs(15);

/// How long what was found stands when nothing is found any more: two passes that fail.
const STALE_AFTER: Duration = Duration::from_secs(45);

/// What a pass found and did.
pub struct Findings<'a> {
    /// The resource.
    pub cluster: &'a ValidCluster,
    /// What there was, with the objects that there are now.
    pub observed: &'a Observed,
    /// The nodes.
    pub members: &'a Members,
    /// Why the pass ended early.
    pub failure: Option<&'a ReconcileError>,
}

/// The status after a pass. `recorded` is the status as it stands in the resource.
pub fn build_status(
    findings: &Findings<'_>,
    recorded: &BroadcastClusterStatus,
    now: Timestamp,
) -> BroadcastClusterStatus {
    let Findings { cluster, observed, members, .. } = findings;
    let listed = members.staying.union(&members.leaving);
    let nodes: Vec<_> = listed.map(|id| build_node_status(findings, *id)).collect();
    let ready = nodes.iter().filter(|node| node.phase == NodePhase::Ready).count();
    let ready = u32::try_from(ready).unwrap_or(u32::MAX);
    let worst = nodes
        .iter()
        .filter(|node| node.lag_writes.is_some() && node.phase != NodePhase::Removing)
        .max_by_key(|node| (node.lag_writes, std::cmp::Reverse(node.id)));
    let heart = observed.heart.as_ref().ok().map(|report| HeartStatus {
        active: report.pod.clone(),
        epoch: report.epoch,
        position: report.position,
    });
    let conditions = decide_conditions(findings, &nodes);
    BroadcastClusterStatus {
        observed_generation: cluster.generation,
        replicas: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        selector: cluster.names.scale_selector(),
        ready_replicas: ready,
        nodes_ready: format!("{ready}/{}", cluster.nodes.replicas),
        heart,
        lag_writes: worst.and_then(|node| node.lag_writes),
        worst_node: worst.filter(|node| node.lag_writes > Some(0)).map(|node| node.id),
        nodes,
        topology: recorded.topology.clone(),
        conditions: merge_conditions(&recorded.conditions, conditions, cluster.generation, now),
    }
}

/// The status after a pass that found out nothing, `since_finding` after the last one that did: what was known stays, but
/// not for ever, and the conditions say why.
pub fn build_failure_status(
    recorded: &BroadcastClusterStatus,
    generation: Option<i64>,
    (failure, since_finding): (&ReconcileError, Duration),
    now: Timestamp,
) -> BroadcastClusterStatus {
    let conditions = decide_failure_conditions(failure, since_finding >= STALE_AFTER);
    BroadcastClusterStatus {
        observed_generation: generation,
        conditions: merge_conditions(&recorded.conditions, conditions, generation, now),
        ..recorded.clone()
    }
}

fn build_node_status(findings: &Findings<'_>, id: NodeId) -> NodeStatus {
    let Findings { cluster, observed, members, .. } = findings;
    let depth = observed.broker.as_ref().ok().and_then(|broker| broker.node_queues.get(&id));
    let report =
        observed.heart.as_ref().ok().and_then(|heart| heart.nodes.iter().find(|node| node.id == id.get()));
    let lag_writes = report.and_then(|report| report.lag_writes);
    NodeStatus {
        id: id.get(),
        phase: decide_phase(members, observed, &cluster.names.node(id), id, report),
        queue: cluster.topology.names().node_queue(id),
        depth: depth.map(|depth| depth.messages),
        consumers: depth.map(|depth| depth.consumers),
        applied: report.and_then(|report| report.applied),
        lag_writes,
        lag_seconds: report.and_then(|report| report.lag_seconds).map(|seconds| {
            // Without a write to apply it is only the age of the last mark.
            if lag_writes == Some(0) { 0 } else { round_up(seconds) }
        }),
        digest: report.and_then(|report| report.digest.clone()),
        rebuilds: report.and_then(|report| report.rebuilds),
    }
}

/// What the pod's own probe says counts, and what the heart knows of the node can only make it worse.
fn decide_phase(
    members: &Members,
    observed: &Observed,
    deployment: &str,
    id: NodeId,
    report: Option<&NodeReport>,
) -> NodePhase {
    use crate::controller::objects::Kind;
    if members.leaving.contains(&id) {
        return NodePhase::Removing;
    }
    if observed.object(Kind::Deployment, deployment).is_none() {
        return NodePhase::Pending;
    }
    let ready = observed.is_ready(deployment);
    let otherwise = if ready { NodePhase::Ready } else { NodePhase::Starting };
    report.and_then(NodeReport::phase).unwrap_or(otherwise)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is meant"
)]
fn round_up(seconds: f64) -> u64 {
    seconds.ceil() as u64
}

/// Whether a status is worth a write, `since_last` after the last one.
pub fn decide_write(
    recorded: &BroadcastClusterStatus,
    new: &BroadcastClusterStatus,
    since_last: Option<Duration>,
) -> bool {
    if without_numbers(recorded) != without_numbers(new) {
        return true;
    }
    recorded != new && since_last.is_none_or(|elapsed| elapsed >= NUMBERS_EVERY)
}

fn without_numbers(status: &BroadcastClusterStatus) -> BroadcastClusterStatus {
    let mut status = status.clone();
    for node in &mut status.nodes {
        *node = NodeStatus {
            id: node.id,
            phase: node.phase,
            queue: node.queue.clone(),
            rebuilds: node.rebuilds,
            ..NodeStatus::default()
        };
    }
    if let Some(heart) = &mut status.heart {
        heart.position = 0;
    }
    (status.lag_writes, status.worst_node) = (None, None);
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    status
}

/// Writes the status.
pub async fn publish_status(
    client: &Client,
    cluster: &ValidCluster,
    status: &BroadcastClusterStatus,
) -> Result<(), ReconcileError> {
    publish_status_of(client, &cluster.namespace, cluster.names.cluster(), status).await
}

/// Writes the status of a resource that may be invalid otherwise.
pub async fn publish_status_of(
    client: &Client,
    namespace: &str,
    name: &str,
    status: &BroadcastClusterStatus,
) -> Result<(), ReconcileError> {
    let resource = BroadcastCluster::api_resource();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let body = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name},
        "status": status,
    });
    // All of it, by the one who owns all of it: what is left out goes.
    let parameters = PatchParams::apply(MANAGER).force();
    api.patch_status(name, &parameters, &Patch::Apply(&body))
        .await
        .map(drop)
        .map_err(ReconcileError::kube("write the status of the BroadcastCluster"))
}

/// Writes the conditions of a status, and of which generation they are; the rest stays as it is in the resource.
pub async fn publish_conditions(
    client: &Client,
    namespace: &str,
    name: &str,
    status: &BroadcastClusterStatus,
) -> Result<(), ReconcileError> {
    let resource = BroadcastCluster::api_resource();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let (generation, conditions) = (status.observed_generation, &status.conditions);
    let patch = json!({"status": {"observedGeneration": generation, "conditions": conditions}});
    api.patch_status(name, &parameters, &Patch::Merge(patch))
        .await
        .map(drop)
        .map_err(ReconcileError::kube("write the status of the BroadcastCluster"))
}

/// The condition of a type.
pub fn condition(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == type_.as_str())
}

#[cfg(test)]
mod tests;

//! What to do, in order, given what is there. No client, no clock, no random: the same observation gives the same
//! plan, and a plan that was cut off anywhere is continued by the plan of the next observation.
//!
//! What the order guarantees:
//! - A node is written down before anything is made for it, so that nothing of it is ever forgotten.
//! - Exchange, head queue and the mark of a new cluster are there before any pod; a node's queue is bound before its
//!   pod, so that no write passes it by.
//! - No queue goes while a pod of its node is left.
//! - Of the nodes that exist at most one is replaced at a time (see [`crate::controller::rollout`]).

use std::collections::BTreeSet;

use broadcast_protocol::names::NodeId;
use broadcast_protocol::topology::{ExchangeDeclaration, QueueDeclaration};

use crate::controller::build::{BuildError, OrderedObjects, build_resources};
use crate::controller::error::Problem;
use crate::controller::objects::{DesiredObject, Kind};
use crate::controller::observe::Observed;
use crate::controller::rollout::decide_replacement;
use crate::controller::validate::ValidCluster;
use crate::secret::BrokerAccess;

/// One thing to do. Each can be done twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// List these nodes in the status.
    RecordNodes(BTreeSet<NodeId>),
    /// Declare an exchange.
    DeclareExchange(ExchangeDeclaration),
    /// Declare a queue and bind it.
    DeclareQueue(QueueDeclaration),
    /// Publish the mark of a new cluster into this queue.
    PublishGenesis(String),
    /// Note in the status that it is published.
    RecordGenesis,
    /// Apply an object.
    Apply(DesiredObject),
    /// Delete an object, and wait for nothing.
    Delete(Kind, String),
    /// Unbind a queue and delete it.
    RemoveQueue(QueueDeclaration),
    /// Delete an exchange.
    RemoveExchange(ExchangeDeclaration),
    /// Let the resource go.
    RemoveFinalizer,
}

/// What becomes of the nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that are wanted, or cannot be let go.
    pub staying: BTreeSet<NodeId>,
    /// Those of which something is left.
    pub leaving: BTreeSet<NodeId>,
    /// Nodes that should leave and stay, because nobody else is ready.
    pub held_back: BTreeSet<NodeId>,
    /// Nodes whose pod is not as it should be, and that wait for their turn to be replaced.
    pub outdated: BTreeSet<NodeId>,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// The nodes afterwards.
    pub members: Members,
}

/// Plans the pass of a resource that is wanted.
pub fn plan(cluster: &ValidCluster, observed: &Observed) -> Result<Plan, BuildError> {
    if matches!(observed.broker, Err(Problem::Conflict(_))) {
        let members = Members { staying: observed.recorded.clone(), ..Members::default() };
        return Ok(Plan { steps: Vec::new(), members });
    }
    let mut members = decide_members(cluster, observed);
    let resources = build_resources(cluster, &members.staying, usable_access(observed), &observed.objects)?;
    let objects = resources.into_ordered()?;
    members.outdated = find_outdated(cluster, observed, &objects);
    let replaced = decide_replacement(cluster, observed, &members.outdated, &members.leaving);
    members.outdated.retain(|id| Some(*id) != replaced);
    let mut steps = plan_topology(cluster, observed, &members);
    steps.extend(plan_removal_of_strangers(observed, &objects));
    steps.extend(plan_objects(cluster, observed, objects, &members.outdated));
    for id in members.leaving.iter().rev() {
        steps.extend(plan_leaving(cluster, observed, *id));
    }
    Ok(Plan { steps, members })
}

/// The address, unless the broker refuses it: pods that got in with the last one keep it.
fn usable_access(observed: &Observed) -> Option<&BrokerAccess> {
    let is_refused = matches!(&observed.broker, Err(Problem::Broker(error)) if error.needs_a_change());
    observed.access.as_ref().ok().filter(|_| !is_refused)
}

/// The lowest ids stay. New ones need the broker: a node without a queue would miss what is written.
fn decide_members(cluster: &ValidCluster, observed: &Observed) -> Members {
    let wanted = usize::try_from(cluster.nodes.replicas).unwrap_or(usize::MAX);
    let existing = observed.node_ids();
    let mut staying: BTreeSet<_> = existing.iter().copied().take(wanted).collect();
    if observed.broker.is_ok() {
        let free = (1..=NodeId::MAX).filter_map(NodeId::new).filter(|id| !existing.contains(id));
        staying.extend(free.take(wanted - staying.len()));
    }
    let mut leaving: BTreeSet<_> =
        existing.difference(&staying).copied().filter(|id| has_leftovers(cluster, observed, *id)).collect();
    let mut held_back = BTreeSet::new();
    if !staying.iter().any(|id| observed.is_ready(&cluster.names.node(*id))) {
        let at_work = |id: &NodeId| is_live(observed, Kind::Deployment, &cluster.names.node(*id));
        held_back = leaving.iter().copied().filter(at_work).collect();
        leaving.retain(|id| !held_back.contains(id));
        staying.extend(&held_back);
    }
    Members { staying, leaving, held_back, outdated: BTreeSet::new() }
}

fn has_leftovers(cluster: &ValidCluster, observed: &Observed, id: NodeId) -> bool {
    let name = cluster.names.node(id);
    let queue_may_exist =
        observed.broker.as_ref().map_or(true, |broker| broker.node_queues.contains_key(&id));
    queue_may_exist
        || observed.object(Kind::Deployment, &name).is_some()
        || observed.object(Kind::PersistentVolumeClaim, &name).is_some()
        || observed.pods.iter().any(|pod| pod.node == Some(id))
}

fn plan_topology(cluster: &ValidCluster, observed: &Observed, members: &Members) -> Vec<Step> {
    if observed.broker.is_err() {
        return Vec::new();
    }
    let topology = &cluster.topology;
    let mut steps = Vec::new();
    if !members.staying.is_subset(&observed.recorded) {
        steps.push(Step::RecordNodes(members.staying.union(&members.leaving).copied().collect()));
    }
    steps.extend([
        Step::DeclareExchange(topology.dead_exchange()),
        Step::DeclareQueue(topology.dead_queue()),
        Step::DeclareExchange(topology.exchange()),
        Step::DeclareQueue(topology.head_queue()),
    ]);
    if !observed.genesis {
        steps.extend([Step::PublishGenesis(topology.names().head_queue()), Step::RecordGenesis]);
    }
    steps.extend(members.staying.iter().map(|id| Step::DeclareQueue(topology.node_queue(*id))));
    steps
}

/// The nodes that have a Deployment, and not the wanted one.
fn find_outdated(cluster: &ValidCluster, observed: &Observed, objects: &OrderedObjects) -> BTreeSet<NodeId> {
    let is_outdated = |id: &NodeId, of_node: &[DesiredObject]| {
        let mut deployments = of_node.iter().filter(|object| object.kind == Kind::Deployment);
        observed.object(Kind::Deployment, &cluster.names.node(*id)).is_some()
            && deployments.any(|deployment| deployment.differs_from(&observed.objects))
    };
    objects.nodes.iter().filter(|(id, of_node)| is_outdated(id, of_node)).map(|(id, _)| *id).collect()
}

fn plan_objects(
    cluster: &ValidCluster,
    observed: &Observed,
    objects: OrderedObjects,
    waiting: &BTreeSet<NodeId>,
) -> Vec<Step> {
    let OrderedObjects { foundations, heart, nodes } = objects;
    let broker_is_ready = observed.broker.is_ok();
    let mut wanted = foundations;
    if broker_is_ready || observed.genesis {
        wanted.push(heart);
    }
    for (id, of_node) in nodes {
        if broker_is_ready || observed.object(Kind::Deployment, &cluster.names.node(id)).is_some() {
            let may_go = |object: &DesiredObject| object.kind != Kind::Deployment || !waiting.contains(&id);
            wanted.extend(of_node.into_iter().filter(may_go));
        }
    }
    wanted.retain(|object| object.differs_from(&observed.objects));
    wanted.into_iter().map(Step::Apply).collect()
}

/// A node's pod goes first: with its queue gone it would declare it again, unseen.
fn plan_leaving(cluster: &ValidCluster, observed: &Observed, id: NodeId) -> Vec<Step> {
    let name = cluster.names.node(id);
    if observed.object(Kind::Deployment, &name).is_some() {
        return plan_deletion_of(observed, Kind::Deployment, &name).into_iter().collect();
    }
    let Ok(broker) = &observed.broker else { return Vec::new() };
    if observed.pods.iter().any(|pod| pod.node == Some(id)) {
        return Vec::new();
    }
    let mut steps = Vec::new();
    if broker.node_queues.contains_key(&id) {
        steps.push(Step::RemoveQueue(cluster.topology.node_queue(id)));
    }
    steps.extend(plan_deletion_of(observed, Kind::PersistentVolumeClaim, &name));
    steps
}

/// What carries this cluster's mark and is not wanted: another version's. What belongs to a node has its own order,
/// and Secrets are never listed.
fn plan_removal_of_strangers(observed: &Observed, objects: &OrderedObjects) -> Vec<Step> {
    let OrderedObjects { foundations, heart, nodes } = objects;
    let wanted: BTreeSet<_> = foundations
        .iter()
        .chain([heart])
        .chain(nodes.values().flatten())
        .map(|object| (object.kind, object.name.clone()))
        .collect();
    let is_stranger = |key: &&(Kind, String)| {
        key.0 != Kind::Secret && !wanted.contains(*key) && observed.node_of(key).is_none()
    };
    let strangers = observed.objects.keys().filter(is_stranger);
    strangers.filter_map(|(kind, name)| plan_deletion_of(observed, *kind, name)).collect()
}

/// Plans the pass of a resource that is being deleted. Without the broker it is let go only when `overdue`.
pub fn plan_deletion(cluster: &ValidCluster, observed: &Observed, overdue: bool) -> Plan {
    let ids = observed.node_ids();
    let mut plan = Plan::default();
    for (kind, name) in observed.objects.keys().filter(|(kind, _)| *kind == Kind::Deployment) {
        plan.steps.extend(plan_deletion_of(observed, *kind, name));
    }
    let pods_left =
        !observed.pods.is_empty() || observed.objects.keys().any(|(kind, _)| *kind == Kind::Deployment);
    plan.members.leaving.clone_from(&ids);
    if pods_left && !overdue {
        return plan;
    }
    if has_broker_objects(observed) {
        match &observed.broker {
            Ok(_) => plan.steps.extend(plan_topology_removal(cluster, &ids)),
            Err(_) if overdue => {}
            Err(_) => return plan,
        }
    }
    plan.steps.push(Step::RemoveFinalizer);
    plan
}

/// Whether there may be something to remove: what is not written down was never made, and what an older resource uses
/// is not this one's.
pub fn has_broker_objects(observed: &Observed) -> bool {
    !observed.recorded.is_empty() && !matches!(observed.broker, Err(Problem::Conflict(_)))
}

/// The broker objects of a cluster with these nodes, by name: what is left behind when the broker cannot be reached.
pub fn describe_broker_objects(cluster: &ValidCluster, ids: &BTreeSet<NodeId>) -> String {
    let names = cluster.topology.names();
    let mut queues: Vec<_> = ids.iter().map(|id| names.node_queue(*id)).collect();
    queues.extend([names.head_queue(), names.dead_queue()]);
    format!("exchanges {} and {}, queues {}", names.exchange(), names.dead_exchange(), queues.join(", "))
}

fn plan_topology_removal(cluster: &ValidCluster, ids: &BTreeSet<NodeId>) -> Vec<Step> {
    let topology = &cluster.topology;
    let node_queues = ids.iter().rev().map(|id| topology.node_queue(*id));
    let queues = node_queues.chain([topology.head_queue(), topology.dead_queue()]);
    let exchanges = [topology.exchange(), topology.dead_exchange()];
    queues.map(Step::RemoveQueue).chain(exchanges.into_iter().map(Step::RemoveExchange)).collect()
}

fn plan_deletion_of(observed: &Observed, kind: Kind, name: &str) -> Option<Step> {
    is_live(observed, kind, name).then(|| Step::Delete(kind, name.to_owned()))
}

/// Whether an object exists and is not on its way out already.
fn is_live(observed: &Observed, kind: Kind, name: &str) -> bool {
    observed.object(kind, name).is_some_and(|object| object["metadata"]["deletionTimestamp"].is_null())
}

#[cfg(test)]
mod tests;

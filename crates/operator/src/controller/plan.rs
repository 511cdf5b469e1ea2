//! What to do, in order, given what is there. No client, no clock, no random: the same observation gives the same
//! plan, and a plan that was cut off anywhere is continued by the plan of the next observation.
//!
//! What the order guarantees:
//! - A node is written down before anything is made for it, so that nothing of it is ever forgotten.
//! - Exchange, head queue and the mark of a new cluster are there before any pod; a node's queue is bound before its
//!   pod, so that no write passes it by.
//! - Before it stands in the status that the history of a new cluster has begun, only broker objects are made: everything else comes in
//!   the passes after that one.
//! - No queue goes while a pod of its node is left.
//! - Of the nodes that exist at most one is replaced at a time (see [`crate::controller::rollout`]).

use std::collections::BTreeSet;

use broadcast_protocol::names::NodeId;
use broadcast_protocol::topology::{ExchangeDeclaration, QueueDeclaration};

use crate::controller::backlogs::Backlogs;
use crate::controller::build::{BuildError, OrderedObjects, build_resources};
use crate::controller::error::Problem;
use crate::controller::members::{Members, decide_members, is_live};
use crate::controller::objects::{DesiredObject, Kind, ObservedObjects};
use crate::controller::observe::Observed;
use crate::controller::rollout::decide_replacement;
use crate::controller::tokens::ObservedTokens;
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
    /// Declare a queue and bind it; one that is there with one of these former limits goes before.
    ReplaceQueue {
        /// As it should be.
        queue: QueueDeclaration,
        /// As it may be.
        former: Vec<QueueDeclaration>,
    },
    /// Note in the status which limits queues may have, in bytes.
    RecordBacklogs(Vec<u64>),
    /// Publish the mark of a new cluster into this queue.
    PublishGenesis(String),
    /// Note in the status that it is published.
    RecordGenesis,
    /// Make the Secret with the tokens.
    CreateTokens(String),
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

impl Step {
    /// Whether it is done in every pass, and changes nothing where nothing has changed.
    pub fn is_repeated(&self) -> bool {
        matches!(self, Self::DeclareExchange(_) | Self::DeclareQueue(_))
    }

    /// Whether it takes something away, or gives a Deployment another pod: that is decided on what was read just now.
    pub fn takes_away(&self, objects: &ObservedObjects) -> bool {
        match self {
            Self::Apply(object) => {
                object.kind == Kind::Deployment && objects.contains_key(&(object.kind, object.name.clone()))
            }
            Self::Delete(..)
            | Self::ReplaceQueue { .. }
            | Self::RemoveQueue(_)
            | Self::RemoveExchange(_)
            | Self::RemoveFinalizer => true,
            Self::RecordNodes(_)
            | Self::RecordBacklogs(_)
            | Self::RecordGenesis
            | Self::DeclareExchange(_)
            | Self::DeclareQueue(_)
            | Self::PublishGenesis(_)
            | Self::CreateTokens(_) => false,
        }
    }

    /// Whether it changes the status alone: one write is enough for all that come together.
    pub fn is_note(&self) -> bool {
        matches!(self, Self::RecordNodes(_) | Self::RecordBacklogs(_) | Self::RecordGenesis)
    }
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// The nodes afterwards.
    pub members: Members,
}

impl Plan {
    /// Whether any step takes something away.
    pub fn takes_away(&self, observed: &Observed) -> bool {
        self.steps.iter().any(|step| step.takes_away(&observed.objects))
    }
}

/// Plans the pass of a resource that is wanted.
pub fn plan(cluster: &ValidCluster, observed: &Observed) -> Result<Plan, BuildError> {
    let is_foreign = matches!(observed.broker, Err(Problem::Conflict(_) | Problem::ForeignHistory { .. }));
    if is_foreign || cluster.annotations.paused {
        let staying = if is_foreign { observed.recorded.clone() } else { observed.node_ids() };
        let members = Members { staying, ..Members::default() };
        return Ok(Plan { steps: Vec::new(), members });
    }
    let mut members = decide_members(cluster, observed);
    let backlogs = Backlogs::of(cluster, observed);
    if !observed.genesis {
        return Ok(Plan { steps: plan_beginning(cluster, observed, &members, &backlogs), members });
    }
    let resources =
        build_resources(cluster, &members.staying, usable_access(cluster, observed), &observed.objects)?;
    let objects = resources.into_ordered()?;
    members.outdated = find_outdated(cluster, observed, &objects);
    let replaced = decide_replacement(cluster, observed, &members.outdated, &members.leaving)
        .filter(|id| observed.tokens.is_ok() && backlogs.lets_replace(cluster, observed, *id));
    members.outdated.retain(|id| Some(*id) != replaced);
    let mut steps = plan_tokens(cluster, observed);
    steps.extend(plan_topology(cluster, observed, &members, &backlogs));
    steps.extend(plan_removal_of_strangers(observed, &objects));
    steps.extend(plan_objects(cluster, observed, objects, &members.outdated));
    for id in members.leaving.iter().rev() {
        steps.extend(plan_leaving(cluster, observed, *id)?);
    }
    if members.outdated.is_empty() {
        steps.extend(backlogs.plan_end(observed));
    }
    Ok(Plan { steps, members })
}

/// Before any pod: it would wait for them.
fn plan_tokens(cluster: &ValidCluster, observed: &Observed) -> Vec<Step> {
    let wanted = cluster.tokens.as_ref().filter(|_| observed.tokens == Ok(ObservedTokens::Missing));
    wanted.map(|tokens| Step::CreateTokens(tokens.name.clone())).into_iter().collect()
}

/// The address, once the broker lets the operator in: pods that got in with the last one keep it until then. Where
/// there is no last one, it is enough that the broker does not refuse it.
fn usable_access<'a>(cluster: &ValidCluster, observed: &'a Observed) -> Option<&'a BrokerAccess> {
    let is_usable = match &observed.broker {
        Ok(_) => true,
        Err(Problem::Broker(error)) if error.needs_a_change() => false,
        Err(_) => observed.object(Kind::Secret, &cluster.names.amqp()).is_none(),
    };
    observed.access.as_ref().ok().filter(|_| is_usable)
}

/// The history of a new cluster begins when all that is to hold it is there.
fn plan_beginning(
    cluster: &ValidCluster,
    observed: &Observed,
    members: &Members,
    backlogs: &Backlogs,
) -> Vec<Step> {
    let Ok(broker) = &observed.broker else { return Vec::new() };
    let mut steps = plan_topology(cluster, observed, members, backlogs);
    // Another resource's history goes on; and a mark that was not written down any more is there.
    if !cluster.is_successor && broker.history.is_none() {
        steps.push(Step::PublishGenesis(cluster.topology.names().head_queue()));
    }
    steps.push(Step::RecordGenesis);
    steps
}

fn plan_topology(
    cluster: &ValidCluster,
    observed: &Observed,
    members: &Members,
    backlogs: &Backlogs,
) -> Vec<Step> {
    let Ok(broker) = &observed.broker else { return Vec::new() };
    let topology = &cluster.topology;
    let mut steps = Vec::new();
    if !members.staying.is_subset(&observed.recorded) {
        steps.push(Step::RecordNodes(members.staying.union(&members.leaving).copied().collect()));
    }
    steps.extend(backlogs.plan_beginning(observed));
    steps.extend([
        Step::DeclareExchange(topology.dead_exchange()),
        Step::DeclareQueue(topology.dead_queue()),
        Step::DeclareExchange(topology.exchange()),
        Step::DeclareQueue(topology.head_queue()),
    ]);
    let queues =
        members.staying.iter().filter_map(|id| backlogs.plan_queue(cluster, broker, *id, &members.outdated));
    steps.extend(queues);
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
    wanted.push(heart);
    for (id, of_node) in nodes {
        if broker_is_ready || observed.object(Kind::Deployment, &cluster.names.node(id)).is_some() {
            let may_go = |object: &DesiredObject| object.kind != Kind::Deployment || !waiting.contains(&id);
            wanted.extend(of_node.into_iter().filter(may_go));
        }
    }
    // A pod waits for its tokens before it starts.
    let may_start = |object: &DesiredObject| object.kind != Kind::Deployment || observed.tokens.is_ok();
    wanted.retain(|object| may_start(object) && object.differs_from(&observed.objects));
    wanted.into_iter().map(Step::Apply).collect()
}

/// A node's pod goes first: with its queue gone it would declare it again, unseen.
fn plan_leaving(cluster: &ValidCluster, observed: &Observed, id: NodeId) -> Result<Vec<Step>, BuildError> {
    let name = cluster.names.node(id);
    if observed.object(Kind::Deployment, &name).is_some() {
        return Ok(plan_deletion_of(observed, Kind::Deployment, &name).into_iter().collect());
    }
    let Ok(broker) = &observed.broker else { return Ok(Vec::new()) };
    if observed.pods.iter().any(|pod| pod.node == Some(id)) {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    if broker.node_queues.contains_key(&id) {
        steps.push(Step::RemoveQueue(cluster.topology.node_queue(id)));
    }
    if cluster.retains {
        steps.extend(plan_release_of_volumes(cluster, observed, &BTreeSet::from([id]))?);
    } else {
        steps.extend(plan_deletion_of(observed, Kind::PersistentVolumeClaim, &name));
    }
    Ok(steps)
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

/// Plans the pass of a resource that is being deleted. Without the broker it is let go only when `overdue`, or when a human
/// says so.
pub fn plan_deletion(cluster: &ValidCluster, observed: &Observed, overdue: bool) -> Result<Plan, BuildError> {
    let ids = observed.node_ids();
    let mut plan = Plan::default();
    for (kind, name) in observed.objects.keys().filter(|(kind, _)| *kind == Kind::Deployment) {
        plan.steps.extend(plan_deletion_of(observed, *kind, name));
    }
    let pods_left =
        !observed.pods.is_empty() || observed.objects.keys().any(|(kind, _)| *kind == Kind::Deployment);
    plan.members.leaving.clone_from(&ids);
    if pods_left && !overdue {
        return Ok(plan);
    }
    if cluster.retains {
        plan.steps.extend(plan_release_of_volumes(cluster, observed, &ids)?);
    } else if has_broker_objects(observed) {
        match &observed.broker {
            Ok(_) => plan.steps.extend(plan_topology_removal(cluster, &ids)),
            Err(_) if overdue || cluster.annotations.force_delete => {}
            Err(_) => return Ok(plan),
        }
    }
    plan.steps.push(Step::RemoveFinalizer);
    Ok(plan)
}

/// The policy may have changed since the volumes were made: those that still have an owner would go with it.
fn plan_release_of_volumes(
    cluster: &ValidCluster,
    observed: &Observed,
    ids: &BTreeSet<NodeId>,
) -> Result<Vec<Step>, BuildError> {
    let objects = build_resources(cluster, ids, None, &observed.objects)?.into_ordered()?;
    let is_owned = |object: &DesiredObject| {
        object.kind == Kind::PersistentVolumeClaim
            && is_live(observed, object.kind, &object.name)
            && object.differs_from(&observed.objects)
    };
    Ok(objects.nodes.into_values().flatten().filter(is_owned).map(Step::Apply).collect())
}

/// Whether there may be something to remove: what is not written down was never made, and what an older resource uses
/// is not this one's.
pub fn has_broker_objects(observed: &Observed) -> bool {
    !observed.recorded.is_empty()
        && !matches!(observed.broker, Err(Problem::Conflict(_) | Problem::ForeignHistory { .. }))
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

#[cfg(test)]
mod tests;

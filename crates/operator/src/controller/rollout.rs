//! Which of the nodes whose pod is out of date gets a new one in this pass: at most one, and only one whose data is
//! elsewhere as well.
//!
//! A node's database and log go with its pod, unless it has a volume. A new pod repairs from its peers; so a node that
//! works is replaced only when every other one works, and one that does not work only when that loses nothing.

use std::collections::BTreeSet;

use broadcast_protocol::names::NodeId;

use crate::controller::objects::Kind;
use crate::controller::observe::Observed;
use crate::controller::validate::ValidCluster;

/// The node of `outdated` to replace now: one that does not work before one that does, then the highest id.
pub(crate) fn decide_replacement(
    cluster: &ValidCluster,
    observed: &Observed,
    outdated: &BTreeSet<NodeId>,
    leaving: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    let deployments = observed.objects.keys().filter(|key| key.0 == Kind::Deployment);
    let existing: BTreeSet<_> = deployments.filter_map(|key| observed.node_of(key)).collect();
    let settled: BTreeSet<_> =
        existing.difference(leaving).copied().filter(|id| is_settled(cluster, observed, *id)).collect();
    let is_alone = |id: &NodeId| settled.iter().all(|other| other == id);
    let is_replaceable_broken = |id: &&NodeId| {
        let name = cluster.names.node(**id);
        let is_down = !observed.is_ready(&name);
        let keeps_data = cluster.storage.is_some() && has_volume(observed, &name);
        let has_data = observed.has_come_up(&name) && !(is_down && keeps_data);
        !settled.contains(*id) && (!has_data || !is_alone(id))
    };
    let is_replaceable = |id: &&NodeId| existing.iter().all(|other| other == *id || settled.contains(other));
    let highest_first = || outdated.iter().rev();
    highest_first().find(is_replaceable_broken).or_else(|| highest_first().find(is_replaceable)).copied()
}

/// Whether a node runs as it was told last, stays, and is current as far as the heart knows.
fn is_settled(cluster: &ValidCluster, observed: &Observed, id: NodeId) -> bool {
    let name = cluster.names.node(id);
    let stays = observed
        .object(Kind::Deployment, &name)
        .is_some_and(|found| found["metadata"]["deletionTimestamp"].is_null());
    let is_current = observed
        .heart
        .as_ref()
        .map_or(true, |heart| heart.nodes.iter().any(|node| node.id == id.get() && node.state == "ready"));
    stays && is_current && observed.is_ready(&name)
}

fn has_volume(observed: &Observed, deployment: &str) -> bool {
    let found = observed.object(Kind::Deployment, deployment);
    let volumes = found.and_then(|found| found["spec"]["template"]["spec"]["volumes"].as_array());
    volumes.is_some_and(|volumes| volumes.iter().any(|volume| !volume["persistentVolumeClaim"].is_null()))
}

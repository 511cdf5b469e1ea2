//! Which nodes there are to be: who is new, who leaves, and who cannot be let go yet.
//!
//! - The lowest ids stay, unless an annotation names those that go; a removal that has begun is finished first.
//! - Nobody leaves while that would leave no ready node, or while a node that stays still fetches what it lacks.
//! - A new node needs the broker: without a queue it would miss what is written.

use std::collections::BTreeSet;

use broadcast_api::NodePhase;
use broadcast_protocol::names::NodeId;

use crate::controller::objects::Kind;
use crate::controller::observe::{Observed, is_owned};
use crate::controller::validate::ValidCluster;

/// What becomes of the nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that are wanted, or cannot be let go.
    pub staying: BTreeSet<NodeId>,
    /// Those of which something is left.
    pub leaving: BTreeSet<NodeId>,
    /// Why nodes that should leave stay.
    pub refusal: Option<Refusal>,
    /// Nodes whose pod is not as it should be, and that wait for their turn to be replaced.
    pub outdated: BTreeSet<NodeId>,
}

/// Why nodes that should leave stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody else is ready.
    #[error("{} stays: no other node is ready, and removing it would leave none", list(.0))]
    LastReady(BTreeSet<NodeId>),
    /// One that stays may need it.
    #[error("{} stays until {} has what it lacks", list(leavers), list(behind))]
    NodesBehind {
        /// Those that should leave.
        leavers: BTreeSet<NodeId>,
        /// Those that are not complete.
        behind: BTreeSet<NodeId>,
    },
    /// The annotation names nodes that there are not, and too few others.
    #[error(
        "no node is removed: broadcast.dev/remove-node-ids names {}, which does not exist; there is {}. Correct the \
         annotation, or take it away to remove the highest",
        list(unknown),
        list(existing)
    )]
    UnknownNodes {
        /// Those that it names.
        unknown: BTreeSet<NodeId>,
        /// Those that there are.
        existing: BTreeSet<NodeId>,
    },
}

impl Refusal {
    /// The kind of refusal, out of a fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::LastReady(_) => "RemovalWouldLeaveNoReadyNode",
            Self::NodesBehind { .. } => "RemovalWaitsForRepair",
            Self::UnknownNodes { .. } => "UnknownNodesToRemove",
        }
    }
}

/// Nodes for people: `node 2, node 5`.
pub fn list<'a>(ids: impl IntoIterator<Item = &'a NodeId>) -> String {
    ids.into_iter().map(|id| format!("node {id}")).collect::<Vec<_>>().join(", ")
}

/// Decides who stays and who leaves.
pub fn decide_members(cluster: &ValidCluster, observed: &Observed) -> Members {
    let wanted = usize::try_from(cluster.nodes.replicas).unwrap_or(usize::MAX);
    let existing = observed.node_ids();
    let surplus = existing.len().saturating_sub(wanted);
    let (leavers, refusal) = match choose_leavers(cluster, observed, &existing, surplus) {
        Ok(leavers) => decide_refusal(cluster, observed, &existing, leavers),
        Err(refusal) => (BTreeSet::new(), Some(refusal)),
    };
    let mut staying: BTreeSet<_> = existing.difference(&leavers).copied().collect();
    if observed.broker.is_ok() {
        let free = (1..=NodeId::MAX).filter_map(NodeId::new).filter(|id| !existing.contains(id));
        staying.extend(free.take(wanted.saturating_sub(staying.len())));
    }
    let leaving = leavers.into_iter().filter(|id| has_leftovers(cluster, observed, *id)).collect();
    Members { staying, leaving, refusal, outdated: BTreeSet::new() }
}

/// Those whose removal has begun, then those that the annotation names, then the highest.
fn choose_leavers(
    cluster: &ValidCluster,
    observed: &Observed,
    existing: &BTreeSet<NodeId>,
    surplus: usize,
) -> Result<BTreeSet<NodeId>, Refusal> {
    let named = &cluster.annotations.remove_first;
    let begun = existing.iter().rev().copied().filter(|id| observed.removing.contains(id));
    let asked = named.iter().copied().filter(|id| existing.contains(id));
    let known: Vec<_> = begun.chain(asked).collect();
    let unknown: BTreeSet<_> = named.iter().copied().filter(|id| !existing.contains(id)).collect();
    if surplus > known.iter().collect::<BTreeSet<_>>().len() && !unknown.is_empty() {
        return Err(Refusal::UnknownNodes { unknown, existing: existing.clone() });
    }
    let mut leavers = BTreeSet::new();
    for id in known.into_iter().chain(existing.iter().rev().copied()) {
        if leavers.len() < surplus {
            leavers.insert(id);
        }
    }
    Ok(leavers)
}

/// Who may leave of those that should. One without a running pod helps nobody any more.
fn decide_refusal(
    cluster: &ValidCluster,
    observed: &Observed,
    existing: &BTreeSet<NodeId>,
    leavers: BTreeSet<NodeId>,
) -> (BTreeSet<NodeId>, Option<Refusal>) {
    let at_work = |id: &NodeId| is_live(observed, Kind::Deployment, &cluster.names.node(*id));
    let (at_work, gone): (BTreeSet<_>, BTreeSet<_>) = leavers.into_iter().partition(at_work);
    if at_work.is_empty() {
        return (gone, None);
    }
    let stayers = || existing.iter().filter(|id| !at_work.contains(id) && !gone.contains(id)).copied();
    if !stayers().any(|id| observed.is_ready(&cluster.names.node(id))) {
        return (gone, Some(Refusal::LastReady(at_work)));
    }
    let behind: BTreeSet<_> = stayers().filter(|id| fetches(observed, *id)).collect();
    if !behind.is_empty() {
        return (gone, Some(Refusal::NodesBehind { leavers: at_work, behind }));
    }
    (at_work.into_iter().chain(gone).collect(), None)
}

/// Whether a node gets from the others what it lacks, as far as the heart knows.
fn fetches(observed: &Observed, id: NodeId) -> bool {
    let Ok(heart) = &observed.heart else { return false };
    let mut nodes = heart.nodes.iter().filter(|node| node.id == id.get());
    nodes.any(|node| {
        matches!(node.phase(), Some(NodePhase::Bootstrapping | NodePhase::Repairing | NodePhase::Diverged))
    })
}

fn has_leftovers(cluster: &ValidCluster, observed: &Observed, id: NodeId) -> bool {
    let name = cluster.names.node(id);
    let queue_may_exist =
        observed.broker.as_ref().map_or(true, |broker| broker.node_queues.contains_key(&id));
    // One that is to be kept has to lose its owner first.
    let volume = observed.object(Kind::PersistentVolumeClaim, &name);
    queue_may_exist
        || volume.is_some_and(|volume| !cluster.retains || is_owned(volume))
        || observed.object(Kind::Deployment, &name).is_some()
        || observed.pods.iter().any(|pod| pod.node == Some(id))
}

/// Whether an object exists and is not on its way out already.
pub fn is_live(observed: &Observed, kind: Kind, name: &str) -> bool {
    observed.object(kind, name).is_some_and(|object| object["metadata"]["deletionTimestamp"].is_null())
}

#[cfg(test)]
mod tests;

//! How much the queue of a node may hold, and how that changes.
//!
//! The limit is an argument of the queue, which the broker cannot change: the queue is made anew, together with the
//! node's pod, one node at a time. What the old queue holds then comes from the other nodes and from the hearts, so the
//! queue of a node that is alone goes only when it is empty. Until all are done the status lists both limits, so that a
//! queue of neither is known to be somebody else's, and stays.

use std::collections::BTreeSet;

use broadcast_protocol::names::NodeId;
use broadcast_protocol::topology::{DEFAULT_BACKLOG_BYTES, QueueDeclaration, Topology};

use crate::broker::ObservedBroker;
use crate::controller::observe::Observed;
use crate::controller::plan::Step;
use crate::controller::validate::ValidCluster;

/// The limits that queues of nodes have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlogs {
    wanted: u64,
    former: Vec<u64>,
}

impl Backlogs {
    /// As the resource wants it, and as its status says that it was.
    pub fn of(cluster: &ValidCluster, observed: &Observed) -> Self {
        let wanted = cluster.backlog_bytes;
        let mut former = observed.backlogs.clone();
        // A status of before there was a choice.
        if former.is_empty() && observed.genesis {
            former.push(DEFAULT_BACKLOG_BYTES);
        }
        former.retain(|bytes| *bytes != wanted);
        Self { wanted, former }
    }

    fn is_changing(&self) -> bool {
        !self.former.is_empty()
    }

    /// Whether the pod of a node may be replaced, and its queue with it.
    pub fn lets_replace(&self, cluster: &ValidCluster, observed: &Observed, id: NodeId) -> bool {
        let is_ready = |id: &NodeId| observed.is_ready(&cluster.names.node(*id));
        let is_alone = !observed.node_ids().iter().any(|other| *other != id && is_ready(other));
        let depth = observed.broker.as_ref().ok().and_then(|broker| broker.node_queues.get(&id));
        !self.is_changing() || !is_alone || depth.is_none_or(|depth| depth.messages == 0)
    }

    /// Before a queue gets another limit.
    pub fn plan_beginning(&self, observed: &Observed) -> Option<Step> {
        let listed: Vec<_> = self.former.iter().copied().chain([self.wanted]).collect();
        (observed.backlogs != listed).then_some(Step::RecordBacklogs(listed))
    }

    /// Declares the queue of a node. One of a pod that is still to be replaced is left to that pod.
    pub fn plan_queue(
        &self,
        cluster: &ValidCluster,
        observed: &ObservedBroker,
        id: NodeId,
        outdated: &BTreeSet<NodeId>,
    ) -> Option<Step> {
        let queue = cluster.topology.node_queue(id);
        if !self.is_changing() {
            // A node at work declares it itself when nothing comes, and tells when it was not bound.
            let is_attended = observed.node_queues.get(&id).is_some_and(|depth| depth.consumers > 0);
            return (!is_attended).then_some(Step::DeclareQueue(queue));
        }
        let former = self.former.iter().map(|bytes| build_queue(cluster, id, *bytes)).collect();
        (!outdated.contains(&id)).then_some(Step::ReplaceQueue { queue, former })
    }

    /// When all queues have it.
    pub fn plan_end(&self, observed: &Observed) -> Option<Step> {
        (self.is_changing() && observed.broker.is_ok()).then_some(Step::RecordBacklogs(vec![self.wanted]))
    }
}

fn build_queue(cluster: &ValidCluster, id: NodeId, bytes: u64) -> QueueDeclaration {
    Topology::new(cluster.topology.names().clone(), cluster.queue_type, bytes).node_queue(id)
}

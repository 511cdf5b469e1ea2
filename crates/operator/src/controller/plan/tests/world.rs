//! A broker and an API server that do what steps say, and check that each step may be done now.

use broadcast_protocol::topology::QueueDeclaration;
use serde_json::{Value, json};

use super::*;
use crate::broker::ObservedBroker;
use crate::controller::objects::ObservedObjects;
use crate::controller::observe::ObservedPod;
use crate::names::Component;
use crate::testing::{nothing, ready_status};

/// More than any change needs.
const MAX_PASSES: usize = 40;

/// What there is.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) objects: ObservedObjects,
    pub(super) pods: BTreeSet<NodeId>,
    /// All of them bound.
    pub(super) queues: BTreeMap<String, QueueDeclaration>,
    pub(super) exchanges: BTreeSet<String>,
    pub(super) recorded: BTreeSet<NodeId>,
    pub(super) removing: BTreeSet<NodeId>,
    pub(super) backlogs: Vec<u64>,
    pub(super) genesis_published: bool,
    pub(super) genesis_recorded: bool,
    /// How often the Secret with the tokens was made.
    pub(super) tokens_made: u32,
    pub(super) released: bool,
    /// What was recorded and is not written yet.
    pub(super) unsaved: Vec<Step>,
    /// An image whose pods never get ready.
    pub(super) broken_image: Option<&'static str>,
}

/// The broker refuses another declaration of a queue that there is.
pub(super) struct ArgumentsDiffer;

impl World {
    pub(super) fn observed(&self, cluster: &ValidCluster) -> Observed {
        let depth = QueueDepth { messages: 0, consumers: 1 };
        let queue_of = |id: NodeId| cluster.topology.names().node_queue(id);
        let all = (1..=9).filter_map(NodeId::new);
        let node_queues =
            all.filter(|id| self.queues.contains_key(&queue_of(*id))).map(|id| (id, depth)).collect();
        let pod = |id: &NodeId| ObservedPod {
            name: format!("pod-{id}"),
            component: Some(Component::Node),
            node: Some(*id),
            address: None,
        };
        let tokens = match (&cluster.tokens, self.tokens_made) {
            (None, _) => ObservedTokens::Unwanted,
            (Some(_), 0) => ObservedTokens::Missing,
            (Some(_), _) => ObservedTokens::Present(Vec::new()),
        };
        let history = self.genesis_published.then(|| cluster.history.clone());
        Observed {
            objects: self.objects.clone(),
            pods: self.pods.iter().map(pod).collect(),
            recorded: self.recorded.clone(),
            removing: self.removing.clone(),
            backlogs: self.backlogs.clone(),
            genesis: self.genesis_recorded,
            tokens: Ok(tokens),
            broker: Ok(ObservedBroker { node_queues, history, ..ObservedBroker::default() }),
            ..nothing()
        }
    }

    /// Does the steps of a pass, up to the first that fails, and writes the status in the end.
    pub(super) fn pass(&mut self, cluster: &ValidCluster, plan: &Plan) {
        let is_done = plan.steps.iter().all(|step| self.exec(cluster, step).is_ok());
        self.save(cluster);
        if is_done {
            self.recorded = plan.members.staying.union(&plan.members.leaving).copied().collect();
            self.removing.clone_from(&plan.members.leaving);
        }
    }

    /// The operator is killed after so many steps of a pass: what it had not written is lost.
    pub(super) fn exec_first(&mut self, cluster: &ValidCluster, plan: &Plan, survived: usize) {
        let _ = plan.steps.iter().take(survived).all(|step| self.exec(cluster, step).is_ok());
        self.unsaved.clear();
    }

    /// Writes what was recorded.
    fn save(&mut self, cluster: &ValidCluster) {
        for step in std::mem::take(&mut self.unsaved) {
            match step {
                Step::RecordNodes(ids) => self.recorded = ids,
                Step::RecordBacklogs(bytes) => self.backlogs = bytes,
                Step::RecordGenesis => {
                    assert!(self.genesis_published || cluster.is_successor);
                    self.genesis_recorded = true;
                }
                step => panic!("{step:?}"),
            }
        }
    }

    pub(super) fn exec(&mut self, cluster: &ValidCluster, step: &Step) -> Result<(), ArgumentsDiffer> {
        if step.is_note() {
            self.unsaved.push(step.clone());
            return Ok(());
        }
        self.save(cluster);
        match step {
            Step::DeclareExchange(exchange) => drop(self.exchanges.insert(exchange.name.clone())),
            Step::DeclareQueue(queue) => return self.declare(cluster, queue),
            Step::ReplaceQueue { queue, former } => {
                if former.iter().any(|former| self.queues.get(&queue.name) == Some(former)) {
                    self.queues.remove(&queue.name);
                }
                return self.declare(cluster, queue);
            }
            Step::PublishGenesis(queue) => {
                assert!(self.queues.contains_key(queue));
                assert!(!self.genesis_published, "twice");
                self.genesis_published = true;
            }
            Step::RecordNodes(_) | Step::RecordBacklogs(_) | Step::RecordGenesis => {}
            Step::CreateTokens(_) => self.tokens_made += 1,
            Step::Apply(object) => self.apply(cluster, object),
            Step::Delete(kind, name) => {
                let object = self.objects.get_mut(&(*kind, name.clone())).unwrap();
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Step::RemoveQueue(queue) => {
                self.check_that_nobody_uses(cluster, &queue.name);
                self.queues.remove(&queue.name);
            }
            Step::RemoveExchange(exchange) => {
                assert!(self.queues.is_empty(), "{exchange:?} before its queues");
                self.exchanges.remove(&exchange.name);
            }
            Step::RemoveFinalizer => self.released = true,
        }
        Ok(())
    }

    fn declare(&mut self, cluster: &ValidCluster, queue: &QueueDeclaration) -> Result<(), ArgumentsDiffer> {
        assert!(self.exchanges.contains(&queue.bound_to), "{queue:?} is bound to nothing");
        let mut all = (1..=9).filter_map(NodeId::new);
        let node = all.find(|id| cluster.topology.node_queue(*id).name == queue.name);
        assert!(node.is_none_or(|id| self.recorded.contains(&id)), "{queue:?} is not written down");
        let found = self.queues.entry(queue.name.clone()).or_insert_with(|| queue.clone());
        if found == queue { Ok(()) } else { Err(ArgumentsDiffer) }
    }

    fn apply(&mut self, cluster: &ValidCluster, object: &DesiredObject) {
        let mut body = object.body.clone();
        if object.kind == Kind::Deployment {
            assert!(self.genesis_recorded, "{object:?} before the history began");
            assert!(self.tokens_made > 0 || cluster.tokens.is_none(), "{object:?} waits for tokens");
            let found = self.objects.get(&(Kind::Deployment, object.name.clone()));
            let generation = found.map_or(0, |found| found["metadata"]["generation"].as_u64().unwrap()) + 1;
            body["metadata"]["generation"] = json!(generation);
            // As the last one left it: the change is seen at the next tick.
            body["status"] = found.map_or(Value::Null, |found| found["status"].clone());
            if let Some(id) = node_of(&body) {
                let queue = cluster.topology.node_queue(id);
                assert_eq!(self.queues.get(&queue.name), Some(&queue), "{object:?} could not consume");
                self.pods.insert(id);
            }
        }
        self.objects.insert((object.kind, object.name.clone()), body);
    }

    fn check_that_nobody_uses(&self, cluster: &ValidCluster, queue: &str) {
        for id in &self.pods {
            assert_ne!(cluster.topology.names().node_queue(*id), queue, "node {id} has a pod");
        }
    }

    /// What goes on by itself: new pods get ready; pods stop, then their Deployments go.
    pub(super) fn tick(&mut self) {
        for (_, object) in self.objects.iter_mut().filter(|(key, _)| key.0 == Kind::Deployment) {
            let is_seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            object["status"] = match is_seen {
                true if self.broken_image == Some(image_of(object)) => object["status"].clone(),
                true => ready_status(&object["metadata"]["generation"]),
                false => json!({"observedGeneration": object["metadata"]["generation"], "replicas": 1}),
            };
        }
        let is_going =
            |(key, object): &(&(Kind, String), &Value)| key.0 == Kind::Deployment && is_leaving(object);
        let stopping: BTreeSet<_> =
            self.objects.iter().filter(is_going).filter_map(|(_, object)| node_of(object)).collect();
        if self.pods.is_disjoint(&stopping) {
            self.objects.retain(|_, object| !is_leaving(object));
        } else {
            self.pods.retain(|id| !stopping.contains(id));
        }
    }

    /// Passes until there is nothing left to do; the first one is killed after `survived` steps.
    pub(super) fn settle(&mut self, cluster: &ValidCluster, survived: usize) {
        let mut survived = Some(survived);
        for _ in 0..MAX_PASSES {
            let plan = plan(cluster, &self.observed(cluster)).unwrap();
            let killed = survived.take().filter(|steps| *steps < plan.steps.len());
            match killed {
                Some(steps) => self.exec_first(cluster, &plan, steps),
                None => self.pass(cluster, &plan),
            }
            if killed.is_none() && self.is_settled(&plan) {
                return;
            }
            self.tick();
        }
        panic!("no end: {:?}", plan(cluster, &self.observed(cluster)).unwrap());
    }

    fn is_settled(&self, plan: &Plan) -> bool {
        let mut deployments = self.objects.iter().filter(|(key, _)| key.0 == Kind::Deployment);
        plan.steps.iter().all(Step::is_repeated)
            && plan.members.leaving.is_empty()
            && plan.members.outdated.is_empty()
            && deployments.all(|(_, object)| object["status"]["readyReplicas"] == 1)
            && !self.objects.values().any(is_leaving)
    }

    pub(super) fn node_queues(&self) -> Vec<&str> {
        let is_node = |name: &&str| name.contains("_node_");
        self.queues.keys().map(String::as_str).filter(is_node).collect()
    }
}

pub(super) fn node_of(object: &Value) -> Option<NodeId> {
    NodeId::new(object["metadata"]["labels"]["broadcast.dev/node-id"].as_str()?.parse().ok()?)
}

pub(super) fn image_of(deployment: &Value) -> &str {
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap()
}

pub(super) fn is_leaving(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

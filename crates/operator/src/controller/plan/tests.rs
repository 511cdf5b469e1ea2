use broadcast_service::amqp::{AmqpError, QueueDepth};
use serde_json::{Value, json};

use super::*;
use crate::broker::{BrokerError, ObservedBroker};
use crate::controller::objects::ObservedObjects;
use crate::controller::observe::ObservedPod;
use crate::names::Component;
use crate::secret::SecretError;
use crate::testing::{ids, nothing, ready_status, valid};

mod rollout;

/// A broker and an API server that do what steps say, and check that each step may be done now.
#[derive(Default)]
struct World {
    objects: ObservedObjects,
    pods: BTreeSet<NodeId>,
    /// All of them bound.
    queues: BTreeSet<String>,
    exchanges: BTreeSet<String>,
    recorded: BTreeSet<NodeId>,
    genesis_published: bool,
    genesis_recorded: bool,
    released: bool,
    /// An image whose pods never get ready.
    broken_image: Option<&'static str>,
}

impl World {
    fn observed(&self, cluster: &ValidCluster) -> Observed {
        let depth = QueueDepth { messages: 0, consumers: 1 };
        let queue_of = |id: NodeId| cluster.topology.names().node_queue(id);
        let all = (1..=9).filter_map(NodeId::new);
        let node_queues =
            all.filter(|id| self.queues.contains(&queue_of(*id))).map(|id| (id, depth)).collect();
        let pod = |id: &NodeId| ObservedPod {
            name: format!("pod-{id}"),
            component: Some(Component::Node),
            node: Some(*id),
            address: None,
        };
        Observed {
            objects: self.objects.clone(),
            pods: self.pods.iter().map(pod).collect(),
            recorded: self.recorded.clone(),
            genesis: self.genesis_recorded,
            broker: Ok(ObservedBroker { node_queues }),
            ..nothing()
        }
    }

    fn exec(&mut self, cluster: &ValidCluster, step: &Step) {
        match step {
            Step::RecordNodes(ids) => self.recorded.clone_from(ids),
            Step::DeclareExchange(exchange) => drop(self.exchanges.insert(exchange.name.clone())),
            Step::DeclareQueue(queue) => {
                assert!(self.exchanges.contains(&queue.bound_to), "{queue:?} is bound to nothing");
                let node =
                    (1..=9).filter_map(NodeId::new).find(|id| cluster.topology.node_queue(*id) == *queue);
                assert!(node.is_none_or(|id| self.recorded.contains(&id)), "{queue:?} is not written down");
                self.queues.insert(queue.name.clone());
            }
            Step::PublishGenesis(queue) => {
                assert!(self.queues.contains(queue));
                self.genesis_published = true;
            }
            Step::RecordGenesis => {
                assert!(self.genesis_published);
                self.genesis_recorded = true;
            }
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
    }

    fn apply(&mut self, cluster: &ValidCluster, object: &DesiredObject) {
        let mut body = object.body.clone();
        if object.kind == Kind::Deployment {
            assert!(self.genesis_recorded, "{object:?} before the history began");
            let found = self.objects.get(&(Kind::Deployment, object.name.clone()));
            let generation = found.map_or(0, |found| found["metadata"]["generation"].as_u64().unwrap()) + 1;
            body["metadata"]["generation"] = json!(generation);
            // As the last one left it: the change is seen at the next tick.
            body["status"] = found.map_or(Value::Null, |found| found["status"].clone());
            if let Some(id) = node_of(&body) {
                let queue = cluster.topology.names().node_queue(id);
                assert!(self.queues.contains(&queue), "{object:?} would miss what is written");
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
    fn tick(&mut self) {
        for (_, object) in self.objects.iter_mut().filter(|(key, _)| key.0 == Kind::Deployment) {
            let is_seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            object["status"] = match is_seen {
                true if self.broken_image == Some(image_of(object)) => object["status"].clone(),
                true => ready_status(&object["metadata"]["generation"]),
                false => json!({"observedGeneration": object["metadata"]["generation"], "replicas": 1}),
            };
        }
        let leaving =
            self.objects.iter().filter(|(key, object)| key.0 == Kind::Deployment && is_leaving(object));
        let stopping: BTreeSet<_> = leaving.filter_map(|(_, object)| node_of(object)).collect();
        if self.pods.is_disjoint(&stopping) {
            self.objects.retain(|_, object| !is_leaving(object));
        } else {
            self.pods.retain(|id| !stopping.contains(id));
        }
    }

    /// Passes until there is nothing left to do; the first one is killed after `survived` steps.
    fn settle(&mut self, cluster: &ValidCluster, survived: usize) {
        let mut allowed = survived;
        for _ in 0..20 {
            let plan = plan(cluster, &self.observed(cluster)).unwrap();
            for step in plan.steps.iter().take(allowed) {
                self.exec(cluster, step);
            }
            let is_ready = |object: &Value| object["status"]["readyReplicas"] == 1;
            let mut deployments = self.objects.iter().filter(|(key, _)| key.0 == Kind::Deployment);
            let is_done = plan.steps.iter().all(is_declaration)
                && plan.members.leaving.is_empty()
                && deployments.all(|(_, object)| is_ready(object));
            if is_done && allowed >= plan.steps.len() && !self.objects.values().any(is_leaving) {
                return;
            }
            allowed = usize::MAX;
            self.tick();
        }
        panic!("no end: {:?}", plan(cluster, &self.observed(cluster)).unwrap().steps);
    }

    fn node_queues(&self) -> Vec<&str> {
        let is_node = |name: &&str| name.contains("_node_");
        self.queues.iter().map(String::as_str).filter(is_node).collect()
    }
}

fn node_of(object: &Value) -> Option<NodeId> {
    NodeId::new(object["metadata"]["labels"]["broadcast.dev/node-id"].as_str()?.parse().ok()?)
}

fn image_of(deployment: &Value) -> &str {
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap()
}

fn is_leaving(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn is_declaration(step: &Step) -> bool {
    matches!(step, Step::DeclareExchange(_) | Step::DeclareQueue(_))
}

fn sized(replicas: u32) -> ValidCluster {
    let mut cluster = valid();
    cluster.nodes.replicas = replicas;
    cluster.storage = Some(broadcast_api::StorageSpec { size: "1Gi".to_owned(), storage_class_name: None });
    cluster
}

fn check_nodes(world: &World, count: u32) {
    let expected: Vec<_> = (1..=count).map(|id| format!("write_requests_node_{id}")).collect();
    assert_eq!(world.node_queues(), expected);
    assert_eq!(world.pods, ids(1..=count));
    for kind in [Kind::Deployment, Kind::PersistentVolumeClaim] {
        let of_nodes = world.objects.keys().filter(|key| key.0 == kind && key.1.contains("-node-")).count();
        assert_eq!(of_nodes, usize::try_from(count).unwrap(), "{kind:?}");
    }
}

#[test]
fn killed_after_any_step_the_next_pass_finishes_every_scaling() {
    for survived in 0..60 {
        let mut world = World::default();
        for replicas in [3, 5, 2, 4, 1] {
            let cluster = sized(replicas);
            world.settle(&cluster, survived);
            check_nodes(&world, replicas);
        }
    }
}

#[test]
fn a_changed_mind_in_the_middle_of_any_scaling_leaves_nothing_behind() {
    for survived in 0..60 {
        for (first, second, third) in [(1, 5, 2), (5, 1, 4), (3, 2, 3)] {
            let mut world = World::default();
            world.settle(&sized(first), usize::MAX);
            let cluster = sized(second);
            let interrupted = plan(&cluster, &world.observed(&cluster)).unwrap();
            for step in interrupted.steps.iter().take(survived) {
                world.exec(&cluster, step);
            }
            world.settle(&sized(third), usize::MAX);
            check_nodes(&world, third);
        }
    }
}

#[test]
fn deletion_killed_after_any_step_leaves_nothing_on_the_broker() {
    let cluster = sized(3);
    for survived in 0..30 {
        let mut world = World::default();
        world.settle(&cluster, usize::MAX);
        let mut allowed = survived;
        for _ in 0..10 {
            let plan = plan_deletion(&cluster, &world.observed(&cluster), false);
            for step in plan.steps.iter().take(allowed) {
                world.exec(&cluster, step);
            }
            if world.released {
                break;
            }
            allowed = usize::MAX;
            world.tick();
        }
        assert!(world.released && world.queues.is_empty() && world.exchanges.is_empty());
    }
}

#[test]
fn a_plan_for_what_is_already_there_only_declares_again() {
    let cluster = sized(3);
    let mut world = World::default();
    world.settle(&cluster, usize::MAX);
    let steps = plan(&cluster, &world.observed(&cluster)).unwrap().steps;
    // Two exchanges, dead letters, head and three nodes.
    assert_eq!(steps.len(), 7);
    assert!(steps.iter().all(is_declaration));
}

#[test]
fn without_its_broker_a_new_cluster_gets_no_pod_and_an_old_one_keeps_and_repairs_its_own() {
    let cluster = sized(3);
    let missing = SecretError::Missing("rabbitmq".to_owned());
    let cut_off = |observed: Observed| Observed {
        access: Err(missing.clone()),
        broker: Err(Problem::Secret(missing.clone())),
        ..observed
    };
    let plan_of = |observed: &Observed| plan(&cluster, observed).unwrap();
    let new = plan_of(&cut_off(nothing()));
    assert!(new.members.staying.is_empty());
    assert!(
        new.steps.iter().all(|step| matches!(step, Step::Apply(object) if object.kind != Kind::Deployment))
    );

    let mut world = World::default();
    world.settle(&cluster, usize::MAX);
    world.objects.remove(&(Kind::Deployment, "orders-heart".to_owned()));
    world.objects.remove(&(Kind::Service, "orders-read".to_owned()));
    let old = plan_of(&cut_off(world.observed(&cluster)));
    assert_eq!(old.members.staying, ids([1, 2, 3]));
    let applied: Vec<_> = old.steps.iter().map(|step| format!("{step:?}")).collect();
    assert_eq!(applied, ["Apply(Service orders-read)", "Apply(Deployment orders-heart)"]);
}

#[test]
fn the_last_ready_node_is_not_removed() {
    let mut world = World::default();
    world.settle(&sized(3), usize::MAX);
    for id in 1..=2 {
        let node = world.objects.get_mut(&(Kind::Deployment, format!("orders-node-{id}"))).unwrap();
        node["status"]["readyReplicas"] = json!(null);
    }
    let cluster = sized(2);
    let refused = plan(&cluster, &world.observed(&cluster)).unwrap();
    assert_eq!((refused.members.held_back, refused.members.staying), (ids([3]), ids([1, 2, 3])));
    assert!(refused.steps.iter().all(is_declaration));
    let node = world.objects.get_mut(&(Kind::Deployment, "orders-node-1".to_owned())).unwrap();
    node["status"]["readyReplicas"] = json!(1);
    world.settle(&cluster, usize::MAX);
    check_nodes(&world, 2);
}

#[test]
fn what_carries_the_labels_and_is_not_wanted_goes() {
    let cluster = sized(1);
    let mut world = World::default();
    world.settle(&cluster, usize::MAX);
    let body = json!({"metadata": {"name": "orders-old", "labels": {}}});
    world.objects.insert((Kind::Service, "orders-old".to_owned()), body);
    let steps = plan(&cluster, &world.observed(&cluster)).unwrap().steps;
    assert!(steps.contains(&Step::Delete(Kind::Service, "orders-old".to_owned())));
}

#[test]
fn a_conflict_touches_nothing_and_its_deletion_does_not_wait() {
    let cluster = sized(3);
    let conflict =
        crate::controller::conflict::Conflict { with: "a/b".to_owned(), name: "exchange".to_owned() };
    let observed = Observed { broker: Err(Problem::Conflict(conflict)), recorded: ids([1, 2]), ..nothing() };
    let planned = plan(&cluster, &observed).unwrap();
    assert_eq!((planned.steps.len(), planned.members.staying), (0, ids([1, 2])));
    assert_eq!(plan_deletion(&cluster, &observed, false).steps, [Step::RemoveFinalizer]);
}

#[test]
fn a_deletion_waits_for_its_broker_until_it_is_overdue() {
    let cluster = sized(3);
    let missing = Problem::Secret(SecretError::Missing("rabbitmq".to_owned()));
    let unreachable = Observed { broker: Err(missing), recorded: ids([1]), ..nothing() };
    assert_eq!(plan_deletion(&cluster, &unreachable, false).steps, []);
    assert_eq!(plan_deletion(&cluster, &unreachable, true).steps, [Step::RemoveFinalizer]);
    // Nothing was ever made: nothing to wait for.
    let never_made = Observed { recorded: BTreeSet::new(), ..unreachable };
    assert_eq!(plan_deletion(&cluster, &never_made, false).steps, [Step::RemoveFinalizer]);
}

#[test]
fn an_address_that_the_broker_refuses_is_not_handed_to_pods() {
    let refused = AmqpError::AccessRefused("no".to_owned());
    let unreachable = AmqpError::Unreachable { address: "mq:5672".to_owned(), text: "gone".to_owned() };
    for (source, handed) in [(refused, false), (unreachable, true)] {
        let problem = Problem::Broker(BrokerError { object: "Secret rabbitmq".to_owned(), source });
        let observed = Observed { broker: Err(problem), ..nothing() };
        let steps = plan(&sized(1), &observed).unwrap().steps;
        let is_address = |step: &Step| matches!(step, Step::Apply(object) if object.kind == Kind::Secret);
        assert_eq!(steps.iter().any(is_address), handed);
    }
}

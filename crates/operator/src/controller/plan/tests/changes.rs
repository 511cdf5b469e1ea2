//! What else may be asked of a cluster than to be larger or smaller.

use broadcast_protocol::topology::{QueueDeclaration, Topology};

use super::*;
use crate::broker::ObservedBroker;
use crate::controller::plan::tests::world::{ArgumentsDiffer, is_leaving};
use crate::controller::tokens::TokenSecret;
use crate::secret::SecretError;

fn settled(replicas: u32) -> World {
    let mut world = World::default();
    world.settle(&sized(replicas), usize::MAX);
    world
}

fn with_backlog(replicas: u32, bytes: u64) -> ValidCluster {
    let mut cluster = sized(replicas);
    cluster.backlog_bytes = bytes;
    cluster.topology = Topology::new(cluster.topology.names().clone(), cluster.queue_type, bytes);
    cluster
}

fn node_queues(cluster: &ValidCluster, count: u32) -> Vec<QueueDeclaration> {
    ids(1..=count).into_iter().map(|id| cluster.topology.node_queue(id)).collect()
}

#[test]
fn a_paused_resource_is_looked_at_and_left_alone() {
    let mut world = settled(3);
    world.objects.remove(&(Kind::Service, "orders-read".to_owned()));
    let mut cluster = sized(5);
    cluster.annotations.paused = true;
    let plan = plan(&cluster, &world.observed(&cluster)).unwrap();
    assert_eq!((plan.steps.len(), plan.members.staying), (0, ids([1, 2, 3])));
}

#[test]
fn tokens_are_there_before_the_pods_that_ask_for_them_and_are_made_once() {
    for survived in 0..40 {
        for is_there_before in [false, true] {
            let mut world = if is_there_before { settled(3) } else { World::default() };
            let mut cluster = sized(3);
            let secret = TokenSecret { name: "orders-auth".to_owned(), is_generated: true };
            cluster.tokens = Some(secret);
            world.settle(&cluster, survived);
            check_nodes(&world, 3);
            assert_eq!(world.tokens_made, 1);
            let plan = plan(&cluster, &world.observed(&cluster)).unwrap();
            assert!(plan.steps.iter().all(Step::is_repeated), "{:?}", plan.steps);
        }
    }
}

#[test]
fn without_usable_tokens_no_pod_is_made_or_replaced_and_all_else_goes_on() {
    let mut world = settled(3);
    world.queues.remove("write_requests_head");
    let plan_for = |replicas| {
        let mut cluster = sized(replicas);
        cluster.tokens = Some(TokenSecret { name: "mine".to_owned(), is_generated: false });
        let mut observed = world.observed(&cluster);
        observed.tokens = Err(SecretError::Missing("mine".to_owned()));
        let plan = plan(&cluster, &observed).unwrap();
        let makes_pods = |step: &Step| matches!(step, Step::Apply(object) if object.kind == Kind::Deployment);
        assert!(!plan.steps.iter().any(makes_pods), "{:?}", plan.steps);
        (cluster, plan)
    };
    let (cluster, larger) = plan_for(4);
    assert!(larger.steps.contains(&Step::DeclareQueue(cluster.topology.head_queue())));
    assert_eq!(larger.members.outdated, ids([1, 2, 3]), "their pods know of no tokens yet");
    let (cluster, smaller) = plan_for(2);
    let node_3 = cluster.names.node(NodeId::new(3).unwrap());
    assert!(smaller.steps.contains(&Step::Delete(Kind::Deployment, node_3)));
}

#[test]
fn another_limit_makes_every_queue_anew_whenever_it_is_interrupted() {
    for survived in 0..30 {
        let mut world = settled(3);
        // Killed in the first of the changes, and again in the one that goes back.
        for bytes in [1 << 31, 1 << 32, 1 << 31] {
            let cluster = with_backlog(3, bytes);
            world.settle(&cluster, survived);
            let found: Vec<_> = node_queues(&cluster, 3);
            assert!(found.iter().all(|queue| world.queues.get(&queue.name) == Some(queue)), "{bytes}");
            assert_eq!(world.backlogs, [bytes]);
        }
    }
}

#[test]
fn of_the_queues_one_at_a_time_is_made_anew() {
    let mut world = settled(3);
    let cluster = with_backlog(3, 1 << 31);
    let wanted = node_queues(&cluster, 3);
    let count =
        |world: &World| wanted.iter().filter(|queue| world.queues.get(&queue.name) == Some(queue)).count();
    let mut before = 0;
    for _ in 0..20 {
        let plan = plan(&cluster, &world.observed(&cluster)).unwrap();
        world.pass(&cluster, &plan);
        let now = count(&world);
        assert!(now - before <= 1);
        before = now;
        world.tick();
    }
    assert_eq!(before, 3);
}

#[test]
fn the_queue_of_a_node_that_is_alone_goes_only_when_it_is_empty() {
    let world = settled(1);
    let cluster = with_backlog(1, 1 << 31);
    let mut observed = world.observed(&cluster);
    let node_queues = ids([1]).into_iter().map(|id| (id, QueueDepth { messages: 7, consumers: 1 })).collect();
    observed.broker = Ok(ObservedBroker { node_queues, ..ObservedBroker::default() });
    let is_anew = |step: &Step| matches!(step, Step::ReplaceQueue { .. });
    let full = plan(&cluster, &observed).unwrap();
    assert!(!full.steps.iter().any(is_anew));
    assert_eq!(full.members.outdated, ids([1]));
    let empty = plan(&cluster, &world.observed(&cluster)).unwrap();
    assert!(empty.steps.iter().any(is_anew));
}

#[test]
fn a_queue_that_has_neither_limit_is_somebody_elses() {
    let mut world = settled(3);
    let foreign = with_backlog(3, 1 << 20).topology.node_queue(NodeId::new(3).unwrap());
    world.queues.insert(foreign.name.clone(), foreign.clone());
    let cluster = with_backlog(3, 1 << 31);
    let plan = plan(&cluster, &world.observed(&cluster)).unwrap();
    let failed = plan.steps.iter().find_map(|step| world.exec(&cluster, step).err());
    assert!(matches!(failed, Some(ArgumentsDiffer)));
    assert_eq!(world.queues[&foreign.name], foreign);
}

#[test]
fn what_is_to_be_kept_is_kept_when_the_resource_goes_and_when_a_node_goes() {
    let mut world = settled(3);
    let mut cluster = sized(2);
    cluster.retains = true;
    world.settle(&cluster, usize::MAX);
    let volumes =
        |world: &World| world.objects.keys().filter(|key| key.0 == Kind::PersistentVolumeClaim).count();
    assert_eq!((world.node_queues().len(), volumes(&world)), (2, 3));
    // The volume that was kept says nothing of a third node.
    cluster.nodes.replicas = 3;
    world.settle(&cluster, usize::MAX);
    for _ in 0..10 {
        let plan = plan_deletion(&cluster, &world.observed(&cluster), false).unwrap();
        world.pass(&cluster, &plan);
        if world.released {
            break;
        }
        world.tick();
    }
    assert!(world.released && world.queues.len() == 5 && world.exchanges.len() == 2);
    let claims = world.objects.iter().filter(|(key, _)| key.0 == Kind::PersistentVolumeClaim);
    assert!(
        claims.clone().count() == 3
            && claims.clone().all(|(_, claim)| claim["metadata"]["ownerReferences"].is_null())
    );
    assert!(!world.objects.values().any(is_leaving) || claims.count() == 3);
}

#[test]
fn a_policy_that_changed_with_the_deletion_still_saves_the_volumes() {
    let world = settled(2);
    let mut cluster = sized(2);
    cluster.retains = true;
    let mut observed = world.observed(&cluster);
    observed.objects.retain(|key, _| key.0 != Kind::Deployment);
    observed.pods.clear();
    let steps = plan_deletion(&cluster, &observed, false).unwrap().steps;
    let steps: Vec<_> = steps.iter().map(|step| format!("{step:?}")).collect();
    let apply = |id| format!("Apply(PersistentVolumeClaim orders-node-{id})");
    assert_eq!(steps, [apply(1), apply(2), "RemoveFinalizer".to_owned()]);
}

#[test]
fn a_policy_that_changed_with_a_scaling_saves_the_volumes_and_forgets_the_nodes() {
    let mut world = settled(3);
    let mut cluster = sized(1);
    cluster.retains = true;
    world.settle(&cluster, usize::MAX);
    assert_eq!(world.observed(&cluster).node_ids(), ids([1]));
    let claims = world.objects.keys().filter(|key| key.0 == Kind::PersistentVolumeClaim).count();
    assert_eq!(claims, 3);
}

#[test]
fn a_successor_begins_no_history() {
    let mut cluster = sized(1);
    cluster.is_successor = true;
    let steps = plan(&cluster, &nothing()).unwrap().steps;
    assert!(!steps.iter().any(|step| matches!(step, Step::PublishGenesis(_))));
    assert!(steps.contains(&Step::RecordGenesis));
}

#[test]
fn what_another_resource_left_behind_is_not_touched() {
    let cluster = sized(3);
    let foreign = Problem::ForeignHistory { queue: "write_requests_head".to_owned(), found: "h".to_owned() };
    let observed = Observed { broker: Err(foreign), ..nothing() };
    assert_eq!(plan(&cluster, &observed).unwrap(), Plan::default());
    assert_eq!(plan_deletion(&cluster, &observed, false).unwrap().steps, [Step::RemoveFinalizer]);
}

#[test]
fn a_human_can_say_that_a_deletion_does_not_wait_for_its_broker() {
    let mut cluster = sized(3);
    cluster.annotations.force_delete = true;
    let missing = Problem::Secret(SecretError::Missing("rabbitmq".to_owned()));
    let unreachable = Observed { broker: Err(missing), recorded: ids([1]), ..nothing() };
    assert_eq!(plan_deletion(&cluster, &unreachable, false).unwrap().steps, [Step::RemoveFinalizer]);
    // One that is there is cleaned all the same.
    let reachable = Observed { recorded: ids([1]), ..nothing() };
    assert!(plan_deletion(&cluster, &reachable, false).unwrap().steps.len() > 1);
}

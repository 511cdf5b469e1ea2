mod changes;
mod properties;
mod rollout;
mod world;

use std::collections::BTreeMap;

use broadcast_service::amqp::{AmqpError, QueueDepth};
use serde_json::json;

use super::*;
use crate::broker::{BrokerError, ObservedBroker};
use crate::controller::members::Refusal;
use crate::controller::plan::tests::world::World;
use crate::secret::SecretError;
use crate::testing::{ids, nothing, other_access, valid};

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
            world.exec_first(&cluster, &interrupted, survived);
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
            let plan = plan_deletion(&cluster, &world.observed(&cluster), false).unwrap();
            world.exec_first(&cluster, &plan, allowed);
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
    // Two exchanges, dead letters and head; the nodes see to their own queues.
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(Step::is_repeated));
}

#[test]
fn without_its_broker_a_new_cluster_gets_nothing_and_an_old_one_keeps_and_repairs_its_own() {
    let cluster = sized(3);
    let missing = SecretError::Missing("rabbitmq".to_owned());
    let cut_off = |observed: Observed| Observed {
        access: Err(missing.clone()),
        broker: Err(Problem::Secret(missing.clone())),
        ..observed
    };
    let plan_of = |observed: &Observed| plan(&cluster, observed).unwrap();
    let new = plan_of(&cut_off(nothing()));
    assert!(new.members.staying.is_empty() && new.steps.is_empty());

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
    let refusal = Some(Refusal::LastReady(ids([3])));
    assert_eq!((refused.members.refusal, refused.members.staying), (refusal, ids([1, 2, 3])));
    assert!(refused.steps.iter().all(Step::is_repeated));
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
    assert_eq!(plan_deletion(&cluster, &observed, false).unwrap().steps, [Step::RemoveFinalizer]);
}

#[test]
fn a_deletion_waits_for_its_broker_until_it_is_overdue() {
    let cluster = sized(3);
    let missing = Problem::Secret(SecretError::Missing("rabbitmq".to_owned()));
    let unreachable = Observed { broker: Err(missing), recorded: ids([1]), ..nothing() };
    assert_eq!(plan_deletion(&cluster, &unreachable, false).unwrap().steps, []);
    assert_eq!(plan_deletion(&cluster, &unreachable, true).unwrap().steps, [Step::RemoveFinalizer]);
    // Nothing was ever made: nothing to wait for.
    let never_made = Observed { recorded: BTreeSet::new(), ..unreachable };
    assert_eq!(plan_deletion(&cluster, &never_made, false).unwrap().steps, [Step::RemoveFinalizer]);
}

#[test]
fn pods_get_an_address_when_it_works_and_keep_the_last_one_until_then() {
    let cluster = sized(1);
    let mut settled = World::default();
    settled.settle(&cluster, usize::MAX);
    let failed = |source| Err(Problem::Broker(BrokerError { object: "Secret rabbitmq".to_owned(), source }));
    let refused = || failed(AmqpError::AccessRefused("no".to_owned()));
    let text = || "gone".to_owned();
    let untrusted = || failed(AmqpError::Tls { address: "mq:5671".to_owned(), text: text() });
    let away = || failed(AmqpError::Unreachable { address: "mq:5672".to_owned(), text: text() });
    for (is_settled, broker, handed) in [
        (false, refused(), false),
        (false, untrusted(), false),
        (false, away(), true),
        (true, refused(), false),
        (true, untrusted(), false),
        (true, away(), false),
        (true, Ok(ObservedBroker::default()), true),
    ] {
        let begun = Observed { genesis: true, ..nothing() };
        let before = if is_settled { settled.observed(&cluster) } else { begun };
        let observed = Observed { broker, access: Ok(other_access()), ..before };
        let steps = plan(&cluster, &observed).unwrap().steps;
        let is_address = |step: &Step| matches!(step, Step::Apply(object) if object.kind == Kind::Secret);
        assert_eq!(steps.iter().any(is_address), handed, "{is_settled} {:?}", observed.broker);
    }
}

use serde_json::json;

use super::*;
use crate::controller::plan::tests::world::image_of;
use crate::heart::HeartReport;

fn with_image(image: &str) -> ValidCluster {
    let mut cluster = sized(3);
    cluster.storage = None;
    cluster.nodes.image = Some(image.to_owned());
    cluster
}

/// The nodes that a pass replaces or makes.
fn replaced(plan: &Plan) -> Vec<&str> {
    let nodes = plan.steps.iter().filter_map(|step| match step {
        Step::Apply(object) if object.kind == Kind::Deployment => Some(object.name.as_str()),
        _ => None,
    });
    nodes.collect()
}

fn heart_report(states: [&str; 3]) -> HeartReport {
    let nodes: Vec<_> = (1..).zip(states).map(|(id, state)| json!({"id": id, "state": state})).collect();
    serde_json::from_value(json!({"role": "active", "nodes": nodes})).unwrap()
}

#[test]
fn a_changed_image_replaces_one_node_at_a_time_highest_id_first() {
    let mut world = World::default();
    world.settle(&with_image("node:1"), usize::MAX);
    let cluster = with_image("node:2");
    let mut order = Vec::new();
    for _ in 0..20 {
        let plan = plan(&cluster, &world.observed(&cluster)).unwrap();
        let now = replaced(&plan).into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert!(now.len() <= 1, "{now:?} at once");
        if !now.is_empty() {
            let old = world.objects.iter().filter(|(key, _)| key.0 == Kind::Deployment);
            assert!(
                old.clone().all(|(_, object)| object["status"]["readyReplicas"] == 1),
                "{now:?} too early"
            );
        }
        order.extend(now);
        assert_eq!(plan.members.outdated.len(), 3 - order.len());
        world.pass(&cluster, &plan);
        world.tick();
    }
    assert_eq!(order, ["orders-node-3", "orders-node-2", "orders-node-1"]);
}

#[test]
fn a_broken_image_stops_at_one_node_and_can_be_corrected() {
    let mut world = World { broken_image: Some("node:broken"), ..World::default() };
    world.settle(&with_image("node:1"), usize::MAX);
    let pass = |world: &mut World, image| {
        let cluster = with_image(image);
        let plan = plan(&cluster, &world.observed(&cluster)).unwrap();
        world.pass(&cluster, &plan);
        world.tick();
        replaced(&plan).join(" ")
    };
    let broken = [(); 4].map(|()| pass(&mut world, "node:broken"));
    assert_eq!(broken, ["orders-node-3", "", "", ""]);
    let mended = [(); 8].map(|()| pass(&mut world, "node:2"));
    assert_eq!(
        mended.iter().filter(|now| !now.is_empty()).collect::<Vec<_>>(),
        ["orders-node-3", "orders-node-2", "orders-node-1"]
    );
    assert_eq!(mended[0], "orders-node-3");
}

#[test]
fn a_first_image_that_is_broken_everywhere_can_be_corrected() {
    let mut world = World { broken_image: Some("node:broken"), ..World::default() };
    let cluster = with_image("node:broken");
    for _ in 0..3 {
        let plan = plan(&cluster, &world.observed(&cluster)).unwrap();
        world.pass(&cluster, &plan);
        world.tick();
    }
    world.settle(&with_image("node:1"), usize::MAX);
    assert!(
        world.objects.iter().all(|(key, object)| !key.1.contains("-node-") || image_of(object) == "node:1")
    );
}

#[test]
fn a_node_is_replaced_only_when_its_data_is_elsewhere_as_well() {
    let mut world = World::default();
    world.settle(&with_image("node:1"), usize::MAX);
    let cluster = with_image("node:2");
    let with_heart =
        |world: &World, states| Observed { heart: Ok(heart_report(states)), ..world.observed(&cluster) };
    let cases = [
        (["ready", "ready", "ready"], vec!["orders-node-3"]),
        // The one that does not work goes first.
        (["ready", "diverged", "ready"], vec!["orders-node-2"]),
        (["failing", "failing", "ready"], vec!["orders-node-2"]),
        // Nobody has what the others could repair from.
        (["failing", "failing", "failing"], vec![]),
    ];
    for (states, expected) in cases {
        let planned = plan(&cluster, &with_heart(&world, states)).unwrap();
        assert_eq!(replaced(&planned), expected, "{states:?}");
    }
    // While the broker is away, say.
    for id in 1..=3 {
        let node = world.objects.get_mut(&(Kind::Deployment, format!("orders-node-{id}"))).unwrap();
        node["status"]["readyReplicas"] = json!(null);
    }
    let planned = plan(&cluster, &world.observed(&cluster)).unwrap();
    assert_eq!((replaced(&planned), &planned.members.outdated), (vec![], &ids([1, 2, 3])));
}

#[test]
fn no_node_is_replaced_while_another_leaves() {
    let mut world = World::default();
    world.settle(&with_image("node:1"), usize::MAX);
    let mut cluster = with_image("node:2");
    cluster.nodes.replicas = 2;
    let planned = plan(&cluster, &world.observed(&cluster)).unwrap();
    assert_eq!((replaced(&planned), &planned.members.leaving), (vec![], &ids([3])));
}

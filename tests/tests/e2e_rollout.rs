//! Another pod for each node, under writes: one at a time, each when all others are ready, and none after one that does not come up.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::forward::is_ready;
use broadcast_tests::cluster::resource::ROLLOUT_PATIENCE;
use broadcast_tests::cluster::rows::check_rows;
use broadcast_tests::cluster::{self, Scenario};
use broadcast_tests::load::Load;
use broadcast_tests::oracle::Oracle;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::ListParams;

const NODES: u32 = 3;

/// An image that nobody has.
const NO_IMAGE: &str = "registry.invalid/node:none";

/// Longer than the operator waits between two looks at a roll-out that is under way.
const A_WHILE: Duration = Duration::from_secs(20);

#[test]
fn nodes_are_replaced_one_at_a_time_and_none_after_one_that_does_not_come_up() {
    cluster::run("rollout", async |stage| {
        stage.apply(&stage.sample("orders", NODES)).await;
        stage.wait_until_ready("orders", NODES).await;
        let before = node_pods(stage).await;
        assert_eq!(before.len(), 3);
        let oracle = Oracle::default();
        let load = Load::start("rollout", &[stage.heart("orders").await], &oracle, 2, 100_000);
        load.progress(50).await;

        let fewest = Cell::new(usize::MAX);
        tokio::select! {
            () = watch_ready_nodes(stage, &fewest) => {}
            () = roll(stage, &load) => {}
        }
        assert_eq!(fewest.get(), 2, "so many nodes were ready at the worst time");
        assert!(node_pods(stage).await.is_disjoint(&before), "a node has the pod of before");

        load.progress(50).await;
        load.finish().await;
        let nodes = stage.nodes("orders", 1..=NODES).await;
        check_rows(&nodes, &oracle).await;
    });
}

/// First to an image that is not there, then to what there should be.
async fn roll(stage: &Scenario, load: &Load) {
    patch_nodes(stage, &format!(r#"{{"image":"{NO_IMAGE}"}}"#));
    wait_for("a node to be replaced", ROLLOUT_PATIENCE, async || {
        let count = without_image(stage).await;
        if count == 1 { Ok(()) } else { Err(format!("{count} have the new image")) }
    })
    .await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(without_image(stage).await, 1, "the others are left alone");
    let resource = stage.fetch("orders").await;
    assert_eq!(resource.status.unwrap().nodes_ready, "2/3");
    load.progress(50).await;
    patch_nodes(stage, r#"{"image":null,"resources":{"requests":{"memory":"48Mi"}}}"#);
    stage.wait_until_ready("orders", NODES).await;
}

fn patch_nodes(stage: &Scenario, nodes: &str) {
    let patch = format!(r#"{{"spec":{{"nodes":{nodes}}}}}"#);
    stage.kubectl(&["patch", "bcast/orders", "--type=merge", "--patch", &patch]).unwrap();
}

async fn without_image(stage: &Scenario) -> usize {
    let deployments = stage.api::<Deployment>().list(&ListParams::default()).await.unwrap();
    let images = deployments.iter().flat_map(|deployment| {
        let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        pod.into_iter().flat_map(|pod| &pod.containers).filter_map(|container| container.image.as_deref())
    });
    images.filter(|image| *image == NO_IMAGE).count()
}

/// The uids of the running pods of nodes.
async fn node_pods(stage: &Scenario) -> BTreeSet<String> {
    stage.running_pods("orders-node-").await.iter().map(|pod| pod.uid().unwrap()).collect()
}

/// Keeps the lowest number of nodes that were ready at the same time, until it is dropped.
async fn watch_ready_nodes(stage: &Scenario, fewest: &Cell<usize>) {
    loop {
        let ready = stage.running_pods("orders-node-").await.iter().filter(|pod| is_ready(pod)).count();
        fewest.set(fewest.get().min(ready));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

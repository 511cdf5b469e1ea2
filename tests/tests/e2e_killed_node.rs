//! Nodes that die under writes: they come back and hold what they missed.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::resource::{ROLLOUT_PATIENCE, node_prefix};
use broadcast_tests::cluster::rows::check_rows;
use broadcast_tests::cluster::{self, Scenario, count_restarts};
use broadcast_tests::load::Load;
use broadcast_tests::oracle::Oracle;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// How long the kubelet may take to see that a process is dead and to start another one.
const RESTART_PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn a_node_whose_process_or_whole_pod_is_killed_under_writes_catches_up() {
    cluster::run("killed-node", async |stage| {
        stage.apply(&stage.sample("orders", 3)).await;
        stage.wait_until_ready("orders", 3).await;
        let oracle = Oracle::default();
        let heart = stage.heart("orders").await;
        let load = Load::start("load", &[heart], &oracle, 4, 100_000);
        load.progress(200).await;

        // The process alone: the new one finds the database as the dead one left it.
        kill(stage, 2, |pod| stage.kill(pod)).await;
        load.progress(200).await;
        // The pod: without a volume the new one finds nothing.
        kill(stage, 3, |pod| stage.kill_pod(&pod.name_any())).await;
        load.progress(200).await;
        load.finish().await;

        stage.wait_until_ready("orders", 3).await;
        let nodes = stage.nodes("orders", 1..=3).await;
        check_rows(&nodes, &oracle).await;
    });
}

/// Kills a node's pod in some way and waits until a process answers that was not there before.
async fn kill(stage: &Scenario, id: u32, how: impl FnOnce(&Pod)) {
    let before = fetch_pod(stage, id).await.unwrap();
    how(&before);
    let identity = |pod: &Pod| (pod.uid(), count_restarts(pod));
    wait_for(&format!("another process of node {id}"), RESTART_PATIENCE, async || {
        let after = fetch_pod(stage, id).await?;
        if identity(&after) == identity(&before) { Err("still the same".to_owned()) } else { Ok(()) }
    })
    .await;
    let node = stage.node("orders", id).await;
    wait_for(&format!("node {id} to answer"), ROLLOUT_PATIENCE, async || {
        node.node_status().await.map_err(|refused| format!("{refused:?}"))
    })
    .await;
}

async fn fetch_pod(stage: &Scenario, id: u32) -> Result<Pod, String> {
    let pods = stage.running_pods(&node_prefix("orders", id)).await;
    <[Pod; 1]>::try_from(pods).map(|[pod]| pod).map_err(|pods| format!("{} pods", pods.len()))
}

//! A broker that dies under writes: everybody connects again, and what was acknowledged stays.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;

use broadcast_tests::cluster::rows::check_rows;
use broadcast_tests::cluster::{self, Scenario, count_restarts};
use broadcast_tests::load::Load;
use broadcast_tests::oracle::Oracle;
use kube::ResourceExt;

#[test]
fn a_broker_that_dies_under_writes_costs_no_acknowledged_write_and_no_restart() {
    cluster::run("killed-broker", async |stage| {
        stage.apply(&stage.sample("orders", 3)).await;
        stage.wait_until_ready("orders", 3).await;
        let (pods, operators) = (pods_with_restarts(stage).await, stage.operator_pods().await);
        let oracle = Oracle::default();
        let heart = stage.heart("orders").await;
        let load = Load::start("load", &[heart], &oracle, 4, 100_000);
        load.progress(200).await;

        stage.stop_broker().await;
        load.progress(200).await;
        load.finish().await;

        stage.wait_until_ready("orders", 3).await;
        let nodes = stage.nodes("orders", 1..=3).await;
        check_rows(&nodes, &oracle).await;
        assert_eq!(pods_with_restarts(stage).await, pods);
        assert_eq!(stage.operator_pods().await, operators);
    });
}

async fn pods_with_restarts(stage: &Scenario) -> BTreeMap<String, i32> {
    let pods = stage.running_pods("orders-").await;
    pods.iter().map(|pod| (pod.name_any(), count_restarts(pod))).collect()
}

//! Scaling while clients write: no acknowledged write is missing anywhere, and what is removed leaves nothing behind.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::resource::ROLLOUT_PATIENCE;
use broadcast_tests::cluster::rows::check_rows;
use broadcast_tests::cluster::{self, Scenario};
use broadcast_tests::load::Load;
use broadcast_tests::oracle::Oracle;

#[test]
fn scaling_to_five_and_to_two_under_writes_loses_none_of_them() {
    cluster::run("scaling", async |stage| {
        stage.apply(&stage.sample("orders", 3)).await;
        stage.wait_until_ready("orders", 3).await;
        let oracle = Oracle::default();

        scale_under_writes(stage, "up", 5, &oracle).await;
        check_nodes(stage, 5, &oracle).await;
        scale_under_writes(stage, "down", 2, &oracle).await;
        check_nodes(stage, 2, &oracle).await;
        check_leftovers(stage).await;
        let told: Vec<_> =
            stage.events("orders").await.into_iter().filter_map(|event| event.message).collect();
        for note in
            ["nodes 4, 5 come, as spec.nodes.replicas is 5", "node 3 goes, as spec.nodes.replicas is 2"]
        {
            assert!(told.iter().any(|found| found.contains(note)), "{note:?} is not in {told:?}");
        }
    });
}

async fn scale_under_writes(stage: &Scenario, name: &str, nodes: u32, oracle: &Oracle) {
    let heart = stage.heart("orders").await;
    let load = Load::start(name, &[heart], oracle, 4, 100_000);
    load.progress(200).await;
    stage.kubectl(&["scale", "bcast/orders", &format!("--replicas={nodes}")]).unwrap();
    // As a script would wait: what was ready before does not count.
    let wait = ["wait", "--for=condition=Ready", "bcast/orders", "--timeout=120s", "--request-timeout=0"];
    stage.kubectl(&wait).unwrap();
    let status = stage.fetch("orders").await.status.unwrap();
    assert_eq!(status.nodes_ready, format!("{nodes}/{nodes}"));
    stage.wait_until_ready("orders", nodes).await;
    load.progress(200).await;
    load.finish().await;
}

async fn check_nodes(stage: &Scenario, count: u32, oracle: &Oracle) {
    let nodes = stage.nodes("orders", 1..=count).await;
    check_rows(&nodes, oracle).await;
}

async fn check_leftovers(stage: &Scenario) {
    let broker = stage.connect_to_broker().await;
    let queue = |id: u32| format!("{}_node_{id}", stage.broker_name("orders"));
    for id in 3..=5 {
        assert_eq!(broker.depth(&queue(id)).await, None, "{}", queue(id));
    }
    for id in 1..=2 {
        assert!(broker.depth(&queue(id)).await.is_some(), "{}", queue(id));
    }
    // What hangs on a Deployment is collected a little after it.
    wait_for("the removed nodes' objects to be gone", ROLLOUT_PATIENCE, async || {
        let is_left = |object: &&String| (3..=5).any(|id| object.contains(&format!("/orders-node-{id}")));
        let left: Vec<_> = stage.inventory().iter().filter(is_left).cloned().collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

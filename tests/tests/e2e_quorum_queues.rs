//! Quorum queues carry the same writes: through a broker that dies, to a node that comes and past one that goes.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use broadcast_protocol::names::{BrokerNames, NodeId};
use broadcast_protocol::topology::{QueueType, Topology};
use broadcast_tests::cluster::rows::check_rows;
use broadcast_tests::cluster::{self, Scenario};
use broadcast_tests::load::Load;
use broadcast_tests::oracle::Oracle;

#[test]
fn a_cluster_with_quorum_queues_lives_through_a_dead_broker_and_is_scaled() {
    cluster::run("quorum-queues", async |stage| {
        let mut resource = stage.sample("orders", 2);
        resource.spec.queue_type = broadcast_api::QueueType::Quorum;
        stage.apply(&resource).await;
        stage.wait_until_ready("orders", 2).await;
        assert_eq!(quorum_queues(stage).await, [true, true, false]);

        let oracle = Oracle::default();
        let load = Load::start("quorum", &[stage.heart("orders").await], &oracle, 4, 100_000);
        load.progress(100).await;
        stage.stop_broker().await;
        load.progress(100).await;
        scale(stage, 3).await;
        load.progress(100).await;
        load.finish().await;

        assert_eq!(quorum_queues(stage).await, [true; 3]);
        check_nodes(stage, 3, &oracle).await;
        scale(stage, 2).await;
        assert_eq!(quorum_queues(stage).await, [true, true, false]);
        check_nodes(stage, 2, &oracle).await;
    });
}

async fn scale(stage: &Scenario, nodes: u32) {
    stage.kubectl(&["scale", "bcast/orders", &format!("--replicas={nodes}")]).unwrap();
    stage.wait_until_ready("orders", nodes).await;
}

/// Whether each of the first three nodes has a quorum queue.
async fn quorum_queues(stage: &Scenario) -> Vec<bool> {
    let broker = stage.connect_to_broker().await;
    let name = stage.broker_name("orders");
    let topology = Topology::new(BrokerNames::new(&*name, &*name), QueueType::Quorum, 1 << 30);
    let mut found = Vec::new();
    for id in 1..=3 {
        let queue = topology.node_queue(NodeId::new(id).unwrap());
        let is_there = broker.depth(&queue.name).await.is_some();
        found.push(is_there && broker.has_queue(&queue).await);
    }
    found
}

async fn check_nodes(stage: &Scenario, count: u32, oracle: &Oracle) {
    let nodes = stage.nodes("orders", 1..=count).await;
    check_rows(&nodes, oracle).await;
}

//! Another limit for what a node may cost the broker: every queue is made anew, one after the other, under writes.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use broadcast_protocol::names::{BrokerNames, NodeId};
use broadcast_protocol::topology::{QueueType, Topology};
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster;
use broadcast_tests::cluster::resource::ROLLOUT_PATIENCE;
use broadcast_tests::cluster::rows::check_rows;
use broadcast_tests::load::Load;
use broadcast_tests::oracle::Oracle;

const NODES: u32 = 2;

#[test]
fn another_limit_is_in_force_in_every_queue_and_no_write_is_missing() {
    cluster::run("backlog", async |stage| {
        let broker = stage.connect_to_broker().await;
        let resource = stage.sample("orders", NODES);
        let names = BrokerNames::new(&*resource.spec.exchange, &*resource.spec.queue_name);
        let queue = |bytes: u64, id: u32| {
            Topology::new(names.clone(), QueueType::Classic, bytes).node_queue(NodeId::new(id).unwrap())
        };
        stage.apply(&resource).await;
        stage.wait_until_ready("orders", NODES).await;
        for id in 1..=NODES {
            assert!(broker.has_queue(&queue(1 << 30, id)).await, "the default of node {id}");
        }
        let oracle = Oracle::default();
        let load = Load::start("backlog", &[stage.heart("orders").await], &oracle, 2, 100_000);
        load.progress(50).await;
        let patch = r#"{"spec":{"backlog":{"maxBytes":"64Mi"}}}"#;
        stage.kubectl(&["patch", "bcast/orders", "--type=merge", "--patch", patch]).unwrap();
        wait_for("the new limit to be the only one", ROLLOUT_PATIENCE, async || {
            let status = stage.fetch("orders").await.status.unwrap_or_default();
            if status.topology.backlog_bytes == [64 << 20] { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        stage.wait_until_ready("orders", NODES).await;
        load.progress(50).await;
        load.finish().await;
        for id in 1..=NODES {
            assert!(broker.has_queue(&queue(64 << 20, id)).await, "node {id}");
        }
        let nodes = stage.nodes("orders", 1..=NODES).await;
        check_rows(&nodes, &oracle).await;
    });
}

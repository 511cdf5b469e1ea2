//! What the broker holds is lost, piece by piece and all at once: what was acknowledged is in every database afterwards.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::time::Instant;

use broadcast_tests::broker::{Broker, ByHand};
use broadcast_tests::client::wait_for;
use broadcast_tests::standalone::{Cluster, RECOVERY};
use futures_util::future::join_all;
use serde_json::json;

const NODES: [u32; 3] = [1, 2, 3];

/// Two hearts and three listed nodes, all ready.
async fn start(broker: &Broker, queue_type: &str) -> Cluster {
    let mut cluster = Cluster::prepare(&broker.url(), 3);
    cluster.settings = format!("queue_type: {queue_type}\n");
    cluster.list_nodes(&NODES, None);
    cluster.start_all(2).await;
    cluster
}

/// Under writes, loses something, and proves that all goes on without a loss.
async fn overcome(cluster: &Cluster, what: &str, lose: impl AsyncFnOnce()) {
    let load = cluster.start_load(3);
    load.progress(100).await;
    let started = Instant::now();
    lose().await;
    load.progress(30).await;
    let written = started.elapsed();
    load.progress(60).await;
    load.finish().await;
    cluster.converge().await;
    println!("{what}: written again after {written:.1?}, whole after {:.1?}", started.elapsed());
}

/// The same with both types of queues.
async fn overcome_with_both(what: &str, lose: impl AsyncFn(&ByHand, &Cluster)) {
    let broker = Broker::shared().await;
    let with = async |queue_type| {
        let cluster = start(&broker, queue_type).await;
        let by_hand = broker.by_hand().await;
        overcome(&cluster, &format!("{what}, {queue_type}"), async || lose(&by_hand, &cluster).await).await;
    };
    join_all([with("classic"), with("quorum")]).await;
}

#[tokio::test]
async fn a_deleted_head_queue_is_overcome() {
    overcome_with_both("head queue deleted", async |by_hand, cluster| {
        by_hand.delete_queue(&cluster.names().head_queue()).await;
    })
    .await;
}

#[tokio::test]
async fn a_purged_head_queue_is_overcome() {
    overcome_with_both("head queue purged", async |by_hand, cluster| {
        by_hand.purge(&cluster.names().head_queue()).await;
    })
    .await;
}

#[tokio::test]
async fn purged_queues_of_all_nodes_are_overcome() {
    overcome_with_both("all node queues purged", async |by_hand, cluster| {
        for id in NODES {
            by_hand.purge(&cluster.queue(id)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn deleted_queues_of_all_nodes_and_of_the_head_are_overcome() {
    overcome_with_both("all queues deleted", async |by_hand, cluster| {
        for queue in NODES.map(|id| cluster.queue(id)).into_iter().chain([cluster.names().head_queue()]) {
            by_hand.delete_queue(&queue).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_is_not_bound_any_more_is_overcome() {
    overcome_with_both("queue of node 2 unbound", async |by_hand, cluster| {
        by_hand.unbind(&cluster.queue(2), cluster.names().exchange()).await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_exchange_is_overcome() {
    overcome_with_both("exchange deleted", async |by_hand, cluster| {
        by_hand.delete_exchange(cluster.names().exchange()).await;
    })
    .await;
}

#[tokio::test]
async fn a_wiped_broker_is_overcome_by_those_that_live_through_it() {
    let mut broker = Broker::start().await;
    let (classic, quorum) = (start(&broker, "classic").await, start(&broker, "quorum").await);
    let clusters = [&classic, &quorum];
    let loads = clusters.map(|cluster| cluster.start_load(3));
    for load in &loads {
        load.progress(100).await;
    }
    broker.kill();
    broker.wipe();
    broker.restart().await;
    let started = Instant::now();
    for load in &loads {
        load.progress(100).await;
    }
    println!("broker wiped: written again after {:.1?}", started.elapsed());
    for load in loads {
        load.finish().await;
    }
    for cluster in clusters {
        cluster.converge().await;
    }
    println!("broker wiped: whole after {:.1?}", started.elapsed());
}

/// Waits until a heart says that it waits for somebody; gives what it says.
async fn wait_for_seal(cluster: &Cluster, whom: &str) -> String {
    wait_for("a heart to wait for a node", RECOVERY, async || {
        let mut seen = Vec::new();
        for index in cluster.running_hearts() {
            let status =
                cluster.heart(index).heart_status().await.map_err(|refused| format!("{refused:?}"))?;
            match status.reason {
                Some(reason) if status.role == "head_lost" && reason.contains(whom) => {
                    let readiness = cluster.heart_readiness(index).await.unwrap_err();
                    assert!(readiness.contains(whom), "{readiness}");
                    return Ok(reason);
                }
                _ => seen.push(status),
            }
        }
        Err(format!("{seen:?}"))
    })
    .await
}

#[tokio::test]
async fn after_a_wipe_a_node_that_is_down_is_waited_for() {
    let mut broker = Broker::start().await;
    let mut cluster = start(&broker, "classic").await;
    let load = cluster.start_load(3);
    load.progress(100).await;
    cluster.take_node(3).kill();
    load.progress(50).await;
    broker.kill();
    broker.wipe();
    broker.restart().await;
    wait_for_seal(&cluster, "waits for node 3 to say").await;
    let refused = cluster.heart(0).put("users", "1", &json!(1), None).await.unwrap_err();
    assert_eq!(refused.status, 503, "{refused:?}");
    let started = Instant::now();
    cluster.start_node(3);
    load.progress(50).await;
    println!("broker wiped, node 3 back: written again after {:.1?}", started.elapsed());
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_wipe_together_with_the_active_heart_is_overcome_by_a_heart_that_never_reigned() {
    let mut broker = Broker::start().await;
    let mut cluster = start(&broker, "classic").await;
    let load = cluster.start_load(3);
    load.progress(200).await;
    load.finish().await;
    // What no node has applied is lost with the heart that took it and the broker.
    cluster.converge().await;
    let active = wait_for("a heart to be active", RECOVERY, async || cluster.active_heart().await).await;
    broker.kill();
    broker.wipe();
    cluster.take_heart(active).kill();
    broker.restart().await;
    let started = Instant::now();
    let load = cluster.start_load(3);
    load.progress(50).await;
    println!("broker wiped, active heart killed: written again after {:.1?}", started.elapsed());
    cluster.start_heart(active);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
}

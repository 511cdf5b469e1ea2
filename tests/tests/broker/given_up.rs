//! What nobody has any more is named, waited for, and given up when a human says so.

use std::time::Instant;

use broadcast_tests::broker::{Broker, ByHand};
use broadcast_tests::client::{ReportedNode, wait_for};
use broadcast_tests::standalone::{Cluster, RECOVERY};
use serde_json::json;

const NODES: [u32; 3] = [1, 2, 3];

/// Two hearts and three listed nodes, all ready.
async fn start(amqp_url: &str) -> Cluster {
    let mut cluster = Cluster::prepare(amqp_url, 3);
    cluster.list_nodes(&NODES, None);
    cluster.start_all(2).await;
    cluster
}

/// Writes until all nodes have applied it; gives the position.
async fn settle(cluster: &Cluster) -> u64 {
    let load = cluster.start_load(2);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
    cluster.active().await.unwrap().position
}

/// Takes all messages out of the nodes' queues, of which those of these nodes have so many, and ends the hearts.
async fn lose_the_way(cluster: &mut Cluster, by_hand: &ByHand, nodes: &[u32], messages: u32) {
    for heart in [0, 1] {
        cluster.take_heart(heart).kill();
    }
    for id in NODES {
        let messages = if nodes.contains(&id) { messages } else { 0 };
        by_hand.purge_all_of(&cluster.queue(id), messages).await;
    }
}

/// Starts both hearts and these nodes.
fn start_again(cluster: &mut Cluster, nodes: &[u32]) {
    for heart in [0, 1] {
        cluster.start_heart(heart);
    }
    for id in nodes {
        cluster.start_node(*id);
    }
}

#[tokio::test]
async fn a_message_that_nobody_has_is_named_and_given_up_when_a_human_says_so() {
    let broker = Broker::shared().await;
    let mut cluster = start(&broker.url()).await;
    let kept = settle(&cluster).await;
    for id in NODES {
        cluster.take_node(id).kill();
    }
    // More than the head queue holds: the end is known, the way to it is not.
    let active = cluster.active_heart().await.unwrap();
    for number in 0..40 {
        cluster.heart(active).put("lost", &number.to_string(), &json!(1), None).await.unwrap();
    }
    lose_the_way(&mut cluster, &broker.by_hand().await, &NODES, 40).await;
    start_again(&mut cluster, &NODES);
    wait_for("all nodes to miss it", RECOVERY, async || {
        let status = cluster.active().await?;
        let misses = |node: &ReportedNode| node.missing == Some(kept + 1) && node.state == "repairing";
        let all_miss = status.nodes.len() == 3 && status.nodes.iter().all(misses);
        if all_miss { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(cluster.active().await.unwrap().position, kept + 40, "nothing is given up unasked");
    let started = Instant::now();
    cluster.list_nodes(&NODES, Some(kept + 1));
    let ready = cluster.wait_until_ready().await;
    println!("loss accepted: ready after {:.1?}", started.elapsed());
    assert_eq!(ready.position, kept);
    settle(&cluster).await;
}

#[tokio::test]
async fn a_node_that_comes_back_ahead_with_writes_that_were_given_up_is_rebuilt() {
    come_back_with_20_that_were_given_up(5).await;
}

#[tokio::test]
async fn a_node_that_comes_back_behind_with_writes_that_were_given_up_is_rebuilt() {
    come_back_with_20_that_were_given_up(60).await;
}

/// The cluster has made so many others meanwhile, in one message.
async fn come_back_with_20_that_were_given_up(others: u32) {
    let broker = Broker::shared().await;
    let by_hand = broker.by_hand().await;
    let mut cluster = start(&broker.url()).await;
    let kept = settle(&cluster).await;
    for id in [1, 2] {
        cluster.take_node(id).kill();
    }
    let active = cluster.active_heart().await.unwrap();
    for number in 0..20 {
        let written =
            cluster.heart(active).put_with_ack(&format!("lost-{number}"), &json!(1), "one", "10s").await;
        assert_eq!(written.unwrap().status, 200);
    }
    cluster.take_node(3).kill();
    lose_the_way(&mut cluster, &by_hand, &[1, 2], 20).await;
    by_hand.purge(&cluster.names().head_queue()).await;
    start_again(&mut cluster, &[1, 2]);
    cluster
        .wait_for_seal(&format!("waits for node 3 to say what it has. The highest known position is {kept}"))
        .await;
    cluster.list_nodes(&NODES, Some(kept + 1));
    cluster.wait_until_ready().await;
    let put =
        |number: u32| json!({"op": "put", "collection": "new", "key": number.to_string(), "value": number});
    // The other one may not know yet who is active.
    let active = cluster.active_heart().await.unwrap();
    let written = cluster.heart(active).write(&(0..others).map(put).collect::<Vec<_>>()).await.unwrap();
    for (seq, number) in (written.first..).zip(0..others) {
        cluster.oracle.acknowledged("new", &number.to_string(), Some(&json!(number)), seq, 1);
    }
    let started = Instant::now();
    cluster.start_node(3);
    cluster.converge().await;
    println!("a node of a history that was given up: rebuilt after {:.1?}", started.elapsed());
    let status = cluster.active().await.unwrap();
    assert_eq!(status.nodes.iter().map(|node| node.rebuilds).collect::<Vec<_>>(), [0, 0, 1], "{status:?}");
}

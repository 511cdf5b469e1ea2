//! What every queue has lost is still in the memory of a heart, and comes from there.

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, send, wait_for};
use broadcast_tests::standalone::{Cluster, RECOVERY};
use reqwest::Method;
use serde_json::{Value, json};

/// How many writes there are before the nodes end, and how many after.
const BEFORE: u32 = 3;
const AFTER: u32 = 4;

/// A cluster of two nodes that have ended, and what the active heart has confirmed since.
async fn write_without_nodes(broker: &Broker) -> Cluster {
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    write(&cluster, BEFORE).await;
    cluster.converge().await;
    for id in [1, 2] {
        cluster.take_node(id).kill();
    }
    write(&cluster, AFTER).await;
    cluster
}

/// Each of these is a message.
async fn write(cluster: &Cluster, count: u32) {
    for number in 0..count {
        let (key, value) = (format!("{}-{number}", cluster.oracle.count()), json!(number));
        let written = cluster.heart(0).put("users", &key, &value, None).await.unwrap();
        cluster.oracle.acknowledged("users", &key, Some(&value), written.last, 1);
    }
}

async fn purge_queues_of_nodes(cluster: &Cluster, broker: &Broker) {
    let by_hand = broker.by_hand().await;
    for id in [1, 2] {
        by_hand.purge_all_of(&cluster.queue(id), AFTER).await;
    }
}

/// The first sequence numbers of the messages that somebody serves.
async fn read_log(peer: &Client, after: u32) -> Vec<u64> {
    let answer = send(peer.request(Method::GET, &format!("v1/log?after={after}"))).await.unwrap();
    let lines = answer.text().await.unwrap();
    let first = |line: &str| serde_json::from_str::<Value>(line).unwrap()["first"].as_u64().unwrap();
    lines.lines().map(first).collect()
}

/// The nodes come back one after the other: the first one has no other node to ask.
async fn bring_nodes_back(cluster: &mut Cluster) {
    for id in [1, 2] {
        cluster.start_node(id);
        cluster.converge().await;
    }
}

#[tokio::test]
async fn what_the_queues_of_all_nodes_lost_comes_from_the_heart_that_confirmed_it() {
    let broker = Broker::shared().await;
    let mut cluster = write_without_nodes(&broker).await;
    purge_queues_of_nodes(&cluster, &broker).await;
    let expected: Vec<u64> = (BEFORE + 1..=BEFORE + AFTER).map(u64::from).collect();
    assert_eq!(read_log(cluster.heart(0), BEFORE).await, expected);
    bring_nodes_back(&mut cluster).await;
}

#[tokio::test]
async fn what_the_queues_of_all_nodes_lost_comes_from_the_next_heart_that_found_it_in_the_head_queue() {
    let broker = Broker::shared().await;
    let mut cluster = write_without_nodes(&broker).await;
    cluster.take_heart(0).kill();
    purge_queues_of_nodes(&cluster, &broker).await;
    cluster.start_heart(1);
    wait_for("the next heart to be active", RECOVERY, async || cluster.active().await).await;
    let expected: Vec<u64> = (BEFORE + 1..=BEFORE + AFTER).map(u64::from).collect();
    assert_eq!(read_log(cluster.heart(1), BEFORE).await, expected);
    bring_nodes_back(&mut cluster).await;
}

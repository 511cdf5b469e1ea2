//! A node that is asked to takes another node's rows, and whatever happens meanwhile has those or its own.

use std::time::Duration;

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, Refused, send, wait_for};
use broadcast_tests::standalone::{Cluster, RECOVERY};
use reqwest::Method;
use serde_json::{Value, json};

async fn rebuild(node: &Client) -> Result<Value, Refused> {
    send(node.request(Method::POST, "v1/rebuild")).await?.json().await.map_err(|error| panic!("{error}"))
}

async fn rebuilds(cluster: &Cluster, id: u32) -> u64 {
    let status = cluster.active().await.unwrap();
    status.nodes.iter().find(|node| node.id == id).unwrap().rebuilds
}

#[tokio::test]
async fn a_node_is_rebuilt_while_writes_go_on_and_what_it_had_is_put_aside() {
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 3).await;
    let load = cluster.start_load(2);
    load.progress(100).await;
    let before = cluster.node(2).node_status().await.unwrap();
    let rebuilt = rebuild(cluster.node(2)).await.unwrap();
    assert!(rebuilt["position"].as_u64().unwrap() >= before.applied, "{rebuilt} {before:?}");
    assert_eq!(rebuilt["node"], 2);
    load.progress(100).await;
    load.finish().await;
    cluster.converge().await;
    assert_eq!((rebuilds(&cluster, 1).await, rebuilds(&cluster, 2).await), (0, 1));
    assert!(cluster.database(2).with_file_name("node.db.quarantined").exists());
    assert!(!cluster.database(2).with_file_name("node.db.new").exists());
}

#[tokio::test]
async fn the_last_node_that_has_the_rows_keeps_them_and_says_why() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let load = cluster.start_load(2);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
    cluster.take_node(1).kill();
    let refused = rebuild(cluster.node(2)).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (409, "not_rebuilt"), "{refused:?}");
    assert!(refused.message.contains("keeps what it has: no peer has"), "{refused:?}");
    cluster.put("users", "1", &json!("it goes on")).await;
    cluster.start_node(1);
    cluster.converge().await;
    // Each waits for the other, or one is done before the other begins.
    for _ in 0..5 {
        let both = tokio::join!(rebuild(cluster.node(1)), rebuild(cluster.node(2)));
        for result in [both.0, both.1] {
            assert!(result.as_ref().err().is_none_or(|refused| refused.status == 409), "{result:?}");
        }
        cluster.put("users", "1", &json!("and on")).await;
        cluster.converge().await;
    }
}

#[tokio::test]
async fn a_node_that_is_killed_while_it_is_rebuilt_has_the_old_rows_or_the_new_ones() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let value = json!("x".repeat(50_000));
    for key in 0..200 {
        cluster.put("large", &key.to_string(), &value).await;
    }
    cluster.converge().await;
    for delay in [1, 5, 20, 50, 100, 200] {
        let node = cluster.node(2).clone();
        let asked = tokio::spawn(async move { rebuild(&node).await });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        cluster.take_node(2).kill();
        let is_done = asked.await.unwrap().is_ok();
        // Nobody can help it: what it has now is what it has.
        cluster.take_node(1).kill();
        cluster.start_node(2);
        let position = cluster.oracle.highest();
        wait_for("the node to have all its rows", RECOVERY, async || {
            let status = cluster.node(2).node_status().await.map_err(|refused| format!("{refused:?}"))?;
            if (status.applied, status.rows) == (position, 200) { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        println!("killed after {delay} ms: rebuilt before that: {is_done}");
        cluster.start_node(1);
        cluster.converge().await;
    }
}

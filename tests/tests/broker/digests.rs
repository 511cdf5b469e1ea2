//! A node that has other rows than the others is named by the heart, and rebuilt.

use broadcast_protocol::digest::Digest;
use broadcast_tests::broker::Broker;
use broadcast_tests::client::wait_for;
use broadcast_tests::report::{Counted, count};
use broadcast_tests::standalone::{Cluster, RECOVERY};
use rusqlite::Connection;
use serde_json::{Value, json};

async fn write(cluster: &Cluster, key: &str) {
    let written = cluster.heart(0).put("users", key, &json!(key), None).await.unwrap();
    cluster.oracle.acknowledged("users", key, Some(&json!(key)), written.last, 1);
}

#[tokio::test]
async fn a_node_with_another_digest_than_most_is_named_and_rebuilt_without_a_word_from_its_own_scrub() {
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 3).await;
    write(&cluster, "before").await;
    cluster.converge().await;
    // As if it had written something else than the others: its own bookkeeping is consistent in time.
    count(Counted::Faults, 1);
    let mut other = Digest::default();
    other.add("users", "before", "\"else\"", 1);
    let file = Connection::open(cluster.database(3)).unwrap();
    file.busy_timeout(RECOVERY).unwrap();
    file.execute("UPDATE _broadcast_state SET digest = ?", [other.to_string()]).unwrap();
    drop(file);
    write(&cluster, "after").await;

    wait_for("node 3 to be rebuilt", RECOVERY, async || {
        let status: Value =
            cluster.heart(0).get("v1/status").await.map_err(|refused| format!("{refused:?}"))?;
        let node = status["nodes"].as_array().unwrap().iter().find(|node| node["id"] == 3);
        let is_rebuilt = node.is_some_and(|node| node["rebuilds"] == 1 && node.get("disagrees").is_none());
        if is_rebuilt { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let log = cluster.heart_process(0).output();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("other rows than most")), "{log}");
    let log = cluster.node_process(3).output();
    assert!(log.contains("most nodes have"), "the heart's word made it look: {log}");
    cluster.converge().await;
    let status = cluster.active().await.unwrap();
    let rebuilds: Vec<u64> = status.nodes.iter().map(|node| node.rebuilds).collect();
    assert_eq!(rebuilds, [0, 0, 1], "{status:?}");
}

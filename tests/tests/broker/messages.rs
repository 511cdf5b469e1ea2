//! The broker carries and may not be trusted: what it loses comes from peers, what does not belong there is set aside.

use broadcast_protocol::chain::Position;
use broadcast_protocol::envelope::{Term, WriteMessage};
use broadcast_protocol::write::{Write, WriteBatch};
use broadcast_tests::broker::Broker;
use broadcast_tests::client::wait_for;
use broadcast_tests::standalone::{Cluster, RECOVERY};
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use serde_json::json;

/// A message that is right in itself, at the beginning of the history of `cluster`.
fn first_message(cluster: &str) -> String {
    let mut batch = WriteBatch::default();
    let write = r#"{"op":"put","collection":"forged","key":"k","value":"forged"}"#;
    batch.push(&Write::parse(write, "write").unwrap());
    let message = WriteMessage::new(cluster, Term::new(1, 1), Position::genesis(cluster), 0, batch);
    String::from_utf8(message.body().to_vec()).unwrap()
}

#[tokio::test]
async fn what_does_not_belong_on_the_exchange_is_set_aside_by_every_node_and_they_go_on() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let own =
        format!("{}/{}", cluster.names().exchange(), cluster.names().exchange().trim_end_matches("_fanout"));
    let garbage = [
        "no JSON".to_owned(),
        String::new(),
        "{}".to_owned(),
        first_message("another/cluster"),
        first_message(&own).replace("\"forged\"}", "\"changed\"}"),
    ];
    let load = cluster.start_load(2);
    load.progress(50).await;
    let by_hand = broker.by_hand().await;
    for body in &garbage {
        by_hand.publish(cluster.names().exchange(), "write", body.as_bytes()).await;
    }
    load.progress(50).await;
    // A heart that starts now finds the garbage among the newest messages.
    cluster.take_heart(0).kill();
    cluster.start_heart(0);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;

    let status = cluster.active().await.unwrap();
    assert_eq!(status.nodes.iter().map(|node| node.malformed).collect::<Vec<_>>(), [5, 5], "{status:?}");
    let mut dead = by_hand.drain(&cluster.names().dead_queue()).await;
    let mut expected: Vec<Vec<u8>> =
        garbage.iter().chain(&garbage).map(|body| body.clone().into_bytes()).collect();
    dead.sort();
    expected.sort();
    assert_eq!(dead, expected, "each node's copy of each");
}

#[tokio::test]
async fn a_message_says_whether_somebody_waits_until_it_is_applied() {
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 1).await;
    let by_hand = broker.by_hand().await;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = by_hand.channel().queue_declare("".into(), options, FieldTable::default()).await.unwrap();
    let (name, exchange) = (queue.name(), cluster.names().exchange().into());
    let bind = by_hand.channel().queue_bind(
        name.clone(),
        exchange,
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bind.await.unwrap();
    for (ack, awaited) in [("broker", false), ("one", true), ("broker", false), ("all", true)] {
        cluster.heart(0).put_with_ack("k", &json!(ack), ack, "20s").await.unwrap();
        let headers = loop {
            let message = by_hand.channel().basic_get(name.clone(), BasicGetOptions { no_ack: true }).await;
            // Marks are in it too.
            if let Some(message) = message.unwrap()
                && message.delivery.properties.kind().as_ref().map(ShortString::as_str) == Some("write")
            {
                break message.delivery.properties.headers().clone().unwrap_or_default();
            }
        };
        assert_eq!(headers.contains_key("awaited"), awaited, "ack={ack}");
    }
}

#[tokio::test]
async fn a_message_of_a_newer_version_is_kept_and_the_node_says_so() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 1).await;
    let own =
        format!("{}/{}", cluster.names().exchange(), cluster.names().exchange().trim_end_matches("_fanout"));
    let by_hand = broker.by_hand().await;
    let newer = json!({"v": 2, "cluster": own, "epoch": 1, "something": "new"}).to_string();
    by_hand.publish(cluster.names().exchange(), "write", newer.as_bytes()).await;
    wait_for("the node to say why it is not ready", RECOVERY, async || {
        match cluster.node_readiness(1).await {
            Err(reason) if reason.contains("version 2") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    cluster.take_heart(0).kill();
    cluster.take_node(1).kill();
    wait_for("the message to be back in the queue", RECOVERY, async || {
        let bodies = by_hand.drain(&cluster.queue(1)).await;
        if bodies.contains(&newer.clone().into_bytes()) {
            Ok(())
        } else {
            Err(format!("{} messages", bodies.len()))
        }
    })
    .await;
    assert_eq!(by_hand.depth(&cluster.names().dead_queue()).await, 0);
}

#[tokio::test]
async fn a_node_whose_queue_was_deleted_while_it_was_down_gets_everything_from_its_peer() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let load = cluster.start_load(4);
    load.progress(100).await;
    cluster.take_node(2).kill();
    broker.by_hand().await.delete_queue(&cluster.queue(2)).await;
    load.progress(300).await;
    cluster.start_node(2);
    load.progress(100).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_node_whose_queue_was_purged_while_it_was_down_gets_everything_from_its_peer() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let load = cluster.start_load(4);
    load.progress(100).await;
    cluster.take_node(2).kill();
    load.progress(300).await;
    broker.by_hand().await.purge(&cluster.queue(2)).await;
    load.progress(100).await;
    cluster.start_node(2);
    load.progress(100).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_purged_last_message_is_missed_without_another_write() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    cluster.take_node(2).kill();
    let written = cluster.heart(0).put("users", "last", &json!(1), None).await.unwrap();
    cluster.oracle.acknowledged("users", "last", Some(&json!(1)), written.last, 1);
    broker.by_hand().await.purge(&cluster.queue(2)).await;
    cluster.start_node(2);
    cluster.converge().await;
}

#[tokio::test]
async fn a_queue_deleted_under_a_running_node_is_made_again() {
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 2).await;
    let load = cluster.start_load(4);
    load.progress(100).await;
    broker.by_hand().await.delete_queue(&cluster.queue(2)).await;
    load.progress(300).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_node_that_joins_late_gets_everything_from_its_peers() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::prepare(&broker.url(), 3);
    cluster.start_heart(0);
    cluster.start_node(1);
    cluster.start_node(2);
    cluster.wait_until_ready().await;
    let load = cluster.start_load(4);
    load.progress(500).await;
    cluster.start_node(3);
    load.progress(200).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_heart_that_does_not_know_where_the_history_ends_takes_no_writes_and_says_so() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let load = cluster.start_load(2);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
    let before = cluster.node(1).node_status().await.unwrap();
    cluster.take_heart(0).kill();
    // For as long as one of those that there are is away, nobody can say that there was nothing else.
    cluster.take_node(2).kill();
    cluster.list_nodes(&[1, 2], None);
    broker.by_hand().await.purge(&cluster.names().head_queue()).await;
    cluster.start_heart(0);
    let reason = cluster.wait_for_seal("waits for node 2 to say").await;
    assert!(reason.contains(&format!("position is {};", before.applied)), "{reason}");
    let refused = cluster.heart(0).put("users", "1", &json!(1), None).await.unwrap_err();
    assert_eq!(refused.status, 503, "{refused:?}");
    let node = cluster.node(1).node_status().await.unwrap();
    assert_eq!((node.applied, &node.digest, node.state.as_str()), (before.applied, &before.digest, "ready"));
    cluster.start_node(2);
    cluster.wait_until_ready().await;
    cluster.converge().await;
}

//! Garbage on the exchange, published by hand: every node puts it aside and goes on.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use broadcast_api::ConditionType;
use broadcast_protocol::chain::Position;
use broadcast_protocol::envelope::{Term, WriteMessage};
use broadcast_protocol::write::{Write, WriteBatch};
use broadcast_tests::client::{Client, wait_for};
use broadcast_tests::cluster::broker::Broker;
use broadcast_tests::cluster::resource::{condition, wait_for_agreement};
use broadcast_tests::cluster::{self, Scenario};
use kube::ResourceExt;
use serde_json::json;

const NODES: u32 = 2;

/// How long nodes may take to meet a message.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(30);

/// How long another heart may take to be found active.
const TAKE_OVER_PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn garbage_is_put_aside_by_every_node_and_writes_go_on() {
    cluster::run("bad-messages", async |stage| {
        stage.apply(&stage.sample("orders", NODES)).await;
        let ready = stage.wait_until_ready("orders", NODES).await;
        let heart = stage.heart("orders").await;
        let nodes = stage.nodes("orders", 1..=NODES).await;
        heart.put("users", "1", &json!("before"), None).await.unwrap();
        let broker = stage.connect_to_broker().await;

        let garbage = build_garbage(&ready.uid().unwrap());
        for body in &garbage {
            broker.publish(&stage.broker_name("orders"), body).await;
        }
        check_dead_letters(stage, &broker, &garbage).await;
        write_and_read(&heart, &nodes, "after").await;
        for node in heart.heart_status().await.unwrap().nodes {
            assert_eq!((node.state.as_str(), node.malformed), ("ready", garbage.len() as u64), "{node:?}");
        }

        // The same messages stand in the queue from which the next heart learns where the last one was.
        let epoch = heart.heart_status().await.unwrap().epoch;
        for pod in stage.running_pods("orders-heart-").await {
            stage.kill(&pod);
        }
        wait_for("another heart", TAKE_OVER_PATIENCE, async || {
            let put = heart.put("users", "1", &json!("another heart"), Some("another heart")).await;
            let written = put.map_err(|refused| format!("{refused:?}"))?;
            if written.epoch > epoch { Ok(()) } else { Err(format!("{written:?}")) }
        })
        .await;
        write_and_read(&heart, &nodes, "in the end").await;

        let transition = |resource| {
            condition(&resource, ConditionType::NodesReady).map(|found| found.last_transition_time.clone())
        };
        assert_eq!(
            transition(stage.fetch("orders").await),
            transition(ready),
            "a node was not ready for a while"
        );
    });
}

/// No JSON; not a message; another cluster's; one whose hash is not that of its bytes; an empty one.
fn build_garbage(cluster: &str) -> Vec<Vec<u8>> {
    let write =
        Write::parse(r#"{"op":"put","collection":"users","key":"1","value":"evil"}"#, "write").unwrap();
    let mut batch = WriteBatch::default();
    batch.push(&write);
    let of = |cluster: &str| {
        WriteMessage::new(cluster, Term::new(1, 1), Position::genesis(cluster), 0, batch.clone())
    };
    let genuine = String::from_utf8(of(cluster).body().to_vec()).unwrap();
    let broken = genuine.replace("evil", "worse");
    assert_ne!(genuine, broken);
    let texts = ["this is no JSON", r#"{"v":1}"#, "", &broken];
    let mut garbage: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    garbage.push(of("another cluster").body().to_vec());
    garbage
}

/// Each of the nodes rejects each of the messages.
async fn check_dead_letters(stage: &Scenario, broker: &Broker, garbage: &[Vec<u8>]) {
    let queue = format!("{}_dead", stage.broker_name("orders"));
    let count = garbage.len() * NODES as usize;
    wait_for("the dead letters", DELIVERY_PATIENCE, async || {
        let depth = broker.depth(&queue).await;
        if depth.is_some_and(|depth| depth as usize == count) {
            Ok(())
        } else {
            Err(format!("{depth:?} of {count}"))
        }
    })
    .await;
    let letters = broker.drain(&queue).await;
    for body in garbage {
        let copies = letters.iter().filter(|letter| *letter == body).count();
        assert_eq!(copies, NODES as usize, "{}", String::from_utf8_lossy(body));
    }
}

async fn write_and_read(heart: &Client, nodes: &[Client], value: &str) {
    let written = heart.put("users", "1", &json!(value), None).await.unwrap();
    for node in nodes {
        let document = node.read("users", "1", written.last, "10s").await.unwrap();
        assert_eq!(document.value, json!(value));
    }
    wait_for_agreement(nodes, written.last).await;
}

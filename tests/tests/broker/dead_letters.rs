//! What nodes reject is listed by the heart, stays where it is, and can be given back.

use std::time::Duration;

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, send, wait_for};
use broadcast_tests::standalone::{Cluster, RECOVERY};
use reqwest::Method;
use serde_json::{Value, json};

const GARBAGE: &str = "this is no JSON";

/// What a heart says of the dead letters, once there are so many.
async fn list(heart: &Client, count: usize) -> Vec<Value> {
    wait_for("the dead letters", RECOVERY, async || {
        let listing: Value = heart.get("v1/dead-letters").await.map_err(|refused| format!("{refused:?}"))?;
        let letters = listing["letters"].as_array().unwrap().clone();
        let is_whole = (letters.len(), &listing["total"]) == (count, &json!(count));
        if is_whole { Ok(letters) } else { Err(listing.to_string()) }
    })
    .await
}

fn ids(letters: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> =
        letters.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

async fn replay(heart: &Client, which: Value) -> Value {
    let request = heart.request(Method::POST, "v1/dead-letters/replay").json(&which);
    send(request).await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn letters_are_shown_as_often_as_somebody_asks_and_come_back_when_a_node_rejects_them_again() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::prepare(&broker.url(), 2);
    cluster.start_all(2).await;
    assert_eq!(list(cluster.heart(0), 0).await, [] as [Value; 0]);
    broker.by_hand().await.publish(cluster.names().exchange(), "write", GARBAGE.as_bytes()).await;
    let letters = list(cluster.heart(0), 2).await;
    let mut nodes: Vec<&Value> = letters.iter().map(|letter| &letter["node"]).collect();
    nodes.sort_by_key(|node| node.as_u64());
    assert_eq!(nodes, [1, 2]);
    for letter in &letters {
        let queue = cluster.queue(u32::try_from(letter["node"].as_u64().unwrap()).unwrap());
        assert_eq!((&letter["queue"], &letter["reason"]), (&json!(queue), &json!("rejected")), "{letter}");
        assert_eq!((&letter["body"], &letter["bytes"]), (&json!(GARBAGE), &json!(GARBAGE.len())), "{letter}");
        assert!(letter["problem"].is_string() && letter["at"].as_u64() > Some(0), "{letter}");
    }
    // Whichever heart is asked, active or not.
    assert_eq!(ids(&list(cluster.heart(1), 2).await), ids(&letters));

    // The time is part of an id, in seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let first = letters[0]["id"].as_str().unwrap();
    let replayed = replay(cluster.heart(1), json!({"ids": [first, "nobody"]})).await;
    assert_eq!(replayed, json!({"replayed": 1, "unknown": ["nobody"], "left": 0}));
    let after = list(cluster.heart(0), 2).await;
    assert!(!ids(&after).contains(&first.to_owned()), "{after:?}");
    assert!(ids(&after).contains(&letters[1]["id"].as_str().unwrap().to_owned()), "{after:?}");
    let status = cluster.active().await.unwrap();
    assert_eq!(status.nodes.iter().map(|node| node.malformed).sum::<u64>(), 3, "{status:?}");

    let load = cluster.start_load(2);
    load.progress(20).await;
    assert_eq!(replay(cluster.heart(0), json!({"all": true})).await, json!({"replayed": 2, "left": 0}));
    list(cluster.heart(0), 2).await;
    load.progress(20).await;
    load.finish().await;
    cluster.converge().await;
    assert_eq!(cluster.active().await.unwrap().epoch, status.epoch, "no reign ended by that");
}

#[tokio::test]
async fn a_letter_whose_queue_is_gone_stays_and_one_that_is_given_back_waits_for_its_node() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let by_hand = broker.by_hand().await;
    by_hand.publish(cluster.names().exchange(), "write", GARBAGE.as_bytes()).await;
    let letters = list(cluster.heart(0), 2).await;
    let of = |node: u32| letters.iter().find(|letter| letter["node"] == node).unwrap()["id"].clone();
    for node in [1, 2] {
        cluster.take_node(node).kill();
    }
    by_hand.delete_queue(&cluster.queue(2)).await;
    let before = by_hand.depth(&cluster.queue(1)).await;
    let replayed = replay(cluster.heart(0), json!({"all": true})).await;
    assert_eq!((&replayed["replayed"], &replayed["kept"][0]["id"]), (&json!(1), &of(2)), "{replayed}");
    assert!(replayed["kept"][0]["problem"].as_str().unwrap().contains("is gone"), "{replayed}");
    assert_eq!(ids(&list(cluster.heart(0), 1).await), [of(2)]);
    let bodies = by_hand.drain(&cluster.queue(1)).await;
    assert!(bodies.len() > before as usize && bodies.contains(&GARBAGE.as_bytes().to_vec()));
    for node in [1, 2] {
        cluster.start_node(node);
    }
    cluster.wait_until_ready().await;
    assert_eq!(replay(cluster.heart(0), json!({"ids": [of(2)]})).await["replayed"], 1);
    cluster.converge().await;
}

//! What clients are promised: a write reaches every node, at the level they ask for, once; what is wrong is refused whole.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use broadcast_protocol::write::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, Refused, send, send_write, wait_for};
use broadcast_tests::standalone::{Cluster, RECOVERY};
use reqwest::Method;
use serde_json::{Value, json};

/// Every kind of write, read back from every node.
async fn write_and_read_back(cluster: &Cluster) {
    let (heart, oracle) = (cluster.heart(0), &cluster.oracle);
    let ada = json!({"name": "Ada", "text": "\u{1F600} \"quoted\"\n", "numbers": [1, -2.5, 1e30, null]});
    let written = heart.put("users", "a/b c?ü", &ada, None).await.unwrap();
    oracle.acknowledged("users", "a/b c?ü", Some(&ada), written.last, 1);

    let writes = [
        json!({"op": "put", "collection": "users", "key": "1", "value": 1}),
        json!({"op": "put", "collection": "users", "key": "2", "value": null}),
        json!({"op": "delete", "collection": "users", "key": "1"}),
    ];
    let batch = heart.write(&writes).await.unwrap();
    assert_eq!((batch.first, batch.last), (written.last + 1, written.last + 3));
    oracle.acknowledged("users", "2", Some(&Value::Null), batch.first + 1, 1);
    oracle.acknowledged("users", "1", Some(&json!(1)), batch.first, 1);
    oracle.acknowledged("users", "1", None, batch.last, 1);

    let line = |key: u32| json!({"op": "put", "collection": "lines", "key": key.to_string(), "value": [key]});
    let lines: Vec<String> = (0..2_000).map(|key| format!("{}\n", line(key))).collect();
    let many = heart.write_ndjson(lines.concat()).await.unwrap();
    assert_eq!(many.last - many.first + 1, 2_000);
    for (seq, key) in (many.first..).zip(0..2_000) {
        oracle.acknowledged("lines", &key.to_string(), Some(&json!([key])), seq, 1);
    }
    let deleted = heart.delete("lines", "7", None).await.unwrap();
    oracle.acknowledged("lines", "7", None, deleted.last, 1);

    for id in 1..=3 {
        let node = cluster.node(id);
        let document = node.read("users", "a/b c?ü", deleted.last, "10s").await.unwrap();
        assert_eq!((document.value, document.seq), (ada.clone(), written.last), "node {id}");
        assert!(document.position >= deleted.last, "node {id}");
        assert_eq!(node.read("lines", "7", deleted.last, "10s").await.unwrap_err().status, 404, "node {id}");
    }
    cluster.converge().await;
}

#[tokio::test]
async fn every_kind_of_write_reaches_every_node() {
    let broker = Broker::shared().await;
    write_and_read_back(&Cluster::start(&broker.url(), 3).await).await;
}

#[tokio::test]
async fn quorum_queues_carry_the_same_writes() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::prepare(&broker.url(), 3);
    cluster.settings = "queue_type: quorum\n".to_owned();
    cluster.start_all(1).await;
    write_and_read_back(&cluster).await;
    let load = cluster.start_load(4);
    load.progress(100).await;
    cluster.take_node(2).kill();
    load.progress(100).await;
    cluster.start_node(2);
    load.progress(100).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn many_clients_at_once_share_messages_and_get_numbers_of_their_own() {
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 3).await;
    let load = cluster.start_load(16);
    load.progress(2_000).await;
    assert_eq!(load.finish().await, 0, "nothing failed, so nothing was tried again");
    cluster.converge().await;
}

#[tokio::test]
async fn a_write_waits_for_one_a_quorum_or_all_nodes_and_says_when_it_did_not_get_them() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 3).await;
    for ack in ["broker", "one", "quorum", "all"] {
        let written = cluster.heart(0).put_with_ack(ack, &json!(1), ack, "10s").await.unwrap();
        assert_eq!((written.status, written.ack.as_str()), (200, ack));
        if ack == "all" {
            for id in 1..=3 {
                let document = cluster.node(id).read("users", "all", 0, "0s").await.unwrap();
                assert_eq!(document.seq, written.last, "node {id} was asked after it had applied the write");
            }
        }
        cluster.oracle.acknowledged("users", ack, Some(&json!(1)), written.last, 1);
    }
    cluster.take_node(3).kill();
    for (ack, timeout, status) in [("all", "1s", 202), ("quorum", "10s", 200), ("one", "10s", 200)] {
        let key = format!("{ack}-without-3");
        let written = cluster.heart(0).put_with_ack(&key, &json!(2), ack, timeout).await.unwrap();
        assert_eq!(written.status, status, "{written:?}");
        assert_eq!(written.ack == ack, status == 200, "{written:?}");
        cluster.oracle.acknowledged("users", &key, Some(&json!(2)), written.last, 1);
    }
    cluster.start_node(3);
    cluster.converge().await;
}

#[tokio::test]
async fn a_request_id_applies_once() {
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 2).await;
    let heart = cluster.heart(0);
    let first = heart.put("users", "k", &json!("first"), Some("id-1")).await.unwrap();
    cluster.oracle.acknowledged("users", "k", Some(&json!("first")), first.last, 1);
    let second = heart.put("users", "k", &json!("second"), Some("id-2")).await.unwrap();
    heart.put("users", "k", &json!("first"), Some("id-1")).await.unwrap();
    let batch = [json!({"op": "delete", "collection": "users", "key": "k", "id": "id-1"})];
    heart.write(&batch).await.unwrap();
    assert!(first.last < second.last);
    cluster.oracle.acknowledged("users", "k", Some(&json!("second")), second.last, 1);
    cluster.converge().await;
}

#[tokio::test]
async fn a_wrong_request_is_refused_with_the_place_and_nothing_of_it_is_taken() {
    const JSON: &str = "application/json";
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 1).await;
    let good = r#"{"op":"put","collection":"c","key":"k","value":1}"#;
    let posts = [
        ("v1/writes", JSON, "{".to_owned(), 400, "line 1"),
        ("v1/writes", JSON, r#"{"writes":[]}"#.to_owned(), 400, "writes: empty"),
        ("v1/writes", JSON, format!(r#"{{"writes":[{good}],"more":1}}"#), 400, "more"),
        (
            "v1/writes",
            JSON,
            format!(r#"{{"writes":[{good},{{"op":"put"}}]}}"#),
            400,
            "writes[1]: missing field",
        ),
        (
            "v1/writes",
            JSON,
            format!(r#"{{"writes":[{}]}}"#, good.replace("\"k\"", "\"\"")),
            400,
            "writes[0].key",
        ),
        (
            "v1/writes",
            JSON,
            format!(r#"{{"writes":[{good},{}]}}"#, good.replace("\"c\"", "\"C\"")),
            400,
            "writes[1].collection",
        ),
        (
            "v1/writes",
            JSON,
            format!(r#"{{"writes":[{}]}}"#, good.replace("put", "patch")),
            400,
            "writes[0]: unknown variant",
        ),
        ("v1/writes", "application/x-ndjson", format!("{good}\n\nnonsense\n"), 400, "writes[1]"),
        ("v1/writes", "text/plain", format!(r#"{{"writes":[{good}]}}"#), 415, "application/json"),
        ("v1/writes?akc=all", JSON, format!(r#"{{"writes":[{good}]}}"#), 400, "akc"),
        ("v1/writes?ack=most", JSON, format!(r#"{{"writes":[{good}]}}"#), 400, "most"),
        ("v1/writes?timeout=5", JSON, format!(r#"{{"writes":[{good}]}}"#), 400, "ms"),
        ("v1/else", JSON, String::new(), 404, "v1/else"),
        ("v1/status", JSON, String::new(), 405, "POST"),
    ];
    for (path, content_type, body, status, place) in posts {
        let shown: String = body.chars().take(200).collect();
        let request =
            cluster.heart(0).request(Method::POST, path).header("content-type", content_type).body(body);
        let refused = send_write(request).await.unwrap_err();
        assert!(refused.status == status && refused.message.contains(place), "{path} {shown}: {refused:?}");
    }
    let puts = [
        ("v1/collections/c/k", "{".to_owned(), 400, "line 1"),
        ("v1/collections/C/k", "1".to_owned(), 400, "collection"),
        ("v1/collections/c/k?if_seq=1", "1".to_owned(), 400, "if_seq"),
        ("v1/collections/c/k", format!("\"{}\"", "x".repeat(300 << 10)), 400, "value"),
    ];
    for (path, body, status, place) in puts {
        let shown: String = body.chars().take(200).collect();
        let request = cluster.heart(0).request(Method::PUT, path).header("content-type", JSON).body(body);
        let refused = send_write(request).await.unwrap_err();
        assert!(refused.status == status && refused.message.contains(place), "{path} {shown}: {refused:?}");
    }
    let answer = announce(cluster.heart(0), 9 << 20);
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("8 MiB"), "{answer}");
    assert_eq!(cluster.active().await.unwrap().position, 0);
    cluster.converge().await;
}

/// The answer to a request that has only announced its body: a client that sends all of it may not get to see one.
fn announce(heart: &Client, length: usize) -> String {
    let address = heart.base().socket_addrs(|| None).unwrap();
    let mut stream = TcpStream::connect(&*address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let fields = format!("content-type: application/json\r\ncontent-length: {length}\r\nconnection: close");
    write!(stream, "POST /v1/writes HTTP/1.1\r\nhost: heart\r\n{fields}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn the_largest_requests_that_are_allowed_reach_the_nodes() {
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 2).await;
    let longest = |key: u32| format!("{key:0MAX_KEY_BYTES$}");
    let largest = json!("x".repeat(MAX_VALUE_BYTES - 2));
    let put = |key: &str, value: &Value| json!({"op": "put", "collection": "c", "key": key, "value": value});
    let large: Vec<(String, Value)> = (0..31).map(|key| (longest(key), largest.clone())).collect();
    let many: Vec<(String, Value)> = (0..10_000).map(|key| (format!("k{key}"), json!(key))).collect();
    for writes in [&large, &many] {
        let request: Vec<Value> = writes.iter().map(|(key, value)| put(key, value)).collect();
        let written = cluster.heart(0).write(&request).await.unwrap();
        for (seq, (key, value)) in (written.first..).zip(writes) {
            cluster.oracle.acknowledged("c", key, Some(value), seq, 1);
        }
    }
    cluster.converge().await;
    let one_more: Vec<Value> = many.iter().chain(&large[..1]).map(|(key, value)| put(key, value)).collect();
    let refused = cluster.heart(0).write(&one_more).await.unwrap_err();
    assert!(refused.status == 400 && refused.message.contains("10000"), "{refused:?}");
    cluster.converge().await;
}

#[tokio::test]
async fn a_wrong_read_is_refused_and_a_number_that_is_not_there_yet_is_waited_for() {
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 1).await;
    let (heart, node) = (cluster.heart(0), cluster.node(1));
    for (path, status, place) in [
        ("v1/collections/c/k", 404, "k"),
        ("v1/collections/c/k?atleast=1", 400, "atleast"),
        ("v1/collections/c/k?at_least=one", 400, ""),
        ("v1/collections/c/k?at_least=1&timeout=1h", 400, "1h"),
        ("v1/collections/c/k?at_least=1&timeout=100ms", 504, "0"),
    ] {
        let refused = send(node.request(Method::GET, path)).await.unwrap_err();
        assert!(refused.status == status && refused.message.contains(place), "{path}: {refused:?}");
    }
    let waiting = node.read("c", "k", 1, "10s");
    let (document, written) = tokio::join!(waiting, heart.put("c", "k", &json!(true), None));
    assert_eq!((document.unwrap().seq, written.unwrap().last), (1, 1));
}

#[tokio::test]
async fn without_a_node_writes_are_refused_until_there_is_one() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::prepare(&broker.url(), 1);
    cluster.start_heart(0);
    wait_for("the heart to be active", RECOVERY, async || cluster.active().await).await;
    let refused = cluster.heart(0).put("users", "1", &json!(1), None).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (503, "no_nodes"), "{refused:?}");
    assert!(refused.retry_after.is_some_and(|seconds| (1..=60).contains(&seconds)), "{refused:?}");
    cluster.start_node(1);
    let written = wait_for("the write to be taken", RECOVERY, async || {
        cluster.heart(0).put("users", "1", &json!(1), None).await.map_err(|refused| format!("{refused:?}"))
    })
    .await;
    cluster.oracle.acknowledged("users", "1", Some(&json!(1)), written.last, 1);
    cluster.converge().await;
}

#[tokio::test]
async fn a_list_of_documents_comes_in_key_order_and_in_pages() {
    let broker = Broker::shared().await;
    let cluster = Cluster::start(&broker.url(), 1).await;
    let put = |key: &str| json!({"op": "put", "collection": "c", "key": key, "value": key});
    let last = cluster.heart(0).write(&["b/2", "a", "b/1", "b/3", "c"].map(put)).await.unwrap().last;
    wait_for("the node to apply it", Duration::from_secs(10), async || {
        let read = cluster.node(1).read("c", "a", last, "5s").await;
        read.map_err(|refused: Refused| format!("{refused:?}"))
    })
    .await;
    let keys = |page: &Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["key"].as_str().unwrap().to_owned())
            .collect()
    };
    let node: &Client = cluster.node(1);
    let page: Value = node.get("v1/collections/c?prefix=b/&limit=2").await.unwrap();
    assert_eq!(keys(&page), ["b/1", "b/2"], "{page}");
    assert_eq!(page["position"], last, "{page}");
    let after = page["next"].as_str().unwrap();
    let request = node.request(Method::GET, "v1/collections/c").query(&[("prefix", "b/"), ("after", after)]);
    let page: Value = send(request).await.unwrap().json().await.unwrap();
    assert_eq!(keys(&page), ["b/3"], "{page}");
    assert_eq!(page["next"], Value::Null, "{page}");
}

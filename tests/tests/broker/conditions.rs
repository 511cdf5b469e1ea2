//! Preconditions and request ids are decided once, alike on all nodes, and the client that waits for a node is told.

use std::sync::Arc;
use std::time::Duration;

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, Refused, Written, send, send_write, wait_for};
use broadcast_tests::oracle::{Row, read_rows};
use broadcast_tests::standalone::{Cluster, RECOVERY};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// What the tests look after themselves: not every acknowledged write is to be found in the rows.
const COLLECTION: &str = "conditions";

const LEVELS: [&str; 4] = ["broker", "one", "quorum", "all"];

/// A write to a key, to be completed.
fn request(heart: &Client, method: Method, key: &str, ack: &str) -> RequestBuilder {
    heart.request(method, &format!("v1/collections/{COLLECTION}/{key}?ack={ack}&timeout=20s"))
}

fn put(heart: &Client, key: &str, ack: &str, value: &Value) -> RequestBuilder {
    request(heart, Method::PUT, key, ack).json(value)
}

/// Stores a value under a request id.
async fn put_once(
    heart: &Client,
    (key, value): (&str, &Value),
    id: &str,
    ack: &str,
) -> Result<Written, Refused> {
    send_write(put(heart, key, ack, value).header("idempotency-key", id)).await
}

/// The same until there is an answer that says what has become of the write.
async fn put_until_told(
    hearts: &[Client],
    (key, value): (&str, &Value),
    id: &str,
    condition: Option<(&str, &str)>,
) -> Result<Written, Refused> {
    let end = Instant::now() + RECOVERY;
    for heart in hearts.iter().cycle() {
        let mut request = put(heart, key, "one", value).header("idempotency-key", id);
        if let Some((name, value)) = condition {
            request = request.header(name, value);
        }
        let answer = send_write(request).await;
        match &answer {
            Ok(written) if written.status == 200 => return answer,
            Err(refused) if [409, 412].contains(&refused.status) => return answer,
            Ok(_) => {}
            Err(refused) => assert!([0, 503].contains(&refused.status), "{refused:?}"),
        }
        assert!(Instant::now() < end, "nobody says what has become of {key}: {answer:?}");
        sleep(Duration::from_millis(50)).await;
    }
    panic!("there are no hearts");
}

/// Asserts that a write was refused in this way, where the level says so.
fn assert_refused(answer: Result<Written, Refused>, ack: &str, status: u16, code: &str) {
    match (answer, ack) {
        (Ok(written), "broker") => assert_eq!((written.status, written.ack.as_str()), (200, "broker")),
        (Err(refused), "one" | "quorum" | "all") => {
            assert_eq!((refused.status, refused.code.as_str()), (status, code), "{refused:?}");
        }
        (other, _) => panic!("{ack}: {other:?}"),
    }
}

fn row(cluster: &Cluster, node: u32, key: &str) -> Option<Row> {
    read_rows(&cluster.database(node)).remove(&(COLLECTION.to_owned(), key.to_owned()))
}

/// Asserts that all of these nodes have this row, once all have applied everything.
async fn assert_rows(cluster: &Cluster, nodes: u32, rows: &[(&str, Option<(Value, u64)>)]) {
    cluster.converge().await;
    for node in 1..=nodes {
        for (key, expected) in rows {
            let found = row(cluster, node, key);
            let found = found.map(|row| (serde_json::from_str::<Value>(&row.value).unwrap(), row.seq));
            assert_eq!(found, *expected, "{key} on node {node}");
        }
    }
}

async fn start(broker: &Broker, hearts: usize, nodes: u32) -> Cluster {
    let mut cluster = Cluster::prepare(&broker.url(), nodes);
    cluster.oracle.leave_out(COLLECTION);
    cluster.start_all(hearts).await;
    for heart in 0..hearts {
        wait_for("each heart to take writes or to know who does", RECOVERY, async || {
            cluster.heart_readiness(heart).await
        })
        .await;
    }
    cluster
}

#[tokio::test]
async fn a_precondition_is_told_at_each_level_above_the_broker() {
    let broker = Broker::shared().await;
    let cluster = start(&broker, 1, 3).await;
    let heart = cluster.heart(0);
    let mut rows = Vec::new();
    for ack in LEVELS {
        let absent = async |value: u64| {
            send_write(put(heart, ack, ack, &json!(value)).header("if-none-match", "*")).await
        };
        let stored_by = async |seq: u64, value: u64| {
            let request = put(heart, ack, ack, &json!(value));
            send_write(request.header("if-match", format!("\"{seq}\""))).await
        };
        let first = absent(1).await.unwrap();
        assert_eq!((first.status, first.ack.as_str()), (200, ack));
        assert_refused(absent(2).await, ack, 412, "precondition_failed");
        let second = stored_by(first.last, 3).await.unwrap();
        assert_eq!((second.status, second.ack.as_str()), (200, ack));
        assert_refused(stored_by(first.last, 4).await, ack, 412, "precondition_failed");
        rows.push((ack, Some((json!(3), second.last))));

        let gone = format!("{ack}-gone");
        let written = send_write(put(heart, &gone, ack, &json!(1))).await.unwrap();
        let delete = async |seq: u64| {
            let request = request(heart, Method::DELETE, &gone, ack);
            send_write(request.header("if-match", format!("\"{seq}\""))).await
        };
        assert_refused(delete(written.last + 1).await, ack, 412, "precondition_failed");
        assert_eq!(delete(written.last).await.unwrap().status, 200);
        for node in 1..=3 {
            let at_least = cluster.active().await.unwrap().position;
            let refused = cluster.node(node).read(COLLECTION, &gone, at_least, "10s").await.unwrap_err();
            assert_eq!(refused.status, 404, "node {node}");
        }
    }
    assert_rows(&cluster, 3, &rows).await;
}

#[tokio::test]
async fn the_answer_to_a_list_names_those_that_changed_nothing() {
    let broker = Broker::shared().await;
    let cluster = start(&broker, 1, 2).await;
    let heart = cluster.heart(0);
    let taken = send_write(put(heart, "taken", "all", &json!(0))).await.unwrap();
    let write = |key: &str, rest: Value| {
        let mut write = json!({"op": "put", "collection": COLLECTION, "key": key, "value": 1});
        write.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        write
    };
    let writes = json!({"writes": [
        write("a", json!({"if": {"absent": true}})),
        write("taken", json!({"if": {"absent": true}})),
        write("b", json!({"id": "list-1"})),
        write("c", json!({"id": "list-1"})),
        write("a", json!({"if": {"absent": true}})),
        write("taken", json!({"if": {"seq": taken.last}})),
    ]});
    for (ack, is_told) in [("broker", false), ("one", true), ("all", true)] {
        let path = format!("v1/writes?ack={ack}&timeout=20s");
        let answer = send(heart.request(Method::POST, &path).json(&writes)).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let answer: Value = answer.json().await.unwrap();
        let (first, last) = (answer["first"].as_u64().unwrap(), answer["last"].as_u64().unwrap());
        assert_eq!((last, &answer["ack"]), (first + 5, &json!(ack)));
        let failed =
            |index: u64| json!({"index": index, "seq": first + index, "reason": "precondition_failed"});
        let reused = |index: u64| json!({"index": index, "seq": first + index, "reason": "id_reused"});
        if is_told {
            // All that needs no id fails for what the same request did before.
            let expected = json!([failed(0), failed(1), reused(3), failed(4), failed(5)]);
            assert_eq!(answer["rejected"], expected, "{ack}: {answer}");
        } else {
            assert!(answer.get("rejected").is_none(), "{ack}: {answer}");
        }
    }
    let first = taken.last + 1;
    let rows = [
        ("a", Some((json!(1), first))),
        ("b", Some((json!(1), first + 2))),
        ("c", None),
        ("taken", Some((json!(1), first + 5))),
    ];
    assert_rows(&cluster, 2, &rows).await;
}

#[tokio::test]
async fn a_long_list_is_told_whole_though_nothing_of_it_was_allowed() {
    const WRITES: usize = 10_000;
    let broker = Broker::shared().await;
    let cluster = start(&broker, 1, 2).await;
    let (heart, path) = (cluster.heart(0), "v1/writes?ack=all&timeout=20s");
    let write = |key| json!({"op": "put", "collection": COLLECTION, "key": format!("{key}"), "value": 1, "if": {"absent": true}});
    let writes = json!({"writes": (0..WRITES).map(write).collect::<Vec<Value>>()});
    for rejected in [0, WRITES] {
        let answer = send(heart.request(Method::POST, path).json(&writes)).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["ack"], "all");
        assert_eq!(answer["rejected"].as_array().map_or(0, Vec::len), rejected);
    }
    cluster.converge().await;
}

#[tokio::test]
async fn of_writers_that_race_for_a_key_through_two_hearts_one_wins_and_is_told_so() {
    const WRITERS: usize = 8;
    const KEYS: usize = 16;
    let broker = Broker::shared().await;
    let cluster = start(&broker, 2, 3).await;
    let hearts = [cluster.heart(0).clone(), cluster.heart(1).clone()];
    let start = Arc::new(Barrier::new(WRITERS));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let start = Arc::clone(&start);
        let hearts = if writer % 2 == 0 { hearts.clone() } else { [hearts[1].clone(), hearts[0].clone()] };
        writers.spawn(async move {
            let mut won = Vec::new();
            for key in 0..KEYS {
                let (name, id) = (format!("raced-{key}"), format!("{writer}-{key}"));
                let write = (name.as_str(), &json!(writer));
                // Without this, whoever is ahead stays ahead of the others and wins without a race.
                start.wait().await;
                match put_until_told(&hearts, write, &id, Some(("if-none-match", "*"))).await {
                    Ok(written) => won.push((name, writer, written.last)),
                    Err(refused) => assert_eq!(refused.code, "precondition_failed", "{refused:?}"),
                }
            }
            won
        });
    }
    let mut won: Vec<(String, usize, u64)> = writers.join_all().await.concat();
    won.sort();
    assert!(won.windows(2).all(|pair| pair[0].0 != pair[1].0), "two were told that they won: {won:?}");
    assert_eq!(won.len(), KEYS, "{won:?}");
    let rows: Vec<_> =
        won.iter().map(|(key, writer, seq)| (key.as_str(), Some((json!(writer), *seq)))).collect();
    assert_rows(&cluster, 3, &rows).await;
}

#[tokio::test]
async fn a_request_id_with_the_same_content_applies_once_and_with_another_not_at_all() {
    let broker = Broker::shared().await;
    let cluster = start(&broker, 1, 2).await;
    let heart = cluster.heart(0);
    let mut rows = Vec::new();
    for ack in LEVELS {
        let first = put_once(heart, (ack, &json!(1)), ack, ack).await.unwrap();
        let again = put_once(heart, (ack, &json!(1)), ack, ack).await.unwrap();
        assert_eq!((again.status, again.ack.as_str()), (200, ack));
        assert_refused(put_once(heart, (ack, &json!(2)), ack, ack).await, ack, 409, "id_reused");
        rows.push((ack, Some((json!(1), first.last))));
    }
    assert_rows(&cluster, 2, &rows).await;
}

#[tokio::test]
async fn a_request_that_is_repeated_before_it_is_answered_applies_once() {
    const TRIES: usize = 16;
    let broker = Broker::shared().await;
    let cluster = start(&broker, 2, 2).await;
    let mut tries = JoinSet::new();
    for number in 0..TRIES {
        let heart = cluster.heart(number % 2).clone();
        tries.spawn(async move {
            let id = "in-flight";
            let request = put(&heart, "in-flight", "all", &json!(1)).header("if-none-match", "*");
            send_write(request.header("idempotency-key", id)).await
        });
    }
    // Tries that did apply a second time would find the row that the first one made.
    let written: Vec<u64> = tries.join_all().await.into_iter().map(|answer| answer.unwrap().last).collect();
    let first = *written.iter().min().unwrap();
    assert_rows(&cluster, 2, &[("in-flight", Some((json!(1), first)))]).await;
}

#[tokio::test]
async fn a_request_that_is_repeated_at_another_heart_has_the_outcome_of_the_first() {
    let broker = Broker::shared().await;
    let mut cluster = start(&broker, 2, 2).await;
    let active = cluster.active_heart().await.unwrap();
    let heart = cluster.heart(active).clone();
    let made = put_once(&heart, ("made", &json!(1)), "made", "all").await.unwrap();
    let in_vain = async |heart: &Client| {
        let request = put(heart, "made", "all", &json!(2)).header("if-none-match", "*");
        send_write(request.header("idempotency-key", "in-vain")).await
    };
    assert_refused(in_vain(&heart).await, "all", 412, "precondition_failed");
    send_write(request(&heart, Method::DELETE, "made", "all")).await.unwrap();

    cluster.take_heart(active).kill();
    let other = [cluster.heart(1 - active).clone()];
    // It would apply now, and must not: its first try did not.
    let condition = Some(("if-none-match", "*"));
    let refused = put_until_told(&other, ("made", &json!(2)), "in-vain", condition).await.unwrap_err();
    assert_eq!(refused.code, "precondition_failed");
    let again = put_until_told(&other, ("made", &json!(1)), "made", None).await.unwrap();
    assert!(again.last > made.last && again.epoch > made.epoch, "{made:?} {again:?}");
    let refused = put_until_told(&other, ("made", &json!(3)), "made", None).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (409, "id_reused"));
    assert_rows(&cluster, 2, &[("made", None)]).await;
}

//! Disks that are full or read-only: the node says so, is not ready, gives nothing away, and goes on when it can.

use std::time::{Duration, Instant};

use broadcast_tests::broker::Broker;
use broadcast_tests::client::wait_for;
use broadcast_tests::small_disk::SmallDisk;
use broadcast_tests::standalone::{Cluster, RECOVERY};
use futures_util::future::join_all;
use rusqlite::Connection;
use serde_json::json;
use tokio::time::sleep;

const MEBIBYTE: u64 = 1 << 20;

const SESSIONS: &str = "broadcast_node_broker_sessions_total";

/// What a node logs each time that it gives everything back.
const GAVE_BACK: &str = "the database fails; everything went back to the broker";

/// What it logs when it needs a peer.
const MISSED: &str = "missed a message";

/// One heart, and nodes of which node 1 has a small disk.
async fn start(broker: &Broker, queue_type: &str, nodes: u32) -> (Cluster, SmallDisk) {
    let mut cluster = Cluster::prepare(&broker.url(), nodes);
    cluster.settings = format!("queue_type: {queue_type}\n");
    let disk = SmallDisk::mount(cluster.database(1).parent().unwrap(), 32 * MEBIBYTE);
    cluster.start_all(1).await;
    (cluster, disk)
}

/// Writes so many hundred kilobytes, each into a message of its own.
async fn write_much(cluster: &Cluster, name: &str, count: u32) {
    for number in 0..count {
        cluster.put("much", &format!("{name}-{number}"), &json!("x".repeat(100_000))).await;
    }
}

async fn wait_until_not_ready(cluster: &Cluster, why: &str) {
    wait_for("the node to say why it is not ready", RECOVERY, async || {
        match cluster.node_readiness(1).await {
            Err(reason) if reason.contains("failing") && reason.contains(why) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn a_disk_is_full(queue_type: &str) {
    let broker = Broker::shared().await;
    let (cluster, disk) = start(&broker, queue_type, 2).await;
    write_much(&cluster, "before", 10).await;
    cluster.converge().await;
    disk.fill();
    write_much(&cluster, "during", 40).await;
    wait_until_not_ready(&cluster, "full").await;
    write_much(&cluster, "later", 10).await;
    wait_until_not_ready(&cluster, "full").await;
    let missing = cluster.node(1).read("much", "nothing", 0, "0s").await.unwrap_err();
    assert_eq!(missing.status, 404, "reads are answered: {missing:?}");
    let started = Instant::now();
    disk.free();
    cluster.converge().await;
    println!("{queue_type} queue, disk full: whole after {:.1?}", started.elapsed());
    // A quorum queue takes it back in another order, which looks like a gap for a while.
    let missed = cluster.node_process(1).output().contains(MISSED);
    assert!(queue_type == "quorum" || !missed, "its queue kept everything");
}

#[tokio::test]
async fn a_node_whose_disk_is_full_waits_and_goes_on_when_there_is_space() {
    join_all([a_disk_is_full("classic"), a_disk_is_full("quorum")]).await;
}

/// Lets the node's database take everything but rows, or again these too.
fn refuse_rows(database: &Connection, refuse: bool) {
    let sql = if refuse {
        "CREATE TRIGGER refuse BEFORE INSERT ON documents BEGIN SELECT RAISE(ABORT, 'no'); END"
    } else {
        "DROP TRIGGER refuse"
    };
    database.execute_batch(sql).unwrap();
}

async fn a_trial_succeeds_and_messages_fail(queue_type: &str) {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::prepare(&broker.url(), 2);
    cluster.settings = format!("queue_type: {queue_type}\n");
    cluster.start_all(1).await;
    let by_hand = Connection::open(cluster.database(1)).unwrap();
    by_hand.busy_timeout(RECOVERY).unwrap();
    refuse_rows(&by_hand, true);
    for number in 0..40 {
        cluster.put("users", &number.to_string(), &json!(number)).await;
    }
    wait_until_not_ready(&cluster, "no").await;
    let before = cluster.node_metric(1, SESSIONS).await;
    let window = Instant::now();
    while window.elapsed() < Duration::from_secs(6) {
        let readiness = cluster.node_readiness(1).await;
        assert!(readiness.is_err(), "{queue_type}: ready after a trial");
        sleep(Duration::from_millis(20)).await;
    }
    let sessions = cluster.node_metric(1, SESSIONS).await - before;
    // After 0.1, 0.2, 0.4, 0.8, 1.6 and 3.2 s, or half of that.
    assert!((1..=7).contains(&sessions), "{queue_type}: {sessions} times given everything in 6 s");
    refuse_rows(&by_hand, false);
    cluster.converge().await;
}

#[tokio::test]
async fn a_node_whose_database_takes_a_trial_only_is_not_given_everything_again_and_again() {
    join_all([a_trial_succeeds_and_messages_fail("classic"), a_trial_succeeds_and_messages_fail("quorum")])
        .await;
}

#[tokio::test]
async fn a_node_whose_disk_is_read_only_at_the_start_waits_until_it_is_not() {
    let broker = Broker::shared().await;
    let (mut cluster, disk) = start(&broker, "classic", 2).await;
    let load = cluster.start_load(2);
    load.progress(50).await;
    cluster.take_node(1).kill();
    disk.set_read_only(true);
    cluster.start_node(1);
    wait_until_not_ready(&cluster, "").await;
    println!("read-only: {}", cluster.node_readiness(1).await.unwrap_err());
    load.progress(50).await;
    let started = Instant::now();
    disk.set_read_only(false);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
    println!("read-only: whole after {:.1?}", started.elapsed());
}

/// A node that takes messages and cannot apply them ends right after it gave everything back, again and again.
async fn crash_in_a_loop(queue_type: &str) {
    const CRASHES: usize = 30;
    let broker = Broker::shared().await;
    let mut cluster = Cluster::prepare(&broker.url(), 1);
    cluster.settings = format!("queue_type: {queue_type}\n");
    // What its queue loses, nobody gives it back.
    cluster.has_peers = false;
    cluster.start_all(1).await;
    cluster.put("users", "before", &json!(1)).await;
    cluster.converge().await;
    cluster.take_node(1).kill();
    for number in 0..40 {
        cluster.put("users", &number.to_string(), &json!(number)).await;
    }
    let by_hand = Connection::open(cluster.database(1)).unwrap();
    by_hand
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON documents BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        .unwrap();
    let started = Instant::now();
    for crash in 1..=CRASHES {
        cluster.start_node(1);
        wait_for("the node to give everything back", RECOVERY, async || {
            let times = cluster.node_process(1).output().matches(GAVE_BACK).count();
            if times >= crash { Ok(()) } else { Err(format!("{times} times")) }
        })
        .await;
        cluster.take_node(1).kill();
    }
    println!("{queue_type} queue: {CRASHES} crashes in {:.1?}", started.elapsed());
    refuse_rows(&by_hand, false);
    cluster.start_node(1);
    cluster.converge().await;
}

#[tokio::test]
async fn a_node_that_crashes_in_a_loop_with_messages_in_hand_loses_none() {
    join_all([crash_in_a_loop("classic"), crash_in_a_loop("quorum")]).await;
}

//! Databases that miss something, or are not what they should be: they are made whole from the others, and what is wrong with one is
//! said.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{ReportedNode, wait_for};
use broadcast_tests::report::{Counted, count};
use broadcast_tests::standalone::{Cluster, RECOVERY};
use broadcast_tests::unreliable_peer::{Answer, UnreliablePeer};
use futures_util::future::join_all;
use reqwest::Method;
use rusqlite::Connection;
use serde_json::json;

/// No more than a mebibyte of the history is kept, by nodes and by hearts.
const SHORT_LOGS: (&str, &str) = ("log_bytes: 1048576\n", "limits: {retained_bytes: 1048576}\n");

const INSTALLED: &str = "broadcast_node_snapshots_installed_total";
const FAILED: &str = "broadcast_node_snapshots_failed_total";
const APPLIED: &str = "broadcast_node_messages_applied_total";
const REPAIRED: &str = "broadcast_node_messages_repaired_total";

/// Two hearts and three listed nodes, ready, with these additions to `node.yaml` and `heart.yaml`.
async fn start(broker: &Broker, (node_settings, heart_settings): (&str, &str)) -> Cluster {
    let mut cluster = Cluster::prepare(&broker.url(), 3);
    cluster.node_settings = node_settings.to_owned();
    cluster.heart_settings = heart_settings.to_owned();
    cluster.list_nodes(&[1, 2, 3], None);
    cluster.start_all(2).await;
    cluster
}

/// Writes so many hundred kilobytes, each into a message of its own.
async fn write_much(cluster: &Cluster, name: &str, count: u32) {
    for number in 0..count {
        let value = json!({"number": number, "text": "x".repeat(100_000)});
        cluster.put("much", &format!("{name}-{number}"), &value).await;
    }
}

/// What the heart says of a node; nothing while no heart does.
async fn reported(cluster: &Cluster, id: u32) -> Result<ReportedNode, String> {
    let status = cluster.active().await?;
    let node = status.nodes.iter().find(|node| node.id == id).cloned();
    node.ok_or_else(|| format!("{status:?}"))
}

/// Waits until the heart says of a node what is expected.
async fn wait_for_report(cluster: &Cluster, id: u32, what: &str, expected: impl Fn(&ReportedNode) -> bool) {
    wait_for(what, RECOVERY, async || match reported(cluster, id).await? {
        node if expected(&node) => Ok(()),
        node => Err(format!("{node:?}")),
    })
    .await;
}

#[tokio::test]
async fn a_node_with_an_emptied_disk_takes_a_snapshot_while_writes_go_on() {
    let broker = Broker::shared().await;
    let mut cluster = start(&broker, SHORT_LOGS).await;
    write_much(&cluster, "before", 30).await;
    let load = cluster.start_load(3);
    load.progress(50).await;
    cluster.take_node(3).kill();
    cluster.empty_disk(3);
    load.progress(50).await;
    let started = Instant::now();
    cluster.start_node(3);
    wait_for("node 3 to be ready", RECOVERY, async || cluster.node_readiness(3).await).await;
    println!("emptied disk: ready after {:.1?}", started.elapsed());
    assert_eq!(cluster.node_metric(3, INSTALLED).await, 1);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_node_that_was_away_for_longer_than_all_logs_reach_back_takes_a_snapshot() {
    let broker = Broker::shared().await;
    let mut cluster = start(&broker, SHORT_LOGS).await;
    let load = cluster.start_load(3);
    load.progress(50).await;
    cluster.take_node(2).kill();
    broker.by_hand().await.delete_queue(&cluster.queue(2)).await;
    write_much(&cluster, "missed", 30).await;
    cluster.start_node(2);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
    assert_eq!(cluster.node_metric(2, INSTALLED).await, 1);
}

#[tokio::test]
async fn a_node_whose_queue_was_cut_at_its_cap_gets_the_rest_from_logs() {
    let broker = Broker::shared().await;
    let with = async |queue_type| {
        let settings = format!("backlog_bytes: 1048576\nqueue_type: {queue_type}\n");
        let mut cluster = start(&broker, (&settings, &format!("queue_type: {queue_type}\n"))).await;
        let load = cluster.start_load(2);
        load.progress(50).await;
        cluster.take_node(2).kill();
        write_much(&cluster, "dropped", 30).await;
        load.progress(50).await;
        let started = Instant::now();
        cluster.start_node(2);
        load.finish().await;
        cluster.converge().await;
        println!("{queue_type} queue cut: whole after {:.1?}", started.elapsed());
        let (repaired, applied) =
            (cluster.node_metric(2, REPAIRED).await, cluster.node_metric(2, APPLIED).await);
        assert!(repaired >= 15 && applied >= repaired + 5, "{queue_type}: {repaired} of {applied} from logs");
        assert_eq!(cluster.node_metric(2, INSTALLED).await, 0, "{queue_type}");
    };
    join_all([with("classic"), with("quorum")]).await;
}

/// Changes a node's file behind its back, and waits until the heart says that it was rebuilt.
async fn change_by_hand(cluster: &Cluster, id: u32, sql: &str) {
    let load = cluster.start_load(1);
    load.progress(20).await;
    let other = Connection::open(cluster.database(id)).unwrap();
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    let started = Instant::now();
    count(Counted::Faults, 1);
    assert_eq!(other.execute(sql, []).unwrap(), 1, "{sql}");
    drop(other);
    wait_for_report(cluster, id, "the heart to say that it was rebuilt", |node| node.rebuilds == 1).await;
    println!("{sql}: put aside after {:.1?}", started.elapsed());
    load.progress(20).await;
    load.finish().await;
    cluster.converge().await;
    println!("{sql}: whole after {:.1?}", started.elapsed());
    let output = cluster.node_process(id).output();
    assert!(output.contains("the rows were changed by somebody else"), "it is named");
}

#[tokio::test]
async fn rows_that_were_changed_added_or_deleted_by_hand_are_found_and_the_node_is_rebuilt() {
    let broker = Broker::shared().await;
    let cluster = start(&broker, ("scrub_interval_seconds: 2\n", "")).await;
    for key in ["1", "2"] {
        cluster.put("users", key, &json!("Ada")).await;
    }
    cluster.converge().await;
    for (id, sql) in [
        (1, "UPDATE documents SET value = '\"Eve\"' WHERE collection = 'users' AND key = '1'"),
        (2, "INSERT INTO documents VALUES ('users', '3', '\"Eve\"', 1)"),
        (3, "DELETE FROM documents WHERE collection = 'users' AND key = '2'"),
    ] {
        change_by_hand(&cluster, id, sql).await;
    }
    for id in 1..=3 {
        assert_eq!(reported(&cluster, id).await.unwrap().rebuilds, 1, "node {id}");
    }
}

#[tokio::test]
async fn a_changed_row_that_is_overwritten_before_it_is_read_again_is_found_by_comparing_with_the_others() {
    let broker = Broker::shared().await;
    // Nobody reads all rows during this test.
    let cluster = start(&broker, ("scrub_interval_seconds: 3600\n", "")).await;
    cluster.put("users", "1", &json!("Ada")).await;
    cluster.converge().await;
    let other = Connection::open(cluster.database(2)).unwrap();
    count(Counted::Faults, 1);
    assert_eq!(other.execute("UPDATE documents SET value = '\"Eve\"' WHERE key = '1'", []).unwrap(), 1);
    drop(other);
    let started = Instant::now();
    cluster.put("users", "1", &json!("Grace")).await;
    wait_for_report(&cluster, 2, "node 2 to be rebuilt", |node| node.rebuilds == 1).await;
    println!("overwritten row: put aside after {:.1?}", started.elapsed());
    cluster.converge().await;
    let output = cluster.node_process(2).output();
    assert!(output.contains("most nodes have"), "it is named");
    for id in [1, 3] {
        assert_eq!(reported(&cluster, id).await.unwrap().rebuilds, 0, "node {id}");
    }
}

/// Brings all rows of a node that runs into its file: the write-ahead log may hold many.
fn checkpoint(cluster: &Cluster, id: u32) {
    let database = Connection::open(cluster.database(id)).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let is_busy = database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>("busy"));
    assert!(!is_busy.unwrap(), "node {id}");
}

/// Overwrites a node's file from a byte on.
fn write_garbage(cluster: &Cluster, id: u32, from: u64) {
    count(Counted::Faults, 1);
    let file = File::options().write(true).open(cluster.database(id)).unwrap();
    let length = file.metadata().unwrap().len();
    assert!(length > from + (1 << 20), "{length} bytes are too few");
    file.write_all_at(&vec![0xA5; usize::try_from(length - from).unwrap()], from).unwrap();
}

#[tokio::test]
async fn a_file_full_of_garbage_is_put_aside_and_made_anew() {
    let broker = Broker::shared().await;
    let mut cluster = start(&broker, ("scrub_interval_seconds: 1\n", "")).await;
    write_much(&cluster, "pages", 30).await;
    let load = cluster.start_load(2);
    load.progress(50).await;
    // Without its header it cannot be opened; without the rest only whoever reads that notices.
    for (id, from) in [(1, 0), (2, 64 << 10)] {
        checkpoint(&cluster, id);
        cluster.take_node(id).kill();
        // What stands in the write-ahead log would make parts of it whole.
        std::fs::remove_file(cluster.database(id).with_file_name("node.db-wal")).unwrap();
        write_garbage(&cluster, id, from);
        let started = Instant::now();
        cluster.start_node(id);
        wait_for_report(&cluster, id, "the node to be rebuilt", |node| {
            node.rebuilds == 1 && node.state == "ready"
        })
        .await;
        println!("garbage from {from} on, found at the start: ready after {:.1?}", started.elapsed());
    }
    checkpoint(&cluster, 3);
    let started = Instant::now();
    write_garbage(&cluster, 3, 64 << 10);
    wait_for_report(&cluster, 3, "the node to be rebuilt", |node| {
        node.rebuilds >= 1 && node.state == "ready"
    })
    .await;
    println!("garbage in a file in use: ready after {:.1?}", started.elapsed());
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
    let aside = cluster.database(1).with_file_name("node.db.quarantined");
    assert_eq!(std::fs::read(aside).unwrap()[..4], [0xA5; 4], "whoever wants to know what happened finds it");
}

/// A snapshot of a node, as it is sent.
async fn fetch_snapshot(cluster: &Cluster, id: u32) -> Vec<u8> {
    let answer = cluster.node(id).request(Method::GET, "v1/snapshot").send().await.unwrap();
    assert!(answer.status().is_success());
    answer.bytes().await.unwrap().to_vec()
}

#[tokio::test]
async fn a_snapshot_that_is_not_whole_or_not_of_this_cluster_is_refused_and_another_peer_is_asked() {
    let broker = Broker::shared().await;
    let (peer, url) = (UnreliablePeer::start(), broker.url());
    let (mut cluster, other) = tokio::join!(
        async {
            let mut cluster = Cluster::prepare(&url, 3);
            (cluster.node_settings, cluster.heart_settings) =
                (SHORT_LOGS.0.to_owned(), SHORT_LOGS.1.to_owned());
            cluster.first_peers = vec![peer.url()];
            cluster.start_all(1).await;
            cluster
        },
        Cluster::start(&url, 1)
    );
    write_much(&cluster, "own", 30).await;
    write_much(&other, "foreign", 31).await;
    cluster.converge().await;
    other.converge().await;
    let whole = fetch_snapshot(&cluster, 1).await;
    let truncated = whole[..whole.len() * 9 / 10].to_vec();
    let mut corrupt = whole.clone();
    corrupt[whole.len() / 2] ^= 1;
    let foreign = fetch_snapshot(&other, 1).await;
    peer.set("/v1/log", Answer { status: 410, body: Vec::new() });
    for (what, body, begun) in [
        ("truncated", truncated, 1),
        ("corrupt", corrupt, 1),
        ("foreign", foreign, 0),
        ("no snapshot", b"no snapshot".repeat(10), 0),
    ] {
        peer.set("/v1/snapshot", Answer { status: 200, body });
        cluster.take_node(3).kill();
        cluster.empty_disk(3);
        cluster.start_node(3);
        cluster.converge().await;
        assert!(peer.take_asked().contains(&"/v1/snapshot".to_owned()), "{what}: it was asked first");
        assert_eq!(cluster.node_metric(3, FAILED).await, begun, "{what}");
        assert_eq!(cluster.node_metric(3, INSTALLED).await, 1, "{what}");
    }
}

#[tokio::test]
async fn a_log_that_is_broken_or_of_another_history_is_refused_and_another_peer_is_asked() {
    let broker = Broker::shared().await;
    let by_hand = broker.by_hand().await;
    let peer = UnreliablePeer::start();
    let mut cluster = Cluster::prepare(&broker.url(), 3);
    cluster.first_peers = vec![peer.url()];
    cluster.start_all(1).await;
    for (what, break_it) in [
        ("changed", (|log: &str| log.replace("Ada", "Eve")) as fn(&str) -> String),
        ("cut", |log| log[..log.len() * 2 / 3].to_owned()),
        ("shuffled", |log| log.lines().rev().collect::<Vec<_>>().join("\n")),
        ("of another cluster", |log| log.replace("_fanout/", "_other/")),
    ] {
        let before = cluster.active().await.unwrap().position;
        cluster.take_node(3).kill();
        by_hand.delete_queue(&cluster.queue(3)).await;
        for number in 0..10 {
            cluster.put("users", &format!("{what}-{number}"), &json!({"name": "Ada"})).await;
        }
        let path = format!("v1/log?after={before}");
        wait_for("node 1 to have it all", RECOVERY, async || {
            let status = cluster.node(1).node_status().await.map_err(|refused| format!("{refused:?}"))?;
            if status.applied == before + 10 { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        let log = cluster.node(1).request(Method::GET, &path).send().await.unwrap().text().await.unwrap();
        peer.set("/v1/log", Answer { status: 200, body: break_it(&log).into_bytes() });
        cluster.start_node(3);
        cluster.converge().await;
        assert!(peer.take_asked().contains(&"/v1/log".to_owned()), "{what}: it was asked first");
        assert_eq!(cluster.node_metric(3, REPAIRED).await, 10, "{what}");
    }
}

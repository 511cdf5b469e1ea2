//! Brokers, nodes and databases that fail under writes: everything that was acknowledged is in every database afterwards.

use std::time::Duration;

use broadcast_tests::broker::Broker;
use broadcast_tests::client::wait_for;
use broadcast_tests::proxy::Fault;
use broadcast_tests::standalone::{Cluster, RECOVERY, STOP};
use futures_util::future::join_all;
use rusqlite::Connection;
use serde_json::json;
use tokio::task::JoinSet;

#[tokio::test]
async fn a_killed_broker_loses_nothing_acknowledged_and_work_goes_on_when_it_is_back() {
    let mut broker = Broker::start().await;
    let classic = Cluster::start(&broker.url(), 3).await;
    let mut quorum = Cluster::prepare(&broker.url(), 2);
    quorum.settings = "queue_type: quorum\n".to_owned();
    quorum.start_all(1).await;
    let loads = [classic.start_load(8), quorum.start_load(4)];
    let progress = async || join_all(loads.each_ref().map(|load| load.progress(200))).await;
    for _ in 0..2 {
        progress().await;
        broker.kill();
        broker.restart().await;
    }
    progress().await;
    for load in loads {
        assert!(load.finish().await > 0, "some writes met a dead broker");
    }
    classic.converge().await;
    quorum.converge().await;
}

#[tokio::test]
async fn while_the_broker_stands_still_nothing_is_acknowledged_and_what_may_come_later_is_not_called_unwritten()
 {
    let broker = Broker::start().await;
    let cluster = Cluster::start(&broker.url(), 2).await;
    broker.signal("STOP");
    let mut writes = JoinSet::new();
    for number in 0..8 {
        let heart = cluster.heart(0).clone();
        writes.spawn(async move {
            let key = number.to_string();
            let answer = heart.put("once", &key, &json!(number), None).await;
            (key, json!(number), answer)
        });
    }
    let mut doubts = 0;
    for (key, value, answer) in writes.join_all().await {
        let refused = answer.expect_err("the broker has confirmed nothing");
        assert_eq!(refused.status, 503, "{refused:?}");
        if refused.code == "outcome_unknown" {
            cluster.oracle.unknown("once", &key, Some(&value));
            doubts += 1;
        }
    }
    assert!(doubts > 0);
    broker.signal("CONT");
    let load = cluster.start_load(2);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn hearts_and_nodes_wait_for_a_broker_that_is_not_there_yet() {
    let mut broker = Broker::prepare();
    let mut cluster = Cluster::prepare(&broker.url(), 2);
    cluster.start_heart(0);
    for id in [1, 2] {
        cluster.start_node(id);
    }
    wait_for("all to say what they wait for", RECOVERY, async || {
        // Also that they listen: a process that has just been started does not yet.
        let reasons = [
            cluster.heart_readiness(0).await,
            cluster.node_readiness(1).await,
            cluster.node_readiness(2).await,
        ];
        let say_so =
            |reason: &Result<(), String>| reason.as_ref().is_err_and(|reason| reason.contains("unreachable"));
        if reasons.iter().all(say_so) { Ok(()) } else { Err(format!("{reasons:?}")) }
    })
    .await;
    let refused = cluster.heart(0).put("users", "1", &json!(1), None).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (503, "broker_unavailable"), "{refused:?}");
    assert!(refused.retry_after.is_some(), "{refused:?}");
    broker.restart().await;
    let load = cluster.start_load(2);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_consumer_that_the_broker_starts_too_late_keeps_nothing_from_the_next_one() {
    /// Class and method.
    const BASIC_CONSUME: &[u8] = &[0, 60, 0, 20];
    let broker = Broker::shared().await;
    let mut cluster = Cluster::prepare(&broker.url(), 1);
    // What its queue does not give, nobody does.
    cluster.has_peers = false;
    cluster.put_proxies_between();
    cluster.start_all(1).await;
    cluster.node_proxy(1).set(Fault::Mute(BASIC_CONSUME));
    cluster.node_proxy(1).cut();
    wait_for("the node to give up", RECOVERY, async || {
        let output = cluster.node_process(1).output();
        if output.contains("basic.consume: no answer") { Ok(()) } else { Err(output) }
    })
    .await;
    cluster.node_proxy(1).set(Fault::None);
    cluster.put("users", "1", &json!(1)).await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_password_that_the_broker_refuses_is_named_as_the_reason() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::prepare(&broker.url().replace("guest:guest", "guest:secret-7"), 1);
    cluster.start_heart(0);
    cluster.start_node(1);
    wait_for("both to say so", RECOVERY, async || {
        let reasons = [cluster.heart_readiness(0).await, cluster.node_readiness(1).await];
        let say_so =
            |reason: &Result<(), String>| reason.as_ref().is_err_and(|reason| reason.contains("refused"));
        if reasons.iter().all(say_so) { Ok(()) } else { Err(format!("{reasons:?}")) }
    })
    .await;
    for process in [cluster.heart_process(0), cluster.node_process(1)] {
        assert!(!process.output().contains("secret-7"), "no log shows a password");
    }
}

#[tokio::test]
async fn a_node_that_is_killed_again_and_again_catches_up_without_a_peer() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 1).await;
    let load = cluster.start_load(4);
    for _ in 0..4 {
        load.progress(100).await;
        cluster.take_node(1).kill();
        load.progress(50).await;
        cluster.start_node(1);
    }
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_node_stops_in_order_under_writes_and_catches_up() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let load = cluster.start_load(4);
    for _ in 0..3 {
        load.progress(100).await;
        cluster.take_node(2).stop(STOP).await;
        cluster.start_node(2);
    }
    assert_eq!(load.finish().await, 0, "writers notice nothing of it");
    cluster.converge().await;
}

#[tokio::test]
async fn writes_go_on_while_a_node_is_cut_off_and_it_catches_up() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::prepare(&broker.url(), 2);
    cluster.put_proxies_between();
    cluster.list_nodes(&[1, 2], None);
    cluster.start_all(2).await;
    for heart in [0, 1] {
        wait_for("a heart to take writes or to know who does", RECOVERY, async || {
            cluster.heart_readiness(heart).await
        })
        .await;
    }
    let load = cluster.start_load(3);
    load.progress(50).await;
    cluster.node_proxy(2).set(Fault::Hold);
    load.progress(200).await;
    cluster.node_proxy(2).set(Fault::None);
    load.progress(50).await;
    assert_eq!(load.finish().await, 0, "writers notice nothing of it");
    cluster.converge().await;
}

#[tokio::test]
async fn all_nodes_killed_at_once_catch_up() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let load = cluster.start_load(4);
    load.progress(200).await;
    for id in [1, 2] {
        cluster.take_node(id).kill();
    }
    for id in [1, 2] {
        cluster.start_node(id);
    }
    load.progress(200).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_node_whose_database_cannot_be_written_takes_no_more_until_it_can() {
    let broker = Broker::shared().await;
    // No second node: what this one gives away, nobody gives back.
    let cluster = Cluster::start(&broker.url(), 1).await;
    let load = cluster.start_load(2);
    load.progress(50).await;
    let locker = Connection::open(cluster.database(1)).unwrap();
    locker.busy_timeout(Duration::from_secs(10)).unwrap();
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    wait_for("the node not to be ready", RECOVERY, async || match cluster.node_readiness(1).await {
        Err(reason) if reason.contains("locked") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let failures = async || {
        wait_for("the heart to know it", RECOVERY, async || {
            let status = cluster.active().await?;
            let node = status.nodes.iter().find(|node| node.id == 1 && node.state == "failing");
            node.map(|node| node.failed).ok_or_else(|| format!("{status:?}"))
        })
        .await
    };
    let before = failures().await;
    load.progress(200).await;
    assert_eq!(failures().await, before, "messages are given to a database that is known to fail");
    let missing = cluster.node(1).read("load", "nothing", 0, "0s").await.unwrap_err();
    assert_eq!(missing.status, 404, "reads are answered: {missing:?}");
    locker.execute_batch("ROLLBACK").unwrap();
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
}

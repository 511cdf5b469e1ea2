//! One heart beats at a time, whatever happens to hearts: writes go on, and each is applied once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, HeartStatus, wait_for};
use broadcast_tests::oracle::Oracle;
use broadcast_tests::standalone::{Cluster, RECOVERY, STOP};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::JoinSet;

/// A cluster with both hearts, and which of them is active.
async fn start_with_standby(broker: &Broker, nodes: u32) -> (Cluster, usize) {
    let mut cluster = Cluster::prepare(&broker.url(), nodes);
    cluster.start_all(2).await;
    let active = wait_for("one heart to be active and one to know it", RECOVERY, async || {
        active_heart(&cluster).await
    });
    let active = active.await;
    (cluster, active)
}

/// Which heart is active, when the other one says that this is so.
async fn active_heart(cluster: &Cluster) -> Result<usize, String> {
    for active in [0, 1] {
        let (one, other) = (status(cluster.heart(active)).await?, status(cluster.heart(1 - active)).await?);
        let url = cluster.heart(active).base().as_str().trim_end_matches('/');
        let names_it = other.active.as_deref().is_some_and(|named| named.trim_end_matches('/') == url);
        if one.role == "active" && other.role == "standby" && names_it {
            return Ok(active);
        }
    }
    Err(format!("{:?} and {:?}", status(cluster.heart(0)).await, status(cluster.heart(1)).await))
}

async fn status(heart: &Client) -> Result<HeartStatus, String> {
    heart.heart_status().await.map_err(|refused| format!("{refused:?}"))
}

/// Asks both hearts until told to stop; panics if one says that it is active while the other one's reign goes on.
async fn watch_for_two_active_hearts(hearts: [Client; 2], mut stop: oneshot::Receiver<()>) -> usize {
    let mut rounds = 0;
    while stop.try_recv() == Err(TryRecvError::Empty) {
        let before = status(&hearts[0]).await;
        let other = status(&hearts[1]).await;
        let after = status(&hearts[0]).await;
        if let (Ok(before), Ok(other), Ok(after)) = (before, other, after) {
            let reigned_through =
                before.role == "active" && after.role == "active" && before.epoch == after.epoch;
            assert!(!(reigned_through && other.role == "active"), "both are active: {before:?}, {other:?}");
            rounds += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rounds
}

#[tokio::test]
async fn a_standby_names_the_active_heart_and_forwards_writes_to_it() {
    let broker = Broker::shared().await;
    let (cluster, active) = start_with_standby(&broker, 2).await;
    let standby = cluster.heart(1 - active);
    let written = standby.put("users", "1", &json!(1), Some("id")).await.unwrap();
    cluster.oracle.acknowledged("users", "1", Some(&json!(1)), written.last, 1);
    let refused = standby.put("USERS", "1", &json!(1), None).await.unwrap_err();
    assert_eq!(refused.status, 400, "the active heart's answer comes through: {refused:?}");
    let written = standby.put_with_ack("2", &json!(2), "all", "10s").await.unwrap();
    assert_eq!((written.status, written.ack.as_str()), (200, "all"));
    cluster.oracle.acknowledged("users", "2", Some(&json!(2)), written.last, 1);
    cluster.converge().await;
}

#[tokio::test]
async fn hearts_killed_in_turn_hand_over_and_are_never_active_together() {
    let broker = Broker::shared().await;
    let (mut cluster, mut active) = start_with_standby(&broker, 2).await;
    let epoch = cluster.active().await.unwrap().epoch;
    let (stop, stopped) = oneshot::channel();
    let hearts = [cluster.heart(0).clone(), cluster.heart(1).clone()];
    let watch = tokio::spawn(watch_for_two_active_hearts(hearts, stopped));
    let load = cluster.start_load(4);
    for _ in 0..4 {
        load.progress(100).await;
        cluster.take_heart(active).kill();
        load.progress(50).await;
        cluster.start_heart(active);
        active =
            wait_for("the standby to have taken over", RECOVERY, async || active_heart(&cluster).await).await;
    }
    assert!(load.finish().await > 0, "some writes met a dead heart");
    cluster.converge().await;
    assert!(cluster.active().await.unwrap().epoch >= epoch + 4);
    stop.send(()).unwrap();
    assert!(watch.await.unwrap() > 0);
}

#[tokio::test]
async fn a_heart_that_stood_still_finds_another_one_active_and_stands_by() {
    let broker = Broker::shared().await;
    let (cluster, active) = start_with_standby(&broker, 2).await;
    let load = cluster.start_load(4);
    load.progress(100).await;
    cluster.heart_process(active).signal("STOP");
    wait_for("the standby to take over", RECOVERY, async || match status(cluster.heart(1 - active)).await {
        Ok(status) if status.role == "active" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    load.progress(100).await;
    cluster.heart_process(active).signal("CONT");
    let now = wait_for("the other one to stand by", RECOVERY, async || active_heart(&cluster).await).await;
    assert_eq!(now, 1 - active);
    load.progress(100).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_heart_that_is_told_to_stop_loses_nothing_and_hands_over_at_once() {
    let broker = Broker::shared().await;
    let (mut cluster, mut active) = start_with_standby(&broker, 2).await;
    let load = cluster.start_load(4);
    for _ in 0..3 {
        load.progress(100).await;
        cluster.take_heart(active).stop(STOP).await;
        load.progress(50).await;
        cluster.start_heart(active);
        active =
            wait_for("the standby to have taken over", RECOVERY, async || active_heart(&cluster).await).await;
    }
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_client_that_waits_for_nodes_is_answered_when_the_heart_stops() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    cluster.take_node(2).kill();
    let heart = cluster.heart(0).clone();
    let waiting = tokio::spawn(async move { heart.put_with_ack("waiting", &json!(1), "all", "15s").await });
    wait_for("the write to be published", RECOVERY, async || match cluster.active().await? {
        status if status.position == 1 => Ok(()),
        status => Err(format!("{status:?}")),
    })
    .await;
    cluster.take_heart(0).stop(STOP).await;
    let written = waiting.await.unwrap().unwrap();
    assert_eq!((written.status, written.last), (202, 1), "durable, but not yet applied by all: {written:?}");
    cluster.oracle.acknowledged("users", "waiting", Some(&json!(1)), 1, 1);
    cluster.start_heart(0);
    cluster.start_node(2);
    cluster.converge().await;
}

#[tokio::test]
async fn a_lone_heart_that_is_killed_goes_on_where_it_was() {
    let broker = Broker::shared().await;
    let mut cluster = Cluster::start(&broker.url(), 2).await;
    let load = cluster.start_load(4);
    for _ in 0..3 {
        load.progress(100).await;
        cluster.take_heart(0).kill();
        cluster.start_heart(0);
    }
    load.progress(100).await;
    load.finish().await;
    cluster.converge().await;
}

/// Writes each key once, without an id, until told to stop; says how many ended in doubt.
async fn write_without_ids(
    hearts: Vec<Client>,
    oracle: Oracle,
    name: String,
    stop: Arc<AtomicBool>,
) -> usize {
    let mut doubts = 0;
    for index in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("{name}-{index}"), json!(index));
        match hearts[index % hearts.len()].put("once", &key, &value, None).await {
            Ok(written) => oracle.acknowledged("once", &key, Some(&value), written.last, 1),
            Err(refused) if refused.status == 0 || refused.code == "outcome_unknown" => {
                oracle.unknown("once", &key, Some(&value));
                doubts += 1;
            }
            // It says that nothing was written. The comparison finds out whether that is true.
            Err(refused) => assert_eq!(refused.status, 503, "{refused:?}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    doubts
}

#[tokio::test]
async fn an_answer_says_truly_whether_a_write_was_made_not_made_or_may_have_been() {
    let broker = Broker::shared().await;
    let (mut cluster, mut active) = start_with_standby(&broker, 2).await;
    let stop = Arc::new(AtomicBool::new(false));
    let hearts = vec![cluster.heart(0).clone(), cluster.heart(1).clone()];
    let mut writers = JoinSet::new();
    for number in 0..8 {
        let (hearts, oracle, stop) = (hearts.clone(), cluster.oracle.clone(), Arc::clone(&stop));
        writers.spawn(write_without_ids(hearts, oracle, format!("writer-{number}"), stop));
    }
    for _ in 0..4 {
        let goal = cluster.oracle.count() + 200;
        wait_for("more writes to be acknowledged", RECOVERY, async || match cluster.oracle.count() {
            count if count >= goal => Ok(()),
            count => Err(format!("{count} of {goal}")),
        })
        .await;
        cluster.take_heart(active).kill();
        cluster.start_heart(active);
        active =
            wait_for("the standby to have taken over", RECOVERY, async || active_heart(&cluster).await).await;
    }
    stop.store(true, Ordering::Relaxed);
    let doubts: usize = writers.join_all().await.into_iter().sum();
    assert!(doubts > 0, "four hearts died under eight writers");
    cluster.converge().await;
}

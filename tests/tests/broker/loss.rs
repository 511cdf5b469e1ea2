//! What the broker holds is lost, piece by piece and all at once: what was acknowledged is in every database afterwards.

use std::time::{Duration, Instant};

use broadcast_tests::broker::{Broker, ByHand};
use broadcast_tests::client::wait_for;
use broadcast_tests::load::Load;
use broadcast_tests::report::{Counted, count};
use broadcast_tests::standalone::{Cluster, RECOVERY};
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::{Barrier, Mutex};
use tokio::time::sleep;

const NODES: [u32; 3] = [1, 2, 3];

/// Two hearts and three listed nodes, all ready.
async fn start(amqp_url: &str, queue_type: &str) -> Cluster {
    let mut cluster = Cluster::prepare(amqp_url, 3);
    cluster.settings = format!("queue_type: {queue_type}\n");
    cluster.list_nodes(&NODES, None);
    cluster.start_all(2).await;
    cluster
}

/// Under writes, loses something, and proves that all goes on without a loss.
async fn overcome(cluster: &Cluster, what: &str, lose: impl AsyncFnOnce()) {
    let load = cluster.start_load(2);
    load.progress(100).await;
    let started = Instant::now();
    lose().await;
    load.progress(30).await;
    let written = started.elapsed();
    load.progress(60).await;
    load.finish().await;
    cluster.converge().await;
    println!("{what}: written again after {written:.1?}, whole after {:.1?}", started.elapsed());
}

/// Lets the nodes stand still until much more waits for them than they have been given, does something, and lets them go on.
async fn fill_queues(cluster: &Cluster, work: impl AsyncFnOnce()) {
    for id in NODES {
        cluster.node_process(id).signal("STOP");
    }
    let goal = cluster.oracle.count() + 150;
    wait_for("the queues to fill", RECOVERY, async || {
        if cluster.oracle.count() >= goal { Ok(()) } else { Err(cluster.oracle.count().to_string()) }
    })
    .await;
    work().await;
    for id in NODES {
        cluster.node_process(id).signal("CONT");
    }
}

/// The same with both types of queues.
async fn overcome_with_both(what: &str, lose: impl AsyncFn(&ByHand, &Cluster)) {
    let broker = Broker::shared().await;
    let with = async |queue_type| {
        let cluster = start(&broker.url(), queue_type).await;
        let by_hand = broker.by_hand().await;
        overcome(&cluster, &format!("{what}, {queue_type}"), async || lose(&by_hand, &cluster).await).await;
    };
    join_all([with("classic"), with("quorum")]).await;
}

#[tokio::test]
async fn a_deleted_head_queue_is_overcome() {
    overcome_with_both("head queue deleted", async |by_hand, cluster| {
        by_hand.delete_queue(&cluster.names().head_queue()).await;
    })
    .await;
}

#[tokio::test]
async fn a_purged_head_queue_is_overcome() {
    overcome_with_both("head queue purged", async |by_hand, cluster| {
        by_hand.purge(&cluster.names().head_queue()).await;
    })
    .await;
}

#[tokio::test]
async fn purged_queues_of_all_nodes_are_overcome() {
    overcome_with_both("all node queues purged", async |by_hand, cluster| {
        fill_queues(cluster, async || {
            for id in NODES {
                by_hand.purge(&cluster.queue(id)).await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn deleted_queues_of_all_nodes_and_of_the_head_are_overcome() {
    overcome_with_both("all queues deleted", async |by_hand, cluster| {
        let queues = NODES.map(|id| cluster.queue(id)).into_iter().chain([cluster.names().head_queue()]);
        fill_queues(cluster, async || {
            for queue in queues {
                by_hand.delete_queue(&queue).await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_is_not_bound_any_more_is_overcome() {
    overcome_with_both("queue of node 2 unbound", async |by_hand, cluster| {
        by_hand.unbind(&cluster.queue(2), cluster.names().exchange()).await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_exchange_is_overcome() {
    overcome_with_both("exchange deleted", async |by_hand, cluster| {
        by_hand.delete_exchange(cluster.names().exchange()).await;
    })
    .await;
}

/// One loss of everything that a broker holds, for several clusters: each comes here when it is ready for it.
struct Wipe {
    broker: Mutex<Broker>,
    clusters: Barrier,
}

impl Wipe {
    /// The broker is down, and empty.
    async fn lose(&self) {
        self.together(async |broker| {
            broker.kill();
            broker.wipe();
        })
        .await;
    }

    /// The broker is there again.
    async fn restart(&self) {
        self.together(async |broker| broker.restart().await).await;
    }

    async fn together(&self, work: impl AsyncFnOnce(&mut Broker)) {
        if self.clusters.wait().await.is_leader() {
            work(&mut *self.broker.lock().await).await;
        }
        self.clusters.wait().await;
    }
}

/// Goes on writing until all is well.
async fn go_on(cluster: &Cluster, load: Load, what: &str, started: Instant) {
    load.progress(30).await;
    println!("broker wiped, {what}: written again after {:.1?}", started.elapsed());
    load.progress(30).await;
    load.finish().await;
    cluster.converge().await;
    println!("broker wiped, {what}: whole after {:.1?}", started.elapsed());
}

async fn all_live_through_a_wipe(wipe: &Wipe, url: &str, queue_type: &str) {
    let cluster = start(url, queue_type).await;
    let load = cluster.start_load(2);
    load.progress(100).await;
    wipe.lose().await;
    wipe.restart().await;
    go_on(&cluster, load, queue_type, Instant::now()).await;
}

/// A heart that cannot know what the node has waits for it, and says so.
async fn a_node_is_down_during_a_wipe(wipe: &Wipe, url: &str) {
    let mut cluster = start(url, "classic").await;
    let load = cluster.start_load(2);
    load.progress(50).await;
    cluster.take_node(3).kill();
    load.progress(50).await;
    wipe.lose().await;
    wipe.restart().await;
    cluster.wait_for_seal("waits for node 3 to say").await;
    let refused = cluster.heart(0).put("users", "1", &json!(1), None).await.unwrap_err();
    assert_eq!(refused.status, 503, "{refused:?}");
    let started = Instant::now();
    cluster.start_node(3);
    go_on(&cluster, load, "node 3 back", started).await;
}

/// The other heart has never reigned. What no node has applied is lost with the heart that took it: there is nothing such.
async fn the_active_heart_ends_with_a_wipe(wipe: &Wipe, url: &str) {
    let mut cluster = start(url, "classic").await;
    let load = cluster.start_load(2);
    load.progress(100).await;
    load.finish().await;
    cluster.converge().await;
    let active = cluster.active_heart().await.unwrap();
    wipe.lose().await;
    cluster.take_heart(active).kill();
    wipe.restart().await;
    let started = Instant::now();
    let load = cluster.start_load(2);
    load.progress(30).await;
    cluster.start_heart(active);
    go_on(&cluster, load, "active heart killed", started).await;
}

/// The one node that had applied the newest writes is gone for good, with the broker and all hearts: without it nothing goes on
/// until a human gives these writes up.
async fn a_wipe_takes_what_only_a_lost_node_had(wipe: &Wipe, url: &str) {
    let mut cluster = start(url, "classic").await;
    let load = cluster.start_load(2);
    load.progress(50).await;
    load.finish().await;
    cluster.converge().await;
    let kept = cluster.active().await.unwrap().position;
    cluster.take_node(1).kill();
    cluster.take_node(2).kill();
    let active = cluster.active_heart().await.unwrap();
    for number in 0..20 {
        let written =
            cluster.heart(active).put_with_ack(&format!("lost-{number}"), &json!(1), "one", "10s").await;
        assert_eq!(written.unwrap().status, 200);
    }
    cluster.take_node(3).kill();
    wipe.lose().await;
    for heart in [0, 1] {
        cluster.take_heart(heart).kill();
    }
    wipe.restart().await;
    for heart in [0, 1] {
        cluster.start_heart(heart);
    }
    cluster.start_node(1);
    cluster.start_node(2);
    let reason = cluster.wait_for_seal("waits for node 3 to say").await;
    assert!(reason.contains(&format!("loss of everything from {} on", kept + 1)), "{reason}");
    let started = Instant::now();
    cluster.list_nodes(&NODES, Some(kept + 1));
    let load = cluster.start_load(2);
    load.progress(30).await;
    cluster.empty_disk(3);
    cluster.start_node(3);
    go_on(&cluster, load, "loss accepted", started).await;
}

#[tokio::test]
async fn a_wiped_broker_is_overcome_by_whoever_lives_through_it() {
    let broker = Broker::start().await;
    let url = broker.url();
    let wipe = Wipe { broker: Mutex::new(broker), clusters: Barrier::new(5) };
    tokio::join!(
        all_live_through_a_wipe(&wipe, &url, "classic"),
        all_live_through_a_wipe(&wipe, &url, "quorum"),
        a_node_is_down_during_a_wipe(&wipe, &url),
        the_active_heart_ends_with_a_wipe(&wipe, &url),
        a_wipe_takes_what_only_a_lost_node_had(&wipe, &url),
    );
}

#[tokio::test]
async fn while_an_alarm_blocks_all_publishers_nothing_is_acknowledged_and_nothing_is_lost() {
    let broker = Broker::start().await;
    let clusters = [start(&broker.url(), "classic").await, start(&broker.url(), "quorum").await];
    for (alarm, over) in [
        (["set_disk_free_limit", "1000000GB"], ["set_disk_free_limit", "1MB"]),
        (["set_vm_memory_high_watermark", "0.000001"], ["set_vm_memory_high_watermark", "0.6"]),
    ] {
        let loads = clusters.each_ref().map(|cluster| cluster.start_load(2));
        for load in &loads {
            load.progress(50).await;
        }
        count(Counted::Faults, 1);
        broker.control(&alarm).await;
        for cluster in &clusters {
            wait_for("the hearts to be in doubt", RECOVERY, async || match cluster.active_heart().await {
                Ok(active) => Err(format!("heart {active} is active")),
                Err(_) => Ok(()),
            })
            .await;
            let before = cluster.oracle.count();
            let refused = cluster.heart(0).put("users", "1", &json!(1), None).await.unwrap_err();
            assert_eq!(refused.status, 503, "{alarm:?}: {refused:?}");
            if refused.code == "outcome_unknown" {
                cluster.oracle.unknown("users", "1", Some(&json!(1)));
            }
            assert_eq!(cluster.oracle.count(), before, "{alarm:?}");
        }
        broker.control(&over).await;
        let started = Instant::now();
        for (load, cluster) in loads.into_iter().zip(&clusters) {
            load.progress(50).await;
            println!("{}: written again after {:.1?}", alarm[0], started.elapsed());
            load.finish().await;
            cluster.converge().await;
        }
    }
}

/// RabbitMQ 4.0 may never choose a leader for such a queue, and then confirms no message that is routed to it.
#[tokio::test]
async fn a_broker_that_is_killed_right_after_queues_were_made_anew_is_in_use_again() {
    let mut broker = Broker::start().await;
    let cluster = start(&broker.url(), "quorum").await;
    let load = cluster.start_load(2);
    load.progress(50).await;
    let by_hand = broker.by_hand().await;
    for id in [2, 3] {
        by_hand.delete_queue(&cluster.queue(id)).await;
    }
    // As long as it takes nodes to make them anew: what happens at this moment cannot be waited for.
    sleep(Duration::from_millis(200)).await;
    broker.kill();
    broker.restart().await;
    let started = Instant::now();
    load.progress(50).await;
    println!("broker killed after queues were made: written again after {:.1?}", started.elapsed());
    load.finish().await;
    cluster.converge().await;
    println!("broker killed after queues were made: whole after {:.1?}", started.elapsed());
}

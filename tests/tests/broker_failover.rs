//! The active heart is killed, stands still, or loses its network: writes go on, and each that was acknowledged is applied once.
//!
//! A program of its own, because it measures: cargo runs one after the other, so that no other test takes part of the machine meanwhile.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, wait_for};
use broadcast_tests::oracle::Oracle;
use broadcast_tests::proxy::{Direction, Fault};
use broadcast_tests::report::tell;
use broadcast_tests::standalone::{Cluster, RECOVERY};
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::RwLock;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How long writes may pause when the active heart is killed, or its connection is cut.
const PAUSE: Duration = Duration::from_secs(3);

/// How long a probing client waits for one answer.
const ANSWER: Duration = Duration::from_millis(500);

/// Measurements of a pause of at most [`PAUSE`] are alone. Those of longer ones, which the broker's heartbeats decide, share.
static MEASURING: RwLock<()> = RwLock::const_new(());

/// One client that writes one value after the other through one heart, and tells the longest time between two acknowledgements.
struct Probe {
    stop: Arc<AtomicBool>,
    probing: JoinHandle<Duration>,
}

impl Probe {
    fn start(name: &str, heart: Client, oracle: Oracle) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (name, stopped) = (name.to_owned(), Arc::clone(&stop));
        let probing = tokio::spawn(async move {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            for index in 0_usize.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                write_until_acknowledged(&heart, &oracle, &name, index).await;
                longest = longest.max(last.elapsed());
                last = Instant::now();
                sleep(Duration::from_millis(10)).await;
            }
            longest
        });
        Self { stop, probing }
    }

    async fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.probing.await.unwrap()
    }
}

async fn write_until_acknowledged(heart: &Client, oracle: &Oracle, name: &str, index: usize) {
    let (value, id, end) = (json!(index), format!("{name}-{index}"), Instant::now() + RECOVERY);
    for tries in 1.. {
        match timeout(ANSWER, heart.put("probe", name, &value, Some(&id))).await {
            Ok(Ok(written)) => return oracle.acknowledged("probe", name, Some(&value), written.last, tries),
            Ok(Err(refused)) => assert!([0, 503].contains(&refused.status), "{refused:?}"),
            Err(_) => {}
        }
        assert!(Instant::now() < end, "no answer to write {index} in {tries} tries");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Two hearts and two nodes, every one behind its proxy, and which heart is active.
async fn start(broker: &Broker) -> (Cluster, usize) {
    let mut cluster = Cluster::prepare(&broker.url(), 2);
    cluster.put_proxies_between();
    cluster.list_nodes(&[1, 2], None);
    cluster.start_all(2).await;
    let active = wait_for("a standby that knows the active heart", RECOVERY, async || {
        let active = cluster.active_heart().await?;
        cluster.heart_readiness(1 - active).await.map(|()| active)
    });
    let active = active.await;
    (cluster, active)
}

/// Whether a heart is active with a later epoch. One of them may not answer.
async fn reigns_after(cluster: &Cluster, epoch: u64) -> Result<(), String> {
    let mut seen = Vec::new();
    for index in cluster.running_hearts() {
        let status = timeout(ANSWER, cluster.heart(index).heart_status()).await;
        if matches!(&status, Ok(Ok(status)) if status.role == "active" && status.epoch > epoch) {
            return Ok(());
        }
        seen.push(status);
    }
    Err(format!("{seen:?}"))
}

/// Writes through the standby and under load, lets something happen to the active heart, and waits until writes go on in another
/// reign; returns how long they paused. `mend` comes after that.
async fn fail_over(
    what: &str,
    fail: impl AsyncFnOnce(&mut Cluster, usize),
    mend: impl AsyncFnOnce(&mut Cluster, usize),
) -> Duration {
    let broker = Broker::shared().await;
    let (mut cluster, active) = start(&broker).await;
    let epoch = cluster.active().await.unwrap().epoch;
    let load = cluster.start_load(3);
    load.progress(50).await;
    let probe = Probe::start("standby", cluster.heart(1 - active).clone(), cluster.oracle.clone());
    load.progress(50).await;
    fail(&mut cluster, active).await;
    wait_for("the next reign", RECOVERY, async || reigns_after(&cluster, epoch).await).await;
    load.progress(100).await;
    mend(&mut cluster, active).await;
    load.progress(50).await;
    let pause = probe.finish().await;
    let retried = load.finish().await;
    cluster.converge().await;
    tell(&format!("{what}: writes paused for {pause:.1?}"));
    assert!(retried > 0, "somebody noticed");
    pause
}

/// Fails when writes pause for too long.
async fn measure(
    what: &str,
    fail: impl AsyncFnOnce(&mut Cluster, usize),
    mend: impl AsyncFnOnce(&mut Cluster, usize),
) {
    // Whoever waits for its turn keeps the broker for the next one.
    let _broker = Broker::shared().await;
    let _alone = MEASURING.write().await;
    let pause = fail_over(what, fail, mend).await;
    assert!(pause < PAUSE, "{pause:?}");
}

/// Only tells for how long writes paused.
async fn go_on(
    what: &str,
    fail: impl AsyncFnOnce(&mut Cluster, usize),
    mend: impl AsyncFnOnce(&mut Cluster, usize),
) {
    let _not_alone = MEASURING.read().await;
    fail_over(what, fail, mend).await;
}

#[tokio::test]
async fn writes_go_on_within_3_seconds_when_the_active_heart_is_killed() {
    measure(
        "active heart killed",
        async |cluster, active| cluster.take_heart(active).kill(),
        async |cluster, active| cluster.start_heart(active),
    )
    .await;
}

#[tokio::test]
async fn writes_go_on_within_3_seconds_when_the_active_hearts_connection_is_cut() {
    measure(
        "active heart's connection cut",
        async |cluster, active| cluster.heart_proxy(active).cut(),
        async |_, _| {},
    )
    .await;
}

#[tokio::test]
async fn writes_go_on_within_3_seconds_when_the_broker_is_closed_to_the_active_heart() {
    measure(
        "active heart refused by the network",
        async |cluster, active| cluster.heart_proxy(active).set(Fault::Refuse),
        async |cluster, active| cluster.heart_proxy(active).set(Fault::None),
    )
    .await;
}

#[tokio::test]
async fn writes_go_on_when_the_active_heart_stands_still() {
    go_on(
        "active heart stands still",
        async |cluster, active| cluster.heart_process(active).signal("STOP"),
        async |cluster, active| cluster.heart_process(active).signal("CONT"),
    )
    .await;
}

#[tokio::test]
async fn writes_go_on_when_nothing_gets_through_between_the_active_heart_and_the_broker() {
    go_on(
        "active heart partitioned from the broker",
        async |cluster, active| cluster.heart_proxy(active).set(Fault::Hold),
        async |cluster, active| cluster.heart_proxy(active).set(Fault::None),
    )
    .await;
}

#[tokio::test]
async fn writes_go_on_when_what_the_active_heart_sends_or_receives_is_lost() {
    let lose = async |direction| {
        go_on(
            &format!("active heart half-open ({direction:?} lost)"),
            async |cluster, active| cluster.heart_proxy(active).set(Fault::Lose(direction)),
            async |cluster, active| cluster.heart_proxy(active).set(Fault::None),
        )
        .await;
    };
    join_all([Direction::ToBroker, Direction::FromBroker].map(lose)).await;
}

//! Something happens to the active heart under writes, which go on through the other one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::broker::Broker;
use crate::client::{Client, wait_for};
use crate::oracle::Oracle;
use crate::report::tell;
use crate::standalone::{Cluster, RECOVERY};

/// How long a probing client waits for one answer.
const ANSWER: Duration = Duration::from_millis(500);

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
pub async fn start(broker: &Broker) -> (Cluster, usize) {
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
pub async fn fail_over(
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

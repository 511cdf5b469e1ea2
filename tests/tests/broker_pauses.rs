//! How long writes pause when something happens to the active heart that its successor can notice at once.
//!
//! These tests are a program of their own because they measure: cargo runs one program after the other.

use std::time::Duration;

use broadcast_tests::broker::Broker;
use broadcast_tests::failover::fail_over;
use broadcast_tests::proxy::Fault;
use broadcast_tests::standalone::Cluster;
use tokio::sync::Mutex;

/// How long writes may pause when the active heart is killed, or its connection is cut.
const PAUSE: Duration = Duration::from_secs(3);

async fn measure(
    what: &str,
    fail: impl AsyncFnOnce(&mut Cluster, usize),
    mend: impl AsyncFnOnce(&mut Cluster, usize),
) {
    static ALONE: Mutex<()> = Mutex::const_new(());
    // Those that wait for their turn keep it for each other.
    let _broker = Broker::shared().await;
    let _alone = ALONE.lock().await;
    let pause = fail_over(what, fail, mend).await;
    assert!(pause < PAUSE, "{pause:?}");
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

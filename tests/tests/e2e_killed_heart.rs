//! Hearts that die under writes: another one takes over, and what was acknowledged stays.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::rows::check_rows;
use broadcast_tests::cluster::{self, Scenario};
use broadcast_tests::load::Load;
use broadcast_tests::oracle::Oracle;

/// How long the status may take to name another heart.
const TAKE_OVER_PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn a_heart_that_is_killed_under_writes_loses_none_that_it_acknowledged() {
    cluster::run("killed-heart", async |stage| {
        stage.apply(&stage.sample("orders", 3)).await;
        stage.wait_until_ready("orders", 3).await;
        let oracle = Oracle::default();
        let heart = stage.heart("orders").await;
        let load = Load::start("load", &[heart], &oracle, 4, 100_000);
        load.progress(200).await;

        for _ in 0..2 {
            let (active, epoch) = fetch_active_heart(stage).await;
            let pods = stage.running_pods(&active).await;
            let [pod] = &pods[..] else { panic!("no pod {active}") };
            stage.kill(pod);
            load.progress(200).await;
            wait_for("another heart in the status", TAKE_OVER_PATIENCE, async || {
                let now = fetch_active_heart(stage).await;
                if now.1 > epoch { Ok(()) } else { Err(format!("{now:?}")) }
            })
            .await;
        }

        load.finish().await;
        stage.wait_until_ready("orders", 3).await;
        let nodes = stage.nodes("orders", 1..=3).await;
        check_rows(&nodes, &oracle).await;
    });
}

/// The name of its pod, and its epoch, as the status says.
async fn fetch_active_heart(stage: &Scenario) -> (String, u64) {
    wait_for("an active heart", TAKE_OVER_PATIENCE, async || {
        let status = stage.fetch("orders").await.status.unwrap_or_default();
        status.heart.map(|heart| (heart.active, heart.epoch)).ok_or("none".to_owned())
    })
    .await
}

//! What somebody deletes on the broker by hand is back within seconds and told by name, and no acknowledged write is missing.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::broker::Broker;
use broadcast_tests::cluster::resource::ROLLOUT_PATIENCE;
use broadcast_tests::cluster::rows::check_rows;
use broadcast_tests::cluster::{self, Scenario};
use broadcast_tests::load::Load;
use broadcast_tests::oracle::Oracle;

/// How long a repair may take.
const REPAIRED_WITHIN: Duration = Duration::from_secs(20);

const NODES: u32 = 2;

#[test]
fn a_deleted_exchange_is_back_and_told() {
    repair("exchange", async |broker, name| {
        broker.delete_exchange(name).await;
        format!("exchange {name} was gone")
    });
}

#[test]
fn a_deleted_queue_is_back_and_told() {
    repair("queue", async |broker, name| {
        let queue = format!("{name}_node_2");
        broker.delete_queue(&queue).await;
        format!("queue {queue} was gone")
    });
}

#[test]
fn a_deleted_binding_is_back_and_told() {
    repair("binding", async |broker, name| {
        let queue = format!("{name}_node_2");
        broker.unbind(&queue, name).await;
        format!("queue {queue} was not bound to exchange {name}")
    });
}

/// `damage` gets the name of the exchange and says what the event is to tell.
fn repair(what: &str, damage: impl AsyncFnOnce(&Broker, &str) -> String) {
    cluster::run(&format!("drift-{what}"), async |stage| {
        let broker = stage.connect_to_broker().await;
        stage.apply(&stage.sample("orders", NODES)).await;
        stage.wait_until_ready("orders", NODES).await;
        // The operator tells what is new since it looked first.
        wait_for_a_look(stage).await;
        let oracle = Oracle::default();
        let heart = stage.heart("orders").await;
        let load = Load::start(what, &[heart], &oracle, 4, 100_000);
        load.progress(100).await;

        let told = damage(&broker, &stage.broker_name("orders")).await;
        let started = Instant::now();
        load.progress(100).await;
        let nodes = stage.nodes("orders", 1..=NODES).await;
        // Writes reach both nodes again.
        let seen = oracle.highest();
        wait_for("both nodes to have what was written after it", REPAIRED_WITHIN, async || {
            for node in &nodes {
                let status = node.node_status().await.map_err(|refused| format!("{refused:?}"))?;
                if status.applied < seen || status.state != "ready" {
                    return Err(format!("{status:?}"));
                }
            }
            Ok(())
        })
        .await;
        assert!(started.elapsed() < REPAIRED_WITHIN, "{:?}", started.elapsed());
        println!("{what}: whole after {:.1?}", started.elapsed());
        wait_for(&format!("an event that says {told:?}"), ROLLOUT_PATIENCE, async || {
            let events = stage.events("orders").await;
            let told_so_far: Vec<_> = events.iter().filter_map(|event| event.message.clone()).collect();
            let is_told = told_so_far.iter().any(|note| note.contains(&told));
            if is_told { Ok(()) } else { Err(format!("{told_so_far:#?}")) }
        })
        .await;
        load.finish().await;
        check_rows(&nodes, &oracle).await;
    });
}

/// A status with a position is one of a pass that has asked the heart.
async fn wait_for_a_look(stage: &Scenario) {
    wait_for("the operator to have asked the heart", ROLLOUT_PATIENCE, async || {
        let status = stage.fetch("orders").await.status.unwrap_or_default();
        if status.heart.is_some() { Ok(()) } else { Err("no heart in the status".to_owned()) }
    })
    .await;
}

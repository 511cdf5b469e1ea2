//! A deletion never hangs: not without the broker, not without the Secret. What had to be left behind is told.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use broadcast_api::BroadcastCluster;
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::broker::{BROKER_SECRET, fetch_access};
use broadcast_tests::cluster::resource::ROLLOUT_PATIENCE;
use broadcast_tests::cluster::{self, Scenario};
use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;

async fn start(stage: &Scenario) {
    let mut resource = stage.sample("orders", 1);
    resource.spec.heart.replicas = 1;
    stage.apply(&resource).await;
    stage.wait_until_ready("orders", 1).await;
}

/// An address at which there is no broker.
async fn lose_the_broker(stage: &Scenario) {
    let right = fetch_access(&stage.kube).await;
    let wrong =
        right.values().map(|(key, value)| (key, if key == "host" { "nowhere.invalid" } else { value }));
    stage.write_secret(BROKER_SECRET, &wrong).await;
}

async fn wait_until_gone(stage: &Scenario, patience: Duration) {
    let resources = stage.api::<BroadcastCluster>();
    wait_for("the resource to be gone", patience, async || match resources.get_opt("orders").await {
        Ok(None) => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
}

async fn delete(stage: &Scenario) {
    stage.api::<BroadcastCluster>().delete("orders", &DeleteParams::default()).await.unwrap();
}

async fn wait_for_what_is_left(stage: &Scenario) {
    let queue = format!("{}_node_1", stage.broker_name("orders"));
    wait_for("an event that lists what was left behind", ROLLOUT_PATIENCE, async || {
        let events = stage.events("orders").await;
        let is_told = events.iter().any(|event| {
            event.reason.as_deref() == Some("BrokerObjectsLeftBehind")
                && event.message.as_deref().is_some_and(|note| note.contains(&queue))
        });
        if is_told { Ok(()) } else { Err(format!("{events:#?}")) }
    })
    .await;
}

/// This installation's patience is half a minute.
#[test]
fn a_resource_whose_broker_is_gone_goes_after_a_while() {
    cluster::run("broker-gone", async |stage| {
        start(stage).await;
        lose_the_broker(stage).await;
        delete(stage).await;
        wait_until_gone(stage, Duration::from_secs(80)).await;
        wait_for_what_is_left(stage).await;
        clean_up(stage).await;
    });
}

#[test]
fn a_human_can_say_that_it_need_not_wait() {
    cluster::run("broker-gone-forced", async |stage| {
        start(stage).await;
        lose_the_broker(stage).await;
        stage.kubectl(&["annotate", "bcast/orders", "broadcast.dev/force-delete=true"]).unwrap();
        delete(stage).await;
        wait_until_gone(stage, Duration::from_secs(28)).await;
        wait_for_what_is_left(stage).await;
        clean_up(stage).await;
    });
}

/// The copy that the pods have says where the broker objects are.
#[test]
fn a_resource_whose_secret_is_gone_goes_and_leaves_nothing() {
    cluster::run("secret-gone", async |stage| {
        start(stage).await;
        stage.api::<Secret>().delete(BROKER_SECRET, &DeleteParams::default()).await.unwrap();
        delete(stage).await;
        wait_until_gone(stage, Duration::from_mins(1)).await;
        let (broker, name) = (stage.connect_to_broker().await, stage.broker_name("orders"));
        assert!(!broker.has_exchange(&name).await);
        for queue in ["head", "dead", "node_1"] {
            assert_eq!(broker.depth(&format!("{name}_{queue}")).await, None, "{queue}");
        }
    });
}

/// What the operator could not reach.
async fn clean_up(stage: &Scenario) {
    let (broker, name) = (stage.connect_to_broker().await, stage.broker_name("orders"));
    for queue in ["head", "dead", "node_1"] {
        assert!(broker.depth(&format!("{name}_{queue}")).await.is_some(), "{queue} was told to be left");
        broker.delete_queue(&format!("{name}_{queue}")).await;
    }
    for exchange in [name.clone(), format!("{name}_dead")] {
        broker.delete_exchange(&exchange).await;
    }
}

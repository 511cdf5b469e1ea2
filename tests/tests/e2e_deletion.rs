//! What is left of a deleted resource: nothing.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use broadcast_api::{BroadcastCluster, StorageSpec};
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::broker::Broker;
use broadcast_tests::cluster::resource::ROLLOUT_PATIENCE;
use broadcast_tests::cluster::{self, Scenario};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

/// How long the finalizer may keep a resource whose broker answers.
const DELETION_PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn deletion_leaves_no_object_no_queue_and_no_exchange() {
    cluster::run("deletion", async |stage| {
        let before = stage.inventory();
        let broker = stage.connect_to_broker().await;
        stage.apply(&stage.sample("orders", 2)).await;
        stage.wait_until_ready("orders", 2).await;
        stage.heart("orders").await.put("users", "42", &json!("Ada"), None).await.unwrap();
        assert_eq!(broker_objects(stage, &broker, "orders").await.len(), 6, "two exchanges and four queues");

        delete(stage, "orders").await;
        check_nothing_is_left(stage, &broker, &before).await;
    });
}

#[test]
fn a_cluster_that_never_got_its_volumes_goes_with_its_claims() {
    cluster::run("no-volume", async |stage| {
        let before = stage.inventory();
        let broker = stage.connect_to_broker().await;
        let mut resource = stage.sample("orders", 2);
        let storage_class_name = Some("nobody-provides-this".to_owned());
        resource.spec.nodes.storage = Some(StorageSpec { size: "1Gi".to_owned(), storage_class_name });
        stage.apply(&resource).await;
        wait_for("two volume claims", ROLLOUT_PATIENCE, async || {
            let made = stage.inventory();
            let claims = made.iter().filter(|object| object.starts_with("persistentvolumeclaim/")).count();
            if claims == 2 { Ok(()) } else { Err(format!("{made:?}")) }
        })
        .await;

        delete(stage, "orders").await;
        check_nothing_is_left(stage, &broker, &before).await;
    });
}

#[test]
fn a_namespace_goes_with_the_cluster_in_it_and_its_broker_objects() {
    cluster::run("namespace", async |stage| {
        let broker = stage.connect_to_broker().await;
        stage.apply(&stage.sample("orders", 2)).await;
        stage.wait_until_ready("orders", 2).await;

        let namespaces: Api<Namespace> = Api::all(stage.kube.clone());
        namespaces.delete(&stage.namespace, &DeleteParams::default()).await.unwrap();
        wait_for("the namespace to be gone", ROLLOUT_PATIENCE, async || {
            match namespaces.get_opt(&stage.namespace).await {
                Ok(None) => Ok(()),
                left => Err(format!("{left:?}")),
            }
        })
        .await;
        assert_eq!(broker_objects(stage, &broker, "orders").await, [""; 0]);
    });
}

async fn delete(stage: &Scenario, cluster: &str) {
    let resources = stage.api::<BroadcastCluster>();
    resources.delete(cluster, &DeleteParams::default()).await.unwrap();
    wait_for("the resource to be gone", DELETION_PATIENCE, async || match resources.get_opt(cluster).await {
        Ok(None) => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
}

async fn check_nothing_is_left(stage: &Scenario, broker: &Broker, before: &BTreeSet<String>) {
    assert_eq!(broker_objects(stage, broker, "orders").await, [""; 0]);
    assert_eq!(
        broker.depth(&format!("{}_heart", stage.broker_name("orders"))).await,
        None,
        "a heart holds its lock"
    );
    // What hangs on the resource by owner references is collected a little after it.
    wait_for("every object to be gone", ROLLOUT_PATIENCE, async || {
        let left: Vec<_> = stage.inventory().difference(before).cloned().collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

/// Everything durable that the broker has of a cluster of two nodes.
async fn broker_objects(stage: &Scenario, broker: &Broker, cluster: &str) -> Vec<String> {
    let name = stage.broker_name(cluster);
    let mut found = Vec::new();
    for exchange in [name.clone(), format!("{name}_dead")] {
        if broker.has_exchange(&exchange).await {
            found.push(exchange);
        }
    }
    for queue in ["head", "dead", "node_1", "node_2"] {
        let queue = format!("{name}_{queue}");
        if broker.depth(&queue).await.is_some() {
            found.push(queue);
        }
    }
    found
}

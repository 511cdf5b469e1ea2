//! An operator that dies in the middle of its work: the next one finishes it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;

use broadcast_tests::cluster::environment::OPERATOR_NAMESPACE;
use broadcast_tests::cluster::forward::is_running;
use broadcast_tests::cluster::resource::wait_for_agreement;
use broadcast_tests::cluster::{self, Scenario};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

#[test]
fn a_scale_up_and_a_scale_down_are_finished_by_the_next_operator() {
    cluster::run("killed-operator", async |stage| {
        stage.apply(&stage.sample("orders", 2)).await;
        stage.wait_until_ready("orders", 2).await;
        let heart = stage.heart("orders").await;
        let written = heart.put("users", "42", &json!("Ada"), None).await.unwrap();

        scale_and_kill_operator(stage, 6).await;
        stage.wait_until_ready("orders", 6).await;
        wait_for_agreement(&stage.nodes("orders", 1..=6).await, written.last).await;

        scale_and_kill_operator(stage, 2).await;
        stage.wait_until_ready("orders", 2).await;
        let left: BTreeSet<_> = deployed_nodes(stage).await.into_iter().collect();
        assert_eq!(left, BTreeSet::from(["orders-node-1", "orders-node-2"].map(str::to_owned)));
        let broker = stage.connect_to_broker().await;
        for id in 1..=6 {
            let queue = format!("{}_node_{id}", stage.broker_name("orders"));
            assert_eq!(broker.depth(&queue).await.is_some(), id <= 2, "{queue}");
        }
    });
}

/// Scales, and kills the operator as soon as it has made or deleted the first Deployment.
async fn scale_and_kill_operator(stage: &Scenario, nodes: u32) {
    let operators = running_operators(stage).await;
    stage.begin_to_scale("orders", nodes).await;
    for pod in &operators {
        stage.kill(pod);
    }
    eprintln!("killed the operator; Deployments are {:?}", deployed_nodes(stage).await);
    // A container that dies often is restarted ever later; a new pod is started at once.
    for pod in operators {
        let namespace = format!("--namespace={OPERATOR_NAMESPACE}");
        stage
            .kubectl(&["delete", "pod", &pod.name_any(), &namespace, "--grace-period=0", "--force"])
            .unwrap();
    }
}

/// Every replica: a second one that stands by would hide what is lost with the first.
async fn running_operators(stage: &Scenario) -> Vec<Pod> {
    let pods = stage.operators().list(&ListParams::default()).await.unwrap();
    pods.into_iter().filter(is_running).collect()
}

/// The nodes' Deployments that are there to stay.
async fn deployed_nodes(stage: &Scenario) -> Vec<String> {
    let deployments = stage.api::<Deployment>().list(&ListParams::default()).await.unwrap();
    let stays = |deployment: &&Deployment| {
        deployment.metadata.deletion_timestamp.is_none() && deployment.name_any().starts_with("orders-node-")
    };
    deployments.iter().filter(stays).map(ResourceExt::name_any).collect()
}

//! The operator is upgraded, removed and installed again: hearts and nodes go on as if nothing had happened.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::environment::{OPERATOR_NAMESPACE, RELEASE};
use broadcast_tests::cluster::{self, Scenario, count_restarts};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

/// How long a new operator may take until the status shows the last write.
const STATUS_PATIENCE: Duration = Duration::from_mins(1);

/// How long the operator's pods may take to be gone.
const REMOVAL_PATIENCE: Duration = Duration::from_mins(1);

/// What changes with a version, and what an administrator changes. The images do not exist: a pod that got one would
/// never be ready.
const UPGRADE: [&str; 4] = [
    "--set-string=heartImage=registry.invalid/heart:next",
    "--set-string=nodeImage=registry.invalid/node:next",
    "--set-string=podAnnotations.version=next",
    "--set=log.level=debug",
];

#[test]
fn an_upgrade_a_removal_and_a_new_installation_restart_no_heart_and_no_node() {
    cluster::run("upgrade", async |stage| {
        stage.apply(&stage.sample("orders", 2)).await;
        stage.wait_until_ready("orders", 2).await;
        wait_for_status(stage, "before").await;
        let (pods, first_operator) = (own_pods(stage).await, stage.operator_pods().await);
        assert_eq!(pods.len(), 4, "two hearts and two nodes");

        stage.environment.install(RELEASE, OPERATOR_NAMESPACE, &UPGRADE).unwrap();
        wait_for("another operator", REMOVAL_PATIENCE, async || {
            let now = stage.operator_pods().await;
            if now.is_disjoint(&first_operator) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
        wait_for_status(stage, "after the upgrade").await;
        assert_eq!(own_pods(stage).await, pods);
        run_helm_test(stage);

        remove_operator(stage).await;
        let definitions: Api<CustomResourceDefinition> = Api::all(stage.kube.clone());
        assert!(definitions.get_opt("broadcastclusters.broadcast.dev").await.unwrap().is_some());
        let heart = stage.heart("orders").await;
        heart.put("users", "42", &json!("without an operator"), None).await.unwrap();

        stage.environment.install_operator(&stage.kube).await;
        let last = wait_for_status(stage, "after all").await;
        stage.wait_until_ready("orders", 2).await;
        assert_eq!(own_pods(stage).await, pods);
        for node in stage.nodes("orders", 1..=2).await {
            assert_eq!(node.read("users", "42", last, "10s").await.unwrap().value, json!("after all"));
        }
    });
}

/// Hearts and nodes: their pods' uids, and how often they were restarted.
async fn own_pods(stage: &Scenario) -> BTreeSet<(String, String, i32)> {
    let pods = stage.api::<Pod>().list(&ListParams::default()).await.unwrap();
    pods.iter().map(|pod| (pod.name_any(), pod.uid().unwrap(), count_restarts(pod))).collect()
}

/// Writes, waits until the operator has seen it, and gives the write's number.
async fn wait_for_status(stage: &Scenario, value: &str) -> u64 {
    let written = stage.heart("orders").await.put("users", "42", &json!(value), None).await.unwrap();
    wait_for(&format!("the status to show write {}", written.last), STATUS_PATIENCE, async || {
        let heart = stage.fetch("orders").await.status.and_then(|status| status.heart);
        let is_shown = heart.as_ref().is_some_and(|heart| heart.position >= written.last);
        if is_shown { Ok(()) } else { Err(format!("{heart:?}")) }
    })
    .await;
    written.last
}

fn run_helm_test(stage: &Scenario) {
    let namespace = format!("--namespace={OPERATOR_NAMESPACE}");
    let said = stage.environment.helm(&["test", RELEASE, &namespace, "--logs", "--timeout=90s"]).unwrap();
    for line in ["BroadcastClusters in all namespaces: served", "/readyz: ready"] {
        assert!(said.contains(line), "{said}");
    }
}

async fn remove_operator(stage: &Scenario) {
    let namespace = format!("--namespace={OPERATOR_NAMESPACE}");
    stage.environment.helm(&["uninstall", RELEASE, &namespace, "--wait", "--timeout=90s"]).unwrap();
    wait_for("the operator to be gone", REMOVAL_PATIENCE, async || {
        let left = stage.operator_pods().await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert!(stage.fetch("orders").await.metadata.deletion_timestamp.is_none());
}

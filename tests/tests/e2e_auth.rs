//! Tokens on a real cluster: nobody without one gets anything, and they are changed in their Secret without a restart.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use broadcast_api::AuthSpec;
use broadcast_tests::client::{Client, wait_for};
use broadcast_tests::cluster::resource::wait_for_agreement;
use broadcast_tests::cluster::{self, Scenario, count_restarts};
use broadcast_tests::processes::program;
use broadcast_tests::tokens::Tokens;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::{Value, json};

const NODES: u32 = 2;
const SECRET: &str = "orders-auth";

/// How long it may take until every process has found other tokens: the kubelet brings files at once to a pod that changes, else
/// every minute or so, and processes look every 5 s.
const CHANGE: Duration = Duration::from_mins(2);

#[test]
fn who_has_a_token_of_the_secret_is_let_in_and_another_one_in_it_counts_without_a_restart() {
    cluster::run("auth", async |stage| {
        let mut resource = stage.sample("orders", NODES);
        resource.spec.auth = Some(AuthSpec::default());
        stage.apply(&resource).await;
        stage.wait_until_ready("orders", NODES).await;
        check_secret(stage).await;
        let pods = fetch_pods(stage).await;
        let old = stage.tokens("orders").await.unwrap();
        let (heart, nodes) = (stage.heart("orders").await, stage.nodes("orders", 1..=NODES).await);
        let written = heart.put("users", "1", &json!("Ada"), None).await.unwrap();
        wait_for_agreement(&nodes, written.last).await;
        refuse_strangers(&heart, &nodes, &old).await;
        check_plugin(stage).await;

        let new = Tokens::named("new");
        stage.write_secret(SECRET, &new.and(&old).files()).await;
        touch_pods(stage, "both");
        wait_until_all_answer(&heart, &nodes, &new, 200).await;
        wait_until_all_answer(&heart, &nodes, &old, 200).await;
        stage.write_secret(SECRET, &new.files()).await;
        touch_pods(stage, "new");
        wait_until_all_answer(&heart, &nodes, &old, 401).await;
        wait_until_all_answer(&heart, &nodes, &new, 200).await;

        stage.wait_until_ready("orders", NODES).await;
        check_plugin(stage).await;
        assert_eq!(stage.tokens("orders").await.unwrap(), new, "the operator leaves them as they are");
        assert_eq!(fetch_pods(stage).await, pods, "a pod was replaced or restarted");
    });
}

/// It is the resource's own, so that it goes with it, and has another token for each role.
async fn check_secret(stage: &Scenario) {
    let secret = stage.api::<Secret>().get(SECRET).await.unwrap();
    let resource = stage.fetch("orders").await;
    assert_eq!(secret.owner_references()[0].uid, resource.uid().unwrap());
    let Tokens { write, read, peer } = stage.tokens("orders").await.unwrap();
    assert!(write != read && read != peer && write != peer);
    assert!([write, read, peer].iter().all(|token| token.len() == 64));
    let events = stage.events("orders").await;
    assert!(events.iter().any(|event| event.reason.as_deref() == Some("TokensCreated")), "{events:?}");
}

async fn refuse_strangers(heart: &Client, nodes: &[Client], tokens: &Tokens) {
    let anonymous = |client: &Client| Client::new(client.base().port().unwrap());
    let swapped =
        Tokens { write: tokens.read.clone(), read: tokens.write.clone(), peer: tokens.read.clone() };
    for (status, code, heart, node) in [
        (401, "unauthorized", anonymous(heart), anonymous(&nodes[0])),
        (403, "forbidden", heart.showing(&swapped), nodes[0].showing(&swapped)),
    ] {
        let written = heart.put("users", "2", &json!("Eve"), None).await.unwrap_err();
        let read = node.get::<Value>("v1/collections/users").await.unwrap_err();
        for refused in [written, read] {
            assert_eq!((refused.status, refused.code.as_str()), (status, code), "{refused:?}");
            assert!(refused.message.contains("spec.auth.secretRef"), "{refused:?}");
        }
    }
}

/// The kubelet brings a changed Secret at once to a pod that it has to look at.
fn touch_pods(stage: &Scenario, value: &str) {
    let touched = format!("touched={value}");
    stage.kubectl(&["annotate", "pods", "--all", "--overwrite", &touched]).unwrap();
}

async fn wait_until_all_answer(heart: &Client, nodes: &[Client], tokens: &Tokens, expected: u16) {
    wait_for(&format!("hearts and nodes to answer {expected}"), CHANGE, async || {
        let mut answers = vec![status_of(heart.showing(tokens).heart_status().await)];
        for node in nodes {
            answers.push(status_of(node.showing(tokens).node_status().await));
        }
        if answers.iter().all(|status| *status == expected) { Ok(()) } else { Err(format!("{answers:?}")) }
    })
    .await;
}

fn status_of<T>(answer: Result<T, broadcast_tests::client::Refused>) -> u16 {
    answer.map_or_else(|refused| refused.status, |_| 200)
}

/// It takes the tokens that stand in the Secret; whichever heart it asks may come to know them a moment later than the others.
async fn check_plugin(stage: &Scenario) {
    for arguments in [&["put", "users", "1", "\"Ada\"", "--ack", "all"][..], &["get", "users", "1"]] {
        wait_for(&format!("the plugin to {arguments:?}"), CHANGE, async || {
            let mut plugin = Command::new(program("kubectl-broadcast"));
            let ended = plugin.args(arguments).args(["--namespace", &stage.namespace]).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            if ended.status.success() { Ok(()) } else { Err(said) }
        })
        .await;
    }
}

/// Each pod's uid, with how often it was restarted.
async fn fetch_pods(stage: &Scenario) -> BTreeMap<String, i32> {
    let pods = stage.running_pods("orders-").await;
    pods.iter().map(|pod| (pod.uid().unwrap(), count_restarts(pod))).collect()
}

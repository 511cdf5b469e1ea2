//! Another user of the broker in the Secret: hearts and nodes go over to it under writes, and no pod is restarted.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use broadcast_api::ConditionType;
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::broker::{BROKER_NAMESPACE, BROKER_SECRET, fetch_access};
use broadcast_tests::cluster::resource::condition;
use broadcast_tests::cluster::rows::check_rows;
use broadcast_tests::cluster::{self, Scenario, count_restarts};
use broadcast_tests::load::Load;
use broadcast_tests::oracle::Oracle;
use kube::ResourceExt;

const NODES: u32 = 3;

/// How long it may take until all use what the Secret says: the operator looks every 15 s, the kubelet brings files every minute or so,
/// and processes look every 10 s.
const ROTATION: Duration = Duration::from_mins(3);

#[test]
fn another_user_in_the_secret_is_in_use_soon_without_a_restart_and_without_a_loss() {
    cluster::run("rotation", async |stage| {
        let [first, second] = ["first", "second"].map(|name| format!("{}-{name}", stage.namespace));
        add_user(stage, &first);
        write_user(stage, &first, "secret").await;
        stage.apply(&stage.sample("orders", NODES)).await;
        stage.wait_until_ready("orders", NODES).await;
        let pods = fetch_pods(stage).await;
        let oracle = Oracle::default();
        let heart = stage.heart("orders").await;
        let load = Load::start("load", &[heart], &oracle, 4, 100_000);
        load.progress(200).await;

        // What the broker refuses reaches no pod.
        write_user(stage, &first, "wrong").await;
        wait_for("the operator to be refused", ROTATION, async || {
            let resource = stage.fetch("orders").await;
            let reachable = condition(&resource, ConditionType::BrokerReachable).ok_or("no condition")?;
            let is_told = reachable.status == "False" && reachable.reason == "BrokerCredentialsRefused";
            if is_told { Ok(()) } else { Err(format!("{reachable:?}")) }
        })
        .await;
        load.progress(200).await;

        // In the order that is recommended: everybody has gone over before the old user goes.
        add_user(stage, &second);
        write_user(stage, &second, "secret").await;
        let started = Instant::now();
        wait_until_unused(stage, &first).await;
        println!("all sessions were renewed within {:?}", started.elapsed());
        delete_user(stage, &first);
        load.progress(200).await;

        // The other way round: nobody is let in until the new address has come to the pods.
        let access = fetch_access(&stage.kube).await;
        stage.write_secret(BROKER_SECRET, &access.values()).await;
        delete_user(stage, &second);
        let started = Instant::now();
        load.progress(200).await;
        println!("writes went on {:?} after their user was deleted", started.elapsed());
        load.finish().await;

        stage.wait_until_ready("orders", NODES).await;
        let nodes = stage.nodes("orders", 1..=NODES).await;
        check_rows(&nodes, &oracle).await;
        assert_eq!(fetch_pods(stage).await, pods, "a pod was replaced or restarted");
        let events = stage.events("orders").await;
        assert!(
            events.iter().any(|event| event.reason.as_deref() == Some("CredentialsChanged")),
            "{events:?}"
        );
    });
}

/// Each pod's uid, with how often it was restarted.
async fn fetch_pods(stage: &Scenario) -> BTreeMap<String, i32> {
    let pods = stage.running_pods("orders-").await;
    pods.iter().map(|pod| (pod.uid().unwrap(), count_restarts(pod))).collect()
}

async fn write_user(stage: &Scenario, user: &str, password: &str) {
    let mut access = fetch_access(&stage.kube).await;
    (access.username, access.password) = (user.to_owned(), password.to_owned());
    stage.write_secret(BROKER_SECRET, &access.values()).await;
}

fn add_user(stage: &Scenario, user: &str) {
    control_broker(stage, &["add_user", user, "secret"]);
    control_broker(stage, &["set_permissions", "-p", "/", user, ".*", ".*", ".*"]);
}

fn delete_user(stage: &Scenario, user: &str) {
    control_broker(stage, &["delete_user", user]);
}

async fn wait_until_unused(stage: &Scenario, user: &str) {
    wait_for(&format!("no connection of {user}"), ROTATION, async || {
        let users = control_broker(stage, &["list_connections", "--quiet", "user"]);
        let count = users.lines().filter(|line| line.trim() == user).count();
        if count == 0 { Ok(()) } else { Err(format!("{count} connections")) }
    })
    .await;
}

fn control_broker(stage: &Scenario, arguments: &[&str]) -> String {
    let namespace = format!("--namespace={BROKER_NAMESPACE}");
    let exec = ["exec", "rabbitmq-0", &namespace, "--", "rabbitmqctl"];
    stage.kubectl(&[&exec, arguments].concat()).unwrap()
}

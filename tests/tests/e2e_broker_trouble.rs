//! Trouble with the broker: said in a condition and an event, survived without a crash, over by itself when it is mended.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use broadcast_api::{BroadcastCluster, ConditionType};
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::broker::{Access, fetch_access};
use broadcast_tests::cluster::resource::condition;
use broadcast_tests::cluster::{self, Scenario};

/// How long it may take until the operator has tried and said what happened.
const REPORT_PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn each_trouble_is_named_and_over_when_it_is_mended() {
    cluster::run("trouble", async |stage| {
        let operators = stage.operator_pods().await;
        let right = fetch_access(&stage.kube).await;
        for (trouble, secret) in build_troubles(&right) {
            if let Some(values) = secret {
                stage.write_secret(&secret_name(trouble.name), &values).await;
            }
            stage.apply(&small_cluster(stage, trouble.name)).await;
        }
        for (trouble, _) in build_troubles(&right) {
            wait_for_report(stage, &trouble).await;
        }
        assert_eq!(stage.operator_pods().await, operators, "an operator was restarted");

        for (trouble, _) in build_troubles(&right) {
            stage.write_secret(&secret_name(trouble.name), &right.values()).await;
        }
        for (trouble, _) in build_troubles(&right) {
            let resource = stage.wait_until_ready(trouble.name, 1).await;
            assert_eq!(condition(&resource, ConditionType::BrokerReachable).unwrap().status, "True");
        }
        assert_eq!(stage.operator_pods().await, operators, "an operator was restarted");
    });
}

#[test]
fn the_younger_of_two_resources_with_one_exchange_touches_nothing() {
    cluster::run("conflict", async |stage| {
        stage.apply(&small_cluster_with_right_secret(stage, "older")).await;
        let older = stage.wait_until_ready("older", 1).await;
        let objects = stage.inventory();

        let mut younger = small_cluster_with_right_secret(stage, "younger");
        younger.spec.exchange = stage.broker_name("older");
        stage.apply(&younger).await;
        wait_for("a conflict to be reported", REPORT_PATIENCE, async || {
            let resource = stage.fetch("younger").await;
            let conflict = condition(&resource, ConditionType::Conflict).ok_or("no condition")?;
            let is_told = conflict.status == "True" && conflict.message.contains("older");
            if is_told { Ok(()) } else { Err(format!("{conflict:?}")) }
        })
        .await;
        let mut expected = objects.clone();
        expected.insert("broadcastcluster.broadcast.dev/younger".to_owned());
        assert_eq!(stage.inventory(), expected);
        let after = stage.fetch("older").await;
        let since = |resource: &BroadcastCluster| {
            let ready = condition(resource, ConditionType::Ready).unwrap();
            (ready.status.clone(), ready.last_transition_time.clone())
        };
        assert_eq!(since(&after), since(&older), "the older one noticed");

        // Nobody has to touch the younger one when its turn has come.
        stage.kubectl(&["delete", "bcast/older", "--timeout=60s", "--request-timeout=0"]).unwrap();
        stage.wait_until_ready("younger", 1).await;
    });
}

struct Trouble {
    /// Of the resource.
    name: &'static str,
    /// What the condition's message and an event must contain.
    told: &'static [&'static str],
}

type SecretValues<'a> = Vec<(&'static str, &'a str)>;

/// The last one is an address that swallows every packet: the Service has no such port.
fn build_troubles(right: &Access) -> [(Trouble, Option<SecretValues<'_>>); 5] {
    let but = |key: &str, value: &'static str| {
        let change = |(name, right)| if name == key { (name, value) } else { (name, right) };
        Some(right.values().into_iter().map(change).collect())
    };
    let without = |key: &str| Some(right.values().into_iter().filter(|(name, _)| *name != key).collect());
    [
        (Trouble { name: "no-secret", told: &["secret-of-no-secret", "does not exist"] }, None),
        (Trouble { name: "no-key", told: &["secret-of-no-key", "lacks password"] }, without("password")),
        (Trouble { name: "no-entry", told: &["refuse"] }, but("password", "wrong")),
        (Trouble { name: "no-host", told: &["nowhere.invalid"] }, but("host", "nowhere.invalid")),
        (Trouble { name: "no-answer", told: &["5673"] }, but("port", "5673")),
    ]
}

fn secret_name(cluster: &str) -> String {
    format!("secret-of-{cluster}")
}

/// As few pods as there can be.
fn small_cluster_with_right_secret(stage: &Scenario, name: &str) -> BroadcastCluster {
    let mut resource = stage.sample(name, 1);
    resource.spec.heart.replicas = 1;
    resource
}

fn small_cluster(stage: &Scenario, name: &str) -> BroadcastCluster {
    let mut resource = small_cluster_with_right_secret(stage, name);
    resource.spec.rabbitmq.secret_ref.name = secret_name(name);
    resource
}

async fn wait_for_report(stage: &Scenario, trouble: &Trouble) {
    let is_told = |text: &str| trouble.told.iter().all(|part| text.contains(part));
    wait_for(&format!("the trouble {} to be reported", trouble.name), REPORT_PATIENCE, async || {
        let resource = stage.fetch(trouble.name).await;
        for (wanted, status) in [(ConditionType::BrokerReachable, "False"), (ConditionType::Ready, "False")] {
            let found = condition(&resource, wanted).ok_or(format!("no condition {wanted}"))?;
            if found.status != status || !is_told(&found.message) {
                return Err(format!("{found:?}"));
            }
        }
        let events = stage.events(trouble.name).await;
        let is_warning =
            |event: &&k8s_openapi::api::core::v1::Event| event.type_.as_deref() == Some("Warning");
        let warnings: Vec<_> =
            events.iter().filter(is_warning).filter_map(|event| event.message.as_deref()).collect();
        if warnings.iter().any(|text| is_told(text)) {
            Ok(())
        } else {
            Err(format!("warnings: {warnings:?}"))
        }
    })
    .await;
}

//! A real Prometheus scrapes a running system as the chart's monitors say: every panel shows something, no alert fires
//! while nothing is wrong, and one does when something is.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use broadcast_tests::chart::{self, Alert};
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::environment::OPERATOR_NAMESPACE;
use broadcast_tests::cluster::forward::Forward;
use broadcast_tests::cluster::{self, Scenario};
use broadcast_tests::prometheus::{Job, Prometheus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::{Map, Value, json};

/// Where metrics are served.
const ADMIN_PORT: u16 = 9090;

/// How long a rate may take to be known: two scrapes and what was written in between.
const SAMPLES_PATIENCE: Duration = Duration::from_mins(1);

/// Panels of what does not happen in a system that is well, with the reason.
const MAY_BE_EMPTY: [(&str, &str); 1] =
    [("Ended sessions of hearts", "a reason has a series from its first session on that ended by it")];

#[test]
fn every_panel_shows_something_and_alerts_fire_only_for_a_reason() {
    cluster::run("monitoring", async |stage| {
        stage.apply(&stage.sample("orders", 3)).await;
        stage.wait_until_ready("orders", 3).await;
        let (jobs, _forwards) = build_jobs(stage).await;
        let prometheus = Prometheus::start(&jobs, &chart::folder().join("files/alerts.yaml")).await;
        check_targets(&prometheus, &jobs).await;

        let heart = stage.heart("orders").await;
        for round in 0..30 {
            heart.put("users", &format!("{}", round % 7), &json!(round), None).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        check_labels(stage, &prometheus).await;
        check_panels(&prometheus).await;
        check_alerts(stage, &prometheus).await;

        let broker = stage.connect_to_broker().await;
        broker.publish(&stage.broker_name("orders"), b"no message").await;
        wait_for_alert(stage, &prometheus, "BroadcastDeadLetters").await;
    });
}

/// The operator as the Service of its metrics finds it, hearts and nodes as the `PodMonitor` does.
async fn build_jobs(stage: &Scenario) -> (Vec<Job>, Vec<Forward>) {
    let values = "metrics: {podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}";
    let rendered = chart::render(values).unwrap();
    let spec = |kind: &str| &rendered.iter().find(|object| object["kind"] == kind).unwrap()["spec"];
    let mut forwards = Vec::new();
    let operators = fetch_pods(&stage.kube, OPERATOR_NAMESPACE, &spec("Service")["selector"]).await;
    let labels = |_: &Pod| json!({"namespace": OPERATOR_NAMESPACE});
    let targets = open_targets(&stage.kube, &operators, labels, &mut forwards).await;
    let operator = Job { name: "broadcast-operator-metrics".to_owned(), targets, relabelings: Vec::new() };

    let monitor = spec("PodMonitor");
    let pods = fetch_pods(&stage.kube, &stage.namespace, &monitor["selector"]["matchLabels"]).await;
    assert_eq!(pods.len(), 2 + 3, "the PodMonitor finds {:?}", names(&pods));
    let targets = open_targets(&stage.kube, &pods, discovered_labels, &mut forwards).await;
    let endpoint = &monitor["podMetricsEndpoints"][0];
    let relabelings = endpoint["relabelings"].as_array().unwrap().iter().map(translate).collect();
    let clusters = Job { name: "clusters".to_owned(), targets, relabelings };
    (vec![operator, clusters], forwards)
}

fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}

async fn fetch_pods(kube: &Client, namespace: &str, selector: &Value) -> Vec<Pod> {
    let labels: Vec<_> = selector
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap()))
        .collect();
    let pods: Api<Pod> = Api::namespaced(kube.clone(), namespace);
    let parameters = ListParams::default().labels(&labels.join(","));
    pods.list(&parameters).await.unwrap().items
}

async fn open_targets(
    kube: &Client,
    pods: &[Pod],
    labels: impl Fn(&Pod) -> Value,
    forwards: &mut Vec<Forward>,
) -> Vec<(u16, Value)> {
    let mut targets = Vec::new();
    for pod in pods {
        let api = Api::namespaced(kube.clone(), &pod.namespace().unwrap());
        let forward = Forward::open(api, &pod.name_any(), ADMIN_PORT).await;
        targets.push((forward.port(), labels(pod)));
        forwards.push(forward);
    }
    targets
}

/// What Prometheus' own discovery says of a pod.
fn discovered_labels(pod: &Pod) -> Value {
    let plain = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let mut labels = Map::new();
    labels.insert("__meta_kubernetes_namespace".to_owned(), pod.namespace().into());
    for (name, value) in pod.labels() {
        labels.insert(format!("__meta_kubernetes_pod_label_{}", plain(name)), value.clone().into());
    }
    // As the Prometheus Operator sets it.
    labels.insert("pod".to_owned(), pod.name_any().into());
    labels.into()
}

/// From the words of the Prometheus Operator to Prometheus' own.
fn translate(relabeling: &Value) -> Value {
    let words =
        [("sourceLabels", "source_labels"), ("separator", "separator"), ("targetLabel", "target_label")];
    let fields = relabeling.as_object().unwrap().iter().map(|(field, value)| {
        let word = words.iter().find(|(theirs, _)| theirs == field);
        (word.unwrap_or_else(|| panic!("{field} is not known here")).1.to_owned(), value.clone())
    });
    fields.collect::<Map<_, _>>().into()
}

async fn check_targets(prometheus: &Prometheus, jobs: &[Job]) {
    let wanted: usize = jobs.iter().map(|job| job.targets.len()).sum();
    wait_for("every target to be scraped", SAMPLES_PATIENCE, async || {
        let up = prometheus.query("up == 1").await?;
        if up.len() == wanted { Ok(()) } else { Err(format!("{} of {wanted} are up", up.len())) }
    })
    .await;
}

/// Series of the operator and of nodes can be told apart, and joined, by the same labels.
async fn check_labels(stage: &Scenario, prometheus: &Prometheus) {
    for metric in ["broadcast_queue_messages", "broadcast_node_rows", "broadcast_cluster_node_phase"] {
        let expr = format!("{metric}{{cluster=\"{}/orders\", node=\"2\"}}", stage.namespace);
        wait_for(&expr, SAMPLES_PATIENCE, async || match &prometheus.query(&expr).await?[..] {
            [_] => Ok(()),
            others => Err(format!("{others:?}")),
        })
        .await;
    }
}

async fn check_panels(prometheus: &Prometheus) {
    for query in chart::queries() {
        if MAY_BE_EMPTY.iter().any(|(panel, _)| *panel == query.panel) {
            prometheus.query(&query.expr).await.unwrap();
            continue;
        }
        let what = format!("the panel {:?} to show something: {}", query.panel, query.expr);
        wait_for(&what, SAMPLES_PATIENCE, async || {
            let samples = prometheus.query(&query.expr).await?;
            let is_number = samples.iter().any(|sample| sample.value.1 != "NaN");
            if is_number { Ok(()) } else { Err(format!("{samples:?}")) }
        })
        .await;
    }
    let titles: Vec<_> = chart::queries().into_iter().map(|query| query.panel).collect();
    for (panel, _) in MAY_BE_EMPTY {
        assert!(titles.iter().any(|title| title == panel), "there is no panel {panel:?}");
    }
}

/// Every expression was evaluated, and none of them is about this cluster or the operator.
async fn check_alerts(stage: &Scenario, prometheus: &Prometheus) {
    let mut alerts: Vec<String> = chart::alerts().into_iter().map(|Alert { name, .. }| name).collect();
    wait_for("every rule to be evaluated", SAMPLES_PATIENCE, async || {
        let rules = prometheus.rules().await?;
        let bad: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
        if bad.is_empty() { Ok(()) } else { Err(format!("{bad:?}")) }
    })
    .await;
    let rules = prometheus.rules().await.unwrap();
    let mut evaluated: Vec<_> = rules.iter().map(|rule| rule["name"].as_str().unwrap().to_owned()).collect();
    alerts.sort();
    evaluated.sort();
    assert_eq!(evaluated, alerts);
    let own = format!("{}/orders", stage.namespace);
    let noise = format!("ALERTS{{cluster=~\"|{own}\"}}");
    let noise = prometheus.query(&noise).await.unwrap();
    assert!(noise.is_empty(), "{noise:?}");
}

async fn wait_for_alert(stage: &Scenario, prometheus: &Prometheus, name: &str) {
    let own = format!("{}/orders", stage.namespace);
    let expr = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\", cluster=\"{own}\"}}");
    wait_for(&format!("the alert {name}"), SAMPLES_PATIENCE, async || {
        let firing = prometheus.query(&expr).await?;
        if firing.is_empty() { Err("it is silent".to_owned()) } else { Ok(()) }
    })
    .await;
}

//! A broker that speaks TLS and asks for certificates, in a namespace like any other.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use broadcast_api::{BroadcastCluster, ConditionType, SecretReference, TlsSpec};
use broadcast_tests::authority::{Authority, Identity};
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::broker::{BROKER_NAMESPACE, BROKER_SECRET};
use broadcast_tests::cluster::resource::{ROLLOUT_PATIENCE, condition, wait_for_agreement};
use broadcast_tests::cluster::{self, Scenario};
use serde::Deserialize as _;
use serde_json::{Value, json};

const NODES: u32 = 2;

/// How long it may take until the operator has tried and said what happened.
const REPORT_PATIENCE: Duration = Duration::from_mins(1);

const CONFIG: &str = "\
listeners.ssl.default = 5671
ssl_options.cacertfile = /etc/rabbitmq-first-try/ca.crt
ssl_options.certfile = /etc/rabbitmq-first-try/tls.crt
ssl_options.keyfile = /etc/rabbitmq-first-try/tls.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
";

const USER: &str = "default_user = ada\ndefault_pass = secret\n";

#[test]
fn a_cluster_gets_to_a_broker_that_asks_for_certificates() {
    cluster::run("tls", async |stage| {
        let authority = Authority::new();
        let host = format!("rabbitmq.{}.svc", stage.namespace);
        start_broker(stage, &authority, &authority.issue_for_server(&[&host])).await;
        let address = [
            ("host", host.as_str()),
            ("port", "5671"),
            ("username", "ada"),
            ("password", "secret"),
            ("default_user.conf", USER),
        ];
        stage.write_secret(BROKER_SECRET, &address).await;
        let Identity { certificate, key } = authority.issue_for_client("orders");
        stage.write_secret("client", &[("tls.crt", &certificate), ("tls.key", &key)]).await;
        stage.write_secret("ca", &[("ca.crt", &Authority::new().certificate)]).await;

        stage.apply(&secure_cluster(stage, false)).await;
        wait_for_report(stage, "not signed by a CA that is trusted").await;
        stage.write_secret("ca", &[("ca.crt", &authority.certificate)]).await;
        wait_for_report(stage, "a client certificate").await;
        stage.apply(&secure_cluster(stage, true)).await;
        let ready = stage.wait_until_ready("orders", NODES).await;
        let reachable = condition(&ready, ConditionType::BrokerReachable).unwrap();
        assert!(reachable.message.starts_with("amqps://ada@"), "{reachable:?}");

        let heart = stage.heart("orders").await;
        let written = heart.put("users", "1", &json!("over TLS"), None).await.unwrap();
        wait_for_agreement(&stage.nodes("orders", 1..=NODES).await, written.last).await;
    });
}

fn secure_cluster(stage: &Scenario, has_certificate: bool) -> BroadcastCluster {
    let reference = |name: &str| Some(SecretReference { name: name.to_owned() });
    let mut resource = stage.sample("orders", NODES);
    resource.spec.rabbitmq.tls = Some(TlsSpec {
        ca_secret_ref: reference("ca"),
        client_cert_secret_ref: if has_certificate { reference("client") } else { None },
        server_name: None,
    });
    resource
}

async fn wait_for_report(stage: &Scenario, expected: &str) {
    wait_for(&format!("the report: {expected}"), REPORT_PATIENCE, async || {
        let resource = stage.fetch("orders").await;
        let reachable = condition(&resource, ConditionType::BrokerReachable).ok_or("no condition")?;
        let is_told = reachable.status == "False" && reachable.message.contains(expected);
        if is_told { Ok(()) } else { Err(format!("{reachable:?}")) }
    })
    .await;
}

/// The image that the cluster's own broker runs, which is there.
fn fetch_image(stage: &Scenario) -> String {
    let path = "--output=jsonpath={.spec.template.spec.containers[0].image}";
    stage.kubectl(&["get", "statefulset/rabbitmq", "--namespace", BROKER_NAMESPACE, path]).unwrap()
}

/// The RabbitMQ for a first try once more, in the scenario's namespace, with certificates and without a volume.
async fn start_broker(stage: &Scenario, authority: &Authority, server: &Identity) {
    let files =
        [("ca.crt", &authority.certificate), ("tls.crt", &server.certificate), ("tls.key", &server.key)];
    stage.write_secret("server", &files.map(|(key, file)| (key, file.as_str()))).await;
    stage.write_secret(BROKER_SECRET, &[("default_user.conf", USER)]).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rabbitmq.yaml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let documents = serde_yaml::Deserializer::from_str(&text);
    for mut object in documents.map(|document| Value::deserialize(document).unwrap()) {
        object["metadata"]["namespace"] = json!(stage.namespace);
        match object["kind"].as_str().unwrap() {
            "ConfigMap" => object["data"]["rabbitmq.conf"] = json!(CONFIG),
            "Service" => {
                let port = json!({"name": "amqps", "port": 5671, "targetPort": 5671});
                object["spec"]["ports"].as_array_mut().unwrap().push(port);
            }
            "StatefulSet" => {
                object["spec"].as_object_mut().unwrap().remove("volumeClaimTemplates");
                object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(fetch_image(stage));
                let volumes = object["spec"]["template"]["spec"]["volumes"].as_array_mut().unwrap();
                let sources = volumes[0]["projected"]["sources"].as_array_mut().unwrap();
                sources.push(json!({"secret": {"name": "server"}}));
                volumes.push(json!({"name": "data", "emptyDir": {}}));
            }
            _ => continue,
        }
        stage.kubectl_with_input(&["apply", "--filename=-"], &object.to_string()).unwrap();
    }
    wait_for("the broker to be ready", ROLLOUT_PATIENCE, async || {
        stage
            .kubectl(&["rollout", "status", "statefulset/rabbitmq", "--timeout=5s"])
            .map_err(|complaint| complaint.to_string())
    })
    .await;
}

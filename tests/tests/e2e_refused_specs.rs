//! Wrong manifests: the API server refuses each with a message that names the field and what is allowed.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use broadcast_api::{AuthSpec, BroadcastCluster};
use broadcast_tests::cluster::environment::Complaint;
use broadcast_tests::cluster::{self, Scenario};
use serde_json::{Value, json};

/// Where in the manifest, which value, and what the answer must contain.
type Case = (&'static str, Value, &'static [&'static str]);

const NAME_PATTERN: &str = "should match '^[A-Za-z0-9_][A-Za-z0-9_.:-]*$'";

#[test]
fn a_wrong_manifest_is_refused_with_field_and_allowed_values() {
    cluster::run("refused", async |stage| {
        let cases: [Case; 30] = [
            ("/spec/nodes/replicas", json!(0), &["spec.nodes.replicas", "greater than or equal to 1"]),
            ("/spec/nodes/replicas", json!(101), &["spec.nodes.replicas", "less than or equal to 100"]),
            ("/spec/nodes/replicas", json!("three"), &["spec.nodes.replicas", "must be of type integer"]),
            ("/spec/heart/replicas", json!(0), &["spec.heart.replicas", "greater than or equal to 1"]),
            ("/spec/heart/replicas", json!(6), &["spec.heart.replicas", "less than or equal to 5"]),
            ("/spec/exchange", json!("a b"), &["spec.exchange", NAME_PATTERN]),
            ("/spec/exchange", json!(""), &["spec.exchange", "at least 1 chars"]),
            ("/spec/exchange", json!("amq.fanout"), &["spec.exchange", "reserved by the broker"]),
            (
                "/spec/exchange",
                json!("x".repeat(201)),
                &["spec.exchange", "Too long: may not be more than 200"],
            ),
            ("/spec/queueName", json!("ünicode"), &["spec.queueName", NAME_PATTERN]),
            ("/spec/queueName", json!("amq.gen"), &["spec.queueName", "reserved by the broker"]),
            (
                "/spec/queueType",
                json!("stream"),
                &["spec.queueType", r#"supported values: "classic", "quorum""#],
            ),
            ("/spec/rabbitmq/secretRef", Value::Null, &["spec.rabbitmq.secretRef", "Required"]),
            (
                "/spec/rabbitmq/secretRef/name",
                json!("No_Name"),
                &["spec.rabbitmq.secretRef.name", "should match"],
            ),
            ("/spec/rabbitmq", Value::Null, &["spec.rabbitmq", "Required"]),
            ("/spec/nodes/storage", json!({"size": "ten"}), &["spec.nodes.storage.size", "should match"]),
            ("/spec/nodes/replcas", json!(3), &[r#"unknown field "spec.nodes.replcas""#]),
            ("/spec/color", json!("red"), &[r#"unknown field "spec.color""#]),
            (
                "/metadata/name",
                json!("a-name-of-more-than-40-characters-is-too-l"),
                &["metadata.name", "at most 40 characters"],
            ),
            ("/spec/backlog", json!({"maxBytes": "1.5Gi"}), &["spec.backlog.maxBytes", "should match"]),
            (
                "/spec/deletionPolicy",
                json!("Keep"),
                &["spec.deletionPolicy", r#"supported values: "Delete", "Retain""#],
            ),
            ("/spec/historyId", json!("a_b"), &["spec.historyId", "should match"]),
            (
                "/spec/rabbitmq/tls",
                json!({"serverName": "a b"}),
                &["spec.rabbitmq.tls.serverName", "should match"],
            ),
            (
                "/spec/rabbitmq/tls",
                json!({"caSecretRef": {}}),
                &["spec.rabbitmq.tls.caSecretRef.name", "Required"],
            ),
            (
                "/spec/auth",
                json!({"secretRef": {"name": "orders-auth"}}),
                &[
                    "auth.secretRef names a Secret that the operator makes: leave it out, or name one of your own",
                ],
            ),
            ("/spec/auth", json!({"secretRef": {}}), &["spec.auth.secretRef.name", "Required"]),
            (
                "/spec/networkPolicy",
                json!({"clients": [{}]}),
                &["spec.networkPolicy.clients[0]", "either cidr, or podSelector or namespaceSelector"],
            ),
            (
                "/spec/networkPolicy",
                json!({"monitoring": [{"cidr": "ten"}]}),
                &["spec.networkPolicy.monitoring[0].cidr", "should match"],
            ),
            (
                "/spec/networkPolicy",
                json!({"clients": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}]}),
                &["spec.networkPolicy.clients[0].podSelector.matchExpressions[0].operator", r#""NotIn""#],
            ),
            ("/metadata/name", json!("1st"), &["metadata.name", "a lower-case letter, then"]),
        ];
        let manifest = build_manifest(&stage.sample("orders", 3));
        dry_run(stage, &manifest).expect("the manifest that the wrong ones are made of is right");
        for (place, value, expected) in cases {
            assert_refused(stage, &change(&manifest, place, value), place, expected);
        }
    });
}

#[test]
fn what_cannot_change_is_refused_and_what_can_is_not() {
    cluster::run("immutable", async |stage| {
        let mut resource = stage.sample("orders", 1);
        resource.spec.heart.replicas = 1;
        resource.spec.auth = Some(AuthSpec::default());
        stage.apply(&resource).await;
        let manifest = build_manifest(&resource);
        let cases: [Case; 7] = [
            ("/spec/auth", json!({"secretRef": {"name": "mine"}}), &["spec.auth", "secretRef is immutable"]),
            ("/spec/exchange", json!("other"), &["spec.exchange", "exchange is immutable"]),
            ("/spec/queueName", json!("other"), &["spec.queueName", "queueName is immutable"]),
            ("/spec/queueType", json!("quorum"), &["spec.queueType", "queueType is immutable"]),
            ("/spec/rabbitmq/vhost", json!("other"), &["spec.rabbitmq", "vhost is immutable"]),
            ("/spec/nodes/storage", json!({"size": "1Gi"}), &["spec.nodes", "storage is immutable"]),
            ("/spec/historyId", json!("other"), &["historyId is immutable"]),
        ];
        for (place, value, expected) in cases {
            assert_refused(stage, &change(&manifest, place, value), place, expected);
        }
        // What a manifest that is applied leaves out stays as it is.
        let removal = r#"--patch=[{"op":"remove","path":"/spec/auth"}]"#;
        let refusal =
            stage.kubectl(&["patch", "bcast/orders", "--type=json", removal]).unwrap_err().to_string();
        assert!(refusal.contains("auth cannot be taken away again"), "{refusal}");
        for (place, value) in [("/spec/nodes/replicas", json!(4)), ("/spec/heart/replicas", json!(2))] {
            dry_run(stage, &change(&manifest, place, value)).unwrap();
        }
        for (replicas, allowed) in [(0, "greater than or equal to 1"), (101, "less than or equal to 100")] {
            let refused = stage
                .kubectl(&["scale", "bcast/orders", &format!("--replicas={replicas}")])
                .unwrap_err()
                .to_string();
            for part in ["replicas", allowed] {
                assert!(refused.contains(part), "scaling to {replicas}: {refused}");
            }
        }
    });
}

fn build_manifest(resource: &BroadcastCluster) -> Value {
    serde_json::to_value(resource).unwrap()
}

/// The manifest with another value at a place (`/spec/exchange`); null removes what is there.
fn change(manifest: &Value, place: &str, value: Value) -> Value {
    let mut manifest = manifest.clone();
    let (parent, field) = place.rsplit_once('/').unwrap();
    let parent = manifest.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Value::Null => parent.remove(field),
        value => parent.insert(field.to_owned(), value),
    };
    manifest
}

fn assert_refused(stage: &Scenario, manifest: &Value, place: &str, expected: &[&str]) {
    let Err(refusal) = dry_run(stage, manifest) else { panic!("accepted at {place}: {manifest}") };
    let refusal = refusal.to_string();
    for part in expected {
        assert!(refusal.contains(part), "{place}: {part:?} is not in: {refusal}");
    }
}

/// As a person would apply it, but for the last step.
fn dry_run(stage: &Scenario, manifest: &Value) -> Result<String, Complaint> {
    let apply = ["apply", "--dry-run=server", "--validate=strict", "--filename=-"];
    stage.kubectl_with_input(&apply, &manifest.to_string())
}

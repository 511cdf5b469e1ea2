use kube::core::cel::{Validator, compile_schema};
use serde_json::json;

use super::*;

/// An edit of the base resource: a path and the value to put there; `null` removes what stands there.
type Edit<'a> = (&'a [&'a str], Value);

fn schema() -> Value {
    build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn resource(edits: &[Edit<'_>]) -> Value {
    let mut resource = json!({
        "apiVersion": "broadcast.dev/v1alpha1",
        "kind": "BroadcastCluster",
        "metadata": {"name": "orders"},
        "spec": {"rabbitmq": {"secretRef": {"name": "rabbitmq"}}},
    });
    for (path, value) in edits {
        let (last, parents) = path.split_last().unwrap();
        let mut place = &mut resource;
        for key in parents {
            place = place.as_object_mut().unwrap().entry(*key).or_insert_with(|| json!({}));
        }
        if value.is_null() {
            place.as_object_mut().unwrap().remove(*last);
        } else {
            place[*last] = value.clone();
        }
    }
    resource
}

/// What the API server would say, by schema and by rule; `old` is what stood there before an update.
fn problems(new: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schema();
    let mut problems: Vec<String> = jsonschema::validator_for(&schema)
        .unwrap()
        .iter_errors(new)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    if let Err(errors) = Validator::new().validate(&schema, new, old) {
        problems.extend(errors.into_vec().iter().map(ToString::to_string));
    }
    problems
}

#[test]
fn every_rule_compiles() {
    let compiled = compile_schema(&schema());
    assert!(!compiled.has_errors(), "{:?}", compiled.compilation_errors());
}

#[test]
fn what_the_documentation_shows_is_accepted() {
    let storage = json!({"size": "10Gi", "storageClassName": "fast"});
    let tls = json!({"caSecretRef": {"name": "ca"}, "clientCertSecretRef": {"name": "cert"}, "serverName": "mq.example"});
    let cases: &[&[Edit<'_>]] = &[
        &[],
        &[(&["metadata", "name"], json!("a"))],
        &[(&["metadata", "name"], json!("a".repeat(40)))],
        &[(&["metadata", "name"], json!("orders-2"))],
        &[(&["spec", "exchange"], json!("orders.v2:eu-1"))],
        &[(&["spec", "queueName"], json!("amqp"))],
        &[(&["spec", "queueType"], json!("quorum"))],
        &[(&["spec", "rabbitmq", "vhost"], json!("/"))],
        &[(&["spec", "rabbitmq", "tls"], json!({}))],
        &[(&["spec", "rabbitmq", "tls"], tls)],
        &[(&["spec", "rabbitmq", "tls", "serverName"], json!("2001:db8::1"))],
        &[(&["spec", "rabbitmq", "tls", "serverName"], json!("10.0.0.1"))],
        &[(&["spec", "auth"], json!({}))],
        &[(&["spec", "auth"], json!({"secretRef": {"name": "orders-tokens"}}))],
        &[(&["spec", "heart", "replicas"], json!(1))],
        &[(&["spec", "heart", "replicas"], json!(5))],
        &[(&["spec", "nodes", "replicas"], json!(1))],
        &[(&["spec", "nodes", "replicas"], json!(100))],
        &[(&["spec", "nodes", "storage"], storage)],
        &[(&["spec", "backlog", "maxBytes"], json!("512Mi"))],
        &[(&["spec", "deletionPolicy"], json!("Retain"))],
        &[(&["spec", "historyId"], json!("4be9f9a1-6a50-4b3a-9a4e-0d8f3f1c2b7d"))],
        &[(&["spec", "nodes", "image"], json!("registry.example:5000/node:1"))],
        &[(&["spec", "heart", "resources"], json!({"requests": {"cpu": 1, "memory": "64Mi"}}))],
        &[(&["spec", "nodes", "resources"], json!({"limits": {"cpu": "0.5", "memory": "1.5Gi"}}))],
    ];
    for edits in cases {
        assert_eq!(problems(&resource(edits), None), [""; 0], "{edits:?}");
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_field_and_what_is_allowed() {
    let cases: &[(&[&str], Value, &str)] = &[
        (&["metadata", "name"], json!("a".repeat(41)), "at most 40 characters"),
        (&["metadata", "name"], json!("1st"), "a lower-case letter"),
        (&["metadata", "name"], json!("a.b"), "a lower-case letter"),
        (&["spec", "rabbitmq"], json!(null), "\"rabbitmq\" is a required property"),
        (&["spec", "rabbitmq", "secretRef"], json!({}), "\"name\" is a required property"),
        (&["spec", "rabbitmq", "secretRef", "name"], json!("A"), "/spec/rabbitmq/secretRef/name"),
        (&["spec", "rabbitmq", "vhost"], json!(""), "/spec/rabbitmq/vhost"),
        (&["spec", "rabbitmq", "tls"], json!(true), "/spec/rabbitmq/tls"),
        (&["spec", "rabbitmq", "tls", "caSecretRef"], json!({}), "\"name\" is a required property"),
        (
            &["spec", "rabbitmq", "tls", "clientCertSecretRef", "name"],
            json!("A"),
            "/spec/rabbitmq/tls/clientCert",
        ),
        (&["spec", "rabbitmq", "tls", "serverName"], json!(""), "/spec/rabbitmq/tls/serverName"),
        (&["spec", "rabbitmq", "tls", "serverName"], json!("two words"), "/spec/rabbitmq/tls/serverName"),
        (&["spec", "auth"], json!(true), "/spec/auth"),
        (&["spec", "auth", "secretRef"], json!({}), "\"name\" is a required property"),
        (&["spec", "auth", "secretRef", "name"], json!("A"), "/spec/auth/secretRef/name"),
        (
            &["spec", "auth", "secretRef", "name"],
            json!("orders-auth"),
            "auth.secretRef names a Secret that the operator makes: leave it out, or name one of your own",
        ),
        (&["spec", "auth", "secretRef", "name"], json!("orders-amqp"), "a Secret that the operator makes"),
        (&["spec", "exchange"], json!(""), "/spec/exchange"),
        (&["spec", "exchange"], json!("a b"), "/spec/exchange"),
        (&["spec", "exchange"], json!("x".repeat(201)), "/spec/exchange"),
        (&["spec", "exchange"], json!("amq.fanout"), "spec.exchange: names that begin with 'amq.'"),
        (&["spec", "queueName"], json!("ünicode"), "/spec/queueName"),
        (&["spec", "queueName"], json!("amq.gen"), "spec.queueName: names that begin with 'amq.'"),
        (&["spec", "queueType"], json!("stream"), "\"classic\" or \"quorum\""),
        (&["spec", "heart", "replicas"], json!(0), "/spec/heart/replicas"),
        (&["spec", "heart", "replicas"], json!(6), "maximum of 5"),
        (
            &["spec", "heart", "resources"],
            json!({"limits": {"cpu": "much"}}),
            "/spec/heart/resources/limits/cpu",
        ),
        (&["spec", "nodes", "replicas"], json!(0), "minimum of 1"),
        (&["spec", "nodes", "replicas"], json!(101), "maximum of 100"),
        (&["spec", "nodes", "replicas"], json!("3"), "/spec/nodes/replicas"),
        (&["spec", "nodes", "image"], json!(""), "/spec/nodes/image"),
        (&["spec", "nodes", "storage"], json!({}), "\"size\" is a required property"),
        (&["spec", "nodes", "storage"], json!({"size": "0Gi"}), "/spec/nodes/storage/size"),
        (&["spec", "nodes", "storage"], json!({"size": "10GB"}), "/spec/nodes/storage/size"),
        (&["spec", "backlog", "maxBytes"], json!("1GB"), "/spec/backlog/maxBytes"),
        (&["spec", "backlog", "maxBytes"], json!("0"), "/spec/backlog/maxBytes"),
        (&["spec", "deletionPolicy"], json!("Keep"), "\"Delete\" or \"Retain\""),
        (&["spec", "historyId"], json!("a\nb"), "/spec/historyId"),
        (&["spec", "historyId"], json!("x".repeat(64)), "/spec/historyId"),
    ];
    for (path, value, expected) in cases {
        let problems = problems(&resource(&[(path, value.clone())]), None);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{path:?} {value}: {problems:?}");
    }
}

#[test]
fn what_holds_acknowledged_writes_cannot_be_changed() {
    let small = json!({"size": "1Gi"});
    let mine = json!({"secretRef": {"name": "mine"}});
    let cases: &[(&[&str], Value, Value, &str)] = &[
        (&["spec", "exchange"], json!("a"), json!("b"), "exchange is immutable"),
        (&["spec", "queueName"], json!("a"), json!("b"), "queueName is immutable"),
        (&["spec", "queueType"], json!("classic"), json!("quorum"), "queueType is immutable"),
        (&["spec", "rabbitmq", "vhost"], json!("a"), json!("b"), "vhost is immutable"),
        (&["spec", "rabbitmq", "vhost"], json!(null), json!("b"), "vhost is immutable"),
        (&["spec", "rabbitmq", "vhost"], json!("a"), json!(null), "vhost is immutable"),
        (&["spec", "nodes", "storage"], small.clone(), json!({"size": "2Gi"}), "storage is immutable"),
        (&["spec", "nodes", "storage"], json!(null), small.clone(), "storage is immutable"),
        (&["spec", "nodes", "storage"], small, json!(null), "storage is immutable"),
        (
            &["spec", "auth"],
            json!({}),
            json!(null),
            "auth cannot be taken away again: nodes with tokens and nodes without would not talk to each other",
        ),
        (
            &["spec", "auth"],
            json!({}),
            mine.clone(),
            "secretRef is immutable: change the tokens in the Secret",
        ),
        (
            &["spec", "auth"],
            mine.clone(),
            json!({}),
            "secretRef is immutable: change the tokens in the Secret",
        ),
        (
            &["spec", "auth", "secretRef", "name"],
            json!("a"),
            json!("b"),
            "secretRef is immutable: change the tokens in the Secret",
        ),
        (&["spec", "historyId"], json!("a"), json!("b"), "historyId is immutable"),
        (&["spec", "historyId"], json!(null), json!("b"), "historyId is immutable"),
        (&["spec", "historyId"], json!("a"), json!(null), "historyId is immutable"),
    ];
    for (path, old, new, expected) in cases {
        let (old, new) = (resource(&[(path, old.clone())]), resource(&[(path, new.clone())]));
        let found = problems(&new, Some(&old));
        assert!(found.iter().any(|problem| problem.ends_with(expected)), "{path:?}: {found:?}");
        assert_eq!(problems(&new, Some(&new)), [""; 0], "{path:?} left as it was");
    }
}

#[test]
fn everything_else_can_be_changed() {
    let changes: &[Edit<'_>] = &[
        (&["spec", "rabbitmq", "secretRef", "name"], json!("other")),
        (&["spec", "rabbitmq", "tls"], json!({"caSecretRef": {"name": "ca"}})),
        (&["spec", "auth"], json!({})),
        (&["spec", "heart", "replicas"], json!(3)),
        (&["spec", "nodes", "replicas"], json!(5)),
        (&["spec", "nodes", "image"], json!("node:2")),
        (&["spec", "backlog", "maxBytes"], json!("2Gi")),
        (&["spec", "deletionPolicy"], json!("Retain")),
    ];
    for change in changes {
        let new = resource(std::slice::from_ref(change));
        assert_eq!(problems(&new, Some(&resource(&[]))), [""; 0], "{change:?}");
    }
}

#[test]
fn defaults_and_limits_are_those_of_the_code() {
    let cluster: BroadcastCluster = serde_json::from_value(resource(&[])).unwrap();
    let spec = schema()["properties"]["spec"]["properties"].clone();
    assert_eq!(spec["exchange"]["default"], json!(cluster.spec.exchange));
    assert_eq!(spec["queueName"]["default"], json!(cluster.spec.queue_name));
    assert_eq!(spec["queueType"]["default"], json!(cluster.spec.queue_type));
    assert_eq!(spec["backlog"]["default"], json!(cluster.spec.backlog));
    assert_eq!(spec["deletionPolicy"]["default"], json!(cluster.spec.deletion_policy));
    assert_eq!(spec["heart"]["default"], json!(cluster.spec.heart));
    assert_eq!(spec["nodes"]["default"], json!(cluster.spec.nodes));
    let maximum = |section: &str| spec[section]["properties"]["replicas"]["maximum"].as_f64();
    assert_eq!(maximum("heart"), Some(f64::from(crate::MAX_HEARTS)));
    assert_eq!(maximum("nodes"), Some(f64::from(crate::MAX_NODES)));
}

#[test]
fn names_follow_the_rules_of_the_protocol() {
    use broadcast_protocol::names::{DEFAULT_EXCHANGE, DEFAULT_QUEUE_NAME, MAX_NAME_BYTES, NAME_PATTERN};
    let spec = schema()["properties"]["spec"]["properties"].clone();
    for (field, default) in [("exchange", DEFAULT_EXCHANGE), ("queueName", DEFAULT_QUEUE_NAME)] {
        assert_eq!(spec[field]["pattern"], json!(NAME_PATTERN));
        assert_eq!(spec[field]["maxLength"], json!(MAX_NAME_BYTES));
        assert_eq!(spec[field]["default"], json!(default));
    }
}

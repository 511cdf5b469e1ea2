//! What tests of several modules start from.

pub(crate) mod api_server;

use std::collections::BTreeSet;

use broadcast_api::BroadcastCluster;
use broadcast_protocol::names::NodeId;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::broker::ObservedBroker;
use crate::controller::objects::ObservedObjects;
use crate::controller::observe::Observed;
use crate::controller::tokens::ObservedTokens;
use crate::controller::validate::{Installation, ValidCluster, validate};
use crate::secret::{BrokerAccess, parse_secret};

/// The resource of the documentation, as the API server hands it out.
pub(crate) fn cluster() -> BroadcastCluster {
    serde_json::from_value(json!({
        "apiVersion": "broadcast.dev/v1alpha1",
        "kind": "BroadcastCluster",
        "metadata": {
            "name": "orders",
            "namespace": "shop",
            "uid": "4be9f9a1-6a50-4b3a-9a4e-0d8f3f1c2b7d",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["broadcast.dev/broker-objects"],
        },
        "spec": {"rabbitmq": {"secretRef": {"name": "rabbitmq"}}},
    }))
    .unwrap()
}

/// What the operator of the tests says of all resources.
pub(crate) fn installation() -> Installation {
    Installation {
        heart_image: "heart:test".to_owned(),
        node_image: "node:test".to_owned(),
        namespace: Some("broadcast-system".to_owned()),
    }
}

/// The resource of the documentation, validated.
pub(crate) fn valid() -> ValidCluster {
    validate(&cluster(), &installation()).unwrap()
}

/// The broker's address.
pub(crate) fn access() -> BrokerAccess {
    let data = [("uri".to_owned(), ByteString(b"amqp://ada:secret@broker:5672/shop".to_vec()))];
    parse_secret("rabbitmq", &Secret { data: Some(data.into()), ..Secret::default() }, None, false).unwrap()
}

/// Another user's way to the same broker, with TLS and a CA of its own.
pub(crate) fn other_access() -> BrokerAccess {
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap().pem();
    let uri = "amqps://eve:secret@broker/shop?cacertfile=ca.crt";
    let data = [("uri", uri), ("ca.crt", &ca)]
        .map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())));
    parse_secret("rabbitmq", &Secret { data: Some(data.into()), ..Secret::default() }, None, false).unwrap()
}

/// A cluster that nothing was made of yet, with a broker that answers.
pub(crate) fn nothing() -> Observed {
    Observed {
        objects: ObservedObjects::new(),
        pods: Vec::new(),
        recorded: BTreeSet::new(),
        removing: BTreeSet::new(),
        backlogs: Vec::new(),
        genesis: false,
        tokens: Ok(ObservedTokens::Unwanted),
        access: Ok(access()),
        broker: Ok(ObservedBroker::default()),
        heart: Err("no heart has an address yet".to_owned()),
    }
}

/// Node ids.
pub(crate) fn ids(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<NodeId> {
    numbers.into_iter().map(|number| NodeId::new(number).unwrap()).collect()
}

/// The status of a Deployment of this generation whose one pod is ready.
pub(crate) fn ready_status(generation: &serde_json::Value) -> serde_json::Value {
    let came_up = json!([{"type": "Progressing", "reason": "NewReplicaSetAvailable"}]);
    json!({"observedGeneration": generation, "conditions": came_up, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1})
}

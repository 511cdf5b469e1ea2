//! All that there is in a namespace, without what no two of them have in common: two that went the same way, or not, to the same end
//! look the same.

use std::collections::BTreeMap;

use broadcast_api::BroadcastCluster;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{CustomResourceExt, ResourceExt};
use serde_json::{Map, Value, json};

use crate::stand_in::kinds;

/// Objects as text, by kind and name.
pub type Snapshot = BTreeMap<String, String>;

/// What the API server gives each object anew, and when something happened.
const OWN: [&str; 5] =
    ["creationTimestamp", "managedFields", "resourceVersion", "lastTransitionTime", "lastUpdateTime"];

/// What contains hashes of the above.
const HASHES: [&str; 2] = ["broadcast.dev/applied", "broadcast.dev/config"];

/// Takes one. `own` are texts that only this namespace has, and what is written instead.
pub async fn take_snapshot(client: &Client, namespace: &str, own: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::new();
    let resource = BroadcastCluster::api_resource();
    let mut replaced: Vec<(String, String)> =
        own.iter().map(|(found, instead)| ((*found).to_owned(), (*instead).to_owned())).collect();
    replaced.push((namespace.to_owned(), "NAMESPACE".to_owned()));
    for kind in [resource].into_iter().chain(kinds()) {
        for object in list(client, namespace, &kind).await {
            if kind.kind == "BroadcastCluster" {
                replaced.push((object.uid().unwrap(), "UID".to_owned()));
            }
            let key = format!("{} {}", kind.kind, object.name_any());
            let mut value = serde_json::to_value(object).unwrap();
            if kind.kind == "Secret" {
                decode(&mut value);
            }
            value["metadata"].as_object_mut().unwrap().remove("uid");
            normalise(&mut value);
            let mut text = serde_json::to_string_pretty(&value).unwrap();
            for (found, instead) in &replaced {
                text = text.replace(found, instead);
            }
            snapshot.insert(key, text);
        }
    }
    snapshot
}

async fn list(client: &Client, namespace: &str, kind: &ApiResource) -> Vec<DynamicObject> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
    api.list(&ListParams::default()).await.unwrap().items
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => normalise_fields(fields),
        Value::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}

fn normalise_fields(fields: &mut Map<String, Value>) {
    fields.retain(|name, _| !OWN.contains(&name.as_str()));
    for (name, value) in fields {
        match (name.as_str(), &mut *value) {
            (name, Value::String(hash)) if HASHES.contains(&name) => "HASH".clone_into(hash),
            ("clusterIP", Value::String(address)) if address != "None" => "ADDRESS".clone_into(address),
            ("clusterIPs", Value::Array(addresses)) if addresses != &[json!("None")] => addresses.clear(),
            (_, value) => normalise(value),
        }
    }
}

/// What is in a Secret, so that it can be read and replaced.
fn decode(value: &mut Value) {
    let secret: Secret = serde_json::from_value(value.clone()).unwrap();
    let data = secret.data.unwrap_or_default().into_iter();
    value["data"] =
        data.map(|(key, bytes)| (key, Value::from(String::from_utf8(bytes.0).unwrap()))).collect();
}

/// The first line in which two snapshots differ, with what it is about.
pub fn describe_difference(found: &Snapshot, expected: &Snapshot) -> Option<String> {
    let keys = found.keys().chain(expected.keys());
    let differing = keys.into_iter().find(|key| found.get(*key) != expected.get(*key))?;
    let (Some(found), Some(expected)) = (found.get(differing), expected.get(differing)) else {
        let where_it_is = if found.contains_key(differing) { "more than expected" } else { "missing" };
        return Some(format!("{differing}: {where_it_is}"));
    };
    let lines = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    let (found, expected) = lines.unwrap_or((found, expected));
    Some(format!("{differing}: {}, expected {}", found.trim(), expected.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_gives_is_left_out_and_the_rest_is_not() {
        let mut object = json!({
            "metadata": {"name": "a", "resourceVersion": "7", "annotations": {"broadcast.dev/applied": "12ab"}},
            "spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 1}]},
        });
        normalise(&mut object);
        let expected = json!({
            "metadata": {"name": "a", "annotations": {"broadcast.dev/applied": "HASH"}},
            "spec": {"clusterIP": "ADDRESS", "clusterIPs": [], "ports": [{"port": 1}]},
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_difference_is_told_by_the_line_it_is_in() {
        let of = |text: &str| Snapshot::from([("Pod a".to_owned(), text.to_owned())]);
        assert_eq!(describe_difference(&of("x"), &of("x")), None);
        let difference = describe_difference(&of("x\n  1"), &of("x\n  2")).unwrap();
        assert_eq!(difference, "Pod a: 1, expected 2");
        assert_eq!(describe_difference(&Snapshot::new(), &of("x")).unwrap(), "Pod a: missing");
    }
}

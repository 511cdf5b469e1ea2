//! Kubernetes objects as the pipeline sees them: what is wanted, what is there, and whether the two differ.
//!
//! An object differs when it was last applied from something else (by a hash in an annotation), or when any wanted
//! field is not as wanted (somebody changed it). So a field that is no longer wanted is seen as well as drift, and
//! nothing is written while nothing differs.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;

use crate::controller::quantity::same_quantity;
use crate::names::APPLIED_ANNOTATION;

/// The kinds of objects that are made for a cluster, in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Who the pods are.
    ServiceAccount,
    /// The broker's address.
    Secret,
    /// Files.
    ConfigMap,
    /// Names and addresses.
    Service,
    /// Who may talk to whom.
    NetworkPolicy,
    /// How many pods a drain may take at a time.
    PodDisruptionBudget,
    /// Volumes.
    PersistentVolumeClaim,
    /// Pods.
    Deployment,
}

impl Kind {
    /// Those that are listed by label; Secrets are only ever read by name.
    pub const LISTED: [Self; 7] = [
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Service,
        Self::NetworkPolicy,
        Self::PodDisruptionBudget,
        Self::PersistentVolumeClaim,
        Self::Deployment,
    ];

    /// Where the API server has them.
    pub fn api_resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::PersistentVolumeClaim => ApiResource::erase::<PersistentVolumeClaim>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
        }
    }

    /// As in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Deployment => "Deployment",
        }
    }
}

/// An object as it should be.
#[derive(Clone, PartialEq)]
pub struct DesiredObject {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All of it.
    pub body: Value,
}

impl std::fmt::Debug for DesiredObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// The objects of one cluster that exist.
pub type ObservedObjects = BTreeMap<(Kind, String), Value>;

impl DesiredObject {
    /// Takes an object that was built.
    pub fn new(kind: Kind, object: &impl Serialize) -> Result<Self, serde_json::Error> {
        let mut body = serde_json::to_value(object)?;
        // The hash of a Secret would say something of its content to those who may see its annotations only. Its
        // content is compared anyway, and a key that it lacks now is one that its address no longer names.
        if kind != Kind::Secret {
            let hash = hash_text(&body.to_string());
            body["metadata"]["annotations"][APPLIED_ANNOTATION] = Value::String(hash);
        }
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Ok(Self { kind, name, body })
    }

    /// Whether it must be applied, given what is there.
    pub fn differs_from(&self, observed: &ObservedObjects) -> bool {
        observed.get(&(self.kind, self.name.clone())).is_none_or(|found| !is_part_of(&self.body, found))
    }
}

/// A short name for a text: two texts with the same name are the same.
pub fn hash_text(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

/// Whether everything in `wanted` is in `found`, which may have more fields: the API server fills in defaults.
fn is_part_of(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().all(|(key, value)| {
            found.get(key).map_or_else(|| is_empty(value), |found| is_part_of(value, found))
        }),
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len()
                && wanted.iter().zip(found).all(|(wanted, found)| is_part_of(wanted, found))
        }
        (Value::String(wanted), Value::String(found)) => wanted == found || same_quantity(wanted, found),
        _ => wanted == found,
    }
}

/// The API server drops what is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(spec: &Value) -> DesiredObject {
        DesiredObject::new(Kind::Deployment, &json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
    }

    fn observed(object: &DesiredObject, edit: impl Fn(&mut Value)) -> ObservedObjects {
        let mut body = object.body.clone();
        body["metadata"]["uid"] = json!("filled in");
        edit(&mut body);
        ObservedObjects::from([((object.kind, object.name.clone()), body)])
    }

    #[test]
    fn what_the_api_server_fills_in_or_writes_in_another_way_is_no_difference() {
        let wanted = deployment(&json!({"cpu": "0.5", "list": [{"a": 1}], "none": {}}));
        assert!(wanted.differs_from(&ObservedObjects::new()));
        let found = observed(&wanted, |body| {
            body["spec"] = json!({"cpu": "500m", "list": [{"a": 1, "default": 2}], "more": true});
        });
        assert!(!wanted.differs_from(&found));
    }

    #[test]
    fn a_changed_field_and_a_field_that_is_no_longer_wanted_are_differences() {
        let wanted = deployment(&json!({"cpu": "1", "list": [1]}));
        for changed in
            [json!({"cpu": "2", "list": [1]}), json!({"cpu": "1", "list": [1, 2]}), json!({"cpu": "1"})]
        {
            assert!(
                wanted.differs_from(&observed(&wanted, |body| body["spec"] = changed.clone())),
                "{changed}"
            );
        }
        let less = deployment(&json!({"cpu": "1"}));
        assert!(less.differs_from(&observed(&wanted, |_| {})));
    }
}

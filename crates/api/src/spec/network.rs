//! Who may talk to whom.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Who may talk to hearts and nodes. They themselves reach the broker's port, each other and DNS, and nothing else.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether a policy is made. Without one the network decides.
    #[serde(default = "default_enabled")]
    pub enabled: bool,

    /// Who may write and read, on port 8080, besides hearts, nodes and the operator: any of these. Everybody where it is
    /// left out, nobody where it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub clients: Option<Vec<PeerSpec>>,

    /// Who may ask for health and metrics, on port 9090: any of these. Everybody where it is left out, nobody (but the
    /// kubelet) where it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub monitoring: Option<Vec<PeerSpec>>,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self { enabled: default_enabled(), clients: None, monitoring: None }
    }
}

/// Pods, or addresses outside of the cluster.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.cidr) != (has(self.podSelector) || has(self.namespaceSelector))").message(
        "either cidr, or podSelector or namespaceSelector or both are needed"
    )
)]
pub struct PeerSpec {
    /// Pods with these labels, `{}` being all: in this namespace, or in those of `namespaceSelector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "label_selector")]
    pub pod_selector: Option<LabelSelector>,

    /// Namespaces with these labels, `{}` being all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "label_selector")]
    pub namespace_selector: Option<LabelSelector>,

    /// A range of addresses, for example `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43), regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))]
    pub cidr: Option<String>,
}

/// As in other resources, without its two pages of documentation.
fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
            "matchExpressions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string"},
                        "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                        "values": {"type": "array", "items": {"type": "string"}},
                    },
                },
            },
        },
    })
}

fn default_enabled() -> bool {
    true
}

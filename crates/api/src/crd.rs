//! The resource's definition as the API server takes it.

use kube::CustomResourceExt;
use serde_json::Value;

use crate::spec::BroadcastCluster;

/// The `CustomResourceDefinition` as YAML.
pub fn crd_yaml() -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(&build_crd())
}

fn build_crd() -> Value {
    let mut crd = serde_json::to_value(BroadcastCluster::crd()).unwrap_or_default();
    remove_unknown_formats(&mut crd);
    crd
}

/// The generator names Rust's integer types; the API server warns of formats that it does not know.
fn remove_unknown_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                fields.remove("format");
            }
            fields.values_mut().for_each(remove_unknown_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_unknown_formats),
        _ => {}
    }
}

#[cfg(test)]
mod tests;

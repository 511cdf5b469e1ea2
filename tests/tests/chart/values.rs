//! What the schema of the values refuses, and in which words.

use broadcast_tests::chart::{read_file, render};
use serde_json::Value;

#[test]
fn a_typo_or_a_wrong_type_is_refused_in_words_that_name_it() {
    for (values, words) in [
        ("replcas: 1", "additional properties 'replcas' not allowed"),
        ("image: {tga: x}", "at '/image': additional properties 'tga' not allowed"),
        ("image: {tag: 1}", "at '/image/tag': got number, want string"),
        ("image: {pullPolicy: Sometimes}", "at '/image/pullPolicy': value must be one of 'Always'"),
        ("imagePullSecrets: [reg]", "at '/imagePullSecrets/0': got string, want object"),
        ("watchNamespaces: some", "at '/watchNamespaces': value must be one of 'all', 'own'"),
        ("watchNamespaces: []", "at '/watchNamespaces': minItems: got 0, want 1"),
        ("watchNamespaces: [Shop]", "at '/watchNamespaces/0': 'Shop' does not match pattern"),
        ("log: {format: xml}", "at '/log/format': value must be one of 'text', 'json'"),
        ("env: [{nam: A}]", "at '/env/0': missing property 'name'"),
        (
            "resources: {limits: {memroy: 1Gi}}",
            "at '/resources/limits': additional properties 'memroy' not allowed",
        ),
        ("resources: {limits: {memory: 1GB}}", "at '/resources/limits/memory': '1GB' does not match pattern"),
        ("serviceAccount: {create: 'yes'}", "at '/serviceAccount/create': got string, want boolean"),
        ("commonLabels: {a: 1}", "at '/commonLabels/a': got number, want string"),
        ("podLabels: {a: 'b c'}", "at '/podLabels/a': 'b c' does not match pattern"),
        (
            "tolerations: [{efect: NoSchedule}]",
            "at '/tolerations/0': additional properties 'efect' not allowed",
        ),
        ("affinity: {podAffinty: {}}", "at '/affinity': additional properties 'podAffinty' not allowed"),
        (
            "metrics: {podMonitor: {interval: often}}",
            "at '/metrics/podMonitor/interval': 'often' does not match",
        ),
        ("metrics: {rules: {}}", "at '/metrics': additional properties 'rules' not allowed"),
        (
            "networkPolicy: {brokerPorts: [amqp]}",
            "at '/networkPolicy/brokerPorts/0': got string, want integer",
        ),
        (
            "metrics: {serviceMonitor: {enabled: true}, service: {enabled: false}}",
            "metrics.serviceMonitor.enabled needs metrics.service.enabled",
        ),
        ("podLabels: {app.kubernetes.io/name: x}", "the label app.kubernetes.io/name is set by the chart"),
    ] {
        match render(values) {
            Ok(_) => panic!("{values} is taken"),
            Err(complaint) => assert!(complaint.to_string().contains(words), "{values}: {complaint}"),
        }
    }
}

/// `global` is Helm's: charts that this one is part of put there what they like.
#[test]
fn the_schema_is_closed_at_every_level() {
    let mut open = Vec::new();
    find_open(&schema(), "", &mut open);
    assert_eq!(open, ["/properties/global"]);
}

#[test]
fn every_value_stands_in_the_values_file_with_the_type_that_the_schema_says() {
    let values: Value = serde_yaml::from_str(&read_file("values.yaml")).unwrap();
    compare(&schema(), &schema(), &values, "");
    // The values that the chart comes with are valid themselves.
    render(&read_file("values.yaml")).unwrap();
}

fn schema() -> Value {
    serde_json::from_str(&read_file("values.schema.json")).unwrap()
}

/// Every object in it that takes fields it does not know.
fn find_open(schema: &Value, path: &str, open: &mut Vec<String>) {
    if schema["type"] == "object" && schema["additionalProperties"].as_bool() != Some(false) {
        // A map of names to strings, say, has no fields but a type for all of them.
        if !schema["additionalProperties"].is_object() {
            open.push(path.to_owned());
        }
    }
    let children: Vec<(String, &Value)> = match schema {
        Value::Object(fields) => fields.iter().map(|(name, child)| (name.clone(), child)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, child)| (at.to_string(), child)).collect(),
        _ => return,
    };
    for (name, child) in children {
        find_open(child, &format!("{path}/{name}"), open);
    }
}

/// What one has and the other lacks.
fn compare(root: &Value, schema: &Value, values: &Value, path: &str) {
    let schema = schema["$ref"].as_str().map_or(schema, |reference| {
        root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} is not there"))
    });
    let Some(properties) = schema["properties"].as_object() else { return };
    let known: Vec<_> = properties.keys().filter(|name| *name != "global").collect();
    let Some(fields) = values.as_object().filter(|fields| !fields.is_empty() || path.is_empty()) else {
        return;
    };
    assert_eq!(known, fields.keys().collect::<Vec<_>>(), "at {path:?}");
    for (name, child) in properties.iter().filter(|(name, _)| *name != "global") {
        compare(root, child, &values[name], &format!("{path}/{name}"));
    }
}

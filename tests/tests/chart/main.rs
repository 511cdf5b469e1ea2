//! The chart without a cluster: what it renders, what it refuses, its alerts and its dashboard.
//!
//! `HELM` and `PROMTOOL` name the programs; `cargo xtask test unit` sets them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod monitoring;
mod values;

use std::collections::BTreeSet;

use broadcast_tests::chart::{lint, render};
use serde_json::Value;

/// Combinations of values, each with the objects that it has beyond or without those of the chart's own values.
const MATRIX: &[(&str, &[&str], &[&str])] = &[
    ("{}", &[], &[]),
    (
        "watchNamespaces: own",
        &["Role broadcast-system/broadcast-operator", "RoleBinding broadcast-system/broadcast-operator"],
        &["ClusterRole broadcast-operator", "ClusterRoleBinding broadcast-operator"],
    ),
    (
        "{watchNamespaces: [shop, bar], crds: {enabled: false}}",
        &[
            "Role shop/broadcast-operator",
            "RoleBinding shop/broadcast-operator",
            "Role bar/broadcast-operator",
            "RoleBinding bar/broadcast-operator",
        ],
        &[
            "ClusterRole broadcast-operator",
            "ClusterRoleBinding broadcast-operator",
            "CustomResourceDefinition broadcastclusters.broadcast.dev",
        ],
    ),
    (
        "{rbac: {create: false}, serviceAccount: {create: false, name: mine}}",
        &[],
        &[
            "ClusterRole broadcast-operator",
            "ClusterRoleBinding broadcast-operator",
            "Role broadcast-system/broadcast-operator-lease",
            "RoleBinding broadcast-system/broadcast-operator-lease",
            "ServiceAccount broadcast-system/broadcast-operator",
        ],
    ),
    ("metrics: {service: {enabled: false}}", &[], &["Service broadcast-system/broadcast-operator-metrics"]),
    (
        "metrics: {serviceMonitor: {enabled: true, interval: 15s, labels: {release: p}}, podMonitor: {enabled: true},
          prometheusRule: {enabled: true}, dashboard: {enabled: true, annotations: {grafana_folder: B}}}",
        &[
            "ServiceMonitor broadcast-system/broadcast-operator",
            "PodMonitor broadcast-system/broadcast-operator-clusters",
            "PrometheusRule broadcast-system/broadcast-operator",
            "ConfigMap broadcast-system/broadcast-operator-dashboard",
        ],
        &[],
    ),
    ("{networkPolicy: {enabled: true}}", &["NetworkPolicy broadcast-system/broadcast-operator"], &[]),
    (
        "{networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {matchLabels: {a: b}}}]}, watchNamespaces: [shop]}",
        &[
            "NetworkPolicy broadcast-system/broadcast-operator",
            "Role shop/broadcast-operator",
            "RoleBinding shop/broadcast-operator",
        ],
        &["ClusterRole broadcast-operator", "ClusterRoleBinding broadcast-operator"],
    ),
    (
        "{image: {repository: r/o, tag: '1'}, heartImage: r/h:1, nodeImage: r/n:1, imagePullSecrets: [{name: reg}],
          log: {level: debug, format: json}, env: [{name: A, value: b}, {name: C, valueFrom: {secretKeyRef: {name: s, key: k}}}],
          resources: {limits: {cpu: 1, memory: 1Gi}}, commonLabels: {team: x}, commonAnnotations: {c: d}, podLabels: {e: f},
          podAnnotations: {g: h}, priorityClassName: high, nodeSelector: {i: j},
          tolerations: [{key: k, operator: Exists, effect: NoExecute, tolerationSeconds: 5}],
          affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution:
            [{topologyKey: t, labelSelector: {matchExpressions: [{key: k, operator: In, values: [v]}]}}]}}}",
        &[],
        &[],
    ),
];

/// A short name for an object, which only its like has.
fn name_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    let namespace = metadata["namespace"].as_str().map_or(String::new(), |namespace| format!("{namespace}/"));
    format!("{} {namespace}{}", object["kind"].as_str().unwrap(), metadata["name"].as_str().unwrap())
}

fn find<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    objects.iter().find(|object| name_of(object) == name).unwrap_or_else(|| panic!("there is no {name}"))
}

#[test]
fn every_combination_of_values_passes_lint_and_renders_what_it_says() {
    let plain: BTreeSet<_> = render("{}").unwrap().iter().map(name_of).collect();
    for (values, more, less) in MATRIX {
        lint(values).unwrap();
        let rendered = render(values).unwrap();
        let found: BTreeSet<_> = rendered.iter().map(name_of).collect();
        assert_eq!(found.len(), rendered.len(), "{values}: an object is there twice");
        let mut expected = plain.clone();
        for name in *less {
            assert!(expected.remove(*name), "{name} is not there without values");
        }
        expected.extend(more.iter().map(|name| (*name).to_owned()));
        assert_eq!(found, expected, "{values}");
    }
}

#[test]
fn every_object_carries_the_common_labels_and_annotations_and_pods_carry_their_own_too() {
    let values = "{commonLabels: {team: x}, commonAnnotations: {c: d}, podLabels: {e: f}, podAnnotations: {g: h},
                   metrics: {service: {labels: {i: j}, annotations: {k: l}}}, serviceAccount: {annotations: {m: o}}}";
    let rendered = render(values).unwrap();
    let has = |metadata: &Value, pairs: &[(&str, &str, &str)]| {
        for (field, key, value) in pairs {
            assert_eq!(metadata[field][key], *value, "{metadata}");
        }
    };
    for object in rendered.iter().filter(|object| object["kind"] != "CustomResourceDefinition") {
        has(&object["metadata"], &[("labels", "team", "x"), ("annotations", "c", "d")]);
    }
    let deployment = find(&rendered, "Deployment broadcast-system/broadcast-operator");
    let pod = &deployment["spec"]["template"]["metadata"];
    has(
        pod,
        &[
            ("labels", "team", "x"),
            ("labels", "e", "f"),
            ("annotations", "c", "d"),
            ("annotations", "g", "h"),
        ],
    );
    let service = find(&rendered, "Service broadcast-system/broadcast-operator-metrics");
    has(&service["metadata"], &[("labels", "i", "j"), ("annotations", "k", "l")]);
    let account = find(&rendered, "ServiceAccount broadcast-system/broadcast-operator");
    has(&account["metadata"], &[("annotations", "m", "o")]);
}

/// The operator's Deployment and Service must not take it for one of theirs.
#[test]
fn the_pod_of_the_test_is_none_of_the_operators() {
    let rendered = render("{}").unwrap();
    let labels = &find(&rendered, "Pod broadcast-system/broadcast-operator-test")["metadata"]["labels"];
    for (name, selector) in [
        ("Deployment broadcast-system/broadcast-operator", "/spec/selector/matchLabels"),
        ("Service broadcast-system/broadcast-operator-metrics", "/spec/selector"),
    ] {
        let selector = find(&rendered, name).pointer(selector).unwrap().as_object().unwrap();
        assert!(!selector.iter().all(|(key, value)| labels[key] == *value), "{name} selects {labels}");
    }
}

#[test]
fn an_installation_for_some_namespaces_has_rights_there_and_nowhere_else() {
    let own = render("watchNamespaces: own").unwrap();
    insta::assert_yaml_snapshot!(
        "rights_own",
        own.iter().filter(|it| is_about_rights(it)).collect::<Vec<_>>()
    );
    let listed = render("watchNamespaces: [shop, bar]").unwrap();
    let rules = &find(&own, "Role broadcast-system/broadcast-operator")["rules"];
    for namespace in ["shop", "bar"] {
        assert_eq!(find(&listed, &format!("Role {namespace}/broadcast-operator"))["rules"], *rules);
        let binding = find(&listed, &format!("RoleBinding {namespace}/broadcast-operator"));
        assert_eq!(binding["subjects"][0]["namespace"], "broadcast-system");
    }
    for rendered in [own, listed] {
        let cluster_wide: Vec<_> =
            rendered.iter().filter(|object| object["metadata"]["namespace"].is_null()).map(name_of).collect();
        assert_eq!(cluster_wide, ["CustomResourceDefinition broadcastclusters.broadcast.dev"]);
    }
}

#[test]
fn an_installation_for_all_namespaces_has_the_same_rights_everywhere() {
    let (all, own) = (render("{}").unwrap(), render("watchNamespaces: own").unwrap());
    let role = find(&all, "ClusterRole broadcast-operator");
    assert_eq!(role["rules"], find(&own, "Role broadcast-system/broadcast-operator")["rules"]);
    let cluster_wide = all.iter().filter(|object| object["metadata"]["namespace"].is_null()).map(name_of);
    let rights: Vec<_> = cluster_wide.filter(|name| name.contains("Role")).collect();
    assert_eq!(rights, ["ClusterRole broadcast-operator", "ClusterRoleBinding broadcast-operator"]);
}

#[test]
fn secrets_are_got_made_and_patched_one_by_one_and_no_right_is_for_everything() {
    let rendered = render("{}").unwrap();
    let rules = find(&rendered, "ClusterRole broadcast-operator")["rules"].as_array().unwrap();
    for rule in rules {
        let text = rule.to_string();
        assert!(!text.contains('*'), "{text}");
        if text.contains("secrets") {
            assert_eq!(rule["verbs"], serde_json::json!(["get", "create", "patch"]));
            assert_eq!(rule["resources"], serde_json::json!(["secrets"]));
        }
    }
    assert_eq!(rules.iter().filter(|rule| rule.to_string().contains("secrets")).count(), 1);
}

fn is_about_rights(object: &Value) -> bool {
    object["apiVersion"].as_str().unwrap().starts_with("rbac.authorization.k8s.io/")
}

//! The alerts and the dashboard, as files and as objects.

use std::collections::BTreeSet;
use std::path::Path;

use broadcast_tests::chart::{alerts, folder, promtool, queries, read_file, render};
use serde_json::{Value, json};

use super::find;

const EVERYTHING: &str = "metrics: {serviceMonitor: {enabled: true}, podMonitor: {enabled: true},
                                    prometheusRule: {enabled: true}, dashboard: {enabled: true}}";

/// Each alert fires in one of the cases there, and the case that it is named in begins in silence.
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/alerts_test.yaml");

#[test]
fn prometheus_takes_the_alerts_and_each_one_fires_when_it_should() {
    let path = folder().join("files/alerts.yaml");
    promtool(&["check", "rules", path.to_str().unwrap()], "").unwrap();
    promtool(&["test", "rules", TESTS], "").unwrap();
    let text = std::fs::read_to_string(Path::new(TESTS)).unwrap();
    let cases: Value = serde_yaml::from_str(&text).unwrap();
    let cases = cases["tests"].as_array().unwrap();
    for alert in alerts() {
        let of_alert: Vec<_> = cases
            .iter()
            .filter(|case| case["name"].as_str().unwrap().split(' ').next() == Some(&alert.name))
            .collect();
        assert!(!of_alert.is_empty(), "{} has no test", alert.name);
        for case in of_alert {
            let checks = case["promql_expr_test"].as_array().unwrap();
            assert!(checks[0]["exp_samples"] == json!([]), "{}: no test of silence", alert.name);
            let label = format!("alertname=\"{}\"", alert.name);
            assert!(
                checks[1].to_string().contains(&label.replace('"', "\\\"")),
                "{} never fires",
                alert.name
            );
        }
    }
}

#[test]
fn every_alert_says_how_bad_it_is_what_it_means_and_what_to_do_first() {
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = &alert.name;
        assert!(["critical", "warning"].contains(&alert.labels["severity"].as_str()), "{name}");
        let keys: Vec<_> = alert.annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["action", "description", "summary"], "{name}");
        for text in alert.annotations.values() {
            assert!(text.ends_with('.'), "{name}: {text}");
            for label in text.split("$labels.").skip(1) {
                let label = label.split(' ').next().unwrap();
                assert!(groups_by(&alert.expr, label), "{name}: its series have no label {label}");
            }
        }
        assert!(names.insert(alert.name.clone()), "{name} is there twice");
    }
}

fn groups_by(expr: &str, label: &str) -> bool {
    let lists = expr.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap());
    lists.into_iter().any(|list| list.split(", ").any(|name| name == label))
}

/// As recorded rules: for these there is a check that needs no server.
#[test]
fn prometheus_can_read_every_query_of_the_dashboard() {
    let rule = |(at, expr): (usize, String)| json!({"record": format!("query:{at}"), "expr": expr});
    let rules: Vec<_> = queries().into_iter().map(|query| query.expr).enumerate().map(rule).collect();
    assert!(rules.len() > 20);
    let folder = std::env::temp_dir().join(format!("broadcast-queries-{}", std::process::id()));
    std::fs::write(&folder, json!({"groups": [{"name": "queries", "rules": rules}]}).to_string()).unwrap();
    let checked = promtool(&["check", "rules", folder.to_str().unwrap()], "");
    std::fs::remove_file(&folder).unwrap();
    checked.unwrap();
}

#[test]
fn rule_and_dashboard_hold_the_files_as_they_are() {
    let rendered = render(EVERYTHING).unwrap();
    let rule = find(&rendered, "PrometheusRule broadcast-system/broadcast-operator");
    let file: Value = serde_yaml::from_str(&read_file("files/alerts.yaml")).unwrap();
    assert_eq!(rule["spec"], file);
    let dashboard = find(&rendered, "ConfigMap broadcast-system/broadcast-operator-dashboard");
    let shown: Value = serde_json::from_str(dashboard["data"]["broadcast.json"].as_str().unwrap()).unwrap();
    assert_eq!(shown, serde_json::from_str::<Value>(&read_file("files/dashboard.json")).unwrap());
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
}

#[test]
fn panels_overlap_nowhere_and_have_ids_of_their_own() {
    let dashboard: Value = serde_json::from_str(&read_file("files/dashboard.json")).unwrap();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let number = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(number("x") + number("w") <= 24, "{panel}");
        for row in number("y")..number("y") + number("h") {
            for column in number("x")..number("x") + number("w") {
                assert!(cells.insert((row, column)), "{panel}");
            }
        }
    }
}

#[test]
fn monitors_look_where_the_operator_watches_and_find_its_service() {
    let rendered = render(EVERYTHING).unwrap();
    let service = find(&rendered, "Service broadcast-system/broadcast-operator-metrics");
    let monitor = find(&rendered, "ServiceMonitor broadcast-system/broadcast-operator");
    for (key, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(service["metadata"]["labels"][key], *value);
    }
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    for (watched, selector) in [
        ("all", json!({"any": true})),
        ("own", json!({"matchNames": ["broadcast-system"]})),
        ("[shop, bar]", json!({"matchNames": ["shop", "bar"]})),
    ] {
        let rendered = render(&format!("{EVERYTHING}\nwatchNamespaces: {watched}")).unwrap();
        let monitor = find(&rendered, "PodMonitor broadcast-system/broadcast-operator-clusters");
        assert_eq!(monitor["spec"]["namespaceSelector"], selector, "{watched}");
    }
}

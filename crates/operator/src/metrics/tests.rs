use broadcast_protocol::names::NodeId;
use prometheus_client::encoding::text::encode;
use serde_json::json;

use super::*;

const SHIPPED: [&str; 2] = [
    include_str!("../../../../charts/broadcast-operator/files/alerts.yaml"),
    include_str!("../../../../charts/broadcast-operator/files/dashboard.json"),
];

fn export(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    text
}

/// Metrics with a series of everything.
fn filled() -> (Registry, Metrics) {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let depth = |messages, consumers| QueueDepth { messages, consumers };
    let node = NodeId::new(1).unwrap();
    metrics.set_queues(
        "shop/orders",
        vec![(Queue::Node(node), depth(3, 1)), (Queue::Head, depth(16, 0)), (Queue::Dead, depth(2, 0))],
    );
    let condition = |type_: &str, status: &str| {
        json!({"type": type_, "status": status, "reason": "r", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let status = json!({
        "nodes": [{"id": 1, "phase": "Repairing", "queue": "q"}],
        "conditions": [
            condition("Ready", "False"), condition("HeartAvailable", "True"), condition("DataLoss", "Unknown"),
        ],
    });
    metrics.set_status("shop/orders", &serde_json::from_value(status).unwrap());
    metrics.count_reconcile("shop/orders", "Timeout", Duration::from_millis(5));
    metrics.set_leader(true);
    (registry, metrics)
}

#[test]
fn the_documented_names_are_exported() {
    let (registry, metrics) = filled();
    let text = export(&registry);
    for line in [
        r#"broadcast_queue_messages{cluster="shop/orders",queue="node",node="1"} 3"#,
        r#"broadcast_queue_messages{cluster="shop/orders",queue="head",node=""} 16"#,
        r#"broadcast_queue_messages{cluster="shop/orders",queue="dead",node=""} 2"#,
        r#"broadcast_queue_consumers{cluster="shop/orders",queue="node",node="1"} 1"#,
        r#"broadcast_cluster_node_phase{cluster="shop/orders",node="1",phase="Repairing"} 1"#,
        r#"broadcast_cluster_condition{cluster="shop/orders",type="Ready"} 0"#,
        r#"broadcast_cluster_condition{cluster="shop/orders",type="HeartAvailable"} 1"#,
        r#"broadcast_cluster_condition{cluster="shop/orders",type="DataLoss"} -1"#,
        r#"broadcast_cluster_backing_off{cluster="shop/orders"} 1"#,
        r#"broadcast_operator_reconciles_total{result="Timeout"} 1"#,
        "broadcast_operator_reconcile_seconds_count 1",
        "broadcast_operator_leader 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    assert_eq!(text.matches("broadcast_queue_consumers{").count(), 1, "{text}");
    metrics.count_reconcile("shop/orders", "ok", Duration::from_millis(5));
    assert!(export(&registry).contains(r#"broadcast_cluster_backing_off{cluster="shop/orders"} 0"#));
}

/// What hearts and nodes export, their own tests look after.
#[test]
fn what_alerts_and_dashboard_name_is_exported() {
    let text = export(&filled().0);
    let is_exported = |name: &str| text.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
    let words = SHIPPED.iter().flat_map(|file| file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let is_other =
        |word: &&str| ["broadcast_heart_", "broadcast_node_"].iter().any(|it| word.starts_with(it));
    let names: Vec<_> = words.filter(|word| word.starts_with("broadcast_") && !is_other(word)).collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(is_exported(name), "{name} is not in:\n{text}");
    }
}

#[test]
fn a_cluster_that_is_gone_takes_its_series_along_and_its_last_pass_brings_none_back() {
    let (registry, metrics) = filled();
    metrics.forget("shop/orders");
    metrics.count_reconcile("shop/orders", "ok", Duration::from_millis(5));
    assert!(!export(&registry).contains("shop/orders"));
}

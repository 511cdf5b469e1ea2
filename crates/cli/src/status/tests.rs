use serde_json::{Value, json};

use super::*;
use crate::output::Colours;
use crate::testing::{cluster, expect, pod, refuse};

fn resource() -> Value {
    json!({
        "apiVersion": "broadcast.dev/v1alpha1",
        "kind": "BroadcastCluster",
        "metadata": {"name": "orders", "namespace": "shop", "annotations": {"broadcast.dev/paused": "true"}},
        "spec": {"rabbitmq": {"secretRef": {"name": "rabbitmq"}}, "nodes": {"replicas": 4}},
        "status": {
            "nodesReady": "1/4",
            "nodes": [
                {"id": 1, "phase": "Ready", "queue": "q_node_1", "depth": 0, "consumers": 1, "applied": 7},
                {"id": 2, "phase": "Pending", "queue": "q_node_2"},
                {"id": 3, "phase": "Removing", "queue": "q_node_3", "depth": 12, "applied": 5, "digest": "ab12"},
            ],
            "conditions": [
                condition("Ready", "False", "NodesNotReady", "1 of 4 nodes are ready"),
                condition("Stalled", "False", "AsExpected", ""),
                condition("BrokerReachable", "True", "Connected", "amqp://…"),
                condition("Consistent", "Unknown", "NotComparable", "no two nodes stand at the same position"),
                condition("Unheard", "False", "OfALaterVersion", ""),
            ],
        },
    })
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn answer() -> Value {
    json!({
        "role": "active", "epoch": 3, "position": 9, "hash": "not used",
        "nodes": [
            {"id": 1, "state": "ready", "applied": 9, "lag_writes": 0, "lag_seconds": 0.04, "rows": 9,
                "digest": "0123456789abcdef", "reported_seconds_ago": 0.2},
            {"id": 4, "state": "diverged", "applied": 9, "lag_writes": 0, "lag_seconds": 2.0, "disagrees": true,
                "digest": "fedcba9876543210", "reported_seconds_ago": 0.2},
            {"id": 5, "state": "repairing", "applied": 3, "lag_writes": 6, "lag_seconds": 61.2, "missing": 4,
                "reported_seconds_ago": 0.2, "reason": "no peer has 4"},
            {"id": 6, "state": "ready", "applied": 8, "lag_writes": 1, "reported_seconds_ago": 70.0},
        ],
    })
}

const RESOURCE: &str = "GET /apis/broadcast.dev/v1alpha1/namespaces/shop/broadcastclusters/orders";
const HEARTS: &str = "GET /api/v1/namespaces/shop/pods?&labelSelector=app.kubernetes.io%2Finstance%3Dorders%2C\
                      app.kubernetes.io%2Fcomponent%3Dheart";

/// What is shown when two hearts run, of which this one answers.
async fn look_at(answer: Option<Value>) -> Report {
    let hearts = ["orders-heart-a", "orders-heart-b"].map(|name| pod(name, None, "Running", true));
    let hearts = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": hearts});
    let path = |heart: &str| format!("GET /api/v1/namespaces/shop/pods/{heart}:8080/proxy/v1/status");
    let second = path("orders-heart-b");
    let (cluster, served) = cluster(vec![
        expect(RESOURCE, resource()),
        expect(HEARTS, hearts),
        refuse(&path("orders-heart-a"), 503),
        answer.map_or_else(|| refuse(&second, 503), |answer| expect(&second, answer)),
    ]);
    let report = look(&cluster).await.unwrap();
    drop(cluster);
    served.await.unwrap();
    report
}

#[tokio::test]
async fn what_the_active_heart_says_now_is_newer_than_what_the_operator_has_written() {
    let report = look_at(Some(answer())).await;
    insta::assert_snapshot!(show(&report, Colours::NONE));
    insta::assert_yaml_snapshot!(report);
}

#[tokio::test]
async fn without_an_active_heart_the_operators_word_is_shown() {
    let standby = json!({"role": "standby", "nodes": []});
    let report = look_at(Some(standby)).await;
    assert_eq!(report, look_at(None).await);
    insta::assert_snapshot!(show(&report, Colours::NONE));
}

#[tokio::test]
async fn a_cluster_that_is_as_it_should_be_is_said_to_be() {
    let mut report = look_at(Some(answer())).await;
    report.conditions.clear();
    report.nodes.truncate(1);
    insta::assert_snapshot!(show(&report, Colours::NONE));
}

#[tokio::test]
async fn every_change_is_a_line_and_numbers_that_always_move_are_none() {
    let old = look_at(Some(answer())).await;
    let mut new = old.clone();
    new.nodes[0].applied = Some(10);
    new.nodes[0].lag_seconds = Some(1.0);
    new.nodes[0].queue_depth = Some(3);
    assert_eq!(describe_changes(&old, &new), [""; 0]);
    new.position = Some(10);
    new.epoch = Some(4);
    new.paused = false;
    new.nodes_ready = "2/4".to_owned();
    new.nodes.remove(2);
    new.nodes[1].state = Some("bootstrapping".to_owned());
    new.conditions.remove(0);
    insta::assert_snapshot!(describe_changes(&old, &new).join("\n"));
    new.heart = None;
    assert_eq!(describe_changes(&old, &new)[0], "heart: none is active");
}

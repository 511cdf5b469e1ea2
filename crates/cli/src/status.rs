//! Where a cluster stands: what the operator says of it, and what its active heart says now.

use std::io::{Write, stdout};
use std::time::Duration;

use broadcast_api::{BroadcastCluster, NodePhase, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

use crate::arguments::Format;
use crate::cluster::Cluster;
use crate::error::CliError;
use crate::output;

/// How often it is looked at while it is watched.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Moves a terminal's cursor to its upper left corner and clears what is below.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// How much of a digest is shown to people.
const DIGEST_DIGITS: usize = 12;

/// The answer of a heart's `GET /v1/status`, as far as it is used.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct HeartAnswer {
    role: String,
    epoch: u64,
    position: u64,
    nodes: Vec<NodeAnswer>,
}

/// What the active heart knows of a node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct NodeAnswer {
    id: u32,
    state: String,
    applied: Option<u64>,
    lag_writes: Option<u64>,
    lag_seconds: Option<f64>,
    digest: Option<String>,
    disagrees: bool,
    reason: Option<String>,
}

/// Everything that is shown.
#[derive(Debug, PartialEq, Serialize)]
struct Report {
    name: String,
    /// The active heart's pod, if one says that it is.
    heart: Option<String>,
    epoch: Option<u64>,
    position: Option<u64>,
    nodes: Vec<Node>,
    conditions: Vec<Condition>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Node {
    id: u32,
    phase: NodePhase,
    /// What it says of itself.
    state: Option<String>,
    applied: Option<u64>,
    lag_writes: Option<u64>,
    lag_seconds: Option<f64>,
    depth: Option<u32>,
    digest: Option<String>,
    disagrees: bool,
    reason: Option<String>,
}

/// Shows it once, or again and again.
pub(crate) async fn run(cluster: &Cluster, format: Format, watch: bool) -> Result<(), CliError> {
    let mut shown = None;
    loop {
        let report = look(cluster).await?;
        if shown.as_ref() != Some(&report) {
            if watch && format == Format::Table && output::is_terminal() {
                write!(stdout(), "{CLEAR}")?;
            }
            output::print(format, &report, show)?;
        }
        if !watch {
            return Ok(());
        }
        shown = Some(report);
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
    }
}

async fn look(cluster: &Cluster) -> Result<Report, CliError> {
    let resource = cluster.fetch().await?;
    let mut active = None;
    for heart in cluster.find("heart").await? {
        // One that does not answer is no news: the conditions say so.
        if let Ok(answer) = cluster.look::<HeartAnswer>(&heart.pod, "/v1/status").await
            && answer.role == "active"
        {
            active = Some((heart.pod, answer));
            break;
        }
    }
    Ok(combine(cluster.name(), &resource, active))
}

fn combine(name: &str, resource: &BroadcastCluster, active: Option<(String, HeartAnswer)>) -> Report {
    let status = resource.status.clone().unwrap_or_default();
    let (heart, answer) = active.unzip();
    let nodes = status.nodes.iter().map(|recorded| {
        let now = answer.iter().flat_map(|answer| &answer.nodes).find(|node| node.id == recorded.id);
        combine_node(recorded, now)
    });
    Report {
        name: name.to_owned(),
        epoch: answer.as_ref().map(|answer| answer.epoch),
        position: answer.as_ref().map(|answer| answer.position),
        nodes: nodes.collect(),
        heart,
        conditions: status.conditions,
    }
}

fn combine_node(recorded: &NodeStatus, now: Option<&NodeAnswer>) -> Node {
    let NodeAnswer { state, applied, lag_writes, lag_seconds, digest, disagrees, reason, .. } =
        now.cloned().unwrap_or_default();
    Node {
        id: recorded.id,
        phase: recorded.phase,
        state: now.map(|_| state),
        applied: applied.or(recorded.applied),
        lag_writes,
        lag_seconds,
        depth: recorded.depth,
        digest: digest.or_else(|| recorded.digest.clone()),
        disagrees,
        reason,
    }
}

fn show(report: &Report) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let number = |number: Option<u64>| or_dash(number.map(|number| number.to_string()));
    let cluster = output::table(
        &["CLUSTER", "HEART", "EPOCH", "POSITION"],
        [vec![
            report.name.clone(),
            report.heart.clone().unwrap_or_else(|| "none is active".to_owned()),
            number(report.epoch),
            number(report.position),
        ]],
    );
    let nodes = report.nodes.iter().map(|node| {
        vec![
            node.id.to_string(),
            format!("{:?}", node.phase),
            or_dash(node.state.clone()),
            number(node.applied),
            number(node.lag_writes),
            or_dash(node.lag_seconds.map(|seconds| format!("{seconds:.1}s"))),
            number(node.depth.map(u64::from)),
            or_dash(node.digest.as_ref().map(|digest| digest.chars().take(DIGEST_DIGITS).collect())),
            if node.disagrees {
                "has other rows than most".to_owned()
            } else {
                node.reason.clone().unwrap_or_default()
            },
        ]
    });
    let nodes = output::table(
        &["NODE", "PHASE", "STATE", "APPLIED", "BEHIND", "LAG", "DEPTH", "DIGEST", "REASON"],
        nodes,
    );
    let conditions = report.conditions.iter().map(|condition| {
        vec![
            condition.type_.clone(),
            condition.status.clone(),
            condition.reason.clone(),
            condition.message.clone(),
        ]
    });
    let conditions = output::table(&["CONDITION", "STATUS", "REASON", "MESSAGE"], conditions);
    format!("{cluster}\n\n{nodes}\n\n{conditions}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource() -> BroadcastCluster {
        serde_json::from_value(json!({
            "apiVersion": "broadcast.dev/v1alpha1",
            "kind": "BroadcastCluster",
            "metadata": {"name": "orders"},
            "spec": {"rabbitmq": {"secretRef": {"name": "rabbitmq"}}, "nodes": {"replicas": 2}},
            "status": {
                "nodes": [
                    {"id": 1, "phase": "Ready", "queue": "q_node_1", "depth": 0, "applied": 7},
                    {"id": 2, "phase": "Pending", "queue": "q_node_2"},
                ],
                "conditions": [{
                    "type": "Ready", "status": "False", "reason": "NodesNotReady", "message": "1 of 2 nodes",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn what_the_heart_says_now_is_newer_than_what_the_operator_has_written() {
        let answer: HeartAnswer = serde_json::from_value(json!({
            "role": "active", "epoch": 3, "position": 9,
            "nodes": [{"id": 1, "state": "ready", "applied": 9, "lag_writes": 0, "lag_seconds": 0.04, "digest": "0123456789abcdef"}],
        }))
        .unwrap();
        insta::assert_snapshot!(show(&combine(
            "orders",
            &resource(),
            Some(("orders-heart-x".to_owned(), answer))
        )));
    }

    #[test]
    fn without_an_active_heart_the_operators_word_is_shown() {
        insta::assert_snapshot!(show(&combine("orders", &resource(), None)));
    }
}

//! What people see of a report.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Node, Report};
use crate::output::{self, Cell, Colours, Look};

/// How much of a digest is shown to people.
const DIGEST_DIGITS: usize = 12;

/// Nodes report every second; one that has not for so long is not heard of.
const SILENT_SECONDS: f64 = 5.0;

/// The whole report.
pub(super) fn show(report: &Report, colours: Colours) -> String {
    let heart = match &report.heart {
        Some(heart) => Cell::looking(heart.clone(), Look::Good),
        None => Cell::looking("none is active", Look::Bad),
    };
    let row = vec![
        Cell::from(format!("{}/{}", report.namespace, report.name)),
        heart,
        Cell::from(report.epoch),
        Cell::from(report.position),
        Cell::from(report.nodes_ready.clone()),
    ];
    let mut parts = vec![output::table(&["CLUSTER", "HEART", "EPOCH", "POSITION", "READY"], &[row], colours)];
    let header = ["NODE", "STATE", "APPLIED", "BEHIND", "LAG", "QUEUE", "CONSUMERS", "DIGEST", "REMARK"];
    let rows: Vec<_> = report.nodes.iter().map(show_node).collect();
    parts.push(if rows.is_empty() {
        "no nodes yet".to_owned()
    } else {
        output::table(&header, &rows, colours)
    });
    if report.conditions.is_empty() {
        parts.push("every condition is as it should be".to_owned());
    } else {
        let rows: Vec<_> = report.conditions.iter().map(show_condition).collect();
        parts.push(output::table(&["CONDITION", "STATUS", "REASON", "MESSAGE"], &rows, colours));
    }
    parts.join("\n\n")
}

fn show_node(node: &Node) -> Vec<Cell> {
    let state = describe_state(node);
    let look = match state.as_str() {
        "ready" => Look::Good,
        "failing" | "diverged" => Look::Bad,
        _ => Look::Doubtful,
    };
    vec![
        Cell::from(Some(node.id)),
        Cell::looking(state, look),
        Cell::from(node.applied),
        Cell::from(node.lag_writes),
        Cell::from(node.lag_seconds.map(|seconds| format!("{seconds:.1}s"))),
        Cell::from(node.queue_depth),
        Cell::from(node.consumers),
        Cell::from(node.digest.as_ref().map(|digest| digest.chars().take(DIGEST_DIGITS).collect::<String>())),
        Cell::from(describe_remark(node).unwrap_or_default()),
    ]
}

/// What it says of itself counts; the operator knows that it is to go, or why it says nothing.
pub(super) fn describe_state(node: &Node) -> String {
    let phase = node.phase.map(|phase| format!("{phase:?}").to_lowercase());
    match (&node.state, phase) {
        (_, Some(phase)) if phase == "removing" => phase,
        (Some(state), _) => state.clone(),
        (None, Some(phase)) => phase,
        (None, None) => "unknown".to_owned(),
    }
}

pub(super) fn describe_remark(node: &Node) -> Option<String> {
    let silence = node.reported_seconds_ago.filter(|seconds| *seconds > SILENT_SECONDS);
    if let Some(seconds) = silence {
        return Some(format!("not heard of for {}", in_words(seconds)));
    }
    if node.disagrees {
        return Some("has other rows than most".to_owned());
    }
    let missing = node.missing.map(|seq| format!("misses write {seq}, which nobody has"));
    missing.or_else(|| node.reason.clone())
}

/// Roughly: what grows by itself is no change every second.
fn in_words(seconds: f64) -> &'static str {
    match seconds {
        ..15.0 => "seconds",
        ..60.0 => "15 s",
        ..600.0 => "a minute",
        _ => "10 minutes",
    }
}

fn show_condition(condition: &Condition) -> Vec<Cell> {
    let look = if condition.status == "Unknown" { Look::Doubtful } else { Look::Bad };
    vec![
        Cell::from(condition.type_.clone()),
        Cell::looking(condition.status.clone(), look),
        Cell::from(condition.reason.clone()),
        Cell::from(condition.message.clone()),
    ]
}

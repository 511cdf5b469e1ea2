//! What has changed between two reports, a line for each thing. Numbers that move all the time (lag, depth, what a node
//! has applied) are no change of their own.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::table::{describe_remark, describe_state};
use super::{Node, Report};

/// The lines.
pub(super) fn describe_changes(old: &Report, new: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if (&old.heart, old.epoch) != (&new.heart, new.epoch) {
        lines.push(match (&new.heart, new.epoch) {
            (Some(heart), Some(epoch)) => format!("heart: {heart} is active in epoch {epoch}"),
            _ => "heart: none is active".to_owned(),
        });
    }
    if let (true, Some(position)) = (old.position != new.position, new.position) {
        lines.push(format!("position: {position}"));
    }
    if old.nodes_ready != new.nodes_ready {
        lines.push(format!("nodes ready: {}", new.nodes_ready));
    }
    if old.paused != new.paused {
        lines.push(if new.paused { "paused".to_owned() } else { "resumed".to_owned() });
    }
    lines.extend(compare(&describe_nodes(old), &describe_nodes(new), "is gone"));
    lines.extend(compare(&describe_conditions(old), &describe_conditions(new), "is as it should be"));
    lines
}

/// What is said of each thing.
type Said = Vec<(String, String)>;

/// A line for everything that is said in other words than before, and for what nothing is said of any more.
fn compare(old: &Said, new: &Said, gone: &str) -> Vec<String> {
    let news = new.iter().filter(|said| !old.contains(said)).map(|(what, said)| format!("{what}: {said}"));
    let is_gone = |(what, _): &&(String, String)| new.iter().all(|(other, _)| other != what);
    let past = old.iter().filter(is_gone).map(|(what, _)| format!("{what}: {gone}"));
    news.chain(past).collect()
}

fn describe_nodes(report: &Report) -> Said {
    let describe = |node: &Node| {
        let remark = describe_remark(node).map(|remark| format!(": {remark}")).unwrap_or_default();
        (format!("node {}", node.id), describe_state(node) + &remark)
    };
    report.nodes.iter().map(describe).collect()
}

fn describe_conditions(report: &Report) -> Said {
    let describe = |condition: &Condition| {
        let Condition { type_, status, reason, message, .. } = condition;
        (format!("condition {type_}"), format!("{status}, {reason}: {message}"))
    };
    report.conditions.iter().map(describe).collect()
}

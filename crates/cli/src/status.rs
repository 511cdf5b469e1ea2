//! Where a cluster stands: what the operator says of it, and what its active heart says now.

mod changes;
mod table;

use std::io::{Write, stdout};
use std::time::Duration;

use broadcast_api::{BroadcastCluster, ConditionType, NodePhase, NodeStatus};
use futures_util::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use self::changes::describe_changes;
use self::table::show;
use crate::arguments::Format;
use crate::cluster::Cluster;
use crate::error::CliError;
use crate::output;

/// How often it is looked at while it is watched.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How long a heart has to answer: the others may know more than one that hangs.
const HEART_DEADLINE: Duration = Duration::from_secs(5);

/// Moves a terminal's cursor to its upper left corner and clears what is below.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// The annotation by which a human lets the operator change nothing.
pub(crate) const PAUSED_ANNOTATION: &str = "broadcast.dev/paused";

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
    missing: Option<u64>,
    reason: Option<String>,
    reported_seconds_ago: f64,
}

/// Everything that is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Report {
    name: String,
    namespace: String,
    /// The active heart's pod, if one says that it is.
    heart: Option<String>,
    epoch: Option<u64>,
    position: Option<u64>,
    nodes_ready: String,
    paused: bool,
    nodes: Vec<Node>,
    /// Those that are not as they should be.
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Node {
    id: u32,
    /// What the operator says of it; nothing while it does not know it yet.
    phase: Option<NodePhase>,
    /// What it says of itself.
    state: Option<String>,
    applied: Option<u64>,
    lag_writes: Option<u64>,
    lag_seconds: Option<f64>,
    queue_depth: Option<u32>,
    consumers: Option<u32>,
    digest: Option<String>,
    /// Its rows are not those of most nodes.
    disagrees: bool,
    /// The write that it misses and that nobody has.
    missing: Option<u64>,
    reason: Option<String>,
    reported_seconds_ago: Option<f64>,
}

/// Shows it once, or again and again.
pub(crate) async fn run(cluster: &Cluster, format: Format, watch: bool) -> Result<(), CliError> {
    let mut report = look(cluster).await?;
    if !watch {
        return output::print(format, &report, show);
    }
    print_anew(format, &report)?;
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
        match look(cluster).await {
            Ok(next) => {
                print_change(format, &report, &next)?;
                report = next;
            }
            // What cannot be seen now may be seen again: that is what watching is for.
            Err(error) => eprintln!("error: {error}"),
        }
    }
}

fn print_anew(format: Format, report: &Report) -> Result<(), CliError> {
    match format {
        Format::Table if output::is_terminal() => {
            write!(stdout(), "{CLEAR}")?;
            output::print(format, report, show)
        }
        Format::Table => output::print(format, report, show),
        Format::Json | Format::Yaml => output::print_one_of_many(format, report, |_| String::new()),
    }
}

fn print_change(format: Format, old: &Report, new: &Report) -> Result<(), CliError> {
    if old == new {
        return Ok(());
    }
    if format != Format::Table || output::is_terminal() {
        return print_anew(format, new);
    }
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for change in describe_changes(old, new) {
        writeln!(stdout(), "{now} {change}")?;
    }
    Ok(())
}

async fn look(cluster: &Cluster) -> Result<Report, CliError> {
    let resource = cluster.fetch().await?;
    let hearts = cluster.find("heart").await?;
    let answers =
        hearts.iter().map(|heart| cluster.look::<HeartAnswer>(&heart.pod, "/v1/status", HEART_DEADLINE));
    // One that does not answer is no news: the conditions say so.
    let answers = join_all(answers).await.into_iter().map(Result::ok);
    let answers = hearts.iter().map(|heart| heart.pod.clone()).zip(answers);
    let mut active = answers.filter_map(|(pod, answer)| Some((pod, answer?)));
    Ok(combine(cluster, &resource, active.find(|(_, answer)| answer.role == "active")))
}

fn combine(cluster: &Cluster, resource: &BroadcastCluster, active: Option<(String, HeartAnswer)>) -> Report {
    let status = resource.status.clone().unwrap_or_default();
    let (heart, answer) = active.unzip();
    let known = answer.as_ref().map(|answer| answer.nodes.as_slice()).unwrap_or_default();
    let recorded = status.nodes.iter().map(|recorded| {
        combine_node(recorded.id, Some(recorded), known.iter().find(|node| node.id == recorded.id))
    });
    let is_new = |node: &&NodeAnswer| status.nodes.iter().all(|recorded| recorded.id != node.id);
    let new = known.iter().filter(is_new).map(|node| combine_node(node.id, None, Some(node)));
    Report {
        name: cluster.name().to_owned(),
        namespace: cluster.namespace().to_owned(),
        epoch: answer.as_ref().map(|answer| answer.epoch),
        position: answer.as_ref().map(|answer| answer.position),
        nodes_ready: status.nodes_ready,
        paused: resource.annotations().get(PAUSED_ANNOTATION).is_some_and(|value| value == "true"),
        nodes: recorded.chain(new).collect(),
        heart,
        conditions: status
            .conditions
            .into_iter()
            .filter(|condition| !is_as_it_should_be(condition))
            .collect(),
    }
}

fn combine_node(id: u32, recorded: Option<&NodeStatus>, now: Option<&NodeAnswer>) -> Node {
    let answer = now.cloned().unwrap_or_default();
    Node {
        id,
        phase: recorded.map(|recorded| recorded.phase),
        state: now.map(|_| answer.state),
        applied: answer.applied.or_else(|| recorded?.applied),
        lag_writes: answer.lag_writes.or_else(|| recorded?.lag_writes),
        lag_seconds: answer.lag_seconds,
        queue_depth: recorded.and_then(|recorded| recorded.depth),
        consumers: recorded.and_then(|recorded| recorded.consumers),
        digest: answer.digest.or_else(|| recorded?.digest.clone()),
        disagrees: answer.disagrees,
        missing: answer.missing,
        reason: answer.reason,
        reported_seconds_ago: now.map(|now| now.reported_seconds_ago),
    }
}

/// One that this version does not know is good when it is not true, as most that are added later would be.
fn is_as_it_should_be(condition: &Condition) -> bool {
    let known = ConditionType::ALL.into_iter().find(|known| known.as_str() == condition.type_);
    let good = if known.is_none_or(ConditionType::is_abnormal_when_true) { "False" } else { "True" };
    condition.status == good
}

#[cfg(test)]
mod tests;

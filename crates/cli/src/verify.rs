//! Whether all databases are the same: every node reads all its rows, and the digests of equal positions are compared.
//!
//! Nodes cannot be stopped at a position. While writes go on they are asked again, until all of them have been compared.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use broadcast_api::NodePhase;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::arguments::Format;
use crate::cluster::Cluster;
use crate::error::CliError;
use crate::output::{self, Cell, Colours, Look};

/// The exit codes.
const DIFFERENT: u8 = 1;
pub(crate) const NOT_COMPARED: u8 = 2;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(200);

/// A node's answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Digests {
    position: u64,
    recomputed: Recomputed,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Recomputed {
    digest: String,
    rows: u64,
    /// Whether the rows are what the node has written.
    equal: bool,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    verdict: Verdict,
    /// In a sentence.
    message: String,
    nodes: Vec<NodeReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// All nodes have the same rows.
    Equal,
    /// Some have not.
    Different,
    /// Not all could be compared.
    NotCompared,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct NodeReport {
    node: u32,
    position: Option<u64>,
    rows: Option<u64>,
    digest: Option<String>,
    problem: Option<String>,
}

/// What one round of questions has shown.
type Round = Vec<(u32, Result<Digests, String>)>;

/// Nodes that were found equal, some of them with each other, some by way of others.
#[derive(Debug, Default)]
struct Equal(Vec<BTreeSet<u32>>);

/// Compares all nodes.
pub(crate) async fn run(cluster: &Cluster, format: Format, timeout: Duration) -> Result<ExitCode, CliError> {
    let report = output::with_progress("the nodes read their rows", compare_all(cluster, timeout)).await?;
    output::print(format, &report, show)?;
    Ok(match report.verdict {
        Verdict::Equal => ExitCode::SUCCESS,
        Verdict::Different => ExitCode::from(DIFFERENT),
        Verdict::NotCompared => ExitCode::from(NOT_COMPARED),
    })
}

async fn compare_all(cluster: &Cluster, timeout: Duration) -> Result<Report, CliError> {
    let ends = Instant::now() + timeout;
    let status = cluster.fetch().await?.status.unwrap_or_default();
    let staying = status.nodes.iter().filter(|node| node.phase != NodePhase::Removing);
    let expected: BTreeSet<u32> = staying.map(|node| node.id).collect();
    let mut equal = Equal::default();
    loop {
        let (round, are_all_there) = ask_all(cluster, &expected, ends).await?;
        let report = judge(&expected, round, &mut equal);
        let may_change = report.verdict == Verdict::NotCompared && are_all_there;
        if !may_change || Instant::now() + PAUSE >= ends {
            return Ok(report);
        }
        sleep(PAUSE).await;
    }
}

/// And whether all can be asked.
async fn ask_all(
    cluster: &Cluster,
    expected: &BTreeSet<u32>,
    ends: Instant,
) -> Result<(Round, bool), CliError> {
    let pods = cluster.find("node").await?;
    let pods: BTreeMap<u32, &str> =
        pods.iter().filter_map(|asked| Some((asked.node?, asked.pod.as_str()))).collect();
    let ask = async |node: u32| {
        let Some(pod) = pods.get(&node) else { return (node, Err("does not run".to_owned())) };
        let left = ends.saturating_duration_since(Instant::now());
        let answer = cluster.look::<Digests>(pod, "/v1/digest?recompute=true", left).await;
        (node, answer.map_err(|error| error.to_string()))
    };
    let round = join_all(expected.iter().map(|node| ask(*node))).await;
    Ok((round, expected.iter().all(|node| pods.contains_key(node))))
}

fn judge(expected: &BTreeSet<u32>, round: Round, equal: &mut Equal) -> Report {
    let mut at_position: BTreeMap<u64, BTreeMap<&str, BTreeSet<u32>>> = BTreeMap::new();
    let mut changed = BTreeSet::new();
    for (node, digests) in round.iter().filter_map(|(node, answer)| Some((*node, answer.as_ref().ok()?))) {
        let Recomputed { digest, equal: is_as_written, .. } = &digests.recomputed;
        at_position.entry(digests.position).or_default().entry(digest).or_default().insert(node);
        if !is_as_written {
            changed.insert(node);
        }
    }
    let differing = at_position.iter().find(|(_, digests)| digests.len() > 1);
    let difference = differing.map(|(position, digests)| describe_difference(*position, digests));
    for nodes in at_position.values().filter(|digests| digests.len() == 1).flat_map(BTreeMap::values) {
        equal.add(nodes);
    }
    let (verdict, message) = if !changed.is_empty() {
        let message = format!("{} not what was written there; {REMEDY}", rows_of(&changed));
        (Verdict::Different, message)
    } else if let Some(message) = difference {
        (Verdict::Different, message)
    } else if expected.is_empty() {
        (Verdict::NotCompared, "there are no nodes".to_owned())
    } else if equal.has_all(expected) {
        (Verdict::Equal, "all nodes have the same rows".to_owned())
    } else {
        (Verdict::NotCompared, describe_obstacle(&round))
    };
    Report { verdict, message, nodes: round.into_iter().map(|(node, answer)| report(node, answer)).collect() }
}

const REMEDY: &str =
    "a node finds that out by itself within its scrub interval, `kubectl broadcast rebuild` does not wait";

fn rows_of(nodes: &BTreeSet<u32>) -> String {
    if nodes.len() == 1 {
        format!("the rows of node {} are", list(nodes))
    } else {
        format!("the rows of nodes {} are", list(nodes))
    }
}

fn list(nodes: &BTreeSet<u32>) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Most are taken to be right; where there is no most, nobody knows.
fn describe_difference(position: u64, digests: &BTreeMap<&str, BTreeSet<u32>>) -> String {
    let total: usize = digests.values().map(BTreeSet::len).sum();
    let most = digests.values().find(|nodes| nodes.len() * 2 > total);
    let all: BTreeSet<u32> = digests.values().flatten().copied().collect();
    match most {
        Some(most) => {
            let odd: BTreeSet<u32> = all.difference(most).copied().collect();
            format!("at position {position} {} others than those of most nodes; {REMEDY}", rows_of(&odd))
        }
        None => {
            format!(
                "at position {position} nodes {} differ, and no majority says which of them is right",
                list(&all)
            )
        }
    }
}

fn describe_obstacle(round: &Round) -> String {
    let silent: BTreeSet<u32> =
        round.iter().filter(|(_, answer)| answer.is_err()).map(|(node, _)| *node).collect();
    if silent.is_empty() {
        return "the nodes were at different positions whenever they were asked: try again with --timeout, or while less \
                is written"
            .to_owned();
    }
    format!("node {} could not be asked; `kubectl broadcast status` shows what is wrong", list(&silent))
}

impl Equal {
    fn add(&mut self, nodes: &BTreeSet<u32>) {
        let mut merged = nodes.clone();
        self.0.retain(|known| {
            let is_apart = known.is_disjoint(&merged);
            if !is_apart {
                merged.extend(known);
            }
            is_apart
        });
        self.0.push(merged);
    }

    fn has_all(&self, expected: &BTreeSet<u32>) -> bool {
        self.0.iter().any(|known| known.is_superset(expected))
    }
}

fn report(node: u32, answer: Result<Digests, String>) -> NodeReport {
    match answer {
        Ok(Digests { position, recomputed: Recomputed { digest, rows, equal } }) => NodeReport {
            node,
            position: Some(position),
            rows: Some(rows),
            digest: Some(digest),
            problem: (!equal).then(|| "its rows are not what it has written".to_owned()),
        },
        Err(problem) => NodeReport { node, position: None, rows: None, digest: None, problem: Some(problem) },
    }
}

fn show(report: &Report, colours: Colours) -> String {
    let row = |node: &NodeReport| {
        let problem = node.problem.clone().unwrap_or_default();
        vec![
            Cell::from(Some(node.node)),
            Cell::from(node.position),
            Cell::from(node.rows),
            Cell::from(node.digest.clone()),
            Cell::looking(problem, Look::Bad),
        ]
    };
    let rows: Vec<_> = report.nodes.iter().map(row).collect();
    format!(
        "{}\n{}",
        output::table(&["NODE", "POSITION", "ROWS", "DIGEST", "PROBLEM"], &rows, colours),
        report.message
    )
}

#[cfg(test)]
mod tests;

//! Whether all databases are the same: every node reads all its rows, and the digests of equal positions are compared.

use std::collections::BTreeMap;
use std::process::ExitCode;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::arguments::Format;
use crate::cluster::Cluster;
use crate::error::CliError;
use crate::output;

/// The exit code when nodes differ.
const DIFFERENT: u8 = 3;

/// How often nodes are asked until all are at one position: they read while writes go on.
const ATTEMPTS: u32 = 5;

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
    equal: bool,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    verdict: Verdict,
    nodes: Vec<NodeReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// All nodes that were compared have the same rows.
    Identical,
    /// Some have not.
    Different,
    /// Not all could be compared.
    Incomplete,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct NodeReport {
    node: u32,
    position: Option<u64>,
    rows: Option<u64>,
    digest: Option<String>,
    problem: Option<String>,
}

/// Compares all nodes.
pub(crate) async fn run(cluster: &Cluster, format: Format) -> Result<ExitCode, CliError> {
    let mut report = ask_all(cluster).await?;
    for _ in 1..ATTEMPTS {
        if report.verdict != Verdict::Incomplete {
            break;
        }
        report = ask_all(cluster).await?;
    }
    output::print(format, &report, show)?;
    Ok(match report.verdict {
        Verdict::Identical => ExitCode::SUCCESS,
        Verdict::Different => ExitCode::from(DIFFERENT),
        Verdict::Incomplete => ExitCode::FAILURE,
    })
}

async fn ask_all(cluster: &Cluster) -> Result<Report, CliError> {
    let pods = cluster.find("node").await?;
    let answers = pods.iter().filter_map(|asked| Some((asked.node?, &asked.pod))).map(async |(node, pod)| {
        (
            node,
            cluster
                .look::<Digests>(pod, "/v1/digest?recompute=true")
                .await
                .map_err(|error| error.to_string()),
        )
    });
    let answers = join_all(answers).await;
    if answers.is_empty() {
        return Err(CliError::NobodyThere("node"));
    }
    Ok(compare(answers))
}

fn compare(answers: Vec<(u32, Result<Digests, String>)>) -> Report {
    let mut by_position: BTreeMap<u64, Vec<&Digests>> = BTreeMap::new();
    for digests in answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()) {
        by_position.entry(digests.position).or_default().push(digests);
    }
    let differs = |digests: &[&Digests]| {
        digests.iter().any(|one| one.recomputed.digest != digests[0].recomputed.digest)
    };
    let is_changed = |digests: &Digests| !digests.recomputed.equal;
    let is_different = by_position.values().any(|digests| differs(digests))
        || answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).any(is_changed);
    let verdict = if is_different {
        Verdict::Different
    } else if by_position.len() == 1 && answers.iter().all(|(_, answer)| answer.is_ok()) {
        Verdict::Identical
    } else {
        Verdict::Incomplete
    };
    Report { verdict, nodes: answers.into_iter().map(|(node, answer)| report_node(node, answer)).collect() }
}

fn report_node(node: u32, answer: Result<Digests, String>) -> NodeReport {
    match answer {
        Ok(Digests { position, recomputed: Recomputed { digest, rows, equal }, .. }) => NodeReport {
            node,
            position: Some(position),
            rows: Some(rows),
            digest: Some(digest),
            problem: (!equal).then(|| "its rows are not what it has written".to_owned()),
        },
        Err(problem) => NodeReport { node, position: None, rows: None, digest: None, problem: Some(problem) },
    }
}

fn show(report: &Report) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows = report.nodes.iter().map(|node| {
        vec![
            node.node.to_string(),
            or_dash(node.position.map(|position| position.to_string())),
            or_dash(node.rows.map(|rows| rows.to_string())),
            or_dash(node.digest.clone()),
            node.problem.clone().unwrap_or_default(),
        ]
    });
    let verdict = match report.verdict {
        Verdict::Identical => "all nodes have the same rows",
        Verdict::Different => "the nodes differ",
        Verdict::Incomplete => {
            "not all nodes could be compared: some did not answer, or were at other positions"
        }
    };
    format!("{}\n{verdict}", output::table(&["NODE", "POSITION", "ROWS", "DIGEST", "PROBLEM"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(position: u64, digest: &str, equal: bool) -> Result<Digests, String> {
        let recomputed = Recomputed { digest: digest.to_owned(), rows: 2, equal };
        Ok(Digests { position, recomputed })
    }

    #[test]
    fn nodes_are_the_same_only_when_all_have_answered_of_one_position() {
        for (answers, verdict) in [
            (vec![digests(9, "a", true), digests(9, "a", true)], Verdict::Identical),
            (vec![digests(9, "a", true), digests(9, "b", true)], Verdict::Different),
            (vec![digests(9, "a", true), digests(9, "a", false)], Verdict::Different),
            (vec![digests(9, "a", true), digests(8, "b", true)], Verdict::Incomplete),
            (vec![digests(9, "a", true), Err("does not answer".to_owned())], Verdict::Incomplete),
            (vec![digests(9, "a", true), digests(9, "b", true), Err(String::new())], Verdict::Different),
        ] {
            let answers: Vec<_> = (1..).zip(answers).collect();
            assert_eq!(compare(answers.clone()).verdict, verdict, "{answers:?}");
        }
    }

    #[test]
    fn people_see_a_table_and_a_verdict() {
        let report = compare(vec![(1, digests(9, "ab12", true)), (2, Err("does not answer".to_owned()))]);
        insta::assert_snapshot!(show(&report));
    }
}

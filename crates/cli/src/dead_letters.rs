//! What nodes rejected: to look at, and to give back.

use http::Request;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::arguments::Format;
use crate::cluster::{Cluster, DEADLINE, read_json};
use crate::error::CliError;
use crate::output::{self, Cell, Colours};

const LIST_PATH: &str = "/v1/dead-letters";
const REPLAY_PATH: &str = "/v1/dead-letters/replay";

/// How much of a letter's body fits into a table, in characters.
const SHOWN: usize = 60;

/// What there is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listing {
    letters: Vec<Letter>,
    total: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Letter {
    id: String,
    node: Option<u32>,
    queue: Option<String>,
    reason: String,
    /// In seconds since the Unix epoch.
    at: i64,
    problem: Option<String>,
    bytes: u64,
    body: String,
}

/// What was given back.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Outcome {
    replayed: u32,
    #[serde(default)]
    kept: Vec<Kept>,
    #[serde(default)]
    unknown: Vec<String>,
    left: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    id: String,
    problem: String,
}

/// Shows the oldest ones.
pub(crate) async fn list(cluster: &Cluster, format: Format, limit: u32) -> Result<(), CliError> {
    let heart = cluster.find_any("heart").await?;
    let listing: Listing = cluster.look(&heart.pod, &format!("{LIST_PATH}?limit={limit}"), DEADLINE).await?;
    output::print(format, &listing, show)
}

/// Gives letters back to the queues that they come from: those with these ids, or all.
pub(crate) async fn replay(cluster: &Cluster, format: Format, ids: &[String]) -> Result<(), CliError> {
    let heart = cluster.find_any("heart").await?;
    let body = if ids.is_empty() { json!({"all": true}) } else { json!({"ids": ids}) };
    let request = Request::post(REPLAY_PATH).header("content-type", "application/json");
    let work = cluster.ask(&heart.pod, request, body.to_string(), DEADLINE);
    let answer = output::with_progress("letters are given back", work).await?;
    let what = format!("{}: POST {REPLAY_PATH}", heart.pod);
    let replayed: Outcome = read_json(&what, &answer.body)?;
    output::print(format, &replayed, |replayed, _| describe(replayed))?;
    match explain_rest(&replayed) {
        Some(message) => Err(CliError::Refused { what, message }),
        None => Ok(()),
    }
}

fn show(Listing { letters, total }: &Listing, colours: Colours) -> String {
    if letters.is_empty() {
        return "no dead letters".to_owned();
    }
    let row = |letter: &Letter| {
        let at = Timestamp::from_second(letter.at).ok().filter(|_| letter.at > 0);
        let from = letter.node.map_or_else(|| letter.queue.clone(), |node| Some(format!("node {node}")));
        let shown: String = letter.body.chars().take(SHOWN).collect();
        let dots = if shown.len() < letter.body.len() { "…" } else { "" };
        vec![
            Cell::from(letter.id.clone()),
            Cell::from(at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ"))),
            Cell::from(from),
            Cell::from(letter.reason.clone()),
            Cell::from(Some(letter.bytes)),
            Cell::from(letter.problem.clone()),
            Cell::from(shown + dots),
        ]
    };
    let rows: Vec<_> = letters.iter().map(row).collect();
    let table = output::table(&["ID", "SINCE", "FROM", "REASON", "BYTES", "PROBLEM", "BODY"], &rows, colours);
    let more = (*total as usize).saturating_sub(letters.len());
    if more == 0 { table } else { format!("{table}\n{more} more: see --limit") }
}

fn describe(replayed: &Outcome) -> String {
    let letters = if replayed.replayed == 1 { "letter is" } else { "letters are" };
    format!(
        "{} {letters} back in the queue; what a node rejects again comes back with another id",
        replayed.replayed
    )
}

/// Why that was not everything.
fn explain_rest(Outcome { kept, unknown, left, .. }: &Outcome) -> Option<String> {
    let mut parts: Vec<String> =
        kept.iter().map(|kept| format!("{} stays: {}", kept.id, kept.problem)).collect();
    if *left > 0 {
        parts.push(format!("{left} letters were not looked at: try again"));
    } else if !unknown.is_empty() {
        let ids = unknown.join(", ");
        parts.push(format!(
            "there is no letter {ids}; `kubectl broadcast dead-letters list` shows which there are"
        ));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(id: &str) -> Letter {
        Letter {
            id: id.to_owned(),
            node: Some(2),
            queue: Some("q_node_2".to_owned()),
            reason: "rejected".to_owned(),
            at: 1_767_225_600,
            problem: Some("not JSON".to_owned()),
            bytes: 7,
            body: "garbage".to_owned(),
        }
    }

    #[test]
    fn people_see_where_a_letter_comes_from_and_what_is_wrong_with_it() {
        let long = Letter { body: "ü".repeat(100), bytes: 200, ..letter("cd34") };
        let strange =
            Letter { node: None, queue: None, problem: None, at: 0, reason: String::new(), ..letter("ef56") };
        let listing = Listing { letters: vec![letter("ab12"), long, strange], total: 5 };
        insta::assert_snapshot!(show(&listing, Colours::NONE));
        assert_eq!(show(&Listing { letters: vec![], total: 0 }, Colours::NONE), "no dead letters");
    }

    #[test]
    fn a_replay_is_done_when_nothing_had_to_stay() {
        let done = |kept: &[&str], unknown: &[&str], left| {
            let keep = |id: &&str| Kept { id: (*id).to_owned(), problem: "its queue is gone".to_owned() };
            let unknown = unknown.iter().map(|id| (*id).to_owned()).collect();
            explain_rest(&Outcome { replayed: 1, kept: kept.iter().map(keep).collect(), unknown, left })
        };
        assert_eq!(done(&[], &[], 0), None);
        assert_eq!(done(&["ab"], &[], 0).unwrap(), "ab stays: its queue is gone");
        assert!(done(&[], &["ab", "cd"], 0).unwrap().starts_with("there is no letter ab, cd"));
        assert_eq!(done(&[], &["ab"], 7).unwrap(), "7 letters were not looked at: try again");
    }
}

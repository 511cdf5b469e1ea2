//! What the active heart says of the cluster.
//!
//! The hearts are asked by their pods' addresses, not through their Service: so it is known which of them is active,
//! and what each of the others says when none is.

use std::net::IpAddr;
use std::time::Duration;

use broadcast_api::NodePhase;
use broadcast_service::auth::send_with_tokens;
use http::header::CONNECTION;
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use crate::controller::build::HTTP_PORT;

/// How long a heart has to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// The answer of `GET /v1/status`, as far as it is used. A newer heart may say more.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeartReport {
    /// The pod that answered.
    #[serde(skip)]
    pub pod: String,
    /// `active`, `standby` or what else it is.
    pub role: String,
    /// Why it does not do its work, if it does not.
    pub reason: Option<String>,
    /// Its reign.
    pub epoch: u64,
    /// The number of writes so far.
    pub position: u64,
    /// What it knows of each node.
    pub nodes: Vec<NodeReport>,
    /// How often it found that something was gone from the broker, since it started.
    pub restored: Restored,
    /// The same of the others, by pod: whoever comes first makes it anew.
    #[serde(skip)]
    pub restored_by_others: Vec<(String, Restored)>,
}

/// How often objects of the broker were gone and were declared again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Restored {
    /// The exchange.
    pub exchange: u64,
    /// The head queue.
    pub head_queue: u64,
}

/// What the heart knows of one node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// Its id.
    pub id: u32,
    /// What it is doing.
    pub state: String,
    /// The number of writes that it has applied.
    pub applied: Option<u64>,
    /// Writes that it has still to apply.
    pub lag_writes: Option<u64>,
    /// How long ago it was current, in seconds.
    pub lag_seconds: Option<f64>,
    /// The digest of its rows.
    pub digest: Option<String>,
    /// The sequence number that it misses and that nobody whom it asked has.
    pub missing: Option<u64>,
    /// How often it was rebuilt since it started, because its rows were not what they should be.
    pub rebuilds: Option<u64>,
    /// How often its queue was gone, since it started.
    pub queues_restored: u64,
    /// How often its queue was not bound, since the heart started.
    pub bindings_restored: u64,
    /// Why it is not ready.
    pub reason: Option<String>,
}

impl NodeReport {
    /// What the heart's word for what it is doing means, where that is more than to be there.
    pub fn phase(&self) -> Option<NodePhase> {
        match self.state.as_str() {
            "bootstrapping" => Some(NodePhase::Bootstrapping),
            "repairing" => Some(NodePhase::Repairing),
            "failing" => Some(NodePhase::Failing),
            "diverged" => Some(NodePhase::Diverged),
            _ => None,
        }
    }
}

/// Asks every heart, given as pod and address, for the active one's report, showing these tokens where there are any; the error
/// says what each of them said.
pub async fn fetch_heart_report(
    client: &reqwest::Client,
    hearts: impl IntoIterator<Item = (String, IpAddr)>,
    tokens: &[HeaderValue],
) -> Result<HeartReport, String> {
    let answers = hearts.into_iter().map(async |(pod, address)| match fetch(client, address, tokens).await {
        Ok(report) => Ok(HeartReport { pod, ..report }),
        // The address changes with every pod and says nothing; the cause does.
        Err(error) => Err(format!("{pod}: {}", describe(&error.without_url()))),
    });
    let answers = futures_util::future::join_all(answers).await;
    let (mut active, mut others, mut restored_by_others) = (None, Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(report) if report.role == "active" => active = Some(report),
            Ok(report) => {
                restored_by_others.push((report.pod.clone(), report.restored));
                others.push(match report.reason {
                    Some(reason) => format!("{}: {}: {reason}", report.pod, report.role),
                    None => format!("{}: {}", report.pod, report.role),
                });
            }
            Err(text) => others.push(text),
        }
    }
    if let Some(report) = active {
        return Ok(HeartReport { restored_by_others, ..report });
    }
    if others.is_empty() { Err("no heart has an address yet".to_owned()) } else { Err(others.join("; ")) }
}

async fn fetch(
    client: &reqwest::Client,
    address: IpAddr,
    tokens: &[HeaderValue],
) -> Result<HeartReport, reqwest::Error> {
    let url = format!("http://{}/v1/status", std::net::SocketAddr::from((address, HTTP_PORT)));
    // The next pass is so far away that a connection would only wait for its end.
    let request = || client.get(&url).header(CONNECTION, "close").timeout(DEADLINE);
    let answer = send_with_tokens(tokens, request).await?;
    answer.error_for_status()?.json().await
}

/// The library's own text leaves out the cause.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        format!("no answer within {}s", DEADLINE.as_secs())
    } else if error.is_connect() {
        "no connection".to_owned()
    } else if error.status() == Some(StatusCode::UNAUTHORIZED) {
        "it takes none of the tokens under the key read; a changed Secret reaches a pod within two minutes"
            .to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_more_than_is_known_is_no_error() {
        let report: HeartReport = serde_json::from_value(serde_json::json!({
            "role": "active", "epoch": 7, "position": 42, "hash": "00", "news": true,
            "nodes": [{"id": 1, "state": "ready", "applied": 42, "lag_writes": 0, "lag_seconds": 0.0, "digest": "ab"}],
        }))
        .unwrap();
        assert_eq!((report.epoch, report.position, report.nodes[0].applied), (7, 42, Some(42)));
        let standby: HeartReport = serde_json::from_str(r#"{"role":"standby","nodes":[]}"#).unwrap();
        assert_eq!(standby.epoch, 0);
    }
}

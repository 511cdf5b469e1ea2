//! `GET /v1/status`: what this heart is, and what it knows of the nodes.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use broadcast_protocol::chain::ChainHash;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::report::NodeState;
use broadcast_service::http::StrictQuery;
use serde::{Deserialize, Serialize};

use super::Api;
use crate::census::{Census, Seen};
use crate::role::Role;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}

#[derive(Serialize)]
struct Status {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The base URL of the active heart, as far as a standby knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<ChainHash>,
    nodes: Vec<NodeStatus>,
    /// What was gone from the broker and is declared again, since the start.
    restored: Restored,
}

#[derive(Serialize)]
struct Restored {
    exchange: u64,
    head_queue: u64,
}

#[derive(Serialize)]
struct NodeStatus {
    id: u32,
    state: NodeState,
    applied: u64,
    hash: ChainHash,
    lag_writes: u64,
    lag_seconds: f64,
    digest: Digest,
    rows: u64,
    failed: u64,
    malformed: u64,
    rebuilds: u64,
    /// How often its queue was gone, since it started.
    queues_restored: u64,
    /// How often its queue was not bound, since this heart started.
    bindings_restored: u64,
    /// Its rows are not those of most nodes at the same position.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disagrees: bool,
    /// The sequence number that it misses and that nobody whom it asked has.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// How old all of this is.
    reported_seconds_ago: f64,
}

/// Only the active heart hears from the nodes; what another one heard before is not shown.
pub(super) async fn answer_status(State(api): State<Api>, _: StrictQuery<NoQuery>) -> Response {
    let role = api.role.borrow().clone();
    let progress = *api.progress.borrow();
    let now = Instant::now();
    let nodes = match (&role, progress) {
        (Role::Active { .. }, Some(progress)) => {
            let census = api.census.borrow();
            census.nodes().map(|seen| node_status(&census, seen, progress.position.last, now)).collect()
        }
        _ => Vec::new(),
    };
    let status = Status {
        role: role.name(),
        reason: role.reason().map(ToOwned::to_owned),
        active: match &role {
            Role::Standby { active } => active.clone(),
            _ => None,
        },
        epoch: progress.map(|progress| progress.epoch),
        position: progress.map(|progress| progress.position.last),
        hash: progress.map(|progress| progress.position.hash),
        nodes,
        restored: Restored {
            exchange: api.metrics.restored("exchange"),
            head_queue: api.metrics.restored("head_queue"),
        },
    };
    Json(status).into_response()
}

fn node_status(census: &Census, seen: &Seen, position: u64, now: Instant) -> NodeStatus {
    let report = &seen.report;
    NodeStatus {
        id: report.node.get(),
        state: report.state,
        applied: report.applied.last,
        hash: report.applied.hash,
        lag_writes: position.saturating_sub(report.applied.last),
        lag_seconds: report.lag_seconds,
        digest: report.digest,
        rows: report.rows,
        failed: report.failed,
        malformed: report.malformed,
        rebuilds: report.rebuilds,
        queues_restored: report.queues_restored,
        bindings_restored: census.bindings_restored(report.node),
        disagrees: census.disagrees(report.node),
        missing: report.missing,
        reason: report.reason.clone(),
        reported_seconds_ago: now.saturating_duration_since(seen.at).as_secs_f64(),
    }
}

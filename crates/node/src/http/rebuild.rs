//! `POST /v1/rebuild`: a peer's database in the place of this one, answered when it is there or when nothing was done.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use broadcast_protocol::names::NodeId;
use broadcast_protocol::report::NodeState;
use broadcast_service::http::{ApiError, StrictQuery};
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;

use super::{Api, DIVERGED_RETRY, NoQuery};
use crate::rebuild::{RebuildRequest, Rebuilt};
use crate::scrub::{Finding, Found};
use crate::status::Status;

#[derive(Serialize)]
pub(super) struct RebuildAnswer {
    node: NodeId,
    #[serde(flatten)]
    rebuilt: Rebuilt,
}

/// However long it takes: whoever asks may leave, and it goes on.
pub(super) async fn answer_rebuild(
    State(api): State<Api>,
    StrictQuery(NoQuery {}): StrictQuery<NoQuery>,
) -> Result<Json<RebuildAnswer>, ApiError> {
    let rebuilds = {
        let status = api.status.borrow();
        if let Some(problem) = why_not(&status) {
            return Err(refuse(&problem));
        }
        status.rebuilds
    };
    let (request, answer) = RebuildRequest::new();
    api.wishes.try_send(Finding::new(Found::Asked(request), rebuilds)).map_err(|error| match error {
        TrySendError::Full(_) => refuse("it is about to be rebuilt already"),
        TrySendError::Closed(_) => stopped(),
    })?;
    match answer.await {
        Ok(Ok(rebuilt)) => Ok(Json(RebuildAnswer { node: api.node, rebuilt })),
        Ok(Err(problem)) => Err(refuse(&format!("{problem}; try again when another node is ready"))),
        Err(_) if api.status.borrow().rebuilds > rebuilds => Err(refuse("it has been rebuilt just now")),
        Err(_) => Err(stopped()),
    }
}

fn why_not(status: &Status) -> Option<String> {
    let reason = status.reason.as_deref().unwrap_or("no reason is known");
    match status.state {
        NodeState::Diverged => Some(format!("it is being rebuilt already: {reason}")),
        NodeState::Failing => Some(format!("it fails, and has to be mended first: {reason}")),
        _ if status.rebuilding => Some(format!("it is being rebuilt already: {reason}")),
        _ if status.applied() == 0 => Some("it has nothing yet that could be rebuilt".to_owned()),
        _ => None,
    }
}

fn refuse(problem: &str) -> ApiError {
    let message = format!("the node keeps what it has: {problem}");
    ApiError::new(StatusCode::CONFLICT, "not_rebuilt", message)
}

fn stopped() -> ApiError {
    let message = "the node stops; when it is back, its status says how often it was rebuilt";
    ApiError::unavailable("stopping", message, DIVERGED_RETRY)
}

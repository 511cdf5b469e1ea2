//! `GET /v1/dead-letters` and `POST /v1/dead-letters/replay`, by any heart, whatever its role is.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Request, State};
use broadcast_service::http::{ApiError, StrictQuery};
use serde::Deserialize;

use super::body::{read_body, reserve};
use super::{Api, RETRY_AFTER, unavailable};
use crate::dead_letters::{DeadLetterError, Listing, Replayed, Selection};

/// How many letters are listed where nothing is said, and at most.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<u32>,
}

/// Which letters to give back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayRequest {
    #[serde(default)]
    all: bool,
    #[serde(default)]
    ids: BTreeSet<String>,
}

pub(super) async fn answer_list(
    State(api): State<Api>,
    StrictQuery(query): StrictQuery<ListQuery>,
) -> Result<Json<Listing>, ApiError> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let message = format!("limit: {limit}; 1 to {MAX_LIMIT} are allowed");
        return Err(ApiError::bad_request("invalid_query", message));
    }
    Ok(Json(api.dead_letters.list(limit).await.map_err(|error| refuse(&error))?))
}

pub(super) async fn answer_replay(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<Replayed>, ApiError> {
    let _reserved = reserve(&api, request.headers())?;
    let selection = parse(&read_body(request).await?.body)?;
    Ok(Json(api.dead_letters.replay(&selection).await.map_err(|error| refuse(&error))?))
}

fn parse(body: &[u8]) -> Result<Selection, ApiError> {
    let invalid = |problem: String| ApiError::bad_request("invalid_request", format!("body: {problem}"));
    let ReplayRequest { all, ids } =
        serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    match (all, ids.is_empty()) {
        (true, true) => Ok(Selection::All),
        (false, false) => Ok(Selection::Ids(ids)),
        _ => Err(invalid(r#"either {"all":true} or {"ids":["…"]} is needed"#.to_owned())),
    }
}

fn refuse(error: &DeadLetterError) -> ApiError {
    match error {
        DeadLetterError::Busy => {
            ApiError::unavailable("overloaded", format!("{error}; try again"), RETRY_AFTER)
        }
        DeadLetterError::Amqp { .. } => unavailable(format!("{error}; try again")),
    }
}

//! The node's HTTP interface: reads of one consistent position, and the log and snapshots for its peers.
//!
//! A read is answered whether or not the node is ready, with the position that it is of; `at_least` makes it wait for
//! one. Values are returned byte for byte as they were written.

mod rebuild;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use broadcast_protocol::chain::ChainHash;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::names::NodeId;
use broadcast_protocol::replica::Halt;
use broadcast_protocol::report::NodeState;
use broadcast_service::auth::{Gatekeeper, Role};
use broadcast_service::clock::unix_milliseconds;
use broadcast_service::http::{ApiError, StrictQuery, check_number, parse_duration, with_json_fallbacks};
use broadcast_service::log::{LogPage, LogQuery};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::rebuild::answer_rebuild;
use self::snapshot::{SnapshotDesk, answer_snapshot};
use crate::divergence::Divergence;
use crate::scrub::Finding;
use crate::status::Status;
use crate::store::{CollectionCount, ListPage, ReadError, Readers};

/// How long a read waits for its position where it does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest that it may ask for.
const LONGEST_TIMEOUT: Duration = Duration::from_mins(1);

/// The rows of one page where nothing is said, and the most that may be asked for.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// When to ask again for a digest to be recomputed while another one is.
const RECOMPUTE_RETRY: Duration = Duration::from_secs(5);

/// When to ask a diverged node again: it is being rebuilt.
const DIVERGED_RETRY: Duration = Duration::from_secs(5);

const SEQ: HeaderName = HeaderName::from_static("broadcast-seq");
const POSITION: HeaderName = HeaderName::from_static("broadcast-position");

/// What the interface answers from.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// The node.
    pub(crate) node: NodeId,
    /// What it is doing.
    pub(crate) status: watch::Receiver<Status>,
    /// Its database.
    pub(crate) readers: Readers,
    /// Who may recompute the digest. One at a time: it reads every row, which keeps a reader, and the write-ahead log
    /// from being cut, for long.
    pub(crate) recomputing: Arc<Semaphore>,
    /// Who may take a snapshot.
    pub(crate) snapshots: SnapshotDesk,
    /// Where to ask for another database.
    pub(crate) wishes: mpsc::Sender<Finding>,
    /// Who is let in.
    pub(crate) gatekeeper: Gatekeeper,
}

impl Api {
    /// Nothing is being recomputed yet, and everybody is let in.
    pub(crate) fn new(
        node: NodeId,
        status: watch::Receiver<Status>,
        readers: Readers,
        wishes: mpsc::Sender<Finding>,
    ) -> Self {
        let (recomputing, snapshots) = (Arc::new(Semaphore::new(1)), SnapshotDesk::default());
        let gatekeeper = Gatekeeper::default();
        Self { node, status, readers, recomputing, snapshots, wishes, gatekeeper }
    }

    /// Peers get nothing of what is known to be wrong.
    fn refuse_if_diverged(&self, is_wrong: impl Fn(&Divergence) -> bool) -> Result<(), ApiError> {
        match &self.status.borrow().divergence {
            // Waiting for it helps nobody: the peers have to get on without.
            Some(divergence @ Divergence::Contradicted(Halt::GivenUp { .. })) if is_wrong(divergence) => {
                Err(ApiError::new(StatusCode::GONE, "given_up", divergence.to_string()))
            }
            Some(divergence) if is_wrong(divergence) => {
                let message = format!("{divergence}; ask another node");
                Err(ApiError::unavailable("diverged", message, DIVERGED_RETRY))
            }
            _ => Ok(()),
        }
    }
}

/// The interface.
pub(crate) fn api_router(api: Api) -> Router {
    let reads = Router::new()
        .route("/v1/collections/{collection}/{key}", get(answer_document))
        .route("/v1/collections/{collection}", get(answer_list))
        .route("/v1/collections", get(answer_collections));
    let state = Router::new().route("/v1/status", get(answer_status)).route("/v1/digest", get(answer_digest));
    let rebuild = Router::new().route("/v1/rebuild", post(answer_rebuild));
    let peers = Router::new().route("/v1/log", get(answer_log)).route("/v1/snapshot", get(answer_snapshot));
    let keeper = &api.gatekeeper;
    let router = keeper
        .guard(|_| &[Role::Read], reads)
        .merge(keeper.guard(|_| &Role::ALL, state))
        .merge(keeper.guard(|_| &[Role::Write], rebuild))
        .merge(keeper.guard(|_| &[Role::Peer], peers));
    with_json_fallbacks(router).with_state(api)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentQuery {
    at_least: Option<u64>,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
    at_least: Option<u64>,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DigestQuery {
    #[serde(default)]
    recompute: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoQuery {}

async fn answer_document(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    StrictQuery(query): StrictQuery<DocumentQuery>,
) -> Result<Response, ApiError> {
    let Path((collection, key)) = path.map_err(|rejection| refuse_path(&rejection))?;
    if let Err(behind) = wait_as_asked(&api, query.at_least, query.timeout.as_deref()).await? {
        return Ok(behind);
    }
    let name = format!("{collection}/{key}");
    let read = api.readers.read(move |reader| Ok((reader.document(&collection, &key)?, reader.last()?)));
    let (document, position) = read.await.map_err(refuse_read)?;
    let mut headers = HeaderMap::from_iter([(POSITION, HeaderValue::from(position))]);
    let Some(document) = document else {
        let message = format!("{name} does not exist at position {position}");
        return Ok((headers, ApiError::new(StatusCode::NOT_FOUND, "not_found", message)).into_response());
    };
    headers.insert(SEQ, HeaderValue::from(document.seq));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", document.seq)) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((headers, document.value).into_response())
}

/// Waits until the position is applied that a read asks for, if it does; the inner error is the answer to one that is not.
async fn wait_as_asked(
    api: &Api,
    at_least: Option<u64>,
    timeout: Option<&str>,
) -> Result<Result<(), Response>, ApiError> {
    let timeout = match timeout {
        None => DEFAULT_TIMEOUT,
        Some(text) => parse_duration(text, LONGEST_TIMEOUT)
            .map_err(|problem| ApiError::bad_request("invalid_query", format!("timeout: {problem}")))?,
    };
    let Some(at_least) = at_least else { return Ok(Ok(())) };
    check_number("at_least", at_least)?;
    Ok(wait_for(api, at_least, timeout).await)
}

async fn wait_for(api: &Api, at_least: u64, timeout: Duration) -> Result<(), Response> {
    let mut status = api.status.clone();
    if status.borrow().applied() >= at_least {
        return Ok(());
    }
    let _waiting = api.readers.wait();
    let mut unsynced = api.readers.unsynced();
    let reached = async {
        tokio::select! {
            reached = status.wait_for(|status| status.applied() >= at_least) => reached.is_ok(),
            reached = unsynced.wait_for(|last| *last >= at_least) => reached.is_ok(),
        }
    };
    if tokio::time::timeout(timeout, reached).await == Ok(true) {
        return Ok(());
    }
    let position = status.borrow().applied();
    let message = format!(
        "this node is at position {position}, not yet at {at_least} after {timeout:?}; ask again, or another node"
    );
    let error = ApiError::new(StatusCode::GATEWAY_TIMEOUT, "behind", message);
    Err(([(POSITION, HeaderValue::from(position))], error).into_response())
}

async fn answer_list(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    StrictQuery(query): StrictQuery<ListQuery>,
) -> Result<Response, ApiError> {
    let Path(collection) = path.map_err(|rejection| refuse_path(&rejection))?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let message = format!("limit: {limit}; 1 to {MAX_LIMIT} are allowed");
        return Err(ApiError::bad_request("invalid_query", message));
    }
    let ListQuery { prefix, after, at_least, timeout, .. } = query;
    if let Err(behind) = wait_as_asked(&api, at_least, timeout.as_deref()).await? {
        return Ok(behind);
    }
    let read = api.readers.read(move |reader| reader.list(&collection, &prefix, after.as_deref(), limit));
    read.await.map(|page| Json::<ListPage>(page).into_response()).map_err(refuse_read)
}

#[derive(Serialize)]
struct Collections {
    collections: Vec<CollectionCount>,
    position: u64,
}

async fn answer_collections(
    State(api): State<Api>,
    StrictQuery(NoQuery {}): StrictQuery<NoQuery>,
) -> Result<Json<Collections>, ApiError> {
    let read = api
        .readers
        .read(|reader| Ok(Collections { collections: reader.collections()?, position: reader.last()? }));
    read.await.map(Json).map_err(refuse_read)
}

#[derive(Serialize)]
struct StatusAnswer {
    node: NodeId,
    state: NodeState,
    applied: u64,
    hash: ChainHash,
    epoch: u64,
    digest: Digest,
    rows: u64,
    lag_writes: u64,
    lag_seconds: f64,
    failed: u64,
    malformed: u64,
    rebuilds: u64,
    queues_restored: u64,
    reason: Option<String>,
}

async fn answer_status(
    State(api): State<Api>,
    StrictQuery(NoQuery {}): StrictQuery<NoQuery>,
) -> Json<StatusAnswer> {
    let status = api.status.borrow().clone();
    let applied = status.committed.applied;
    Json(StatusAnswer {
        node: api.node,
        state: status.state,
        applied: applied.position.last,
        hash: applied.position.hash,
        epoch: applied.epoch,
        digest: status.committed.digest,
        rows: status.committed.rows,
        lag_writes: status.lag_writes,
        lag_seconds: status.lag_seconds(unix_milliseconds()),
        failed: status.failed,
        malformed: status.malformed,
        rebuilds: status.rebuilds,
        queues_restored: status.queues_restored,
        reason: status.reason,
    })
}

#[derive(Serialize)]
struct DigestAnswer {
    position: u64,
    digest: Digest,
    rows: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    recomputed: Option<Recomputed>,
}

#[derive(Serialize)]
struct Recomputed {
    digest: Digest,
    rows: u64,
    equal: bool,
}

async fn answer_digest(
    State(api): State<Api>,
    StrictQuery(query): StrictQuery<DigestQuery>,
) -> Result<Json<DigestAnswer>, ApiError> {
    let permit = if query.recompute {
        Some(Arc::clone(&api.recomputing).try_acquire_owned().map_err(|_| {
            let message = "the digest is being recomputed for somebody else; ask again later";
            ApiError::unavailable("overloaded", message, RECOMPUTE_RETRY)
        })?)
    } else {
        None
    };
    // An asker who loses patience ends the reading; only then is the permit given back.
    let stop = CancellationToken::new();
    let _stop_with_the_asker = stop.clone().drop_guard();
    let read = api.readers.read(move |reader| match permit {
        None => Ok((reader.committed()?, None)),
        Some(_permit) => reader.scrub(&stop).map(|scrub| (scrub.committed, Some(scrub))),
    });
    let (maintained, scrub) = read.await.map_err(refuse_read)?;
    let recomputed =
        scrub.map(|scrub| Recomputed { digest: scrub.digest, rows: scrub.rows, equal: scrub.is_sound() });
    Ok(Json(DigestAnswer {
        position: maintained.applied.position.last,
        digest: maintained.digest,
        rows: maintained.rows,
        recomputed,
    }))
}

async fn answer_log(
    State(api): State<Api>,
    StrictQuery(query): StrictQuery<LogQuery>,
) -> Result<LogPage, ApiError> {
    let after = query.after()?;
    api.refuse_if_diverged(Divergence::is_of_history)?;
    api.readers.read(move |reader| reader.log(after)).await.map_err(refuse_read)
}

fn refuse_path(rejection: &PathRejection) -> ApiError {
    ApiError::bad_request("invalid_path", rejection.body_text())
}

fn refuse_read(error: ReadError) -> ApiError {
    match error {
        ReadError::Busy | ReadError::Stopping => {
            ApiError::unavailable("overloaded", error.to_string(), Duration::from_secs(1))
        }
        ReadError::Store(error) => {
            tracing::warn!(%error, "a read failed");
            ApiError::unavailable("database_unavailable", error.to_string(), Duration::from_secs(1))
        }
    }
}

#[cfg(test)]
mod tests;

//! The HTTP interface: checks writes, brings them to the active heart wherever it is, and answers once what the
//! client asked for is true.
//!
//! A request is taken whole or refused whole. What it costs in memory is reserved before its body is read, and held
//! until its writes are confirmed or refused: also when the client hangs up meanwhile.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use broadcast_protocol::write::{InvalidWrite, Operation, Write, WriteBatch, parse_ndjson, parse_request};
use broadcast_service::auth::{self, Gatekeeper};
use broadcast_service::http::{ApiError, StrictQuery, parse_duration, with_json_fallbacks};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod answer;
mod body;
mod dead_letters;
mod forward;
mod headers;
mod log;
mod status;

use crate::census::{AckLevel, Census};
use crate::dead_letters::DeadLetters;
use crate::memory::SharedMemory;
use crate::metrics::{Code, Metrics};
use crate::role::{NotPublished, Placed, Progress, Role, Submission};
use answer::{Form, Wish, may_be_rejected};
use body::{BodyKind, kind_of, read_body, reserve};
use headers::{read_condition, read_id};
pub(crate) use log::MAX_LOG_READERS;

/// How long a client's level may take where it says nothing, and at most.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_TIMEOUT: Duration = Duration::from_mins(1);

/// When to try again what fails for now.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    /// What this heart is.
    pub role: watch::Receiver<Role>,
    /// How far its history goes.
    pub progress: watch::Receiver<Option<Progress>>,
    /// What the nodes say.
    pub census: watch::Receiver<Census>,
    /// How many nodes must have reported lately.
    pub min_attached: usize,
    /// What requests may cost in memory, in KiB.
    pub memory: Arc<Semaphore>,
    /// How much of it there is, in KiB.
    pub memory_kib: u32,
    /// What it has confirmed.
    pub history: SharedMemory,
    /// Who may be reading that at the same time.
    pub log_readers: Arc<Semaphore>,
    /// What nodes rejected.
    pub dead_letters: DeadLetters,
    /// For forwarding.
    pub client: reqwest::Client,
    /// Who is let in.
    pub gatekeeper: Gatekeeper,
    /// Counters.
    pub metrics: Metrics,
    /// Told when this heart is to end.
    pub shutdown: CancellationToken,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteQuery {
    #[serde(default)]
    ack: AckLevel,
    timeout: Option<String>,
}

type QueryResult = Result<StrictQuery<WriteQuery>, ApiError>;
type PathResult = Result<Path<(String, String)>, PathRejection>;

/// A request for writes, read but not yet checked.
struct WriteRequest {
    method: Method,
    path_and_query: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// The routes of a heart.
pub fn router(api: Api) -> Router {
    let writes = Router::new()
        .route("/v1/writes", post(post_writes))
        .route("/v1/collections/{collection}/{key}", put(put_value).delete(delete_value));
    let replay = Router::new().route("/v1/dead-letters/replay", post(dead_letters::answer_replay));
    let letters = Router::new().route("/v1/dead-letters", get(dead_letters::answer_list));
    let status = Router::new().route("/v1/status", get(status::answer_status));
    let log = Router::new().route("/v1/log", get(log::answer_log));
    let keeper = &api.gatekeeper;
    let router = keeper
        .guard(forward::decide_needed, writes)
        .merge(keeper.guard(|_| &[auth::Role::Write], replay))
        .merge(keeper.guard(|_| &[auth::Role::Read], letters))
        .merge(keeper.guard(|_| &auth::Role::ALL, status))
        .merge(keeper.guard(|_| &[auth::Role::Peer], log));
    with_json_fallbacks(router).with_state(api)
}

async fn post_writes(State(api): State<Api>, query: QueryResult, request: Request) -> Response {
    let take = async |api: &Api| {
        let StrictQuery(query) = query?;
        let kind = kind_of(request.headers())?;
        api.handle(query, Form::Many, request, |request| match kind {
            BodyKind::Json => parse_request(&request.body),
            BodyKind::Ndjson => parse_ndjson(&request.body),
        })
        .await
    };
    api.count(take(&api).await)
}

async fn put_value(
    State(api): State<Api>,
    path: PathResult,
    query: QueryResult,
    request: Request,
) -> Response {
    write_one(&api, path, query, request, |body| {
        serde_json::from_slice(body).map(Operation::Put).map_err(|error| {
            let problem = format!("{error}; the body is the value, as JSON");
            InvalidWrite { place: "body".to_owned(), problem }
        })
    })
    .await
}

async fn delete_value(
    State(api): State<Api>,
    path: PathResult,
    query: QueryResult,
    request: Request,
) -> Response {
    write_one(&api, path, query, request, |_| Ok(Operation::Delete)).await
}

/// Takes one write to the path's key.
async fn write_one(
    api: &Api,
    path: PathResult,
    query: QueryResult,
    request: Request,
    read_operation: impl FnOnce(&[u8]) -> Result<Operation, InvalidWrite>,
) -> Response {
    let take = async {
        let ((collection, key), StrictQuery(query)) = (read_path(path)?, query?);
        let (id, condition) = (read_id(request.headers())?, read_condition(request.headers())?);
        api.handle(query, Form::One, request, |request| {
            let operation = read_operation(&request.body)?;
            Ok(vec![Write { operation, collection, key, id, condition }.checked("write")?])
        })
        .await
    };
    api.count(take.await)
}

fn read_path(path: PathResult) -> Result<(String, String), ApiError> {
    match path {
        Ok(Path(names)) => Ok(names),
        Err(rejection) => Err(ApiError::bad_request("invalid_path", rejection.body_text())),
    }
}

impl Api {
    /// Counts an answer.
    fn count(&self, result: Result<Response, ApiError>) -> Response {
        let code = result.as_ref().map_or_else(|error| error.code, |_| "ok");
        self.metrics.write_requests.get_or_create(&Code { code }).inc();
        result.into_response()
    }

    /// Takes a request: here, or at the active heart.
    async fn handle(
        &self,
        query: WriteQuery,
        form: Form,
        request: Request,
        parse: impl FnOnce(WriteRequest) -> Result<Vec<Write>, InvalidWrite>,
    ) -> Result<Response, ApiError> {
        let timeout = match &query.timeout {
            Some(text) => parse_duration(text, MAX_TIMEOUT)
                .map_err(|problem| ApiError::bad_request("invalid_query", format!("timeout: {problem}")))?,
            None => DEFAULT_TIMEOUT,
        };
        let wish = Wish { level: query.ack, deadline: Instant::now() + timeout, form };
        let reserved = reserve(self, request.headers())?;
        let request = read_body(request).await?;
        if self.shutdown.is_cancelled() {
            return Err(unavailable("this heart is stopping; try again"));
        }
        let role = self.role.borrow().clone();
        match role {
            Role::Active { submit, .. } => {
                let writes = parse(request)
                    .map_err(|error| ApiError::bad_request("invalid_write", error.to_string()))?;
                self.check_nodes()?;
                let may_be_rejected = may_be_rejected(&writes);
                let awaited = wish.level != AckLevel::Broker;
                let placed = publish(&submit, (writes, awaited), reserved).await?;
                self.answer(placed, may_be_rejected, wish).await
            }
            Role::Standby { active: Some(url) } => {
                let tokens = self.gatekeeper.peer_tokens();
                forward::forward(&self.client, &tokens, &url, request).await
            }
            role => {
                Err(unavailable(format!("{}: {}", role.name(), role.reason().unwrap_or("no active heart"))))
            }
        }
    }

    /// Writes that no node would apply are refused: the broker's confirm cannot tell.
    fn check_nodes(&self) -> Result<(), ApiError> {
        let attached = self.census.borrow().attached(std::time::Instant::now());
        if attached >= self.min_attached {
            return Ok(());
        }
        let message = format!("{attached} node(s) have reported lately; {} must have", self.min_attached);
        Err(ApiError::unavailable("no_nodes", message, RETRY_AFTER))
    }
}

/// Brings writes to the reign and waits for the broker's word.
async fn publish(
    submit: &mpsc::Sender<Submission>,
    (writes, awaited): (Vec<Write>, bool),
    reserved: OwnedSemaphorePermit,
) -> Result<Placed, ApiError> {
    let mut batch = WriteBatch::default();
    for write in writes {
        batch.push(&write);
    }
    let (answer, answered) = oneshot::channel();
    submit.try_send(Submission { writes: batch, awaited, answer, reserved }).map_err(
        |error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => reign_ended(),
        },
    )?;
    match answered.await {
        Ok(Ok(placed)) => Ok(placed),
        Ok(Err(NotPublished)) => Err(reign_ended()),
        Err(_) => Err(outcome_unknown("the broker did not confirm the message")),
    }
}

fn reign_ended() -> ApiError {
    unavailable(
        "the session with the broker ended before the writes were published; nothing was written, try again",
    )
}

fn overloaded() -> ApiError {
    ApiError::unavailable(
        "overloaded",
        "too much is waiting to be published; nothing was written",
        RETRY_AFTER,
    )
}

fn unavailable(message: impl Into<String>) -> ApiError {
    ApiError::unavailable("broker_unavailable", message, RETRY_AFTER)
}

fn outcome_unknown(cause: &str) -> ApiError {
    let message = format!(
        "{cause}: the writes may have been made or not; try again with the same ids, a write with an id is made once"
    );
    ApiError::unavailable("outcome_unknown", message, RETRY_AFTER)
}

#[cfg(test)]
mod tests;

//! HTTP manners: every error has one shape, unknown parameters are refused, and a server stops within a deadline.
//!
//! The shape is `{"error":{"code":"…","message":"…"}}`: the code for programs, the message for people, saying what
//! to do.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use broadcast_protocol::envelope::MAX_NUMBER;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a client may take to send a request's headers, or to begin with the next request.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// How many connections a server has open; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 1024;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// For programs: out of a fixed set.
    pub code: &'static str,
    /// For people: what was wrong, and what to do.
    pub message: String,
    /// When to try again, in whole seconds (rounded up).
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error without `Retry-After`.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// A 400.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A 503 that says when to try again.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        Self { retry_after: Some(retry_after), ..error }
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    code: &'a str,
    message: &'a str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: ErrorDetail { code: self.code, message: &self.message } };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(delay) = self.retry_after {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The query parameters as a `T` with `deny_unknown_fields`: the answer to an unknown one names those allowed.
#[derive(Debug, Clone, Copy)]
pub struct StrictQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let text = rejection.body_text();
                let problem = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                Err(ApiError::bad_request("invalid_query", problem))
            }
        }
    }
}

/// Reads a duration as in `timeout=5s` or `500ms`, at most `longest`.
pub fn parse_duration(text: &str, longest: Duration) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let duration = match (number.parse(), unit) {
        (Ok(seconds), "s") => Some(Duration::from_secs(seconds)),
        (Ok(milliseconds), "ms") => Some(Duration::from_millis(milliseconds)),
        _ => None,
    };
    duration.filter(|duration| *duration <= longest).ok_or_else(|| {
        format!("{text:?}: a number with s or ms (5s, 500ms), at most {}s, is needed", longest.as_secs())
    })
}

/// Refuses a sequence number that no write can have.
pub fn check_number(parameter: &str, number: u64) -> Result<(), ApiError> {
    if number <= MAX_NUMBER {
        return Ok(());
    }
    let message = format!("{parameter}: {number}; at most {MAX_NUMBER} is allowed");
    Err(ApiError::bad_request("invalid_query", message))
}

/// Answers unknown paths and methods in the shape of all errors. Call it after the last route is added.
pub fn with_json_fallbacks<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.fallback(answer_not_found).method_not_allowed_fallback(answer_method_not_allowed)
}

async fn answer_not_found(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", uri.path()))
}

async fn answer_method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}; the header Allow says what it takes", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// Serves until `shutdown`, then takes no new connections and gives the open ones `drain` to finish. A client that is
/// idle, or takes longer than [`HEADER_DEADLINE`] to send its headers, is hung up on.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> std::io::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    let (open, graceful) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), GracefulShutdown::new());
    // Dropped with the server: no connection outlives it.
    let mut connections = JoinSet::new();
    let accept_all = async {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&open).acquire_owned().await {
            let stream = accept(&listener).await;
            let service = TowerToHyperService::new(router.clone());
            let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
            connections.spawn(async move {
                let _place = place;
                // The client's doing: it went away, was too slow, or sent what is no HTTP.
                let _ = connection.await;
            });
            while connections.try_join_next().is_some() {}
        }
    };
    shutdown.run_until_cancelled(accept_all).await;
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still open when the time to finish them was over");
    }
    Ok(())
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // What is answered is small, and complete: nothing is gained by waiting for more. A client that has gone says so
                // when it is read from.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            // The client has gone already, or there are no more file descriptors: both pass.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The client that processes use among themselves: quick to notice that nobody listens, never through a proxy. Every
/// request needs a deadline of its own: how long an answer may take is not the client's to know.
pub fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        // Well before the server hangs up, or a request might meet the end of its connection.
        .pool_idle_timeout(HEADER_DEADLINE / 2)
        .no_proxy()
        .build()
}

#[cfg(test)]
mod tests;

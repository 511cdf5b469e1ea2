//! HTTP manners: every error has one shape, unknown parameters are refused, and a server stops within a deadline.
//!
//! The shape is `{"error":{"code":"…","message":"…"}}`: the code for programs, the message for people, saying what
//! to do.

use std::time::Duration;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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

/// Serves until `shutdown`, then takes no new connections and gives the open ones `drain` to finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> std::io::Result<()> {
    let told = shutdown.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(told.cancelled_owned());
    tokio::select! {
        result = async { server.await } => result,
        () = async { shutdown.cancelled().await; tokio::time::sleep(drain).await } => {
            tracing::warn!("connections were still open when the time to finish them was over");
            Ok(())
        }
    }
}

/// The client that processes use among themselves: quick to notice a dead peer, never through a proxy. A request
/// that is not a long stream sets a deadline of its own.
pub fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        .read_timeout(Duration::from_secs(30))
        .pool_idle_timeout(Duration::from_secs(30))
        .no_proxy()
        .build()
}

#[cfg(test)]
mod tests;

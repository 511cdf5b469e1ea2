//! A standby brings a request to the active heart. Once only: a request that was brought before is refused, because
//! two hearts that each take the other for the active one would pass it on for ever.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::Response;
use broadcast_service::http::ApiError;

use super::headers::IDEMPOTENCY_KEY;
use super::{WriteRequest, outcome_unknown, unavailable};

/// Marks a request that a standby has brought.
const FORWARDED: HeaderName = HeaderName::from_static("broadcast-forwarded");

/// The longest wait for a level, a confirm, and some.
const DEADLINE: Duration = Duration::from_secs(75);

/// What of a request and of its answer matters to the other side.
const REQUEST_HEADERS: [HeaderName; 4] =
    [header::CONTENT_TYPE, IDEMPOTENCY_KEY, header::IF_MATCH, header::IF_NONE_MATCH];
const ANSWER_HEADERS: [HeaderName; 2] = [header::CONTENT_TYPE, header::RETRY_AFTER];

/// Sends the request to the heart at `url` and gives its answer.
pub(super) async fn forward(
    client: &reqwest::Client,
    url: &str,
    request: WriteRequest,
) -> Result<Response, ApiError> {
    if request.headers.contains_key(&FORWARDED) {
        return Err(unavailable("this heart is no longer the active one; try again"));
    }
    let mut forwarded = client
        .request(request.method, format!("{url}{}", request.path_and_query))
        .header(FORWARDED, "1")
        .timeout(DEADLINE)
        .body(request.body);
    for name in REQUEST_HEADERS {
        if let Some(value) = request.headers.get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let answer = forwarded.send().await.map_err(|error| lost(&error))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() =
        StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    for name in ANSWER_HEADERS {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    *response.body_mut() = Body::from(answer.bytes().await.map_err(|error| lost(&error))?);
    Ok(response)
}

fn lost(error: &reqwest::Error) -> ApiError {
    if error.is_connect() {
        return unavailable("the active heart cannot be reached; nothing was written, try again");
    }
    outcome_unknown("the active heart did not answer")
}

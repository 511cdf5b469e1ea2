//! A standby brings a request to the active heart. Once only: a request that was brought before is refused, because
//! two hearts that each take the other for the active one would pass it on for ever. Where there are tokens, the standby has
//! looked at the client's, and shows its own as a peer.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use broadcast_service::auth::{Role, send_with_tokens};
use broadcast_service::http::ApiError;
use bytes::Bytes;

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

/// Whose token a write needs: a client's, or that of the heart that passes it on.
pub(super) fn decide_needed(headers: &HeaderMap) -> &'static [Role] {
    if headers.contains_key(&FORWARDED) { &[Role::Peer] } else { &[Role::Write] }
}

/// Sends the request to the heart at `url` and gives its answer.
pub(super) async fn forward(
    client: &reqwest::Client,
    tokens: &[HeaderValue],
    url: &str,
    request: WriteRequest,
) -> Result<Response, ApiError> {
    let WriteRequest { method, path_and_query, headers, body } = request;
    if headers.contains_key(&FORWARDED) {
        return Err(unavailable("this heart is no longer the active one; try again"));
    }
    let (target, body) = (format!("{url}{path_and_query}"), Bytes::from(body));
    let build = || {
        let forwarded = client.request(method.clone(), &target).header(FORWARDED, "1");
        let mut forwarded = forwarded.timeout(DEADLINE).body(body.clone());
        for name in REQUEST_HEADERS {
            if let Some(value) = headers.get(&name) {
                forwarded = forwarded.header(name, value);
            }
        }
        forwarded
    };
    let answer = send_with_tokens(tokens, build).await.map_err(|error| lost(&error))?;
    if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        let problem =
            "the active heart takes none of the peer tokens of this one; nothing was written, try again";
        return Err(unavailable(problem));
    }
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

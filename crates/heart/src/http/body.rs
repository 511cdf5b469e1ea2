//! Reading a request's body within a size, a time and a share of the memory.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use broadcast_protocol::write::MAX_REQUEST_BYTES;
use broadcast_service::http::ApiError;
use futures_util::StreamExt;
use tokio::sync::OwnedSemaphorePermit;

use super::{Api, WriteRequest, overloaded};

/// How long a client may take to send a body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// How the writes of a body are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// One object with a list of writes.
    Json,
    /// One write a line.
    Ndjson,
}

/// What the header `Content-Type` says.
pub(super) fn kind_of(headers: &HeaderMap) -> Result<BodyKind, ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(BodyKind::Json),
        "application/x-ndjson" => Ok(BodyKind::Ndjson),
        _ => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("Content-Type {value:?}: application/json or application/x-ndjson is needed"),
        )),
    }
}

/// Reserves what a request may cost, before any of it is read; an unknown length counts as the largest.
pub(super) fn reserve(api: &Api, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, ApiError> {
    let length =
        match headers.get(header::CONTENT_LENGTH).map(|value| value.to_str().unwrap_or_default().parse()) {
            Some(Ok(length)) => length,
            Some(Err(_)) | None if headers.contains_key(header::TRANSFER_ENCODING) => MAX_REQUEST_BYTES,
            Some(Err(_)) | None => 0,
        };
    if length > MAX_REQUEST_BYTES {
        return Err(too_large());
    }
    let kib = u32::try_from(1 + length.div_ceil(1024)).unwrap_or(u32::MAX).min(api.memory_kib);
    api.memory.clone().try_acquire_many_owned(kib).map_err(|_| overloaded())
}

/// Reads the body.
pub(super) async fn read_body(request: Request) -> Result<WriteRequest, ApiError> {
    let (parts, body) = request.into_parts();
    let read = async {
        let mut bytes = Vec::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| ApiError::bad_request("incomplete_body", error.to_string()))?;
            if bytes.len() + chunk.len() > MAX_REQUEST_BYTES {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    let body = tokio::time::timeout(BODY_DEADLINE, read).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {}s", BODY_DEADLINE.as_secs());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message))
    })?;
    let path_and_query = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    Ok(WriteRequest { method: parts.method, path_and_query, headers: parts.headers, body })
}

fn too_large() -> ApiError {
    let message = format!("more than {} MiB; split the request", MAX_REQUEST_BYTES >> 20);
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

//! `GET /v1/log?after=SEQ`: the messages after a position, from whoever keeps them. Hearts and nodes answer alike, so that
//! a node can repair from any of them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;

use crate::http::{ApiError, check_number};

/// The most that one answer carries, in bytes; one message is always sent whole.
pub const MAX_LOG_PAGE_BYTES: usize = 4 << 20;

/// The parameters of the request.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    after: u64,
}

/// What a log has after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPage {
    /// The next messages, one a line; none at the end of the log.
    Messages(Bytes),
    /// The next message is no longer kept.
    Gone {
        /// The position that was asked for.
        after: u64,
        /// The first sequence number that is kept.
        oldest: Option<u64>,
    },
}

impl LogQuery {
    /// The sequence number that the asker has got to.
    pub fn after(self) -> Result<u64, ApiError> {
        check_number("after", self.after)?;
        Ok(self.after)
    }
}

impl IntoResponse for LogPage {
    fn into_response(self) -> Response {
        match self {
            Self::Messages(lines) => {
                let kind = HeaderValue::from_static("application/x-ndjson");
                ([(header::CONTENT_TYPE, kind)], lines).into_response()
            }
            Self::Gone { after, oldest } => {
                let oldest = oldest
                    .map_or("nothing is kept".to_owned(), |first| format!("the oldest kept is {first}"));
                let message = format!("{} is no longer in the log ({oldest}); take a snapshot", after + 1);
                ApiError::new(StatusCode::GONE, "gone", message).into_response()
            }
        }
    }
}

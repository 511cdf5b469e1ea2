//! `GET /v1/log`: the newest messages that this heart has confirmed, for nodes that miss them, whatever its role is now.

use std::sync::Arc;

use axum::extract::State;
use broadcast_service::http::{ApiError, StrictQuery};
use broadcast_service::log::{LogPage, LogQuery};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{Api, RETRY_AFTER};

/// How many answers may be on their way at once: a page takes megabytes until the asker has read it.
pub(crate) const MAX_LOG_READERS: usize = 16;

/// A page and its place among those that may be on their way.
struct Placed {
    lines: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.lines
    }
}

pub(super) async fn answer_log(
    State(api): State<Api>,
    StrictQuery(query): StrictQuery<LogQuery>,
) -> Result<LogPage, ApiError> {
    let after = query.after()?;
    let place = Arc::clone(&api.log_readers).try_acquire_owned().map_err(|_| {
        let message =
            format!("{MAX_LOG_READERS} others are reading the log; ask again later, or another peer");
        ApiError::unavailable("overloaded", message, RETRY_AFTER)
    })?;
    Ok(match api.history.page_after(after) {
        LogPage::Messages(lines) => LogPage::Messages(Bytes::from_owner(Placed { lines, _place: place })),
        gone @ LogPage::Gone { .. } => gone,
    })
}

#[cfg(test)]
mod tests;

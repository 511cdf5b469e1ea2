//! What a client is told of writes that the broker has confirmed: once the level that it asked for is reached, also
//! which of them changed nothing and why. That is part of a level: one without it counts as not reached.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use broadcast_protocol::outcome::{Rejected, Rejection};
use broadcast_protocol::write::Write;
use broadcast_service::http::ApiError;
use serde::Serialize;
use tokio::time::Instant;

use super::Api;
use crate::census::{AckLevel, Census, Fate};
use crate::role::Placed;

/// How the answer says that writes changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For one write: as an error.
    One,
    /// For a list of writes: as another list.
    Many,
}

/// What a client wants to know of its writes, and until when it waits for that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) level: AckLevel,
    pub(super) deadline: Instant,
    pub(super) form: Form,
}

#[derive(Serialize)]
struct WriteAnswer {
    first: u64,
    last: u64,
    epoch: u64,
    ack: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejected: Vec<RejectedWrite>,
}

#[derive(Serialize)]
struct RejectedWrite {
    /// Its place in the request, from 0.
    index: u64,
    #[serde(flatten)]
    rejected: Rejected,
}

/// Whether a node may refuse one of these writes.
pub(super) fn may_be_rejected(writes: &[Write]) -> bool {
    writes.iter().any(|write| write.id.is_some() || write.condition.is_some())
}

impl Api {
    /// Waits for what the client wants to know. Too late is no error: the writes are durable. A rejection is told
    /// whenever it is known, because it is final.
    pub(super) async fn answer(
        &self,
        placed: Placed,
        may_be_rejected: bool,
        wish: Wish,
    ) -> Result<Response, ApiError> {
        let Placed { first, last, epoch } = placed;
        let (is_reached, fate) = match wish.level {
            AckLevel::Broker => (true, Fate::default()),
            level => self.wait_for_level(placed, may_be_rejected, level, wish.deadline).await,
        };
        if let (Form::One, Some(rejected)) = (wish.form, fate.rejected.first()) {
            return Err(refuse(*rejected));
        }
        let (status, ack) =
            if is_reached { (StatusCode::OK, wish.level) } else { (StatusCode::ACCEPTED, AckLevel::Broker) };
        let rejected = fate.rejected.into_iter();
        let rejected = rejected.map(|rejected| RejectedWrite { index: rejected.seq - first, rejected });
        let answer = WriteAnswer { first, last, epoch, ack: ack.as_str(), rejected: rejected.collect() };
        Ok((status, Json(answer)).into_response())
    }

    /// Says whether the level is reached, and what has become of the writes.
    async fn wait_for_level(
        &self,
        Placed { first, last, .. }: Placed,
        may_be_rejected: bool,
        level: AckLevel,
        deadline: Instant,
    ) -> (bool, Fate) {
        let find_fate = |census: &Census| {
            if may_be_rejected {
                census.find_fate(first, last)
            } else {
                Fate { is_known: true, ..Fate::default() }
            }
        };
        let mut seen = self.census.clone();
        let reached = seen.wait_for(|census| {
            let now = std::time::Instant::now();
            census.has_reached(level, last, now)
                && (!may_be_rejected || census.is_fate_settled(first, last, now))
        });
        let reached = tokio::select! {
            reached = tokio::time::timeout_at(deadline, reached) => reached,
            () = self.shutdown.cancelled() => return (false, find_fate(&self.census.borrow())),
        };
        match reached {
            Ok(Ok(census)) => {
                let fate = find_fate(&census);
                (fate.is_known, fate)
            }
            // Too late.
            _ => (false, find_fate(&self.census.borrow())),
        }
    }
}

fn refuse(Rejected { seq, reason }: Rejected) -> ApiError {
    let (status, why) = match reason {
        Rejection::PreconditionFailed => {
            (StatusCode::PRECONDITION_FAILED, "its precondition did not hold when its turn came")
        }
        Rejection::IdReused => {
            (StatusCode::CONFLICT, "its request id was used before, for another write; use a new one")
        }
    };
    ApiError::new(status, reason.as_str(), format!("write {seq} changed nothing: {why}"))
}

#[cfg(test)]
mod tests;

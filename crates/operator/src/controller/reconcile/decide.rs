//! What is there, and what is to be done about it.

use broadcast_api::BroadcastCluster;
use jiff::Timestamp;

use super::{Context, build_sources, close};
use crate::broker::Session;
use crate::controller::error::ReconcileError;
use crate::controller::observe::{Observed, fetch_observed};
use crate::controller::plan::{Plan, plan, plan_deletion};
use crate::controller::validate::ValidCluster;

/// What is to be done, and what that was decided on.
pub(super) struct Decided {
    pub(super) observed: Observed,
    pub(super) session: Option<Session>,
    pub(super) plan: Plan,
}

/// Observe and plan: by what is known, unless something goes by that plan.
pub(super) async fn decide(
    cluster: &BroadcastCluster,
    valid: &ValidCluster,
    deleted_at: Option<Timestamp>,
    context: &Context,
) -> Result<Decided, ReconcileError> {
    let mut known = deleted_at.is_none().then_some(&context.known).filter(|known| known.is_complete());
    loop {
        let sources = build_sources(valid, known, context);
        let (observed, session) = fetch_observed(cluster, valid, &sources).await?;
        if let Ok(access) = &observed.access {
            context.memory.note_access(&valid.uid, access);
        }
        let planned = match deleted_at {
            Some(since) => plan_deletion(valid, &observed, context.is_overdue(since)),
            None => plan(valid, &observed),
        };
        match planned {
            Ok(plan) if known.is_none() || !plan.takes_away(&observed) => {
                return Ok(Decided { observed, session, plan });
            }
            Ok(_) => known = None,
            Err(error) => {
                close(session).await;
                return Err(error.into());
            }
        }
        close(session).await;
    }
}

//! The pass that most are: over what is known of Kubernetes without asking, to find that nothing is to be done there. What only the
//! broker and the hearts know is asked for, and the broker objects are declared again.

use std::time::Duration;

use broadcast_api::{BroadcastCluster, BroadcastClusterStatus};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::{Context, build_sources, close, label_of, publish_repairs, requeue, show_queues};
use crate::broker::Session;
use crate::controller::apply::{Tools, apply};
use crate::controller::error::ReconcileError;
use crate::controller::observe::{Observed, fetch_observed};
use crate::controller::plan::{Plan, Step, plan};
use crate::controller::status::{Findings, build_status, decide_write};
use crate::controller::validate::{ValidCluster, validate};
use crate::names::FINALIZER;

/// How long it may take: a pass that reads everything has to fit in after it.
const DEADLINE: Duration = Duration::from_secs(10);

/// How the pass ended; `None` when there may be more to do, and everything has to be read first.
pub(super) async fn reconcile_known(
    cluster: &BroadcastCluster,
    context: &Context,
) -> Option<Result<Action, ReconcileError>> {
    let recorded = cluster.status.as_ref()?;
    let is_kept = cluster.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    if !is_kept || cluster.metadata.deletion_timestamp.is_some() || !context.known.is_complete() {
        return None;
    }
    let valid = validate(cluster, &context.installation).ok()?;
    let pass = async {
        let sources = build_sources(&valid, Some(&context.known), context);
        let (mut observed, session) = fetch_observed(cluster, &valid, &sources).await.ok()?;
        let planned = look_after_broker(&valid, &mut observed, session.as_ref(), context, recorded).await;
        close(session).await;
        Some((planned?, observed))
    };
    let ((Plan { members, .. }, made), observed) = tokio::time::timeout(DEADLINE, pass).await.ok()??;
    // What went since it was looked at.
    publish_repairs(cluster, &valid, (&observed, made), context).await;
    let findings = Findings { cluster: &valid, observed: &observed, members: &members, failure: None };
    let status = build_status(&findings, recorded, Timestamp::now());
    if decide_write(recorded, &status, context.memory.since_write(&valid.uid)) {
        return None;
    }
    if let Ok(access) = &observed.access {
        context.memory.note_access(&valid.uid, access);
    }
    context.memory.note_finding(&valid.uid);
    context.metrics.set_status(&label_of(cluster), &status);
    show_queues(cluster, &observed, context);
    let outcome = observed.into_outcome();
    Some(outcome.map(|()| requeue(&valid.uid, &members, &status, false, context)))
}

/// Does what is done in every pass, if that is all that there is to do.
async fn look_after_broker(
    valid: &ValidCluster,
    observed: &mut Observed,
    session: Option<&Session>,
    context: &Context,
    recorded: &BroadcastClusterStatus,
) -> Option<(Plan, Vec<String>)> {
    let plan = plan(valid, observed).ok()?;
    let is_missed = !observed.missing(valid.topology.names()).is_empty();
    if is_missed || !plan.steps.iter().all(Step::is_repeated) {
        return None;
    }
    let tools = Tools { client: &context.client, known: &context.known, session };
    let objects = std::mem::take(&mut observed.objects);
    let applied = apply(&plan.steps, valid, &tools, objects, recorded.clone()).await;
    observed.objects = applied.objects;
    applied.failure.is_none().then_some((plan, applied.made))
}

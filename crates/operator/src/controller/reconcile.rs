//! One pass over one resource, from the API server's answer to the delay until the next pass.

mod beginning;
mod decide;
mod quiet;
mod release;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use broadcast_api::{BroadcastCluster, BroadcastClusterStatus, ConditionType};
use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::Semaphore;

pub use release::publish_left_behind;

use crate::broker::{Brokers, ObservedBroker, Session};
use crate::controller::WatchedCluster;
use crate::controller::actions::draft_actions;
use crate::controller::apply::{Applied, Tools, add_finalizer, apply, release};
use crate::controller::drift::{count_repairs, draft_repairs};
use crate::controller::error::ReconcileError;
use crate::controller::events::{EventDraft, Events, decide_events};
use crate::controller::known::Known;
use crate::controller::members::Members;
use crate::controller::memory::Memory;
use crate::controller::observe::{Observed, Sources};
use crate::controller::plan::{Plan, Step};
use crate::controller::status::{
    Findings, build_failure_status, build_status, condition, decide_write, publish_conditions,
    publish_status_of,
};
use crate::controller::unreadable::reconcile_unreadable;
use crate::controller::validate::{Installation, ValidCluster, validate};
use crate::lease::Leadership;
use crate::metrics::{Metrics, cluster_label};
use crate::names::FINALIZER;
use beginning::{claim, delay_objects};
use decide::{Decided, decide};
use release::report_release;

/// How many passes run at the same time.
pub const TURNS: usize = 8;

/// How long the work of a pass may take.
const PASS_DEADLINE: Duration = Duration::from_secs(30);

/// How long all of a pass may take: the work, and saying in the resource how it ended.
const WHOLE_DEADLINE: Duration = Duration::from_secs(40);

/// How often the broker is looked at when nothing calls for it.
const PROBE_EVERY: Duration = Duration::from_secs(15);

/// What passes share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What is known of objects and pods without asking.
    pub known: Known,
    /// For hearts.
    pub http: reqwest::Client,
    /// The ways to brokers.
    pub brokers: Brokers,
    /// Where events are told.
    pub events: Events,
    /// The images where a resource names none.
    pub installation: Installation,
    /// All resources that are watched.
    pub stores: Vec<Store<WatchedCluster>>,
    /// The resources that there were when the process started, as long as they are not among those.
    pub known_at_start: Mutex<Vec<Arc<WatchedCluster>>>,
    /// How long an unreachable broker delays a deletion.
    pub deletion_patience: SignedDuration,
    /// What is counted.
    pub metrics: Metrics,
    /// What is remembered.
    pub memory: Memory,
    /// Whether this process may do anything.
    pub leadership: Leadership,
    /// For passes to wait for their turn. First come, first served: the controller's own queue lets those wait for long that came first,
    /// while others come again and again.
    pub turns: Arc<Semaphore>,
}

/// A pass, with its deadline and its count. Without leadership it does not begin, and at the end of it, it ends where it
/// is: what it had open to the broker is cut.
pub async fn reconcile(
    watched: Arc<WatchedCluster>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    // Closed when the process is told to stop: a pass that has not begun is the next process's.
    let Ok(_turn) = context.turns.acquire().await else { return Ok(Action::await_change()) };
    let started = Instant::now();
    let pass = context.leadership.guard(reconcile_current(&watched, &context).boxed());
    let result = match tokio::time::timeout(WHOLE_DEADLINE, pass).await {
        Ok(ended) => ended.unwrap_or_else(|not_leading| Err(not_leading.into())),
        Err(_) => Err(ReconcileError::Timeout),
    };
    let label = result.as_ref().map_or_else(ReconcileError::reason, |_| "ok");
    context.metrics.count_reconcile(&label_of(&*watched), label, started.elapsed());
    if result.is_ok() {
        context.memory.reset_delay(&watched.uid().unwrap_or_default());
    }
    result
}

/// When to try again after a failure.
pub fn decide_retry(watched: &WatchedCluster, context: &Context) -> Action {
    Action::requeue(context.memory.next_delay(&watched.uid().unwrap_or_default()))
}

/// The watch of the resources may lag behind this process's own writes, and a mark must not be published twice: so when there is anything
/// to do, the resource is read again.
async fn reconcile_current(watched: &WatchedCluster, context: &Context) -> Result<Action, ReconcileError> {
    if let DeserializeGuard(Ok(cluster)) = watched
        && let Some(ended) = quiet::reconcile_known(cluster, context).await
    {
        return ended;
    }
    if let DeserializeGuard(Ok(cluster)) = watched
        && let Some(claimed) = claim(cluster, context).await
    {
        return reconcile_cluster(&claimed, context).await;
    }
    let (namespace, name) = (watched.namespace().unwrap_or_default(), watched.name_any());
    let api: Api<WatchedCluster> = Api::namespaced(context.client.clone(), &namespace);
    let current = api.get_opt(&name).await.map_err(ReconcileError::kube("get the BroadcastCluster"))?;
    match current {
        Some(DeserializeGuard(Ok(cluster))) => reconcile_cluster(&cluster, context).await,
        Some(DeserializeGuard(Err(invalid))) => reconcile_unreadable(&invalid, context).await,
        None => {
            context.memory.forget(&watched.uid().unwrap_or_default());
            context.metrics.forget(&label_of(watched));
            Ok(Action::await_change())
        }
    }
}

/// A pass that did what it could.
struct Pass {
    valid: ValidCluster,
    observed: Observed,
    /// What was gone from the broker before.
    missing: Vec<String>,
    members: Members,
    /// Whether more was to be done than is done in every pass.
    has_changed: bool,
    applied: Applied,
    /// What tells of what was done.
    told: Vec<EventDraft>,
}

async fn reconcile_cluster(cluster: &BroadcastCluster, context: &Context) -> Result<Action, ReconcileError> {
    let recorded = cluster.status.clone().unwrap_or_default();
    let deleting = cluster.metadata.deletion_timestamp.is_some();
    if deleting && !cluster.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        context.memory.forget(&cluster.uid().unwrap_or_default());
        context.metrics.forget(&label_of(cluster));
        return Ok(Action::await_change());
    }
    let pass = tokio::time::timeout(PASS_DEADLINE, run_pass(cluster, &recorded, context)).await;
    match pass.unwrap_or(Err(ReconcileError::Timeout)) {
        Ok(Some(pass)) => conclude(cluster, recorded, pass, context).await,
        Ok(None) => Ok(Action::await_change()),
        Err(error) => {
            publish_failure(cluster, &recorded, &error, context).await?;
            Err(error)
        }
    }
}

/// Observe, validate, plan, apply. `None` when the resource was let go.
async fn run_pass(
    cluster: &BroadcastCluster,
    recorded: &BroadcastClusterStatus,
    context: &Context,
) -> Result<Option<Pass>, ReconcileError> {
    let deleted_at = cluster.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let valid = match validate(cluster, &context.installation) {
        // Nobody can say what it has there.
        Err(problems) if deleted_at.is_some_and(|since| context.is_overdue(since)) => {
            release(&context.client, &cluster.metadata).await?;
            let left = "everything that it had there";
            publish_left_behind(&cluster.object_ref(&()), &problems.to_string(), left, context).await;
            return Ok(None);
        }
        valid => valid?,
    };
    if deleted_at.is_none() && !cluster.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        add_finalizer(&context.client, cluster).await?;
    }
    let Decided { mut observed, session, plan: Plan { steps, members } } =
        decide(cluster, &valid, deleted_at, context).await?;
    let is_wanted = deleted_at.is_none() && !valid.annotations.paused;
    let expected = if is_wanted { observed.expected(valid.topology.names()) } else { BTreeSet::new() };
    let tools = Tools { client: &context.client, known: &context.known, session: session.as_ref() };
    let actions = match deleted_at {
        Some(_) => Vec::new(),
        None => draft_actions(&valid, &observed.recorded, &observed.objects, &steps),
    };
    let objects = std::mem::take(&mut observed.objects);
    let mut applied = apply(&steps, &valid, &tools, objects, recorded.clone()).await;
    close(session).await;
    let missing = applied.made.iter().filter(|object| expected.contains(*object)).cloned().collect();
    let told = actions.into_iter().filter(|(place, _)| *place < applied.done).map(|(_, draft)| draft);
    let told = told.collect();
    observed.objects = std::mem::take(&mut applied.objects);
    show_queues(cluster, &observed, context);
    if applied.failure.is_none() && steps.contains(&Step::RemoveFinalizer) {
        report_release(cluster, &valid, &observed, context).await;
        return Ok(None);
    }
    let has_changed = !steps.iter().all(Step::is_repeated);
    Ok(Some(Pass { valid, observed, missing, members, has_changed, applied, told }))
}

/// Status, events, and the delay until the next pass.
async fn conclude(
    cluster: &BroadcastCluster,
    recorded: BroadcastClusterStatus,
    pass: Pass,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let Pass { valid, observed, missing, members, has_changed, applied, told } = pass;
    let findings = Findings {
        cluster: &valid,
        observed: &observed,
        members: &members,
        failure: applied.failure.as_ref(),
    };
    context.memory.note_finding(&valid.uid);
    let status = build_status(&findings, &applied.status, Timestamp::now());
    context.metrics.set_status(&label_of(cluster), &status);
    let written = publish(cluster, &applied.saved, &status, context).await;
    // The status matters more. One that cannot be written does not keep anybody from knowing what was done.
    context.events.tell(&cluster.object_ref(&()), told).await;
    publish_repairs(cluster, &valid, (&observed, missing), context).await;
    let is_written = written?;
    if is_written {
        let news = decide_events(&recorded, &status);
        context.events.tell(&cluster.object_ref(&()), news).await;
    }
    if let Some(failure) = applied.failure {
        return Err(failure);
    }
    let has_begun = !observed.genesis && status.topology.genesis;
    observed.into_outcome()?;
    if has_begun {
        return Ok(Action::requeue(delay_objects(&valid.uid, context)));
    }
    Ok(requeue(&valid.uid, &members, &status, has_changed || is_written, context))
}

/// When to look again, though nothing calls for it: soon while something is under way.
fn requeue(
    uid: &str,
    members: &Members,
    status: &BroadcastClusterStatus,
    has_changed: bool,
    context: &Context,
) -> Action {
    let is_settled = members.leaving.is_empty() && members.outdated.is_empty() && is_ready(status);
    if has_changed || is_settled {
        context.memory.reset_patience(uid);
    }
    if !is_settled {
        return Action::requeue(context.memory.next_look(uid));
    }
    // Many resources that were made together do not ask together for ever.
    Action::requeue(PROBE_EVERY.mul_f64(rand::random_range(0.8..=1.0)))
}

/// Where everything is looked up.
fn build_sources<'a>(valid: &ValidCluster, known: Option<&'a Known>, context: &'a Context) -> Sources<'a> {
    Sources {
        client: &context.client,
        known,
        http: &context.http,
        brokers: &context.brokers,
        all: known_clusters(context),
        last_access: context.memory.last_access(&valid.uid),
    }
}

/// Tells what was gone from the broker: what heart and nodes have made anew, and what this pass has.
async fn publish_repairs(
    cluster: &BroadcastCluster,
    valid: &ValidCluster,
    (observed, missing): (&Observed, Vec<String>),
    context: &Context,
) {
    let mut gone = match &observed.heart {
        Ok(heart) => context.memory.note_repairs(&valid.uid, count_repairs(valid, heart)),
        Err(_) => Vec::new(),
    };
    for what in missing.into_iter().map(|object| format!("{object} was gone")) {
        if !gone.contains(&what) {
            gone.push(what);
        }
    }
    context.metrics.drift_repaired.inc_by(gone.len() as u64);
    if let Some(draft) = draft_repairs(&gone) {
        context.events.tell(&cluster.object_ref(&()), vec![draft]).await;
    }
}

fn is_ready(status: &BroadcastClusterStatus) -> bool {
    condition(&status.conditions, ConditionType::Ready).is_some_and(|ready| ready.status == "True")
}

/// Writes why a pass ended without a finding. Only the conditions: what it recorded before it ended must not be lost.
async fn publish_failure(
    cluster: &BroadcastCluster,
    recorded: &BroadcastClusterStatus,
    failure: &ReconcileError,
    context: &Context,
) -> Result<(), ReconcileError> {
    let since_finding = context.memory.since_finding(&cluster.uid().unwrap_or_default());
    let status = build_failure_status(
        recorded,
        cluster.metadata.generation,
        (failure, since_finding),
        Timestamp::now(),
    );
    context.metrics.set_status(&label_of(cluster), &status);
    if decide_write(recorded, &status, None) {
        let namespace = cluster.namespace().unwrap_or_default();
        publish_conditions(&context.client, &namespace, &cluster.name_any(), &status).await?;
        context.events.tell(&cluster.object_ref(&()), decide_events(recorded, &status)).await;
    }
    Ok(())
}

/// Writes the status if it says something new. `saved` is what stands in the resource by now.
async fn publish(
    cluster: &BroadcastCluster,
    saved: &BroadcastClusterStatus,
    status: &BroadcastClusterStatus,
    context: &Context,
) -> Result<bool, ReconcileError> {
    let uid = cluster.uid().unwrap_or_default();
    if !decide_write(saved, status, context.memory.since_write(&uid)) {
        return Ok(false);
    }
    let namespace = cluster.namespace().unwrap_or_default();
    publish_status_of(&context.client, &namespace, &cluster.name_any(), status).await?;
    context.memory.note_write(&uid);
    Ok(true)
}

/// The broker would keep the channel.
async fn close(session: Option<Session>) {
    if let Some(session) = session {
        // All that mattered was answered.
        let _ = session.close().await;
    }
}

fn show_queues(cluster: &BroadcastCluster, observed: &Observed, context: &Context) {
    let queues = observed.broker.as_ref().map_or_else(|_| Vec::new(), ObservedBroker::queues);
    context.metrics.set_queues(&label_of(cluster), queues);
}

fn label_of(cluster: &impl ResourceExt) -> String {
    cluster_label(cluster.namespace().as_deref(), &cluster.name_any())
}

/// Newer knowledge first; a store may still be empty when the first passes run.
fn known_clusters(context: &Context) -> Vec<Arc<WatchedCluster>> {
    let mut clusters: Vec<_> = context.stores.iter().flat_map(Store::state).collect();
    let mut early = context.known_at_start.lock().unwrap_or_else(PoisonError::into_inner);
    if !early.is_empty() {
        let watched: HashSet<_> = clusters.iter().filter_map(|cluster| cluster.meta().uid.clone()).collect();
        early.retain(|cluster| cluster.meta().uid.as_ref().is_none_or(|uid| !watched.contains(uid)));
        clusters.extend(early.iter().cloned());
    }
    clusters
}

impl Context {
    /// Whether a resource that is being deleted has waited long enough for its broker.
    pub fn is_overdue(&self, deleted_at: Timestamp) -> bool {
        Timestamp::now().duration_since(deleted_at) > self.deletion_patience
    }
}

#[cfg(test)]
mod tests;

//! Reconciles `BroadcastCluster`s: for each it keeps exchange, queues and bindings on the broker, and hearts, nodes,
//! Services and configuration in Kubernetes, as the resource says, and says in its status how things stand.
//!
//! Guarantees of this crate:
//! - What it does depends on the resource and on what there is, never on what it remembers: killed anywhere, the next
//!   process goes on. (The one thing remembered is the address of a broker whose Secret goes before its resource.)
//! - No pod starts before the broker objects that it needs are there, and no queue goes before the pod that uses it.
//! - While nothing changes it writes nothing but its renewals of the Lease.
//! - Only `controller::apply`, `controller::status`, `broker` and `lease` change anything outside; what
//!   `controller::events` adds is only told.
//! - Of several replicas one does all this, and no two at a time: see [`lease`].

pub mod broker;
pub mod check;
pub mod controller;
pub mod heart;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod secret;
pub mod settings;
#[cfg(test)]
mod testing;

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broadcast_service::admin::{Readiness, admin_router};
use broadcast_service::backoff::Backoff;
use broadcast_service::http::{http_client, serve};
use broadcast_service::shutdown::{TaskError, Tasks};
use futures_util::future::{join, join_all};
use jiff::SignedDuration;
use kube::api::ListParams;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::broker::Brokers;
use crate::controller::error::ReconcileError;
use crate::controller::events::events;
use crate::controller::known::{Known, PAGE};
use crate::controller::memory::Memory;
use crate::controller::reconcile::{Context, TURNS};
use crate::controller::{
    WatchedCluster, build_controller, run_controller, watched_clusters, without_the_unread,
};
use crate::lease::{Election, Leadership, Loss};
use crate::metrics::Metrics;
use crate::names::MANAGER;
use crate::settings::Settings;

/// How long passes have to end: less than a pod has.
const DRAIN: Duration = Duration::from_secs(20);

/// How long the API server has to list the resources.
const LIST_DEADLINE: Duration = Duration::from_secs(30);

/// Why the process ended that was not told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No way to the API server is configured.
    #[error("no Kubernetes cluster: {0}")]
    NoCluster(#[from] kube::config::InferConfigError),
    /// What is configured is unusable.
    #[error("client of the Kubernetes cluster: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The HTTP client cannot be set up.
    #[error("HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// The admin interface cannot listen.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A task ended.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// What the controllers are started with.
struct Operator {
    client: Client,
    http: reqwest::Client,
    settings: Settings,
    metrics: Metrics,
    leadership: Leadership,
    readiness: watch::Sender<Readiness>,
}

/// Runs until `shutdown`, or until leadership is lost.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), RunError> {
    let config = Config::infer().await?;
    let build_client = |leadership: &Leadership| {
        lease::build_client(&config, leadership).map_err(|error| RunError::Client(Box::new(error)))
    };
    let listener = TcpListener::bind(settings.admin)
        .await
        .map_err(|source| RunError::Listen { address: settings.admin, source })?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let http = http_client()?;
    let (readiness, readiness_seen) = watch::channel(Readiness::NotReady("starting".to_owned()));
    let (leadership, election) = match settings.lease() {
        None => (Leadership::unlimited(), None),
        Some(names) => {
            let (leadership, free_client) = (Leadership::none(), build_client(&Leadership::unlimited())?);
            (leadership.clone(), Some(Election::new(free_client, names, leadership)))
        }
    };
    let client = build_client(&leadership)?;
    let mut tasks = Tasks::new(shutdown.clone());
    tasks.spawn("admin", serve(listener, admin_router(readiness_seen, registry), shutdown.clone(), DRAIN));
    tracing::info!(namespaces = ?settings.namespaces(), admin = %settings.admin, "started");
    let operator = Operator { client, http, settings, metrics, leadership, readiness };
    tasks.spawn("controllers", run_elected(election, operator, shutdown));
    Ok(tasks.run(DRAIN).await?)
}

/// Runs the controllers while this process leads.
async fn run_elected(
    election: Option<Election>,
    operator: Operator,
    shutdown: CancellationToken,
) -> Result<(), Loss> {
    let metrics = operator.metrics.clone();
    let Some(mut election) = election else {
        metrics.set_leader(true);
        run_controllers(operator, shutdown).await;
        return Ok(());
    };
    let Some(won) = shutdown.run_until_cancelled(election.win(&operator.readiness)).await else {
        return Ok(());
    };
    won?;
    metrics.set_leader(true);
    tokio::select! {
        biased;
        // Drops the controllers with all that they are about.
        loss = election.hold() => Err(loss),
        () = run_controllers(operator, shutdown) => {
            metrics.set_leader(false);
            election.release().await;
            Ok(())
        }
    }
}

/// Ready from when all resources are known until the process is told to stop.
async fn run_controllers(operator: Operator, shutdown: CancellationToken) {
    let Operator { client, http, settings, metrics, leadership, readiness } = operator;
    let namespaces = settings.namespaces();
    let known = fetch_known_clusters(&client, &namespaces, &readiness);
    let Some(known_at_start) = shutdown.run_until_cancelled(known).await else { return };
    let (known, changes, _watches) = Known::watch(&client, &namespaces);
    if shutdown.run_until_cancelled(known.wait_until_complete()).await.is_none() {
        return;
    }
    let (controllers, stores): (Vec<_>, Vec<_>) = namespaces
        .iter()
        .zip(changes)
        .map(|(namespace, changes)| build_controller(&client, namespace.as_deref(), changes))
        .unzip();
    let installation = settings.installation();
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(settings.pod_name) };
    let turns = Arc::new(Semaphore::new(TURNS));
    let (events, publisher) = events(Recorder::new(client.clone(), reporter), turns.clone());
    let context = Arc::new(Context {
        events,
        client,
        known,
        http,
        installation,
        brokers: Brokers::default(),
        stores,
        known_at_start: Mutex::new(known_at_start),
        deletion_patience: SignedDuration::from_secs(settings.deletion_patience.into()),
        metrics,
        memory: Memory::default(),
        leadership,
        turns,
    });
    readiness.send_replace(Readiness::Ready);
    let passes = async move {
        let run = |controller| run_controller(controller, context.clone(), shutdown.clone());
        let mut all = pin!(join_all(controllers.into_iter().map(run)));
        tokio::select! {
            _ = &mut all => {}
            () = shutdown.cancelled() => {
                readiness.send_replace(Readiness::NotReady("stopping".to_owned()));
                context.turns.close();
                all.await;
            }
        }
        context.brokers.close().await;
    };
    // What is told in the passes is published after them.
    join(passes, publisher.run()).await;
}

/// Reads all resources, trying until it works: the definition may be installed after the operator.
///
/// The controllers' stores cannot be asked whether they are filled: of several that wait for one, only the last is
/// woken, and the controller itself waits.
async fn fetch_known_clusters(
    client: &Client,
    namespaces: &[Option<String>],
    readiness: &watch::Sender<Readiness>,
) -> Vec<Arc<WatchedCluster>> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut known = Vec::new();
    for namespace in namespaces {
        let clusters = watched_clusters(client, namespace.as_deref());
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            match tokio::time::timeout(LIST_DEADLINE, clusters.list(&parameters)).await {
                Ok(Ok(list)) => {
                    known.extend(list.items.into_iter().map(|cluster| Arc::new(without_the_unread(cluster))));
                    match list.metadata.continue_.filter(|next| !next.is_empty()) {
                        Some(next) => parameters = parameters.continue_token(&next),
                        None => break,
                    }
                    continue;
                }
                Ok(Err(error)) => {
                    // A list that went on for too long begins anew.
                    parameters.continue_token = None;
                    note_unreadable(readiness, &ReconcileError::kube("list")(error).to_string());
                }
                Err(_) => note_unreadable(readiness, "no answer from the API server"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
    known
}

fn note_unreadable(readiness: &watch::Sender<Readiness>, problem: &str) {
    tracing::warn!(problem, "the resources cannot be read");
    readiness.send_replace(Readiness::NotReady(format!("the resources cannot be read: {problem}")));
}

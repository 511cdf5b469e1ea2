//! The reconcile pipeline: observe, validate, plan, apply, status.
//!
//! - `observe` only reads, `validate`, `plan` and `build` do no IO at all, and only `apply` and `status` write.
//! - Not being ready is a value, never an error. An error becomes a condition, an event and a delay in one place.
//! - A pass has a deadline, passes of one resource never overlap, and while nothing changes nothing is written.

pub mod access;
pub mod actions;
pub mod annotations;
pub mod apply;
pub mod backlogs;
pub mod build;
pub mod conflict;
pub mod drift;
pub mod error;
pub mod events;
pub mod known;
pub mod members;
pub mod memory;
pub mod objects;
pub mod observe;
pub mod plan;
pub mod quantity;
pub mod reconcile;
pub mod rollout;
pub mod status;
pub mod tokens;
pub mod unreadable;
pub mod validate;

use std::convert::Infallible;
use std::sync::Arc;

use broadcast_api::BroadcastCluster;
use futures_util::{StreamExt, stream};
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Controller, Error};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, reflector};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::controller::known::PAGE;
use crate::controller::reconcile::{Context, decide_retry, reconcile};
use crate::metrics::cluster_label;

/// A watched resource, which may be one that cannot be read.
pub type WatchedCluster = DeserializeGuard<BroadcastCluster>;

/// A controller for one namespace, or for all, and what it knows of the resources there. `changes` are the resources that
/// something changed of.
pub fn build_controller(
    client: &Client,
    namespace: Option<&str>,
    changes: mpsc::Receiver<ObjectRef<WatchedCluster>>,
) -> (Controller<WatchedCluster>, Store<WatchedCluster>) {
    let (store, writer) = reflector::store();
    let config = watcher::Config::default().page_size(PAGE);
    let clusters = watcher(watched_clusters(client, namespace), config)
        .default_backoff()
        .modify(|watched| watched.meta_mut().managed_fields = None)
        .reflect(writer)
        .applied_objects()
        // What this process writes into a status is no reason to look again.
        .predicate_filter(
            predicates::generation.combine(predicates::annotations),
            PredicateConfig::default(),
        );
    let changes =
        stream::unfold(changes, async |mut changes| changes.recv().await.map(|changed| (changed, changes)));
    let controller = Controller::for_stream(clusters, store.clone()).reconcile_on(changes);
    (controller, store)
}

/// Without what takes most of the memory, and nobody reads.
pub fn without_the_unread(mut watched: WatchedCluster) -> WatchedCluster {
    watched.meta_mut().managed_fields = None;
    watched
}

/// The resources of one namespace, or all.
pub fn watched_clusters(client: &Client, namespace: Option<&str>) -> Api<WatchedCluster> {
    api(client, namespace)
}

/// Runs a controller until it is told to stop; passes that run then are finished.
pub async fn run_controller(
    controller: Controller<WatchedCluster>,
    context: Arc<Context>,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let metrics = context.metrics.clone();
    controller
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, |watched, _, context| decide_retry(&watched, &context), context)
        .for_each(async |result| {
            match result {
                Ok(_) => {}
                Err(Error::ObjectNotFound(resource)) => {
                    // Somebody else took its finalizer away.
                    metrics.forget(&cluster_label(resource.namespace.as_deref(), &resource.name));
                    tracing::debug!(%resource, "gone in the meantime");
                }
                // A watch that fails starts again by itself; a pass that failed is in the resource's status.
                Err(error) => tracing::warn!(%error, "not done"),
            }
        })
        .await;
    Ok(())
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace))
}

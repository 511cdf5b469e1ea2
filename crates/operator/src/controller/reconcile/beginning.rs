//! The first pass of a new resource: how it begins, and when the next one comes.

use std::time::Duration;

use broadcast_api::BroadcastCluster;
use kube::{Resource, ResourceExt};

use super::{Context, known_clusters};
use crate::controller::WatchedCluster;
use crate::controller::apply::add_finalizer;
use crate::controller::validate::validate;
use crate::names::FINALIZER;

/// How long the objects of a new resource wait for each other one whose broker objects are not declared yet: about what that takes.
const AFTER_EACH: Duration = Duration::from_millis(50);

/// How long they wait at most: there may be many whose broker is out of reach.
const AFTER_ALL: Duration = Duration::from_secs(5);

/// Adds the finalizer to a new resource, which gives the resource as it is: the API server refuses that when the watch lags behind. `None`
/// when there is nothing to add, or when it was not added.
pub(super) async fn claim(cluster: &BroadcastCluster, context: &Context) -> Option<BroadcastCluster> {
    let is_kept = cluster.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let is_wanted =
        cluster.metadata.deletion_timestamp.is_none() && validate(cluster, &context.installation).is_ok();
    if is_kept || !is_wanted {
        return None;
    }
    add_finalizer(&context.client, cluster).await.ok()?.0.ok()
}

/// How long the objects of a resource wait whose broker objects are there: those of others come first.
pub(super) fn delay_objects(uid: &str, context: &Context) -> Duration {
    let is_waiting = |other: &WatchedCluster| {
        let cluster = other.0.as_ref().ok();
        cluster.is_some_and(|cluster| cluster.status.as_ref().is_none_or(|status| !status.topology.genesis))
    };
    let others = known_clusters(context).into_iter().filter(|other| other.meta().uid.as_deref() != Some(uid));
    let waiting = others.filter(|other| is_waiting(other)).count();
    AFTER_EACH.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX)).min(AFTER_ALL)
}

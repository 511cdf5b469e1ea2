//! Two resources with the same exchange or queues on one broker would write into each other: the older one wins, and
//! the younger one touches nothing until the older is gone.

use broadcast_api::{BroadcastCluster, BroadcastClusterSpec};
use kube::ResourceExt;
use kube::api::Api;
use kube::core::PartialObjectMeta;

use crate::controller::access::fetch_access_of;
use crate::controller::error::ReconcileError;
use crate::controller::observe::Sources;
use crate::secret::BrokerAccess;

/// The older resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// As `namespace/name`.
    pub with: String,
    /// What both use.
    pub name: String,
}

/// Finds an older resource that uses the same names on the same broker and virtual host. `access` is this resource's
/// address: without one there is nothing to touch.
pub async fn find_conflict(
    sources: &Sources<'_>,
    cluster: &BroadcastCluster,
    access: Option<&BrokerAccess>,
) -> Result<Option<Conflict>, ReconcileError> {
    let Some(access) = access else { return Ok(None) };
    for other in sources.all.iter().filter_map(|watched| watched.0.as_ref().ok()) {
        let Some(name) = shared_name(&cluster.spec, &other.spec) else { continue };
        if !is_older(other, cluster) || !is_still_there(sources, other).await? {
            continue;
        }
        let rabbitmq = &other.spec.rabbitmq;
        let namespace = other.namespace().unwrap_or_default();
        let (secret, vhost) = (&rabbitmq.secret_ref.name, rabbitmq.vhost.as_deref());
        let theirs =
            fetch_access_of(sources.client, &namespace, secret, vhost, rabbitmq.tls.is_some()).await?;
        // One whose Secret says nothing is on no broker that could be compared.
        if theirs.is_ok_and(|theirs| theirs.identity() == access.identity()) {
            return Ok(Some(Conflict { with: format!("{namespace}/{}", other.name_any()), name }));
        }
    }
    Ok(None)
}

/// What is known of the others may be old.
async fn is_still_there(sources: &Sources<'_>, other: &BroadcastCluster) -> Result<bool, ReconcileError> {
    let api: Api<PartialObjectMeta<BroadcastCluster>> =
        Api::namespaced(sources.client.clone(), &other.namespace().unwrap_or_default());
    let found = api.get_metadata_opt(&other.name_any()).await;
    let found = found.map_err(ReconcileError::kube("get another BroadcastCluster"))?;
    Ok(found.is_some_and(|found| found.uid() == other.uid()))
}

/// Ties go by uid: any order will do, as long as both sides see the same.
fn is_older(other: &BroadcastCluster, cluster: &BroadcastCluster) -> bool {
    let age = |cluster: &BroadcastCluster| (cluster.creation_timestamp().map(|time| time.0), cluster.uid());
    other.uid() != cluster.uid() && age(other) < age(cluster)
}

/// A broker object that both specs name. An exchange's dead letters have an exchange too.
fn shared_name(one: &BroadcastClusterSpec, other: &BroadcastClusterSpec) -> Option<String> {
    let exchanges = |spec: &BroadcastClusterSpec| [spec.exchange.clone(), format!("{}_dead", spec.exchange)];
    if one.queue_name == other.queue_name {
        return Some(format!("queueName {:?}", one.queue_name));
    }
    let theirs = exchanges(other);
    exchanges(one).into_iter().find(|name| theirs.contains(name)).map(|name| format!("exchange {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cluster;

    #[test]
    fn names_are_shared_when_one_object_would_be_used_by_both() {
        let cases = [
            ("e", "q", "e", "r", Some("exchange \"e\"")),
            ("e", "q", "f", "q", Some("queueName \"q\"")),
            ("e", "q", "e_dead", "r", Some("exchange \"e_dead\"")),
            ("e_dead", "q", "e", "r", Some("exchange \"e_dead\"")),
            ("e", "q", "f", "r", None),
        ];
        for (exchange, queue, other_exchange, other_queue, expected) in cases {
            let (mut one, mut other) = (cluster().spec, cluster().spec);
            (one.exchange, one.queue_name) = (exchange.to_owned(), queue.to_owned());
            (other.exchange, other.queue_name) = (other_exchange.to_owned(), other_queue.to_owned());
            assert_eq!(shared_name(&one, &other).as_deref(), expected);
        }
    }

    #[test]
    fn of_two_resources_exactly_one_is_older() {
        let (one, mut other) = (cluster(), cluster());
        other.metadata.uid = Some("0".to_owned());
        assert!(is_older(&other, &one) && !is_older(&one, &other) && !is_older(&one, &one));
        other.metadata.creation_timestamp = Some(serde_json::from_str("\"2026-01-01T00:00:01Z\"").unwrap());
        assert!(!is_older(&other, &one) && is_older(&one, &other));
    }
}

//! What the operator counts. Labels are out of bounded sets, but for a cluster's name and node ids, whose series go
//! with them.

mod clusters;

use std::time::Duration;

use broadcast_api::BroadcastClusterStatus;
use broadcast_service::amqp::QueueDepth;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use clusters::Clusters;
pub use clusters::Queue;

/// The metrics of the operator. Clusters are named as [`cluster_label`] does.
#[derive(Debug, Clone)]
pub struct Metrics {
    clusters: Clusters,
    reconciles: Family<ResultLabels, Counter>,
    reconcile_seconds: Histogram,
    /// Objects of the broker that were gone and are made anew.
    pub drift_repaired: Counter,
    leader: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// What a cluster is called in labels.
pub fn cluster_label(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", namespace.unwrap_or_default())
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            clusters: Clusters::default(),
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
            drift_repaired: Counter::default(),
            leader: Gauge::default(),
        };
        registry.register_collector(Box::new(metrics.clusters.clone()));
        registry.register(
            "broadcast_operator_reconciles",
            "Passes over a resource, by result: ok or the reason of the failure",
            metrics.reconciles.clone(),
        );
        registry.register(
            "broadcast_operator_reconcile_seconds",
            "How long a pass over a resource took",
            metrics.reconcile_seconds.clone(),
        );
        registry.register(
            "broadcast_operator_drift_repaired",
            "Exchanges, queues and bindings that were gone and are made anew",
            metrics.drift_repaired.clone(),
        );
        registry.register(
            "broadcast_operator_leader",
            "Whether this replica is the one that works (1) or stands by (0)",
            metrics.leader.clone(),
        );
        metrics
    }

    /// A pass over a cluster ended, as `result` says: `ok`, or why it failed.
    pub fn count_reconcile(&self, cluster: &str, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ResultLabels { result }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
        if result == "ok" {
            // It may have been the one that let the cluster go.
            self.clusters.change_known(cluster, |known| known.is_backing_off = false);
        } else {
            self.clusters.change(cluster, |known| known.is_backing_off = true);
        }
    }

    /// This process works from now on, or does so no longer.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The queues were looked at; one that is not there, or could not be asked for, is not in `queues`.
    pub fn set_queues(&self, cluster: &str, queues: Vec<(Queue, QueueDepth)>) {
        self.clusters.change(cluster, |known| known.queues = queues);
    }

    /// A status was found.
    pub fn set_status(&self, cluster: &str, status: &BroadcastClusterStatus) {
        self.clusters.change(cluster, |known| known.set_status(status));
    }

    /// The cluster is gone, and its series go.
    pub fn forget(&self, cluster: &str) {
        self.clusters.forget(cluster);
    }
}

#[cfg(test)]
mod tests;

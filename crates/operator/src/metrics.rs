//! What the operator counts. Labels are out of bounded sets, but for a cluster's name and node ids, whose series go
//! with them.

use std::time::Duration;

use broadcast_protocol::names::NodeId;
use broadcast_service::amqp::QueueDepth;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The metrics of the operator.
#[derive(Debug, Clone)]
pub struct Metrics {
    queue_messages: Family<QueueLabels, Gauge>,
    queue_consumers: Family<QueueLabels, Gauge>,
    reconciles: Family<ResultLabels, Counter>,
    reconcile_seconds: Histogram,
    /// Objects of the broker that were gone and are made anew.
    pub drift_repaired: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    cluster: String,
    node: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            queue_messages: Family::default(),
            queue_consumers: Family::default(),
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
            drift_repaired: Counter::default(),
        };
        registry.register(
            "broadcast_queue_messages",
            "Messages in a node's queue",
            metrics.queue_messages.clone(),
        );
        registry.register(
            "broadcast_queue_consumers",
            "Consumers of a node's queue",
            metrics.queue_consumers.clone(),
        );
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
        metrics
    }

    /// A pass ended.
    pub fn count_reconcile(&self, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ResultLabels { result }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// A queue was looked at; `None` when it is not there. `cluster` is `namespace/name`.
    pub fn set_queue(&self, cluster: &str, node: NodeId, depth: Option<QueueDepth>) {
        let labels = QueueLabels { cluster: cluster.to_owned(), node: node.get() };
        if let Some(depth) = depth {
            self.queue_messages.get_or_create(&labels).set(depth.messages.into());
            self.queue_consumers.get_or_create(&labels).set(depth.consumers.into());
        } else {
            self.queue_messages.remove(&labels);
            self.queue_consumers.remove(&labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn the_documented_names_are_exported_and_a_removed_node_takes_its_series_along() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let node = NodeId::new(1).unwrap();
        let export = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        metrics.set_queue("shop/orders", node, Some(QueueDepth { messages: 3, consumers: 1 }));
        metrics.count_reconcile("ok", Duration::from_millis(5));
        let text = export();
        for line in [
            "broadcast_queue_messages{cluster=\"shop/orders\",node=\"1\"} 3",
            "broadcast_queue_consumers{cluster=\"shop/orders\",node=\"1\"} 1",
            "broadcast_operator_reconciles_total{result=\"ok\"} 1",
            "broadcast_operator_reconcile_seconds_count 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        metrics.set_queue("shop/orders", node, None);
        assert!(!export().contains("shop/orders"));
    }
}

//! What a heart counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The counters and gauges of a heart.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Messages of writes that the broker confirmed.
    pub messages_published: Counter,
    /// Writes in them.
    pub writes: Counter,
    /// From publishing to the confirm.
    pub confirm_seconds: Histogram,
    /// 1 while active.
    pub active: Gauge,
    /// The epoch of the last own reign.
    pub epoch: Gauge,
    /// The position after the last confirmed write.
    pub position: Gauge,
    /// Nodes whose rows are not those of most nodes at the same position.
    pub nodes_disagreeing: Gauge,
    /// Sessions with the broker that ended, by reason.
    pub sessions_ended: Family<Reason, Counter>,
    /// Requests for writes that were answered, by code.
    pub write_requests: Family<Code, Counter>,
    /// Objects of the broker that were gone and are declared again.
    pub objects_restored: Family<Object, Counter>,
    /// Messages to the inbox that were no report of this cluster and no question.
    pub inbox_ignored: Counter,
}

/// Why a session ended, out of a fixed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The reason.
    pub reason: &'static str,
}

/// An object of the broker that a heart declares.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Object {
    /// `exchange` or `head_queue`.
    pub object: &'static str,
}

/// How a request was answered: `ok`, or an error's code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Code {
    /// The code.
    pub code: &'static str,
}

impl Metrics {
    /// How often an object of the broker was gone and declared again.
    pub fn restored(&self, object: &'static str) -> u64 {
        self.objects_restored.get_or_create(&Object { object }).get()
    }

    /// Metrics that are part of the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            messages_published: Counter::default(),
            writes: Counter::default(),
            confirm_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            active: Gauge::default(),
            epoch: Gauge::default(),
            position: Gauge::default(),
            nodes_disagreeing: Gauge::default(),
            sessions_ended: Family::default(),
            write_requests: Family::default(),
            objects_restored: Family::default(),
            inbox_ignored: Counter::default(),
        };
        let heart = registry.sub_registry_with_prefix("broadcast_heart");
        heart.register(
            "messages_published",
            "Messages of writes that the broker confirmed",
            metrics.messages_published.clone(),
        );
        heart.register("writes", "Writes that the broker confirmed", metrics.writes.clone());
        heart.register(
            "confirm_seconds",
            "From publishing a message of writes to the broker's confirm",
            metrics.confirm_seconds.clone(),
        );
        heart.register("active", "1 while this heart is the active one", metrics.active.clone());
        heart.register("epoch", "The epoch of this heart's last reign", metrics.epoch.clone());
        heart.register("position", "The last confirmed write's sequence number", metrics.position.clone());
        heart.register(
            "nodes_disagreeing",
            "Nodes whose rows are not those of most nodes at the same position",
            metrics.nodes_disagreeing.clone(),
        );
        heart.register(
            "sessions_ended",
            "Sessions with the broker that ended, by reason",
            metrics.sessions_ended.clone(),
        );
        heart.register(
            "write_requests",
            "Requests for writes that were answered, by code",
            metrics.write_requests.clone(),
        );
        heart.register(
            "objects_restored",
            "Objects of the broker that were gone and are declared again",
            metrics.objects_restored.clone(),
        );
        heart.register(
            "inbox_ignored",
            "Messages to the inbox that were no report of this cluster and no question",
            metrics.inbox_ignored.clone(),
        );
        metrics
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    const SHIPPED: [&str; 2] = [
        include_str!("../../../charts/broadcast-operator/files/alerts.yaml"),
        include_str!("../../../charts/broadcast-operator/files/dashboard.json"),
    ];

    #[test]
    fn what_alerts_and_dashboard_name_is_exported() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.sessions_ended.get_or_create(&Reason { reason: "r" }).inc();
        metrics.write_requests.get_or_create(&Code { code: "c" }).inc();
        metrics.objects_restored.get_or_create(&Object { object: "o" }).inc();
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let is_exported = |name: &str| text.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
        let words =
            SHIPPED.iter().flat_map(|file| file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
        let names: Vec<_> = words.filter(|word| word.starts_with("broadcast_heart_")).collect();
        assert!(!names.is_empty());
        for name in names {
            assert!(is_exported(name), "{name} is not in:\n{text}");
        }
    }
}

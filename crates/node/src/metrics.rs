//! The node's metrics. Gauges are read from the status when they are asked for, so they are never out of date.

use std::fmt;
use std::sync::atomic::AtomicU64;

use broadcast_protocol::replica::Dropped;
use broadcast_service::admin::Readiness;
use broadcast_service::clock::unix_milliseconds;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::divergence::Divergence;
use crate::rebuild::ASKED;
use crate::status::Status;

/// Why a message was not applied when it was delivered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    reason: &'static str,
}

/// Why a database was put aside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rebuilt {
    reason: &'static str,
}

/// The node's counters.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    rejected: Family<Rejected, Counter>,
    rebuilds: Family<Rebuilt, Counter>,
    /// Messages that were applied.
    pub(crate) messages_applied: Counter,
    /// Writes that were applied.
    pub(crate) writes_applied: Counter,
    /// Messages that came from a peer.
    pub(crate) messages_repaired: Counter,
    /// Messages that were kept in the database, to wait for what is before them.
    pub(crate) messages_kept: Counter,
    /// Gaps that were met.
    pub(crate) repairs: Counter,
    /// Snapshots of peers that were installed, and how long that took.
    pub(crate) snapshots_installed: Counter,
    pub(crate) snapshot_seconds: Histogram,
    /// Snapshots that were begun and refused.
    pub(crate) snapshots_failed: Counter,
    /// Scrubs that read all rows, and how long the last one took.
    pub(crate) scrubs: Counter,
    pub(crate) scrub_seconds: Gauge<f64, AtomicU64>,
    /// Transactions that were committed, and how long they took.
    pub(crate) commit_seconds: Histogram,
    /// Sessions with the broker.
    pub(crate) sessions: Counter,
}

/// The gauges.
#[derive(Debug)]
struct Gauges {
    status: watch::Receiver<Status>,
    readiness: watch::Receiver<Readiness>,
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn register(
        registry: &mut Registry,
        status: watch::Receiver<Status>,
        readiness: watch::Receiver<Readiness>,
    ) -> Self {
        let metrics = Self {
            rejected: Family::default(),
            rebuilds: Family::default(),
            messages_applied: Counter::default(),
            writes_applied: Counter::default(),
            messages_repaired: Counter::default(),
            messages_kept: Counter::default(),
            repairs: Counter::default(),
            snapshots_installed: Counter::default(),
            snapshot_seconds: Histogram::new(exponential_buckets(0.01, 4.0, 10)),
            snapshots_failed: Counter::default(),
            scrubs: Counter::default(),
            scrub_seconds: Gauge::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            sessions: Counter::default(),
        };
        metrics.register_counters(registry.sub_registry_with_prefix("broadcast_node"));
        let gauges = Box::new(Gauges { status, readiness });
        registry.sub_registry_with_prefix("broadcast_node").register_collector(gauges);
        // Shown as 0 from the start: a rate needs a first value.
        for reason in ["malformed", "failed", "stale", "duplicate"] {
            metrics.count_rejected(reason, 0);
        }
        for reason in Divergence::REASONS.into_iter().chain([ASKED]) {
            metrics.count_rebuild(reason, 0);
        }
        metrics
    }

    fn register_counters(&self, registry: &mut Registry) {
        let metrics = self.clone();
        registry.register(
            "messages_rejected",
            "Messages that were not applied: malformed (dead letters), failed (given back), stale, duplicate",
            metrics.rejected,
        );
        registry.register("messages_applied", "Messages that were applied", metrics.messages_applied);
        registry.register("writes_applied", "Writes that were applied", metrics.writes_applied);
        registry.register(
            "messages_repaired",
            "Messages that were fetched from a peer",
            metrics.messages_repaired,
        );
        registry.register(
            "messages_kept",
            "Messages that wait in the database for what is before them",
            metrics.messages_kept,
        );
        registry.register("repairs", "Gaps that were met", metrics.repairs);
        registry.register(
            "rebuilds",
            "Databases that were put aside to be rebuilt from a peer's: history, given_up, rows_differ, changed, damaged, asked",
            metrics.rebuilds,
        );
        registry.register(
            "snapshots_installed",
            "Snapshots of peers that were installed",
            metrics.snapshots_installed,
        );
        registry.register(
            "snapshot_seconds",
            "How long it took to install a snapshot",
            metrics.snapshot_seconds,
        );
        registry.register(
            "snapshots_failed",
            "Snapshots of peers that were begun and not installed",
            metrics.snapshots_failed,
        );
        registry.register("scrubs", "How often all rows were read and compared", metrics.scrubs);
        registry.register("scrub_seconds", "How long the last scrub took", metrics.scrub_seconds);
        registry.register("commit_seconds", "How long a transaction took", metrics.commit_seconds);
        registry.register("broker_sessions", "Sessions with the broker", metrics.sessions);
    }

    /// Counts databases that were put aside; the reasons are [`Divergence::REASONS`] and [`ASKED`].
    pub(crate) fn count_rebuild(&self, reason: &'static str, by: u64) {
        self.rebuilds.get_or_create(&Rebuilt { reason }).inc_by(by);
    }

    /// Counts a message that is no message of this cluster.
    pub(crate) fn count_malformed(&self) {
        self.count_rejected("malformed", 1);
    }

    /// Counts messages that were given back.
    pub(crate) fn count_failed(&self, messages: u64) {
        self.count_rejected("failed", messages);
    }

    /// Counts a message of which nothing is needed. Marks are not worth counting.
    pub(crate) fn count_dropped(&self, why: Dropped) {
        match why {
            Dropped::Stale => self.count_rejected("stale", 1),
            Dropped::Duplicate | Dropped::Superseded => self.count_rejected("duplicate", 1),
            Dropped::Mark | Dropped::Seal => {}
        }
    }

    fn count_rejected(&self, reason: &'static str, by: u64) {
        self.rejected.get_or_create(&Rejected { reason }).inc_by(by);
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.status.borrow().clone();
        let ready = *self.readiness.borrow() == Readiness::Ready;
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let seconds = ConstGauge::new(status.lag_seconds(unix_milliseconds()));
        seconds.encode(encoder.encode_descriptor(
            "apply_lag_seconds",
            "How long ago the node was current.",
            None,
            seconds.metric_type(),
        )?)?;
        for (name, help, value) in [
            ("lag_writes", "Writes that are known to be missing.", status.lag_writes),
            ("applied_position", "The last write that is applied.", status.applied()),
            ("epoch", "The highest epoch that a message was applied of.", status.committed.applied.epoch),
            ("rows", "Rows in the database.", status.committed.rows),
            ("ready", "Whether clients are sent here.", u64::from(ready)),
        ] {
            let gauge = ConstGauge::new(whole(value));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::store::Committed;

    const SHIPPED: [&str; 2] = [
        include_str!("../../../charts/broadcast-operator/files/alerts.yaml"),
        include_str!("../../../charts/broadcast-operator/files/dashboard.json"),
    ];

    #[test]
    fn what_alerts_and_dashboard_name_is_exported() {
        let mut registry = Registry::default();
        let (_status, status) = watch::channel(Status::starting(Committed::nothing("c"), 0));
        let (_readiness, readiness) = watch::channel(Readiness::Ready);
        Metrics::register(&mut registry, status, readiness);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        // A histogram has no sample of its own name.
        let is_exported = |name: &str| {
            let declaration = format!("# TYPE {name} ");
            text.lines()
                .any(|line| line.split(['{', ' ']).next() == Some(name) || line.starts_with(&declaration))
        };
        let words =
            SHIPPED.iter().flat_map(|file| file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
        let names: Vec<_> = words.filter(|word| word.starts_with("broadcast_node_")).collect();
        assert!(!names.is_empty());
        for name in names {
            assert!(is_exported(name), "{name} is not in:\n{text}");
        }
    }
}

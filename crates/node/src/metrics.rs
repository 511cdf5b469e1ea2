//! The node's metrics. Gauges are read from the status when they are asked for, so they are never out of date.

use std::fmt;

use broadcast_protocol::replica::Dropped;
use broadcast_service::admin::Readiness;
use broadcast_service::clock::unix_milliseconds;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::status::Status;

/// Why a message was not applied when it was delivered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    reason: &'static str,
}

/// The node's counters.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    rejected: Family<Rejected, Counter>,
    /// Messages that were applied.
    pub(crate) messages_applied: Counter,
    /// Writes that were applied.
    pub(crate) writes_applied: Counter,
    /// Messages that came from a peer.
    pub(crate) messages_repaired: Counter,
    /// Gaps that were met.
    pub(crate) repairs: Counter,
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
            messages_applied: Counter::default(),
            writes_applied: Counter::default(),
            messages_repaired: Counter::default(),
            repairs: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            sessions: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("broadcast_node");
        let Self {
            rejected,
            messages_applied,
            writes_applied,
            messages_repaired,
            repairs,
            commit_seconds,
            sessions,
        } = metrics.clone();
        registry.register(
            "messages_rejected",
            "Messages that were not applied: malformed (dead letters), failed (given back), stale, duplicate",
            rejected,
        );
        registry.register("messages_applied", "Messages that were applied", messages_applied);
        registry.register("writes_applied", "Writes that were applied", writes_applied);
        registry.register("messages_repaired", "Messages that were fetched from a peer", messages_repaired);
        registry.register("repairs", "Gaps that were met", repairs);
        registry.register("commit_seconds", "How long a transaction took", commit_seconds);
        registry.register("broker_sessions", "Sessions with the broker", sessions);
        registry.register_collector(Box::new(Gauges { status, readiness }));
        for reason in ["malformed", "failed", "stale", "duplicate"] {
            // Shown as 0 from the start: a rate needs a first value.
            metrics.count_rejected(reason, 0);
        }
        metrics
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
            Dropped::Mark => {}
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

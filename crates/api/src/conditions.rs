//! The types of the conditions in a status, each with one meaning.

use std::fmt;

/// The type of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The heart takes writes and every wanted node holds what was written.
    Ready,
    /// The operator is at work, or waits for something that comes by itself.
    Reconciling,
    /// Nothing goes on until somebody changes something: the message says what.
    Stalled,
    /// The broker lets the operator in.
    BrokerReachable,
    /// Exchanges, queues and bindings exist as they should.
    TopologyDeclared,
    /// A heart is active.
    HeartAvailable,
    /// Every wanted node is ready.
    NodesReady,
    /// Nodes at the same position have the same digest.
    Consistent,
    /// A write is in no database and in no memory that could be asked.
    DataLoss,
    /// An older resource uses the same exchange or queues: this one touches nothing.
    Conflict,
    /// Nothing is changed because an annotation says so.
    Paused,
}

impl ConditionType {
    /// All of them, in the order in which a status lists them.
    pub const ALL: [Self; 11] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::BrokerReachable,
        Self::TopologyDeclared,
        Self::HeartAvailable,
        Self::NodesReady,
        Self::Consistent,
        Self::DataLoss,
        Self::Conflict,
        Self::Paused,
    ];

    /// As it stands in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::BrokerReachable => "BrokerReachable",
            Self::TopologyDeclared => "TopologyDeclared",
            Self::HeartAvailable => "HeartAvailable",
            Self::NodesReady => "NodesReady",
            Self::Consistent => "Consistent",
            Self::DataLoss => "DataLoss",
            Self::Conflict => "Conflict",
            Self::Paused => "Paused",
        }
    }

    /// Whether `True` is the bad news.
    pub fn is_abnormal_when_true(self) -> bool {
        matches!(self, Self::Reconciling | Self::Stalled | Self::DataLoss | Self::Conflict | Self::Paused)
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

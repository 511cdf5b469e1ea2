//! What a heart is at the moment, and how a request reaches the reign that is to publish it.
//!
//! The way to submit writes is part of being active: each reign has a channel of its own, so that a request can
//! neither wait for a reign that is over nor slip into a later one unnoticed.

use broadcast_protocol::chain::Position;
use broadcast_protocol::write::WriteBatch;
use broadcast_service::admin::Readiness;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// What a heart is.
#[derive(Debug, Clone)]
pub enum Role {
    /// Without a session with the broker.
    Connecting {
        /// Why.
        reason: String,
    },
    /// Another heart is active.
    Standby {
        /// The base URL of the active heart, when it answers.
        active: Option<String>,
    },
    /// Holds the lock and finds out where the history ends.
    TakingOver,
    /// Takes writes.
    Active {
        /// Its epoch.
        epoch: u64,
        /// Where writes go.
        submit: mpsc::Sender<Submission>,
    },
    /// Does not know where the history ends, and so takes no writes.
    HeadLost {
        /// What is wrong.
        reason: String,
    },
    /// Told to end.
    Stopping,
}

/// How far the active heart's history goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The epoch of the reign.
    pub epoch: u64,
    /// The position after the last confirmed write.
    pub position: Position,
}

/// The writes of one request, on their way to the reign.
#[derive(Debug)]
pub struct Submission {
    /// The writes: at least one.
    pub writes: WriteBatch,
    /// Whether the client waits until nodes have applied them.
    pub awaited: bool,
    /// Where the answer goes. Dropped without one, the outcome is unknown.
    pub answer: oneshot::Sender<Result<Placed, NotPublished>>,
    /// What the writes cost in memory: taken until they are answered, also when the client has gone.
    pub reserved: OwnedSemaphorePermit,
}

/// Where a request's writes are in the one history, confirmed by the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The sequence number of the first.
    pub first: u64,
    /// The sequence number of the last.
    pub last: u64,
    /// The epoch that published them.
    pub epoch: u64,
}

/// The reign ended before the writes were published: they are nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPublished;

impl Role {
    /// Its name in the status.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connecting { .. } => "connecting",
            Self::Standby { .. } => "standby",
            Self::TakingOver => "taking_over",
            Self::Active { .. } => "active",
            Self::HeadLost { .. } => "head_lost",
            Self::Stopping => "stopping",
        }
    }

    /// Why it does not do its work, if it does not.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Connecting { reason } | Self::HeadLost { reason } => Some(reason),
            Self::Standby { active: None } => Some("another heart holds the lock but does not answer"),
            Self::TakingOver => Some("reading where the history ends"),
            Self::Stopping => Some("stopping"),
            Self::Standby { active: Some(_) } | Self::Active { .. } => None,
        }
    }

    /// Clients may come: it takes writes, or knows who does.
    pub fn readiness(&self) -> Readiness {
        match self.reason() {
            None => Readiness::Ready,
            Some(reason) => Readiness::NotReady(format!("{}: {reason}", self.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heart_is_ready_when_it_takes_writes_or_knows_who_does() {
        let active = Role::Active { epoch: 1, submit: mpsc::channel(1).0 };
        for role in [active, Role::Standby { active: Some("http://127.0.0.1:1".to_owned()) }] {
            assert_eq!(role.readiness(), Readiness::Ready);
        }
        for (role, reason) in [
            (Role::Connecting { reason: "refused".to_owned() }, "connecting: refused"),
            (Role::Standby { active: None }, "standby: another heart holds the lock but does not answer"),
            (Role::TakingOver, "taking_over: reading where the history ends"),
            (Role::HeadLost { reason: "purged".to_owned() }, "head_lost: purged"),
            (Role::Stopping, "stopping: stopping"),
        ] {
            assert_eq!(role.readiness(), Readiness::NotReady(reason.to_owned()));
        }
    }
}

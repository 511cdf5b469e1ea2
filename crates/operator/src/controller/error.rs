//! What ends a pass early. Every error has a reason out of one bounded set, for conditions, events and metrics, and
//! says whether trying again helps.

use crate::broker::BrokerError;
use crate::controller::build::BuildError;
use crate::controller::conflict::Conflict;
use crate::controller::objects::Kind;
use crate::controller::validate::InvalidCluster;
use crate::lease::NotLeading;
use crate::secret::SecretError;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It may go away by itself.
    Retry,
    /// Somebody must change something. It is looked at again all the same: not every change is seen.
    WaitForChange,
}

/// Why the broker cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No address.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The broker's answer, or none.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// What is there is another's.
    #[error("{} is in use by the older BroadcastCluster {} on the same broker and virtual host", .0.name, .0.with)]
    Conflict(Conflict),
    /// What is there was left behind by another resource.
    #[error(
        "queue {queue} holds the history {found:?} of a resource that is gone: set spec.historyId of a new resource to it to \
         go on with it, or delete the queue to begin anew"
    )]
    ForeignHistory {
        /// The head queue.
        queue: String,
        /// The history's id.
        found: String,
    },
}

/// What ends a pass early.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The resource has values that nothing can be made of.
    #[error("invalid resource: {0}")]
    Invalid(#[from] InvalidCluster),
    /// The resource is not of its own type: another version's definition is installed.
    #[error("unreadable resource: {0}")]
    Unreadable(String),
    /// The API server's answer, or none.
    #[error("{action}: {}", describe(source))]
    Kube {
        /// What was asked of it.
        action: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// An object of this name is there and is not the cluster's.
    #[error("{} {name:?} exists and does not belong to this BroadcastCluster", kind.as_str())]
    NameTaken {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The broker cannot be used.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The tokens of the HTTP interfaces cannot be used.
    #[error("spec.auth: {0}")]
    Tokens(SecretError),
    /// An object cannot be written down.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It took too long.
    #[error("the pass did not end in time")]
    Timeout,
    /// This process does not lead any more.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
}

impl Problem {
    /// The kind of error, out of a fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Secret(error) => error.reason(),
            Self::Broker(error) => error.source.reason(),
            Self::Conflict(_) => "Conflict",
            Self::ForeignHistory { .. } => "ForeignHistory",
        }
    }

    /// Whether trying again helps.
    pub fn class(&self) -> Class {
        match self {
            Self::Broker(error) if !error.needs_a_change() => Class::Retry,
            Self::Secret(_) | Self::Broker(_) | Self::Conflict(_) | Self::ForeignHistory { .. } => {
                Class::WaitForChange
            }
        }
    }
}

impl ReconcileError {
    /// Says what was asked of the API server.
    pub fn kube(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Kube { action, source: Box::new(source) }
    }

    /// The kind of error, out of a fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "InvalidSpec",
            Self::Unreadable(_) => "UnreadableResource",
            Self::Kube { source, .. } => match status_code(source) {
                Some(403) => "KubernetesForbidden",
                Some(409) => "KubernetesConflict",
                Some(400 | 422) => "KubernetesRefused",
                Some(_) => "KubernetesError",
                None => "KubernetesUnreachable",
            },
            Self::NameTaken { .. } => "NameTaken",
            Self::Problem(problem) => problem.reason(),
            Self::Tokens(error) => error.reason(),
            Self::Build(_) => "BuildFailed",
            Self::Timeout => "Timeout",
            Self::NotLeading(_) => "NotLeading",
        }
    }

    /// Whether trying again helps.
    pub fn class(&self) -> Class {
        match self {
            Self::Invalid(_) | Self::Unreadable(_) | Self::Tokens(_) | Self::Build(_) => Class::WaitForChange,
            Self::Kube { source, .. } if matches!(status_code(source), Some(400 | 403 | 422)) => {
                Class::WaitForChange
            }
            // An object of a resource that was deleted lately is on its way out.
            Self::Kube { .. } | Self::NameTaken { .. } | Self::Timeout | Self::NotLeading(_) => Class::Retry,
            Self::Problem(problem) => problem.class(),
        }
    }
}

fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What the API server, or the way to it, says. The library's own text repeats the whole answer in its debug form.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

//! The `BroadcastCluster` resource: what a user may ask for, what is answered, and the names that both sides share.
//!
//! Guarantees of this crate:
//! - No IO, no client, no runtime: it can be used by anything that speaks of the resource.
//! - Everything that can be said about a resource alone is said by its schema and its CEL rules, so that the API
//!   server refuses a wrong value with a message that names the field and what is allowed. No webhook is needed.

mod conditions;
mod crd;
mod spec;
mod status;

pub use crate::conditions::ConditionType;
pub use crate::crd::crd_yaml;
pub use crate::spec::{
    AuthSpec, BacklogSpec, BroadcastCluster, BroadcastClusterSpec, DeletionPolicy, HeartSpec,
    MAX_CLUSTER_NAME_LENGTH, MAX_HEARTS, MAX_NODES, NetworkPolicySpec, NodesSpec, PeerSpec, QueueType,
    RabbitmqSpec, ResourcesSpec, SecretReference, StorageSpec, TlsSpec,
};
pub use crate::status::{BroadcastClusterStatus, HeartStatus, NodePhase, NodeStatus, TopologyStatus};

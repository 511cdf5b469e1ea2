//! Every name that the operator gives, in one place: labels, annotations, finalizer, field manager, objects.

use std::collections::BTreeMap;
use std::str::FromStr;

use broadcast_protocol::names::NodeId;

/// The field manager of everything that is applied, and the reporter of events.
pub const MANAGER: &str = "broadcast-operator";

/// Keeps a resource until what it has on the broker is removed: owner references do not reach there.
pub const FINALIZER: &str = "broadcast.dev/broker-objects";

/// The label with a node's id.
pub const NODE_ID_LABEL: &str = "broadcast.dev/node-id";

/// The annotation with the hash of what was last applied: a field that is no longer wanted shows only here.
pub const APPLIED_ANNOTATION: &str = "broadcast.dev/applied";

/// The annotation of a Deployment whose image is one that the resource names: when it names none any more, that one goes.
pub const NAMED_IMAGE_ANNOTATION: &str = "broadcast.dev/named-image";

/// The annotation of pods with the hash of their configuration file: a change of the file rolls the pods.
pub const CONFIG_ANNOTATION: &str = "broadcast.dev/config";

/// The annotation by which a human accepts that every write from a sequence number on is lost: `"1041"`.
pub const ACCEPT_LOSS_ANNOTATION: &str = "broadcast.dev/accept-data-loss";

/// The annotation that stops every change: `"true"`.
pub const PAUSED_ANNOTATION: &str = "broadcast.dev/paused";

/// The annotation with the nodes that go first when there are to be fewer: `"2,5"`.
pub const REMOVE_NODES_ANNOTATION: &str = "broadcast.dev/remove-node-ids";

/// The annotation by which a deletion does not wait for the broker: `"true"`.
pub const FORCE_DELETE_ANNOTATION: &str = "broadcast.dev/force-delete";

/// The label of a volume claim with the id of the history that its volume has a copy of.
pub const HISTORY_LABEL: &str = "broadcast.dev/history-id";

const NAME_LABEL: &str = "app.kubernetes.io/name";
const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// The parts of a cluster that have pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Component {
    /// Takes writes.
    Heart,
    /// Applies them.
    Node,
}

impl Component {
    /// As in names and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Heart => "heart",
            Self::Node => "node",
        }
    }
}

/// The names of one cluster's Kubernetes objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectNames {
    cluster: String,
}

impl ObjectNames {
    /// The cluster's name is the prefix of all others.
    pub fn new(cluster: impl Into<String>) -> Self {
        Self { cluster: cluster.into() }
    }

    /// The cluster's own name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The `ConfigMap` with `heart.yaml` and `node.yaml`.
    pub fn config(&self) -> String {
        format!("{}-config", self.cluster)
    }

    /// The `ConfigMap` with the list of node ids, and the headless Service by which nodes find each other.
    pub fn nodes(&self) -> String {
        format!("{}-nodes", self.cluster)
    }

    /// The Secret with the broker's address.
    pub fn amqp(&self) -> String {
        format!("{}-amqp", self.cluster)
    }

    /// Deployment and Service of the hearts.
    pub fn heart(&self) -> String {
        format!("{}-heart", self.cluster)
    }

    /// The headless Service by which nodes find every heart, whichever is active.
    pub fn hearts(&self) -> String {
        format!("{}-hearts", self.cluster)
    }

    /// The Service of the ready nodes.
    pub fn read(&self) -> String {
        format!("{}-read", self.cluster)
    }

    /// Deployment and volume claim of a node.
    pub fn node(&self, id: NodeId) -> String {
        format!("{}-node-{id}", self.cluster)
    }

    /// The `NetworkPolicy` of the pods.
    pub fn network_policy(&self) -> String {
        self.cluster.clone()
    }

    /// The `ServiceAccount` of a component's pods.
    pub fn service_account(&self, component: Component) -> String {
        format!("{}-{}", self.cluster, component.as_str())
    }

    /// The labels of every object.
    pub fn labels(&self) -> BTreeMap<String, String> {
        build_labels(&[
            (NAME_LABEL, "broadcast-cluster"),
            (INSTANCE_LABEL, &self.cluster),
            (PART_OF_LABEL, "broadcast-cluster"),
            (MANAGED_BY_LABEL, MANAGER),
        ])
    }

    /// The labels by which a component's pods are selected. They never change: a Deployment's selector cannot.
    pub fn selector(&self, component: Component) -> BTreeMap<String, String> {
        build_labels(&[(INSTANCE_LABEL, &self.cluster), (COMPONENT_LABEL, component.as_str())])
    }

    /// The labels by which all pods are selected: the instance alone may be another program's, too.
    pub fn pods(&self) -> BTreeMap<String, String> {
        build_labels(&[(INSTANCE_LABEL, &self.cluster), (MANAGED_BY_LABEL, MANAGER)])
    }

    /// The labels by which one node's pod is selected.
    pub fn node_selector(&self, id: NodeId) -> BTreeMap<String, String> {
        let mut labels = self.selector(Component::Node);
        labels.insert(NODE_ID_LABEL.to_owned(), id.to_string());
        labels
    }

    /// The label selector of everything that is made for the cluster.
    pub fn owned_selector(&self) -> String {
        format!("{MANAGED_BY_LABEL}={MANAGER},{INSTANCE_LABEL}={}", self.cluster)
    }

    /// The label selector of the nodes' pods, as the scale subresource wants it.
    pub fn scale_selector(&self) -> String {
        format!("{INSTANCE_LABEL}={},{COMPONENT_LABEL}={}", self.cluster, Component::Node.as_str())
    }
}

/// The label selector of everything that is made for any cluster.
pub fn managed_selector() -> String {
    format!("{MANAGED_BY_LABEL}={MANAGER}")
}

/// The labels of the operator's own pods, as the chart gives them.
pub fn operator_labels() -> BTreeMap<String, String> {
    build_labels(&[(NAME_LABEL, MANAGER)])
}

/// The cluster that an object's labels say it belongs to.
pub fn cluster_of(labels: &BTreeMap<String, String>) -> Option<&str> {
    labels.get(INSTANCE_LABEL).map(String::as_str)
}

/// The component that an object's labels say it belongs to.
pub fn component_of(labels: &BTreeMap<String, String>) -> Option<Component> {
    let component = labels.get(COMPONENT_LABEL)?;
    [Component::Heart, Component::Node].into_iter().find(|candidate| candidate.as_str() == component)
}

/// The node that an object's labels say it belongs to.
pub fn node_id_of(labels: &BTreeMap<String, String>) -> Option<NodeId> {
    NodeId::new(u32::from_str(labels.get(NODE_ID_LABEL)?).ok()?)
}

fn build_labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

//! What there is, before anything is decided: reads only, and a failure of the broker or a heart is a finding, not an
//! error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use broadcast_api::{BroadcastCluster, NodePhase};
use broadcast_protocol::names::{BrokerNames, NodeId};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::core::{DynamicObject, TypeMeta};
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::broker::{Brokers, ObservedBroker, Session, describe_exchange, describe_queue, fetch_broker};
use crate::controller::WatchedCluster;
use crate::controller::access::fetch_access;
use crate::controller::conflict::find_conflict;
use crate::controller::error::{Problem, ReconcileError};
use crate::controller::known::Known;
use crate::controller::objects::{Kind, ObservedObjects};
use crate::controller::tokens::{ObservedTokens, fetch_tokens};
use crate::controller::validate::ValidCluster;
use crate::heart::{HeartReport, fetch_heart_report};
use crate::names::{Component, HISTORY_LABEL, component_of, node_id_of};
use crate::secret::{BrokerAccess, SecretError};

/// What is known of a cluster at the beginning of a pass.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Its Kubernetes objects that carry its owner reference.
    pub objects: ObservedObjects,
    /// Its pods.
    pub pods: Vec<ObservedPod>,
    /// The nodes that its status lists.
    pub recorded: BTreeSet<NodeId>,
    /// Those that are on their way out.
    pub removing: BTreeSet<NodeId>,
    /// Whether its status says that its history has begun.
    pub genesis: bool,
    /// The limits that queues of nodes may have, in bytes, as its status says.
    pub backlogs: Vec<u64>,
    /// The tokens of its HTTP interfaces.
    pub tokens: Result<ObservedTokens, SecretError>,
    /// The broker's address.
    pub access: Result<BrokerAccess, SecretError>,
    /// What it has on the broker; a conflict when that is an older resource's.
    pub broker: Result<ObservedBroker, Problem>,
    /// What its active heart says, or why none does.
    pub heart: Result<HeartReport, String>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPod {
    /// Its name.
    pub name: String,
    /// What it is.
    pub component: Option<Component>,
    /// Which node it is.
    pub node: Option<NodeId>,
    /// Its address.
    pub address: Option<IpAddr>,
}

impl Observed {
    /// The nodes that something is left of in Kubernetes, or that were written down before anything was made.
    pub fn node_ids(&self) -> BTreeSet<NodeId> {
        // A volume that is to outlive its node says nothing of the node.
        let bound = self.objects.iter().filter(|(_, object)| is_owned(object));
        let of_objects = bound.filter_map(|(key, _)| self.node_of(key));
        self.recorded
            .iter()
            .copied()
            .chain(of_objects)
            .chain(self.pods.iter().filter_map(|pod| pod.node))
            .collect()
    }

    /// The node that an object belongs to.
    pub fn node_of(&self, key: &(Kind, String)) -> Option<NodeId> {
        node_id_of(&labels_of(self.objects.get(key)?))
    }

    /// What kept the pass from doing all that there was to do.
    pub fn into_outcome(self) -> Result<(), ReconcileError> {
        self.broker?;
        self.tokens.map_err(ReconcileError::Tokens)?;
        Ok(())
    }

    /// An object that exists.
    pub fn object(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, name.to_owned()))
    }

    /// What there should be on the broker by now, for people.
    pub fn expected(&self, names: &BrokerNames) -> BTreeSet<String> {
        if !self.genesis {
            return BTreeSet::new();
        }
        // A node that has a pod had a queue before.
        let has_pod = |id: &NodeId| {
            self.objects.keys().any(|key| key.0 == Kind::Deployment && self.node_of(key) == Some(*id))
        };
        let staying = self.recorded.difference(&self.removing).filter(|id| has_pod(id));
        let exchanges = [names.exchange().to_owned(), names.dead_exchange()];
        let queues = [names.head_queue(), names.dead_queue()].into_iter();
        let queues = queues.chain(staying.map(|id| names.node_queue(*id)));
        exchanges
            .iter()
            .map(|name| describe_exchange(name))
            .chain(queues.map(|name| describe_queue(&name)))
            .collect()
    }

    /// What of that is not there.
    pub fn missing(&self, names: &BrokerNames) -> Vec<String> {
        let Ok(broker) = &self.broker else { return Vec::new() };
        let expected = self.expected(names);
        broker.missing.iter().filter(|object| expected.contains(*object)).cloned().collect()
    }

    /// The hearts that can be asked.
    fn heart_addresses(&self) -> impl Iterator<Item = (String, IpAddr)> {
        let hearts = self.pods.iter().filter(|pod| pod.component == Some(Component::Heart));
        hearts.filter_map(|pod| Some((pod.name.clone(), pod.address?)))
    }

    /// Whether a Deployment of one pod has that pod, as it was told last, and ready.
    pub fn is_ready(&self, deployment: &str) -> bool {
        let Some(found) = self.object(Kind::Deployment, deployment) else { return false };
        let status = &found["status"];
        let is_one = |field| status[field].as_u64() == Some(1);
        // After an update the old numbers stand there for a while.
        status["observedGeneration"] == found["metadata"]["generation"]
            && is_one("replicas")
            && is_one("updatedReplicas")
            && is_one("readyReplicas")
    }

    /// Whether the pod that a Deployment was told to have last has ever been ready.
    pub fn has_come_up(&self, deployment: &str) -> bool {
        let Some(found) = self.object(Kind::Deployment, deployment) else { return false };
        let conditions = found["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        // The reason stays when the pod is not ready any more. Until the update is seen it is the old pod's.
        self.is_ready(deployment)
            || conditions.iter().any(|condition| {
                condition["type"] == "Progressing" && condition["reason"] == "NewReplicaSetAvailable"
            })
    }

    /// Whether a Deployment was changed, and the pod that it was told to have has not been ready yet.
    pub fn is_being_replaced(&self, deployment: &str) -> bool {
        let Some(found) = self.object(Kind::Deployment, deployment) else { return false };
        let generation = &found["metadata"]["generation"];
        let is_seen = found["status"]["observedGeneration"] == *generation;
        generation.as_u64() > Some(1) && !(is_seen && self.has_come_up(deployment))
    }
}

/// Where everything is looked up.
pub struct Sources<'a> {
    /// The API server.
    pub client: &'a Client,
    /// What is known of objects and pods without asking; without it they are read.
    pub known: Option<&'a Known>,
    /// For hearts.
    pub http: &'a reqwest::Client,
    /// For brokers.
    pub brokers: &'a Brokers,
    /// The resources that are watched.
    pub all: Vec<Arc<WatchedCluster>>,
    /// The broker's address as it was read last.
    pub last_access: Option<BrokerAccess>,
}

/// Looks at everything. There is a session if the broker was reached.
pub async fn fetch_observed(
    cluster: &BroadcastCluster,
    valid: &ValidCluster,
    sources: &Sources<'_>,
) -> Result<(Observed, Option<Session>), ReconcileError> {
    let status = cluster.status.clone().unwrap_or_default();
    let access = fetch_access(cluster, valid, sources).await?;
    let conflict = find_conflict(sources, cluster, access.as_ref().ok()).await?;
    let (objects, pods) = match sources.known.and_then(|known| known.find(valid)) {
        Some(known) => known,
        None => (list_objects(sources.client, valid).await?, fetch_pods(sources.client, valid).await?),
    };
    let deleting = cluster.metadata.deletion_timestamp.is_some();
    let mut observed = Observed {
        objects: fetch_objects(sources.client, valid, objects, status.topology.genesis).await?,
        pods,
        recorded: status.nodes.iter().filter_map(|node| NodeId::new(node.id)).collect(),
        removing: status
            .nodes
            .iter()
            .filter(|node| node.phase == NodePhase::Removing)
            .filter_map(|node| NodeId::new(node.id))
            .collect(),
        backlogs: status.topology.backlog_bytes,
        genesis: status.topology.genesis,
        tokens: if deleting {
            Ok(ObservedTokens::Unwanted)
        } else {
            fetch_tokens(sources.client, valid).await?
        },
        broker: Ok(ObservedBroker::default()),
        heart: Err("not asked".to_owned()),
        access,
    };
    if let Some(conflict) = conflict {
        observed.broker = Err(Problem::Conflict(conflict));
        return Ok((observed, None));
    }
    let hearts: Vec<_> = observed.heart_addresses().collect();
    let tokens = match &observed.tokens {
        Ok(ObservedTokens::Present(tokens)) => tokens.as_slice(),
        Ok(ObservedTokens::Unwanted | ObservedTokens::Missing) | Err(_) => &[],
    };
    let (heart, broker) = tokio::join!(
        fetch_heart_report(sources.http, hearts, tokens),
        fetch_broker_of(valid, &observed, sources.brokers)
    );
    observed.heart = heart;
    let (broker, session) = match broker {
        Ok((session, found)) => (Ok(found), Some(session)),
        Err(problem) => (Err(problem), None),
    };
    observed.broker = broker;
    Ok((observed, session))
}

async fn fetch_broker_of(
    valid: &ValidCluster,
    observed: &Observed,
    brokers: &Brokers,
) -> Result<(Session, ObservedBroker), Problem> {
    let access = observed.access.as_ref().map_err(Clone::clone)?;
    let names = valid.topology.names();
    let beginning = (!observed.genesis).then_some(valid.history.as_str());
    let (session, found) = fetch_broker(brokers, access, names, &observed.node_ids(), beginning).await?;
    if let Some(foreign) = found.history.clone().filter(|history| *history != valid.history) {
        return Err(Problem::ForeignHistory { queue: names.head_queue(), found: foreign });
    }
    Ok((session, found))
}

async fn list_objects(
    client: &Client,
    valid: &ValidCluster,
) -> Result<Vec<(Kind, DynamicObject)>, ReconcileError> {
    let parameters = ListParams::default().labels(&valid.names.owned_selector());
    let lists = Kind::LISTED.map(|kind| {
        let api = api_of(client, &valid.namespace, kind);
        let parameters = &parameters;
        async move {
            let list = api.list(parameters).await;
            (kind, list.map_err(ReconcileError::kube(format!("list {}s", kind.as_str()))))
        }
    });
    let mut objects = Vec::new();
    for (kind, list) in futures_util::future::join_all(lists).await {
        objects.extend(list?.items.into_iter().map(|object| (kind, object)));
    }
    Ok(objects)
}

/// The cluster's own of these, and its Secret, which is made when its history has begun.
async fn fetch_objects(
    client: &Client,
    valid: &ValidCluster,
    listed: Vec<(Kind, DynamicObject)>,
    has_begun: bool,
) -> Result<ObservedObjects, ReconcileError> {
    let own = listed.into_iter().filter(|(_, object)| belongs_to(object, valid));
    let mut objects: ObservedObjects =
        own.map(|(kind, object)| ((kind, object.name_any()), to_value(kind, object))).collect();
    if !has_begun {
        return Ok(objects);
    }
    let amqp = valid.names.amqp();
    let secret = api_of(client, &valid.namespace, Kind::Secret)
        .get_opt(&amqp)
        .await
        .map_err(ReconcileError::kube(format!("get Secret {amqp}")))?;
    if let Some(secret) = secret.filter(|secret| belongs_to(secret, valid)) {
        objects.insert((Kind::Secret, amqp), to_value(Kind::Secret, secret));
    }
    Ok(objects)
}

async fn fetch_pods(client: &Client, valid: &ValidCluster) -> Result<Vec<ObservedPod>, ReconcileError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &valid.namespace);
    let parameters = ListParams::default().labels(&valid.names.owned_selector());
    let list = pods.list(&parameters).await.map_err(ReconcileError::kube("list Pods"))?;
    Ok(list.items.into_iter().map(observe_pod).collect())
}

/// What is of interest in a pod.
pub fn observe_pod(pod: Pod) -> ObservedPod {
    ObservedPod {
        name: pod.name_any(),
        component: component_of(pod.labels()),
        node: node_id_of(pod.labels()),
        address: pod.status.and_then(|status| status.pod_ip?.parse().ok()),
    }
}

/// The API of a kind in a namespace.
pub fn api_of(client: &Client, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kind.api_resource())
}

/// Whether an object is the cluster's: its controller is the resource, as labels alone may be somebody's copy; or it is
/// a volume claim of the same history that nothing owns.
pub fn belongs_to(object: &DynamicObject, valid: &ValidCluster) -> bool {
    let owners = object.owner_references();
    owners.iter().any(|owner| owner.controller == Some(true) && owner.uid == valid.uid)
        || (owners.is_empty() && object.labels().get(HISTORY_LABEL) == Some(&valid.history))
}

/// Whether an object goes with its owner.
pub fn is_owned(object: &Value) -> bool {
    object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty())
}

/// The items of a list do not say what they are.
fn to_value(kind: Kind, mut object: DynamicObject) -> Value {
    let resource = kind.api_resource();
    object.types = Some(TypeMeta { api_version: resource.api_version, kind: resource.kind });
    // What came out of JSON goes back into it.
    serde_json::to_value(object).unwrap_or_default()
}

fn labels_of(object: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default()
}

//! The Kubernetes objects of a cluster, as they should be: functions of the validated resource, the nodes that are
//! wanted, and the broker's address.
//!
//! Nothing in the template of a pod that is there depends on the number of nodes or on the operator's own images, so
//! that neither scaling nor an upgrade that brings new images restarts anybody: where the resource names no image, a
//! Deployment keeps the one that it has, and only a new one gets the operator's. Versions may mix then, which the
//! protocol allows.

mod config;
mod guards;
mod pod;
mod services;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};

use broadcast_protocol::names::NodeId;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controller::build::config::{ConfigFiles, build_config, build_node_list};
use crate::controller::build::guards::{build_disruption_budget, build_network_policy};
use crate::controller::build::services::{
    build_heart_service, build_hearts_service, build_nodes_service, build_read_service,
};
use crate::controller::build::workloads::{build_claim, build_heart, build_node};
use crate::controller::objects::{DesiredObject, Kind, ObservedObjects};
use crate::controller::validate::ValidCluster;
use crate::names::Component;
use crate::secret::BrokerAccess;

/// The port of the HTTP interface.
pub const HTTP_PORT: u16 = 8080;

/// The port of health, readiness and metrics.
pub const ADMIN_PORT: u16 = 9090;

/// Everything that is made for a cluster in Kubernetes.
pub struct ClusterResources {
    /// Who the pods are.
    pub service_accounts: [ServiceAccount; 2],
    /// The broker's address, as far as it is known, and the files that it names. No pod's template depends on it.
    pub amqp: Option<Secret>,
    /// `heart.yaml` and `node.yaml`.
    pub config: ConfigMap,
    /// `nodes.yaml`.
    pub node_list: ConfigMap,
    /// The ready hearts.
    pub heart_service: Service,
    /// Every node by its name.
    pub nodes_service: Service,
    /// Where nodes find hearts.
    pub hearts_service: Service,
    /// The ready nodes.
    pub read_service: Service,
    /// Who may talk to hearts and nodes, if that is to be said.
    pub network_policy: Option<NetworkPolicy>,
    /// How many hearts and nodes a drain may take at a time.
    pub disruption_budgets: [PodDisruptionBudget; 2],
    /// The hearts.
    pub heart: Deployment,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, NodeResources>,
}

/// What is made for one node.
pub struct NodeResources {
    /// Its volume, if one is wanted.
    pub claim: Option<PersistentVolumeClaim>,
    /// Its pod.
    pub deployment: Deployment,
}

/// Objects in the order in which they are applied.
pub struct OrderedObjects {
    /// What pods need.
    pub foundations: Vec<DesiredObject>,
    /// The hearts.
    pub heart: DesiredObject,
    /// Each node's, in order.
    pub nodes: BTreeMap<NodeId, Vec<DesiredObject>>,
}

/// A file or an object cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A configuration file.
    #[error("configuration file: {0}")]
    Yaml(#[from] serde_yaml::Error),
    /// An object.
    #[error("object: {0}")]
    Json(#[from] serde_json::Error),
}

/// Builds everything for the nodes `ids`. Of what is `existing`, the images are kept where the resource names none.
pub fn build_resources(
    cluster: &ValidCluster,
    ids: &BTreeSet<NodeId>,
    access: Option<&BrokerAccess>,
    existing: &ObservedObjects,
) -> Result<ClusterResources, BuildError> {
    let files = ConfigFiles::build(cluster)?;
    let build_node_resources = |id: &NodeId| {
        let claim = cluster.storage.as_ref().map(|storage| build_claim(cluster, *id, storage));
        (*id, NodeResources { claim, deployment: build_node(cluster, *id, &files, existing) })
    };
    Ok(ClusterResources {
        service_accounts: [Component::Heart, Component::Node]
            .map(|part| build_service_account(cluster, part)),
        amqp: access.map(|access| build_amqp(cluster, access)),
        node_list: build_node_list(cluster, ids)?,
        heart_service: build_heart_service(cluster),
        nodes_service: build_nodes_service(cluster),
        hearts_service: build_hearts_service(cluster),
        read_service: build_read_service(cluster),
        network_policy: cluster
            .network
            .as_ref()
            .map(|rules| build_network_policy(cluster, rules, access, existing)),
        disruption_budgets: [Component::Heart, Component::Node]
            .map(|part| build_disruption_budget(cluster, part)),
        heart: build_heart(cluster, &files, existing),
        nodes: ids.iter().map(build_node_resources).collect(),
        config: build_config(cluster, files),
    })
}

impl ClusterResources {
    /// Puts them in order. A resource that is forgotten here does not compile.
    pub fn into_ordered(self) -> Result<OrderedObjects, BuildError> {
        let Self {
            service_accounts,
            amqp,
            config,
            node_list,
            heart_service,
            nodes_service,
            hearts_service,
            read_service,
            network_policy,
            disruption_budgets,
            heart,
            nodes,
        } = self;
        let mut foundations = Vec::new();
        for account in &service_accounts {
            foundations.push(DesiredObject::new(Kind::ServiceAccount, account)?);
        }
        if let Some(amqp) = &amqp {
            foundations.push(DesiredObject::new(Kind::Secret, amqp)?);
        }
        for map in [&config, &node_list] {
            foundations.push(DesiredObject::new(Kind::ConfigMap, map)?);
        }
        for service in [&heart_service, &nodes_service, &hearts_service, &read_service] {
            foundations.push(DesiredObject::new(Kind::Service, service)?);
        }
        if let Some(policy) = &network_policy {
            foundations.push(DesiredObject::new(Kind::NetworkPolicy, policy)?);
        }
        for budget in &disruption_budgets {
            foundations.push(DesiredObject::new(Kind::PodDisruptionBudget, budget)?);
        }
        let mut ordered_nodes = BTreeMap::new();
        for (id, NodeResources { claim, deployment }) in nodes {
            let mut objects = Vec::new();
            if let Some(claim) = &claim {
                objects.push(DesiredObject::new(Kind::PersistentVolumeClaim, claim)?);
            }
            objects.push(DesiredObject::new(Kind::Deployment, &deployment)?);
            ordered_nodes.insert(id, objects);
        }
        Ok(OrderedObjects {
            foundations,
            heart: DesiredObject::new(Kind::Deployment, &heart)?,
            nodes: ordered_nodes,
        })
    }
}

/// The metadata of an object that belongs to the cluster.
pub(super) fn build_metadata(cluster: &ValidCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(cluster.names.labels()),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn build_service_account(cluster: &ValidCluster, component: Component) -> ServiceAccount {
    ServiceAccount {
        metadata: build_metadata(cluster, cluster.names.service_account(component)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn build_amqp(cluster: &ValidCluster, access: &BrokerAccess) -> Secret {
    let files = access.files().into_iter().map(|(key, file)| (key, ByteString(file)));
    Secret {
        metadata: build_metadata(cluster, cluster.names.amqp()),
        data: Some(files.collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

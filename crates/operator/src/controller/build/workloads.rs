//! The pods: one Deployment of hearts, and for each node a Deployment of exactly one pod.
//!
//! A node's pod is replaced, never doubled (`Recreate`): two pods of one id would share a queue and a database.

use broadcast_api::StorageSpec;
use broadcast_protocol::names::NodeId;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, Volume, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::controller::build::config::{ConfigFiles, DATA_DIR, NODES_DIR};
use crate::controller::build::pod::{
    PodParts, build_config_volume, build_field_variable, build_mount, build_pod, build_variable,
};
use crate::controller::build::{HTTP_PORT, build_metadata};
use crate::controller::validate::ValidCluster;
use crate::names::{Component, NODE_ID_LABEL};

/// Enough to find out why a change went wrong.
const OLD_REPLICA_SETS: i32 = 2;

pub(super) fn build_heart(cluster: &ValidCluster, files: &ConfigFiles) -> Deployment {
    let names = &cluster.names;
    let selector = names.selector(Component::Heart);
    let pod = build_pod(
        cluster,
        PodParts {
            component: Component::Heart,
            workload: &cluster.heart,
            labels: selector.clone(),
            config_hash: files.heart_hash(),
            environment: vec![
                build_field_variable("POD_IP", "status.podIP"),
                build_variable("ADVERTISE_URL", format!("http://$(POD_IP):{HTTP_PORT}")),
            ],
            volumes: vec![build_config_volume("nodes", names.nodes())],
            mounts: vec![build_mount("nodes", NODES_DIR, true)],
            hostname: None,
            subdomain: None,
        },
    );
    Deployment {
        metadata: build_metadata(cluster, names.heart()),
        spec: Some(DeploymentSpec {
            replicas: i32::try_from(cluster.heart.replicas).ok(),
            revision_history_limit: Some(OLD_REPLICA_SETS),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            template: pod,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

pub(super) fn build_node(cluster: &ValidCluster, id: NodeId, files: &ConfigFiles) -> Deployment {
    let names = &cluster.names;
    let selector = names.node_selector(id);
    let pod = build_pod(
        cluster,
        PodParts {
            component: Component::Node,
            workload: &cluster.nodes,
            labels: selector.clone(),
            config_hash: files.node_hash(),
            environment: vec![build_variable("NODE_ID", id.to_string())],
            volumes: vec![build_data_volume(cluster, id)],
            mounts: vec![build_mount("data", DATA_DIR, false)],
            hostname: Some(format!("node-{id}")),
            subdomain: Some(names.nodes()),
        },
    );
    let mut metadata = build_metadata(cluster, names.node(id));
    metadata.labels.get_or_insert_default().insert(NODE_ID_LABEL.to_owned(), id.to_string());
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(OLD_REPLICA_SETS),
            strategy: Some(DeploymentStrategy {
                type_: Some("Recreate".to_owned()),
                ..DeploymentStrategy::default()
            }),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            template: pod,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

pub(super) fn build_claim(
    cluster: &ValidCluster,
    id: NodeId,
    storage: &StorageSpec,
) -> PersistentVolumeClaim {
    let mut metadata = build_metadata(cluster, cluster.names.node(id));
    metadata.labels.get_or_insert_default().insert(NODE_ID_LABEL.to_owned(), id.to_string());
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(storage.size.clone()))].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn build_data_volume(cluster: &ValidCluster, id: NodeId) -> Volume {
    let mut volume = Volume { name: "data".to_owned(), ..Volume::default() };
    if cluster.storage.is_some() {
        volume.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
            claim_name: cluster.names.node(id),
            ..PersistentVolumeClaimVolumeSource::default()
        });
    } else {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    volume
}

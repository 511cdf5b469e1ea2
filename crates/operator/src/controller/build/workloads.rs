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
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::controller::build::build_metadata;
use crate::controller::build::config::{ConfigFiles, DATA_DIR, NODES_DIR};
use crate::controller::build::pod::{PodParts, build_config_volume, build_mount, build_pod, build_variable};
use crate::controller::objects::{Kind, ObservedObjects};
use crate::controller::validate::{ValidCluster, Workload};
use crate::names::{Component, HISTORY_LABEL, NAMED_IMAGE_ANNOTATION, NODE_ID_LABEL};

/// Enough to find out why a change went wrong.
const OLD_REPLICA_SETS: i32 = 2;

pub(super) fn build_heart(
    cluster: &ValidCluster,
    files: &ConfigFiles,
    existing: &ObservedObjects,
) -> Deployment {
    let names = &cluster.names;
    let selector = names.selector(Component::Heart);
    let pod = build_pod(
        cluster,
        PodParts {
            component: Component::Heart,
            workload: &cluster.heart,
            image: decide_image(&cluster.heart, existing, names.heart()),
            labels: selector.clone(),
            config_hash: files.heart_hash(),
            environment: Vec::new(),
            volumes: vec![build_config_volume("nodes", names.nodes())],
            mounts: vec![build_mount("nodes", NODES_DIR, true)],
            hostname: None,
            subdomain: None,
        },
    );
    let mut metadata = build_metadata(cluster, names.heart());
    mark_named_image(&mut metadata, &cluster.heart);
    Deployment {
        metadata,
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

pub(super) fn build_node(
    cluster: &ValidCluster,
    id: NodeId,
    files: &ConfigFiles,
    existing: &ObservedObjects,
) -> Deployment {
    let names = &cluster.names;
    let selector = names.node_selector(id);
    let pod = build_pod(
        cluster,
        PodParts {
            component: Component::Node,
            workload: &cluster.nodes,
            image: decide_image(&cluster.nodes, existing, names.node(id)),
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
    mark_named_image(&mut metadata, &cluster.nodes);
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

/// The image that the resource names, else the one that is there if the resource never named it, else the operator's.
fn decide_image(workload: &Workload, existing: &ObservedObjects, deployment: String) -> String {
    let found = existing.get(&(Kind::Deployment, deployment));
    let unnamed = found.filter(|found| found["metadata"]["annotations"][NAMED_IMAGE_ANNOTATION].is_null());
    let current =
        || unnamed?["spec"]["template"]["spec"]["containers"][0]["image"].as_str().map(str::to_owned);
    workload.image.clone().or_else(current).unwrap_or_else(|| workload.default_image.clone())
}

fn mark_named_image(metadata: &mut ObjectMeta, workload: &Workload) {
    if let Some(image) = &workload.image {
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(NAMED_IMAGE_ANNOTATION.to_owned(), image.clone());
    }
}

pub(super) fn build_claim(
    cluster: &ValidCluster,
    id: NodeId,
    storage: &StorageSpec,
) -> PersistentVolumeClaim {
    let mut metadata = build_metadata(cluster, cluster.names.node(id));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(NODE_ID_LABEL.to_owned(), id.to_string());
    labels.insert(HISTORY_LABEL.to_owned(), cluster.history.clone());
    if cluster.retains {
        // What has no owner stays when the resource goes.
        metadata.owner_references = None;
    }
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

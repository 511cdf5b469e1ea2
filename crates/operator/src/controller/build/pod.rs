//! What the pods of hearts and nodes have in common: as little power as possible, probes, and their files.

use std::collections::BTreeMap;

use broadcast_api::ResourcesSpec;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, HTTPGetAction, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource,
    SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::build::config::{CONFIG_DIR, TOKENS_DIR};
use crate::controller::build::{ADMIN_PORT, HTTP_PORT};
use crate::controller::validate::{ValidCluster, Workload};
use crate::names::{CONFIG_ANNOTATION, Component};
use crate::secret::OWN_KEY;

/// The user and group of the processes: what images without a user database call "nonroot".
const USER: i64 = 65_532;

/// Where the broker's address is mounted.
const AMQP_DIR: &str = "/etc/broadcast/amqp";

/// How long a pod has to stop, in seconds.
const GRACE_SECONDS: i64 = 30;

/// What differs between a heart's pod and a node's.
pub(super) struct PodParts<'a> {
    pub(super) component: Component,
    pub(super) workload: &'a Workload,
    pub(super) image: String,
    /// The labels beyond those of every object.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) config_hash: String,
    pub(super) environment: Vec<EnvVar>,
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) hostname: Option<String>,
    pub(super) subdomain: Option<String>,
}

pub(super) fn build_pod(cluster: &ValidCluster, parts: PodParts<'_>) -> PodTemplateSpec {
    let names = &cluster.names;
    let mut container = build_container(&parts);
    let mut volumes =
        vec![build_config_volume("config", names.config()), build_secret_volume("amqp", names.amqp())];
    if let Some(tokens) = &cluster.tokens {
        container.volume_mounts.get_or_insert_default().push(build_mount("tokens", TOKENS_DIR, true));
        volumes.push(build_secret_volume("tokens", tokens.name.clone()));
    }
    volumes.extend(parts.volumes);
    let mut labels = names.labels();
    labels.extend(parts.labels);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some([(CONFIG_ANNOTATION.to_owned(), parts.config_hash)].into()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container],
            volumes: Some(volumes),
            hostname: parts.hostname,
            subdomain: parts.subdomain,
            service_account_name: Some(names.service_account(parts.component)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            topology_spread_constraints: Some(vec![TopologySpreadConstraint {
                max_skew: 1,
                topology_key: "kubernetes.io/hostname".to_owned(),
                when_unsatisfiable: "ScheduleAnyway".to_owned(),
                label_selector: Some(LabelSelector {
                    match_labels: Some(names.selector(parts.component)),
                    ..LabelSelector::default()
                }),
                ..TopologySpreadConstraint::default()
            }]),
            ..PodSpec::default()
        }),
    }
}

fn build_container(parts: &PodParts<'_>) -> Container {
    let name = parts.component.as_str();
    let mut environment = vec![build_variable("AMQP_URL_FILE", format!("{AMQP_DIR}/{OWN_KEY}"))];
    environment.extend(parts.environment.iter().cloned());
    let mut mounts = vec![build_mount("config", CONFIG_DIR, true), build_mount("amqp", AMQP_DIR, true)];
    mounts.extend(parts.mounts.iter().cloned());
    Container {
        name: name.to_owned(),
        image: Some(parts.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec!["--config".to_owned(), format!("{CONFIG_DIR}/{name}.yaml")]),
        env: Some(environment),
        ports: Some(vec![build_port("http", HTTP_PORT), build_port("admin", ADMIN_PORT)]),
        resources: parts.workload.resources.as_ref().map(build_resource_requirements),
        volume_mounts: Some(mounts),
        startup_probe: Some(build_probe("/healthz", 1, 60)),
        liveness_probe: Some(build_probe("/healthz", 10, 3)),
        readiness_probe: Some(build_probe("/readyz", 2, 2)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

pub(super) fn build_variable(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), ..EnvVar::default() }
}

pub(super) fn build_mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

pub(super) fn build_config_volume(name: &str, config_map: String) -> Volume {
    let source = ConfigMapVolumeSource { name: config_map, ..ConfigMapVolumeSource::default() };
    Volume { name: name.to_owned(), config_map: Some(source), ..Volume::default() }
}

fn build_secret_volume(name: &str, secret: String) -> Volume {
    let source = SecretVolumeSource {
        secret_name: Some(secret),
        default_mode: Some(0o440),
        ..SecretVolumeSource::default()
    };
    Volume { name: name.to_owned(), secret: Some(source), ..Volume::default() }
}

fn build_port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn build_probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn build_resource_requirements(resources: &ResourcesSpec) -> ResourceRequirements {
    ResourceRequirements {
        requests: (!resources.requests.is_empty()).then(|| resources.requests.clone()),
        limits: (!resources.limits.is_empty()).then(|| resources.limits.clone()),
        ..ResourceRequirements::default()
    }
}

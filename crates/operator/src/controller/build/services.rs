//! How clients and nodes find hearts and nodes.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::build::{HTTP_PORT, build_metadata};
use crate::controller::validate::ValidCluster;
use crate::names::Component;

/// The ready hearts: any of them takes a write or knows who does.
pub(super) fn build_heart_service(cluster: &ValidCluster) -> Service {
    build_service(cluster, cluster.names.heart(), Component::Heart, ServiceSpec::default())
}

/// The ready nodes.
pub(super) fn build_read_service(cluster: &ValidCluster) -> Service {
    build_service(cluster, cluster.names.read(), Component::Node, ServiceSpec::default())
}

/// Every node, also those that are not ready: a node that repairs itself can still help another.
pub(super) fn build_nodes_service(cluster: &ValidCluster) -> Service {
    build_headless_service(cluster, cluster.names.nodes(), Component::Node)
}

/// Every heart, also those that are not active: one that was may still have what the queues have lost.
pub(super) fn build_hearts_service(cluster: &ValidCluster) -> Service {
    build_headless_service(cluster, cluster.names.hearts(), Component::Heart)
}

fn build_headless_service(cluster: &ValidCluster, name: String, component: Component) -> Service {
    let headless = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        publish_not_ready_addresses: Some(true),
        ..ServiceSpec::default()
    };
    build_service(cluster, name, component, headless)
}

fn build_service(cluster: &ValidCluster, name: String, component: Component, spec: ServiceSpec) -> Service {
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: i32::from(HTTP_PORT),
        target_port: Some(IntOrString::String("http".to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata: build_metadata(cluster, name),
        spec: Some(ServiceSpec {
            selector: Some(cluster.names.selector(component)),
            ports: Some(vec![port]),
            ..spec
        }),
        ..Service::default()
    }
}

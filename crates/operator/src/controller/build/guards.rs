//! What keeps others from harming hearts and nodes: how many a drain may take at a time, and who may talk to whom.

use broadcast_api::PeerSpec;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::build::{ADMIN_PORT, HTTP_PORT, build_metadata};
use crate::controller::objects::{Kind, ObservedObjects};
use crate::controller::validate::{NetworkRules, ValidCluster};
use crate::names::{Component, operator_labels};
use crate::secret::BrokerAccess;

/// The label that every namespace has, with its name.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Where DNS is asked: policies see the port of the pod behind the Service, and `OpenShift`'s listens on the second.
const DNS_PORTS: [u16; 2] = [53, 5353];

/// One at a time. One that is not ready may go whenever it has to: it holds nothing that the others lack, and a broken
/// pod would keep its machine from being drained.
pub(super) fn build_disruption_budget(cluster: &ValidCluster, component: Component) -> PodDisruptionBudget {
    let name = match component {
        Component::Heart => cluster.names.heart(),
        Component::Node => cluster.names.nodes(),
    };
    PodDisruptionBudget {
        metadata: build_metadata(cluster, name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(select(cluster.names.selector(component))),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// Hearts and nodes reach each other, the broker's port and DNS; they are reached by each other, the operator, and whom the
/// resource names. While the broker's address is not known its port stays as it is.
pub(super) fn build_network_policy(
    cluster: &ValidCluster,
    rules: &NetworkRules,
    access: Option<&BrokerAccess>,
    existing: &ObservedObjects,
) -> NetworkPolicy {
    let name = cluster.names.network_policy();
    let of_cluster = select(cluster.names.pods());
    let each_other =
        NetworkPolicyPeer { pod_selector: Some(of_cluster.clone()), ..NetworkPolicyPeer::default() };
    let operator = rules.operator_namespace.as_ref().map(|namespace| NetworkPolicyPeer {
        namespace_selector: Some(select([(NAMESPACE_LABEL.to_owned(), namespace.clone())].into())),
        pod_selector: Some(select(operator_labels())),
        ..NetworkPolicyPeer::default()
    });
    let always = [each_other.clone()].into_iter().chain(operator).collect();
    let allowed = [
        Some((HTTP_PORT, Some(always))),
        allow(HTTP_PORT, rules.clients.as_deref()),
        allow(ADMIN_PORT, rules.monitoring.as_deref()),
    ];
    let ingress = allowed
        .into_iter()
        .flatten()
        .map(|(port, from)| NetworkPolicyIngressRule { from, ports: Some(vec![build_port("TCP", port)]) });
    let broker = access.map(|access| access.url().port()).or_else(|| find_broker_port(existing, &name));
    let dns = DNS_PORTS.iter().flat_map(|port| ["UDP", "TCP"].map(|protocol| build_port(protocol, *port)));
    let egress = [
        broker.map(|port| (vec![build_port("TCP", port)], None)),
        Some((vec![build_port("TCP", HTTP_PORT)], Some(vec![each_other]))),
        Some((dns.collect(), None)),
    ];
    let egress = egress.into_iter().flatten();
    NetworkPolicy {
        metadata: build_metadata(cluster, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(of_cluster),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress.collect()),
            egress: Some(
                egress.map(|(ports, to)| NetworkPolicyEgressRule { ports: Some(ports), to }).collect(),
            ),
        }),
    }
}

/// The port and who may reach it: `None` is everybody, both here and in a policy; an empty list, which would be everybody
/// in a policy, is nobody here.
fn allow(port: u16, peers: Option<&[PeerSpec]>) -> Option<(u16, Option<Vec<NetworkPolicyPeer>>)> {
    match peers {
        None => Some((port, None)),
        Some([]) => None,
        Some(peers) => Some((port, Some(peers.iter().map(build_peer).collect()))),
    }
}

fn build_peer(peer: &PeerSpec) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: peer.pod_selector.clone(),
        namespace_selector: peer.namespace_selector.clone(),
        ip_block: peer.cidr.clone().map(|cidr| IPBlock { cidr, except: None }),
    }
}

fn build_port(protocol: &str, port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(port.into())),
        ..NetworkPolicyPort::default()
    }
}

/// The first rule of a policy as it is built here.
fn find_broker_port(existing: &ObservedObjects, name: &str) -> Option<u16> {
    let policy = existing.get(&(Kind::NetworkPolicy, name.to_owned()))?;
    let first = &policy["spec"]["egress"][0];
    first["to"].is_null().then(|| first["ports"][0]["port"].as_u64()?.try_into().ok())?
}

fn select(labels: std::collections::BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

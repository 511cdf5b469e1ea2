//! From the resource to values that are valid: what comes after never sees the raw spec.
//!
//! The API server has checked all of this, unless the definition that is installed is another version's; then this is
//! what keeps a wrong value away from the broker.

use std::net::IpAddr;

use broadcast_api::{
    BroadcastCluster, BroadcastClusterSpec, DeletionPolicy, MAX_CLUSTER_NAME_LENGTH, MAX_HEARTS, MAX_NODES,
    PeerSpec, QueueType, ResourcesSpec, StorageSpec, TlsSpec,
};
use broadcast_protocol::names::{BrokerNames, check_name};
use broadcast_protocol::topology::{self, Topology};
use broadcast_service::tls::is_server_name;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use crate::controller::annotations::{Annotations, read_annotations};
use crate::controller::quantity::parse_bytes;
use crate::controller::tokens::TokenSecret;
use crate::names::ObjectNames;

/// The least that a node's queue may hold, in bytes: the largest message has to fit in, and others beside it.
const MIN_BACKLOG_BYTES: u64 = 16 << 20;

/// What is the same for all resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The container image of hearts where the resource names none.
    pub heart_image: String,
    /// The container image of nodes where the resource names none.
    pub node_image: String,
    /// Where the operator runs, if it runs in the cluster.
    pub namespace: Option<String>,
}

/// A resource that can be acted on.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidCluster {
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// The id of its history, which is the cluster's id in every message.
    pub history: String,
    /// Whether that history began with another resource.
    pub is_successor: bool,
    /// Its generation.
    pub generation: Option<i64>,
    /// The names of its Kubernetes objects.
    pub names: ObjectNames,
    /// Its broker objects.
    pub topology: Topology,
    /// How the broker stores its queues.
    pub queue_type: topology::QueueType,
    /// What one absent node may cost the broker, in bytes.
    pub backlog_bytes: u64,
    /// The Secret with the broker's address.
    pub secret: String,
    /// The virtual host, where it is not the Secret's.
    pub vhost: Option<String>,
    /// TLS to the broker.
    pub tls: Option<TlsSpec>,
    /// Its hearts.
    pub heart: Workload,
    /// Its nodes.
    pub nodes: Workload,
    /// Whether exchange, queues and volumes stay when it is deleted.
    pub retains: bool,
    /// The tokens of its HTTP interfaces, if they are wanted.
    pub tokens: Option<TokenSecret>,
    /// What a human asks for.
    pub annotations: Annotations,
    /// The volume of each node.
    pub storage: Option<StorageSpec>,
    /// Who may talk to its pods; `None` leaves that to others.
    pub network: Option<NetworkRules>,
    /// What marks an object as its own.
    pub owner: OwnerReference,
}

/// Who may talk to the pods besides themselves: `None` is everybody, an empty list nobody.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkRules {
    /// To the API.
    pub clients: Option<Vec<PeerSpec>>,
    /// To health and metrics.
    pub monitoring: Option<Vec<PeerSpec>>,
    /// Where the operator runs, if it runs in the cluster.
    pub operator_namespace: Option<String>,
}

/// Processes of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// How many.
    pub replicas: u32,
    /// Their image, if the resource names one.
    pub image: Option<String>,
    /// The image of those that are new, if it names none.
    pub default_image: String,
    /// What each may use.
    pub resources: Option<ResourcesSpec>,
}

/// What is wrong with a resource, all of it at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct InvalidCluster(pub Vec<String>);

/// Checks a resource.
pub fn validate(
    cluster: &BroadcastCluster,
    installation: &Installation,
) -> Result<ValidCluster, InvalidCluster> {
    let spec = &cluster.spec;
    let name = cluster.metadata.name.clone().unwrap_or_default();
    let mut problems = find_problems(&name, spec);
    let annotations = read_annotations(cluster).unwrap_or_else(|wrong| {
        problems.extend(wrong);
        Annotations::default()
    });
    let backlog_bytes = read_backlog(spec).unwrap_or_else(|problem| {
        problems.push(problem);
        0
    });
    let (Some(namespace), Some(uid), Some(owner)) =
        (cluster.metadata.namespace.clone(), cluster.metadata.uid.clone(), cluster.controller_owner_ref(&()))
    else {
        problems.push("metadata: without name, namespace or uid".to_owned());
        return Err(InvalidCluster(problems));
    };
    if !problems.is_empty() {
        return Err(InvalidCluster(problems));
    }
    let queue_type = match spec.queue_type {
        QueueType::Classic => topology::QueueType::Classic,
        QueueType::Quorum => topology::QueueType::Quorum,
    };
    let tokens = spec
        .auth
        .as_ref()
        .map(|auth| TokenSecret { name: auth.secret_name(&name), is_generated: auth.secret_ref.is_none() });
    let broker_names = BrokerNames::new(&*spec.exchange, &*spec.queue_name);
    Ok(ValidCluster {
        namespace,
        history: spec.history_id.clone().unwrap_or_else(|| uid.clone()),
        is_successor: spec.history_id.is_some(),
        uid,
        generation: cluster.metadata.generation,
        names: ObjectNames::new(name),
        topology: Topology::new(broker_names, queue_type, backlog_bytes),
        queue_type,
        backlog_bytes,
        secret: spec.rabbitmq.secret_ref.name.clone(),
        vhost: spec.rabbitmq.vhost.clone(),
        tls: spec.rabbitmq.tls.clone(),
        heart: Workload {
            replicas: spec.heart.replicas,
            image: spec.heart.image.clone(),
            default_image: installation.heart_image.clone(),
            resources: spec.heart.resources.clone(),
        },
        nodes: Workload {
            replicas: spec.nodes.replicas,
            image: spec.nodes.image.clone(),
            default_image: installation.node_image.clone(),
            resources: spec.nodes.resources.clone(),
        },
        retains: spec.deletion_policy == DeletionPolicy::Retain,
        tokens,
        annotations,
        storage: spec.nodes.storage.clone(),
        network: spec.network_policy.enabled.then(|| NetworkRules {
            clients: spec.network_policy.clients.clone(),
            monitoring: spec.network_policy.monitoring.clone(),
            operator_namespace: installation.namespace.clone(),
        }),
        owner,
    })
}

fn read_backlog(spec: &BroadcastClusterSpec) -> Result<u64, String> {
    let text = &spec.backlog.max_bytes;
    let bytes =
        parse_bytes(text).filter(|bytes| *bytes >= MIN_BACKLOG_BYTES && i64::try_from(*bytes).is_ok());
    bytes.ok_or_else(|| {
        format!("spec.backlog.maxBytes: {text:?} is not a number of bytes such as \"1Gi\", at least 16Mi")
    })
}

fn find_problems(name: &str, spec: &BroadcastClusterSpec) -> Vec<String> {
    let mut problems = Vec::new();
    if !is_prefix(name) {
        problems.push(format!(
            "metadata.name: {name:?} is not a DNS label of at most {MAX_CLUSTER_NAME_LENGTH} characters that begins with a letter"
        ));
    }
    for (field, value) in [("spec.exchange", &spec.exchange), ("spec.queueName", &spec.queue_name)] {
        if let Err(problem) = check_name(value) {
            problems.push(format!("{field}: {problem}"));
        }
    }
    let tls = spec.rabbitmq.tls.as_ref();
    let of_tls = tls.into_iter().flat_map(|tls| {
        [
            ("spec.rabbitmq.tls.caSecretRef.name", tls.ca_secret_ref.as_ref()),
            ("spec.rabbitmq.tls.clientCertSecretRef.name", tls.client_cert_secret_ref.as_ref()),
        ]
    });
    let secrets = [
        ("spec.rabbitmq.secretRef.name", Some(&spec.rabbitmq.secret_ref)),
        ("spec.auth.secretRef.name", spec.auth.as_ref().and_then(|auth| auth.secret_ref.as_ref())),
    ];
    for (field, reference) in secrets.into_iter().chain(of_tls) {
        if let Some(name) = reference.map(|reference| &reference.name).filter(|name| !is_object_name(name)) {
            problems.push(format!("{field}: {name:?} is not a DNS name such as \"rabbitmq-default-user\""));
        }
    }
    if let Some(id) = spec.history_id.as_ref().filter(|id| !is_label_value(id)) {
        problems.push(format!(
            "spec.historyId: {id:?} is not 1 to 63 letters, digits and '-', a letter or digit at both ends"
        ));
    }
    let server_name = spec.rabbitmq.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
    if let Some(name) = server_name.filter(|name| !is_server_name(name)) {
        problems
            .push(format!("spec.rabbitmq.tls.serverName: {name:?} is neither a DNS name nor an IP address"));
    }
    for (field, peers) in [
        ("spec.networkPolicy.clients", &spec.network_policy.clients),
        ("spec.networkPolicy.monitoring", &spec.network_policy.monitoring),
    ] {
        let wrong = peers.iter().flatten().filter_map(find_problem_of_peer);
        problems.extend(wrong.map(|problem| format!("{field}: {problem}")));
    }
    for (field, replicas, most) in [
        ("spec.heart.replicas", spec.heart.replicas, MAX_HEARTS),
        ("spec.nodes.replicas", spec.nodes.replicas, MAX_NODES),
    ] {
        if !(1..=most).contains(&replicas) {
            problems.push(format!("{field}: {replicas} is not 1 to {most}"));
        }
    }
    problems
}

fn find_problem_of_peer(peer: &PeerSpec) -> Option<String> {
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match &peer.cidr {
        Some(_) if selects => Some("cidr excludes podSelector and namespaceSelector".to_owned()),
        Some(cidr) if !is_cidr(cidr) => {
            Some(format!("cidr {cidr:?} is not a range of addresses such as \"10.0.0.0/8\""))
        }
        None if !selects => Some("one of podSelector, namespaceSelector and cidr is needed".to_owned()),
        _ => None,
    }
}

fn is_cidr(text: &str) -> bool {
    let parsed = text
        .split_once('/')
        .and_then(|(address, length)| Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?)));
    parsed.is_some_and(|(address, length)| length <= if address.is_ipv4() { 32 } else { 128 })
}

fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

fn is_label_value(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_prefix(name: &str) -> bool {
    name.len() <= MAX_CLUSTER_NAME_LENGTH
        && is_dns_label(name)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
}

/// As long as what it is a part of allows.
fn is_dns_label(label: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && label.bytes().all(allowed) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use broadcast_api::{AuthSpec, SecretReference};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    use super::*;
    use crate::testing::{cluster, installation};

    #[test]
    fn a_valid_resource_becomes_values() {
        let valid = validate(&cluster(), &installation()).unwrap();
        assert_eq!(valid.topology.names().exchange(), "write_requests_fanout");
        assert_eq!((valid.nodes.replicas, valid.nodes.default_image.as_str()), (3, "node:test"));
        assert_eq!(valid.owner.uid, valid.uid);
    }

    #[test]
    fn tokens_are_made_unless_a_secret_is_named_and_wanted_only_where_the_resource_says_so() {
        let mut cluster = cluster();
        let mut tokens = |auth: Option<AuthSpec>| {
            cluster.spec.auth = auth;
            validate(&cluster, &installation()).unwrap().tokens.map(|found| (found.name, found.is_generated))
        };
        assert_eq!(tokens(None), None);
        assert_eq!(tokens(Some(AuthSpec::default())), Some(("orders-auth".to_owned(), true)));
        let mine = AuthSpec { secret_ref: Some(SecretReference { name: "mine".to_owned() }) };
        assert_eq!(tokens(Some(mine)), Some(("mine".to_owned(), false)));
    }

    #[test]
    fn a_queue_holds_at_least_the_largest_message() {
        let mut cluster = cluster();
        let mut with = |text: &str| {
            text.clone_into(&mut cluster.spec.backlog.max_bytes);
            validate(&cluster, &installation()).map(|valid| valid.backlog_bytes)
        };
        assert_eq!(with("1Gi"), Ok(1 << 30));
        assert_eq!(with("16Mi"), Ok(16 << 20));
        assert_eq!(with("20000000"), Ok(20_000_000));
        for text in ["15Mi", "1m", "", "many", "1Ki", "99999999T"] {
            let problem = with(text).unwrap_err().to_string();
            assert!(
                problem.contains("spec.backlog.maxBytes") && problem.contains("at least 16Mi"),
                "{problem}"
            );
        }
    }

    #[test]
    fn the_history_is_the_resources_own_unless_another_one_left_it_behind() {
        let mut cluster = cluster();
        let own = validate(&cluster, &installation()).unwrap();
        assert_eq!((&own.history, own.is_successor), (&own.uid, false));
        cluster.spec.history_id = Some("h1".to_owned());
        let next = validate(&cluster, &installation()).unwrap();
        assert_eq!((next.history.as_str(), next.is_successor), ("h1", true));
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let mut cluster = cluster();
        cluster.metadata.name = Some("1".to_owned());
        cluster.spec.exchange = "amq.x".to_owned();
        cluster.spec.queue_name = String::new();
        let wrong = SecretReference { name: "Tokens".to_owned() };
        cluster.spec.auth = Some(AuthSpec { secret_ref: Some(wrong) });
        cluster.spec.rabbitmq.tls =
            Some(TlsSpec { server_name: Some("a..b".to_owned()), ..TlsSpec::default() });
        cluster.spec.heart.replicas = 0;
        cluster.spec.nodes.replicas = 101;
        cluster.spec.backlog.max_bytes = "1".to_owned();
        let peer = |cidr: Option<&str>| PeerSpec { cidr: cidr.map(str::to_owned), ..PeerSpec::default() };
        let mut both = peer(Some("10.0.0.0/8"));
        both.pod_selector = Some(LabelSelector::default());
        cluster.spec.network_policy.clients = Some(vec![peer(None), both, peer(Some("::/128"))]);
        cluster.spec.network_policy.monitoring = Some(vec![peer(Some("10.0.0.0/33")), peer(Some("ten/8"))]);
        let problems = validate(&cluster, &installation()).unwrap_err().0;
        let fields = [
            "metadata.name",
            "spec.exchange",
            "spec.queueName",
            "spec.auth.secretRef.name: \"Tokens\" is not a DNS name",
            "spec.rabbitmq.tls.serverName",
            "spec.networkPolicy.clients: one of podSelector, namespaceSelector and cidr is needed",
            "spec.networkPolicy.clients: cidr excludes podSelector and namespaceSelector",
            "spec.networkPolicy.monitoring: cidr \"10.0.0.0/33\" is not a range of addresses such as \"10.0.0.0/8\"",
            "spec.networkPolicy.monitoring: cidr \"ten/8\"",
            "spec.heart",
            "spec.nodes",
            "spec.backlog",
        ];
        assert_eq!(problems.len(), fields.len(), "{problems:?}");
        for (problem, field) in problems.iter().zip(fields) {
            assert!(problem.starts_with(field), "{problem}");
        }
    }
}

//! A `BroadcastCluster` in a scenario: how it is made, what it says of itself, and the way to its heart and nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use broadcast_api::{BroadcastCluster, ConditionType};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};

use super::forward::{self, Forward};
use super::{FIELD_MANAGER, Scenario, environment};
use crate::client::{Client, NodeStatus, wait_for};
use crate::oracle::{self, Rows};
use crate::tokens::Tokens;

/// The port of the HTTP interfaces.
const HTTP_PORT: u16 = 8080;

/// How long anything may take that needs new pods.
pub const ROLLOUT_PATIENCE: Duration = Duration::from_mins(2);

/// How long nodes may take to apply what was acknowledged.
const CATCH_UP_PATIENCE: Duration = Duration::from_mins(1);

impl Scenario {
    /// The sample that newcomers apply, under this name, with an exchange and queues that only it has.
    pub fn sample(&self, name: &str, nodes: u32) -> BroadcastCluster {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/orders.yaml");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut resource: BroadcastCluster = serde_yaml::from_str(&text).unwrap();
        resource.metadata.name = Some(name.to_owned());
        resource.metadata.namespace = Some(self.namespace.clone());
        resource.spec.exchange = self.broker_name(name);
        resource.spec.queue_name = self.broker_name(name);
        resource.spec.nodes.replicas = nodes;
        resource
    }

    /// The exchange's name and the queues' base name in [`Scenario::sample`].
    pub fn broker_name(&self, cluster: &str) -> String {
        format!("{}.{cluster}", self.namespace)
    }

    /// Applies a resource as it is.
    pub async fn apply(&self, resource: &BroadcastCluster) -> BroadcastCluster {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.api().patch(&resource.name_any(), &parameters, &Patch::Apply(resource)).await.unwrap()
    }

    /// The resource with its status.
    pub async fn fetch(&self, cluster: &str) -> BroadcastCluster {
        self.api().get(cluster).await.unwrap()
    }

    /// Waits until a resource has exactly this many nodes, all ready, and the operator has nothing left to do.
    pub async fn wait_until_ready(&self, cluster: &str, nodes: u32) -> BroadcastCluster {
        wait_for(&format!("{cluster} to be ready with {nodes} nodes"), ROLLOUT_PATIENCE, async || {
            let resource = self.fetch(cluster).await;
            let status = resource.status.clone().unwrap_or_default();
            let is = |wanted, value| condition(&resource, wanted).is_some_and(|found| found.status == value);
            let is_settled = is_current(&resource)
                && is(ConditionType::Ready, "True")
                && is(ConditionType::Reconciling, "False")
                && (status.replicas, status.nodes_ready.as_str()) == (nodes, &format!("{nodes}/{nodes}"));
            if is_settled { Ok(resource) } else { Err(describe(&resource)) }
        })
        .await
    }

    /// The events that were written for a resource.
    pub async fn events(&self, cluster: &str) -> Vec<Event> {
        let of_resource = format!("involvedObject.kind=BroadcastCluster,involvedObject.name={cluster}");
        self.api().list(&ListParams::default().fields(&of_resource)).await.unwrap().items
    }

    /// The running pods whose names begin with this.
    pub async fn running_pods(&self, prefix: &str) -> Vec<Pod> {
        let pods = self.api::<Pod>().list(&ListParams::default()).await.unwrap();
        pods.into_iter()
            .filter(|pod| pod.name_any().starts_with(prefix) && forward::is_running(pod))
            .collect()
    }

    /// The HTTP interface of the heart.
    pub async fn heart(&self, cluster: &str) -> Client {
        self.reach(cluster, &format!("{cluster}-heart-")).await
    }

    /// The HTTP interface of a node.
    pub async fn node(&self, cluster: &str, id: u32) -> Client {
        self.reach(cluster, &node_prefix(cluster, id)).await
    }

    /// The HTTP interfaces of the nodes with these ids.
    pub async fn nodes(&self, cluster: &str, ids: impl IntoIterator<Item = u32>) -> Vec<Client> {
        let mut nodes = Vec::new();
        for id in ids {
            nodes.push(self.node(cluster, id).await);
        }
        nodes
    }

    async fn reach(&self, cluster: &str, prefix: &str) -> Client {
        let forward = Forward::open(self.api(), prefix, HTTP_PORT).await;
        let client = Client::new(forward.port());
        self.forwards.lock().unwrap().push(forward);
        match self.tokens(cluster).await {
            Some(tokens) => client.showing(&tokens),
            None => client,
        }
    }

    /// The first tokens of each kind that a cluster takes now, if it asks for any.
    pub async fn tokens(&self, cluster: &str) -> Option<Tokens> {
        let resource: BroadcastCluster = self.api().get_opt(cluster).await.unwrap()?;
        let secret = resource.spec.auth?.secret_name(cluster);
        let values = self.api::<Secret>().get(&secret).await.unwrap().data.unwrap();
        let first = |key: &str| {
            let text = String::from_utf8(values[key].0.clone()).unwrap();
            text.lines().next().unwrap().to_owned()
        };
        Some(Tokens { write: first("write"), read: first("read"), peer: first("peer") })
    }

    /// The rows in a node's own file, where that is on this machine.
    pub async fn read_node_file(&self, cluster: &str, id: u32) -> Option<Rows> {
        Some(oracle::read_rows(&self.find_node_file(cluster, id).await?))
    }

    /// A node's own file, where that is on this machine.
    pub async fn find_node_file(&self, cluster: &str, id: u32) -> Option<PathBuf> {
        let folder = self.environment.kubelet_folder.as_ref()?;
        let [pod] = &self.running_pods(&node_prefix(cluster, id)).await[..] else {
            panic!("node {id} has not one pod")
        };
        let pod_folder = folder.join("pods").join(pod.uid().unwrap()).join("volumes");
        Some(pod_folder.join("kubernetes.io~empty-dir/data/node.db"))
    }

    /// Kills a pod's process at once (SIGKILL), or, where that is on another machine, the whole pod.
    pub fn kill(&self, pod: &Pod) {
        if self.environment.kubelet_folder.is_none() {
            let namespace = format!("--namespace={}", pod.namespace().unwrap());
            self.kubectl(&["delete", "pod", &pod.name_any(), &namespace, "--grace-period=0", "--force"])
                .unwrap();
            return;
        }
        let process = find_process(pod);
        let number = process.file_name().unwrap();
        environment::read(Command::new("kill").arg("-KILL").arg(number), "").unwrap();
    }

    /// Removes a pod without giving it time.
    pub fn kill_pod(&self, name: &str) {
        self.kubectl(&["delete", "pod", name, "--grace-period=0", "--force"]).unwrap();
    }
}

/// What the names of a node's pods begin with.
pub fn node_prefix(cluster: &str, id: u32) -> String {
    format!("{cluster}-node-{id}-")
}

/// What a waiting person wants to know.
fn describe(resource: &BroadcastCluster) -> String {
    let status = resource.status.clone().unwrap_or_default();
    let shown = status.conditions.iter().filter(|condition| condition.type_ != "Conflict");
    let conditions: Vec<_> =
        shown.map(|shown| format!("{} {}: {}", shown.type_, shown.status, shown.message)).collect();
    format!("{} of {} ({})", status.nodes_ready, status.replicas, conditions.join("; "))
}

/// A condition out of a resource's status.
pub fn condition(resource: &BroadcastCluster, wanted: ConditionType) -> Option<&Condition> {
    let conditions = &resource.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == wanted.as_str())
}

/// Whether the status is about the spec as it is now.
pub fn is_current(resource: &BroadcastCluster) -> bool {
    let observed = resource.status.as_ref().and_then(|status| status.observed_generation);
    observed.is_some() && observed == resource.metadata.generation
}

/// Waits until all nodes are ready at one position, which is at least this, and asserts that they agree there.
pub async fn wait_for_agreement(nodes: &[Client], at_least: u64) -> NodeStatus {
    let statuses = wait_for(&format!("all nodes to be at {at_least}"), CATCH_UP_PATIENCE, async || {
        let mut statuses = Vec::new();
        for node in nodes {
            statuses.push(node.node_status().await.map_err(|refused| format!("{refused:?}"))?);
        }
        let first = statuses.first().map(|status| status.applied);
        let is_settled = |status: &NodeStatus| {
            status.state == "ready" && status.applied >= at_least && Some(status.applied) == first
        };
        if statuses.iter().all(is_settled) { Ok(statuses) } else { Err(format!("{statuses:?}")) }
    })
    .await;
    let agreed = statuses[0].clone();
    for status in &statuses {
        let pair = |status: &NodeStatus| (status.hash.clone(), status.digest.clone(), status.rows);
        assert_eq!(pair(status), pair(&agreed), "nodes {} and {} differ", status.node, agreed.node);
    }
    agreed
}

/// The folder of a container's process under `/proc`: its control group's name contains the container's id.
pub fn find_process(pod: &Pod) -> PathBuf {
    let container =
        pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first()).unwrap();
    let (_, id) = container.container_id.as_ref().and_then(|id| id.split_once("://")).unwrap();
    let is_in_container = |process: &PathBuf| {
        // Other processes end while this looks.
        fs::read_to_string(process.join("cgroup")).unwrap_or_default().contains(id)
    };
    let mut processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    processes.find(is_in_container).unwrap_or_else(|| panic!("no process of {}", pod.name_any()))
}

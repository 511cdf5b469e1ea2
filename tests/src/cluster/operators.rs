//! The operator's replicas: which of them leads, and what may befall them.

use std::process::Command;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Config, ResourceExt};
use tokio::time::timeout;

use super::Scenario;
use super::environment::{self, OPERATOR_NAMESPACE, RELEASE};
use super::forward::Forward;
use super::resource::{ROLLOUT_PATIENCE, find_process};
use crate::client::{Client, wait_for};

/// The port of health, readiness and metrics.
const ADMIN_PORT: u16 = 9090;

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its pod.
    pub pod: String,
    /// One of the processes that its pod had.
    pub identity: String,
}

/// Keeps a pod from talking to the API server for as long as it lives.
pub struct Partition {
    rule: Vec<String>,
}

impl Scenario {
    /// The operator's pods.
    pub fn operators(&self) -> Api<Pod> {
        Api::namespaced(self.kube.clone(), OPERATOR_NAMESPACE)
    }

    /// The Lease, as it is.
    pub async fn fetch_lease(&self) -> Lease {
        let leases: Api<Lease> = Api::namespaced(self.kube.clone(), OPERATOR_NAMESPACE);
        leases.get(RELEASE).await.unwrap()
    }

    /// Waits until somebody leads.
    pub async fn leader(&self, patience: Duration) -> Leader {
        self.leader_after(None, patience).await
    }

    /// Waits until somebody else leads: the same pod may, with a process that is another one.
    pub async fn leader_after(&self, before: Option<&Leader>, patience: Duration) -> Leader {
        wait_for("a leader", patience, async || {
            let lease = self.fetch_lease().await;
            let identity = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
            let leader = identity.as_ref().and_then(|identity| {
                let (pod, _) = identity.split_once('_')?;
                Some(Leader { pod: pod.to_owned(), identity: identity.clone() })
            });
            leader.filter(|leader| Some(leader) != before).ok_or(format!("{identity:?}"))
        })
        .await
    }

    /// The interface for health, readiness and metrics of one of the operator's pods.
    pub async fn operator_admin(&self, pod: &str) -> (Client, Forward) {
        let forward = Forward::open(self.operators(), pod, ADMIN_PORT).await;
        (Client::new(forward.port()), forward)
    }

    /// Scales, and returns as soon as the first Deployment was made or deleted: in the midst of the operator's work.
    pub async fn begin_to_scale(&self, cluster: &str, nodes: u32) {
        let api = self.api::<Deployment>();
        let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        let seconds = u32::try_from(ROLLOUT_PATIENCE.as_secs()).unwrap();
        let changes = api.watch(&WatchParams::default().timeout(seconds), &version).await.unwrap();
        pin_mut!(changes);
        self.kubectl(&["scale", &format!("bcast/{cluster}"), &format!("--replicas={nodes}")]).unwrap();
        loop {
            let change = timeout(ROLLOUT_PATIENCE, changes.next()).await.unwrap();
            match change.expect("a first change").unwrap() {
                WatchEvent::Added(_) | WatchEvent::Deleted(_) => return,
                WatchEvent::Modified(object) if object.metadata.deletion_timestamp.is_some() => return,
                _ => {}
            }
        }
    }

    /// Sends a signal (`STOP`, `CONT`) to a pod's process.
    pub fn signal(&self, pod: &Pod, signal: &str) {
        let process = find_process(pod);
        let number = process.file_name().unwrap();
        environment::read(Command::new("kill").arg(format!("-{signal}")).arg(number), "").unwrap();
    }

    /// Drops all that a pod sends to the API server.
    pub async fn cut_off(&self, pod: &Pod) -> Partition {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap();
        let port = Config::infer().await.unwrap().cluster_url.port_u16().unwrap_or(443).to_string();
        let rule = ["INPUT", "--source", &address, "--protocol", "tcp", "--dport", &port, "--jump", "DROP"];
        let partition = Partition { rule: rule.map(str::to_owned).to_vec() };
        partition.change("--insert").unwrap();
        partition
    }

    /// Waits until the process that a pod had when it was looked at has ended: how, and what it said.
    pub async fn end_of_process(&self, pod: &Pod, patience: Duration) -> (ContainerStateTerminated, String) {
        let (name, process) = (pod.name_any(), container(pod).and_then(|status| status.container_id.clone()));
        let ended = wait_for("the process to end", patience, async || {
            let now = self.operators().get(&name).await.unwrap();
            let last = container(&now).and_then(|status| status.last_state.as_ref()?.terminated.clone());
            last.filter(|last| last.container_id == process).ok_or(format!("{:?}", now.status))
        })
        .await;
        let namespace = format!("--namespace={OPERATOR_NAMESPACE}");
        let log = self.kubectl(&["logs", &name, &namespace, "--previous"]).unwrap();
        (ended, log)
    }
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

impl Partition {
    fn change(&self, action: &str) -> Result<String, environment::Complaint> {
        environment::read(Command::new("iptables").args(["--wait", action]).args(&self.rule), "")
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        if let Err(complaint) = self.change("--delete") {
            eprintln!("the partition goes on: {complaint}");
        }
    }
}

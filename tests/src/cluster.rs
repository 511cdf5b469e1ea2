//! Scenarios on a real Kubernetes.
//!
//! - A scenario has a namespace, an exchange and queues of its own, so that none disturbs another.
//! - What it made is removed however it ends; that its resources go when they are deleted is part of every test.
//! - One that fails first prints what the operator, the pods and the events say.
//! - Any cluster will do: nothing needs this machine to be part of its network ([`forward`]).

pub mod audit;
pub mod broker;
pub mod environment;
pub mod forward;
pub mod operators;
pub mod resource;
pub mod rows;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broadcast_api::BroadcastCluster;
use futures_util::FutureExt;
use k8s_openapi::ByteString;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use tokio::time::timeout;

use crate::client::wait_for;

use broker::BROKER_SECRET;
use environment::{Complaint, Environment, OPERATOR_NAMESPACE, RELEASE};
use forward::Forward;

/// Of everything that a scenario applies.
pub const FIELD_MANAGER: &str = "e2e";

/// How long a scenario may take. None should take half of it.
const PATIENCE: Duration = Duration::from_mins(7);

/// How long the deletion of a scenario's resources may take.
const DELETION_PATIENCE: Duration = Duration::from_mins(1);

/// A namespace of a real cluster, with the operator at work and a Secret for the broker.
pub struct Scenario {
    /// What the cluster is used with.
    pub environment: Environment,
    /// Of the API server.
    pub kube: Client,
    /// The scenario's own.
    pub namespace: String,
    /// What clients of hearts and nodes go through.
    forwards: Mutex<Vec<Forward>>,
}

/// Runs a scenario from an empty namespace to a removed one.
pub fn run(name: &str, scenario: impl AsyncFnOnce(&Scenario)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let stage = Scenario::open(name).await;
        let acts = async {
            stage.prepare().await;
            scenario(&stage).await;
        };
        let ending = AssertUnwindSafe(timeout(PATIENCE, acts)).catch_unwind().await;
        if !matches!(ending, Ok(Ok(()))) {
            stage.print_diagnosis();
        }
        let closing = AssertUnwindSafe(stage.close()).catch_unwind().await;
        let ended = ending.unwrap_or_else(|panic| resume_unwind(panic));
        assert!(ended.is_ok(), "the scenario was not at its end after {PATIENCE:?}");
        closing.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

impl Scenario {
    async fn open(name: &str) -> Self {
        let environment = Environment::read();
        let kube = Client::try_default().await.unwrap();
        environment.install_operator(&kube).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let namespace = format!("e2e-{name}-{:x}{:x}", now & 0xff_ffff, process::id() & 0xfff);
        Self { environment, kube, namespace, forwards: Mutex::default() }
    }

    async fn prepare(&self) {
        create_restricted_namespace(&self.kube, &self.namespace).await;
        let access = broker::fetch_access(&self.kube).await;
        self.write_secret(BROKER_SECRET, &access.values()).await;
    }

    /// Objects of the scenario's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    /// What `kubectl` answers in the scenario's namespace, or what it says is wrong.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, Complaint> {
        self.kubectl_with_input(arguments, "")
    }

    /// The same with something to read (`--filename=-`).
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String, Complaint> {
        let mut command = self.environment.kubectl();
        command.args(["--namespace", &self.namespace, "--request-timeout=30s"]).args(arguments);
        environment::read(&mut command, input)
    }

    /// Makes a Secret, or gives it another content.
    pub async fn write_secret(&self, name: &str, values: &[(&str, &str)]) {
        let encode = |&(key, value): &(&str, &str)| (key.to_owned(), ByteString(value.as_bytes().to_vec()));
        let mut secret = Secret { data: Some(values.iter().map(encode).collect()), ..Secret::default() };
        secret.metadata.name = Some(name.to_owned());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.api::<Secret>().patch(name, &parameters, &Patch::Apply(&secret)).await.unwrap();
    }

    /// Every object in the namespace that a person could have made, as `kind/name`.
    pub fn inventory(&self) -> BTreeSet<String> {
        let kinds = "deployments,replicasets,statefulsets,pods,services,configmaps,secrets,serviceaccounts,\
                     persistentvolumeclaims,poddisruptionbudgets,networkpolicies,broadcastclusters";
        let names = self.kubectl(&["get", kinds, "--output=name"]).unwrap();
        names.lines().map(str::to_owned).collect()
    }

    /// The operator's pods, each with how often it was restarted.
    pub async fn operator_pods(&self) -> BTreeSet<(String, i32)> {
        let pods = self.operators().list(&ListParams::default()).await.unwrap();
        pods.iter().map(|pod| (pod.name_any(), count_restarts(pod))).collect()
    }

    /// Prints what somebody who looks for the cause would ask first.
    fn print_diagnosis(&self) {
        let operator =
            format!("logs deployment/{RELEASE} --namespace={OPERATOR_NAMESPACE} --tail=60 --all-pods=true");
        for question in [
            "get broadcastclusters,deployments,pods,persistentvolumeclaims --output=wide",
            "get broadcastclusters --output=yaml",
            "get events --sort-by=.lastTimestamp",
            "logs --selector=app.kubernetes.io/component=heart --tail=20 --prefix",
            "logs --selector=app.kubernetes.io/component=node --tail=20 --prefix --max-log-requests=20",
            &operator,
        ] {
            let arguments: Vec<_> = question.split(' ').collect();
            let answer = self.kubectl(&arguments).unwrap_or_else(|complaint| complaint.to_string());
            eprintln!("--- kubectl {question}\n{answer}");
        }
    }

    async fn close(&self) {
        let resources = self.api::<BroadcastCluster>();
        resources.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        let gone = wait_for("the scenario's resources to be deleted", DELETION_PATIENCE, async || {
            let left = resources.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let names: Vec<_> = left.iter().map(ResourceExt::name_any).collect();
            if names.is_empty() { Ok(()) } else { Err(format!("{names:?} are still there")) }
        });
        let gone = AssertUnwindSafe(gone).catch_unwind().await;
        if gone.is_err() {
            self.print_diagnosis();
            let names = self.kubectl(&["get", "broadcastclusters", "--output=name"]).unwrap();
            for name in names.lines() {
                let patch = r#"{"metadata":{"finalizers":null}}"#;
                self.kubectl(&["patch", name, "--type=merge", "--patch", patch]).unwrap();
            }
        }
        let namespaces: Api<Namespace> = Api::all(self.kube.clone());
        if namespaces.get_opt(&self.namespace).await.unwrap().is_some() {
            namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
        }
        gone.unwrap_or_else(|panic| resume_unwind(panic));
    }
}

/// How often a pod's containers were restarted.
pub fn count_restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).sum()
}

/// A namespace in which nothing may run that has more rights than it needs.
async fn create_restricted_namespace(kube: &Client, name: &str) {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    let namespaces: Api<Namespace> = Api::all(kube.clone());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    namespaces.patch(name, &parameters, &Patch::Apply(&namespace)).await.unwrap();
}

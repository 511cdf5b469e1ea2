//! What controllers, scheduler and kubelet would do of what an operator notices, on an API server that has none of them: pods of
//! Deployments come and go, Deployments say how they stand, and what has lost its owner is removed.
//!
//! Pods are replaced, never doubled, and the address of a heart's pod is one where something answers like a heart whose nodes are all
//! current.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use broadcast_api::BroadcastCluster;
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::heart_stand_in::HeartStandIn;

/// How many objects are worked on at the same time.
const AT_A_TIME: usize = 8;

/// Namespaces whose name begins so have no pods.
pub const IDLE: &str = "idle-";

const NODE_ID_LABEL: &str = "broadcast.dev/node-id";

/// The stand-in of one API server. It ends when this is dropped.
pub struct StandIn {
    living: Living,
    _tasks: JoinSet<()>,
}

/// The nodes that have a pod, as namespace and id: from before it is made until after it is gone.
#[derive(Clone, Debug, Default)]
pub struct Living(Arc<Mutex<BTreeSet<(String, String)>>>);

impl Living {
    /// Whether there may be a pod of this node.
    pub fn has(&self, namespace: &str, id: &str) -> bool {
        self.0.lock().unwrap().contains(&(namespace.to_owned(), id.to_owned()))
    }
}

impl StandIn {
    /// Starts to do all of it.
    pub async fn start(client: &Client) -> Self {
        let hearts = HeartStandIn::start().await;
        let living = Living::default();
        let mut tasks = JoinSet::new();
        let turns = std::array::from_fn(|_| tokio::sync::Mutex::default());
        let pods = Pods { client: client.clone(), hearts, living: living.clone(), turns };
        tasks.spawn(follow(client.clone(), async move |event| match event {
            Event::Apply(deployment) | Event::InitApply(deployment) => pods.run(&deployment).await,
            Event::Delete(_) | Event::Init | Event::InitDone => Ok(()),
        }));
        let collector = client.clone();
        tasks.spawn(follow(client.clone(), async move |event: Event<BroadcastCluster>| match event {
            Event::Delete(resource) => collect_garbage(&collector, &resource).await,
            Event::Apply(_) | Event::Init | Event::InitApply(_) | Event::InitDone => Ok(()),
        }));
        let claims = client.clone();
        tasks.spawn(follow(client.clone(), async move |event| match event {
            Event::Apply(claim) | Event::InitApply(claim) => release(&claims, &claim).await,
            Event::Delete(_) | Event::Init | Event::InitDone => Ok(()),
        }));
        Self { living, _tasks: tasks }
    }

    /// Who lives.
    pub fn living(&self) -> Living {
        self.living.clone()
    }
}

/// Handles every change to objects of a kind. What came in between makes no difference: the object as it is then comes again.
async fn follow<K, F>(client: Client, handle: F)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    F: AsyncFn(Event<K>) -> kube::Result<()>,
{
    let changes = watcher::watcher(Api::<K>::all(client), watcher::Config::default());
    let handle_one = async |event| {
        if let Err(error) = handle(event).await
            && !is_overtaken(&error)
        {
            eprintln!("stand-in: {error}");
        }
    };
    changes
        .map(|event| event.map_err(|error| eprintln!("stand-in: {error}")))
        .filter_map(async |event| event.ok())
        .for_each_concurrent(AT_A_TIME, handle_one)
        .await;
}

/// Somebody changed or removed it in the meantime.
fn is_overtaken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

struct Pods {
    client: Client,
    hearts: HeartStandIn,
    living: Living,
    /// A Deployment has the turns of its hash.
    turns: [tokio::sync::Mutex<()>; 64],
}

impl Pods {
    /// Brings the pods of a Deployment to where they should be, one change after the other.
    async fn run(&self, changed: &Deployment) -> kube::Result<()> {
        let (namespace, name) = (changed.namespace().unwrap(), changed.name_any());
        if namespace.starts_with(IDLE) && changed.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
        let _turn = self.turn_of(changed).lock().await;
        let Some(deployment) = deployments.get_opt(&name).await? else { return Ok(()) };
        let deployment = &deployment;
        if deployment.metadata.deletion_timestamp.is_some() {
            self.remove(deployment).await?;
            let patch = json!({"metadata": {"finalizers": null}});
            return deployments.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop);
        }
        let generation = deployment.metadata.generation;
        let status = deployment.status.clone().unwrap_or_default();
        if status.observed_generation == generation && status.ready_replicas == status.replicas {
            return Ok(());
        }
        let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let say = async |ready: i32| {
            let came_up =
                json!([{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]);
            let patch = json!({"status": {
                "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
                "readyReplicas": ready, "availableReplicas": ready,
                "conditions": if ready == replicas { came_up } else { Value::Null },
            }});
            let parameters = PatchParams::default();
            deployments.patch_status(&name, &parameters, &Patch::Merge(patch)).await.map(drop)
        };
        // An old pod stops being ready when it is told to stop.
        say(0).await?;
        self.remove(deployment).await?;
        self.create(deployment, replicas).await?;
        say(replicas).await
    }

    fn turn_of(&self, deployment: &Deployment) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        deployment.uid().hash(&mut hasher);
        &self.turns[usize::try_from(hasher.finish() % self.turns.len() as u64).unwrap()]
    }

    async fn remove(&self, deployment: &Deployment) -> kube::Result<()> {
        let namespace = deployment.namespace().unwrap();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let at_once = DeleteParams::default().grace_period(0);
        let all = pods.list(&ListParams::default().labels(&selector_of(deployment))).await?;
        for pod in all {
            accept_gone(pods.delete(&pod.name_any(), &at_once).await.map(drop))?;
        }
        if let Some(id) = deployment.labels().get(NODE_ID_LABEL) {
            self.living.0.lock().unwrap().remove(&(namespace, id.clone()));
        }
        Ok(())
    }

    async fn create(&self, deployment: &Deployment, replicas: i32) -> kube::Result<()> {
        let namespace = deployment.namespace().unwrap();
        let template = deployment.spec.as_ref().unwrap().template.clone();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let id = deployment.labels().get(NODE_ID_LABEL);
        if let Some(id) = id {
            self.living.0.lock().unwrap().insert((namespace, id.clone()));
        }
        for number in 0..replicas {
            let name = format!("{}-{number}", deployment.name_any());
            let mut metadata = template.metadata.clone().unwrap_or_default();
            metadata.name = Some(name.clone());
            let pod = Pod { metadata, spec: template.spec.clone(), status: None };
            pods.create(&PostParams::default(), &pod).await?;
            let address = if id.is_some() { self.hearts.nobody() } else { self.hearts.address(number) };
            let address = address.to_string();
            let patch =
                json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }
}

fn selector_of(deployment: &Deployment) -> String {
    let selector = deployment.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    let pairs: BTreeMap<String, String> = selector.unwrap_or_default();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// Lets a volume claim go that is to be deleted after all that depends on it, which is nothing.
async fn release(client: &Client, claim: &PersistentVolumeClaim) -> kube::Result<()> {
    if claim.metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &claim.namespace().unwrap());
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    claims.patch(&claim.name_any(), &PatchParams::default(), &patch).await.map(drop)
}

/// Removes what a resource that is gone owned.
async fn collect_garbage(client: &Client, resource: &BroadcastCluster) -> kube::Result<()> {
    let (namespace, uid) = (resource.namespace().unwrap(), resource.uid().unwrap());
    for kind in kinds() {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind);
        let all: Vec<DynamicObject> = api.list(&ListParams::default()).await?.items;
        for object in
            all.iter().filter(|object| object.owner_references().iter().any(|owner| owner.uid == uid))
        {
            accept_gone(api.delete(&object.name_any(), &DeleteParams::background()).await.map(drop))?;
        }
    }
    Ok(())
}

/// The kinds of objects that an operator makes.
pub fn kinds() -> Vec<ApiResource> {
    vec![
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Secret>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PersistentVolumeClaim>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
    ]
}

fn accept_gone(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

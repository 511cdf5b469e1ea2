//! The objects and pods of all clusters as watches show them, and as this process has written them since: what a pass decides on.
//!
//! - It may lag behind what others do, so nothing is taken away, and no pod replaced, by what it shows: a pass that would do so reads
//!   all of it anew and decides again (see [`Step::takes_away`](crate::controller::plan::Step::takes_away)).
//! - To add something it is good enough. This process alone makes these objects, and what it makes is in here before the pass goes
//!   on; what its predecessor made was there before the first lists. The nodes that there are stand in the status, and the queues are the
//!   broker's to show: both are read in every pass.
//! - Where it lacks an object all the same (an answer was lost on the way, a list is a little old), that is read before it is made, and
//!   made as it is already. Where it shows one that is gone, the watch tells of that, which begins a pass.
//! - What a watch, a list or an answer shows later than a newer version is no news, nor is what is heard of an object from before its end:
//!   the answer to a deletion may come after the watch has told that it is done. What a list lacks goes; if it came after the list the watch
//!   shows it again.
//! - Secrets are not in it.
//! - An object is kept compressed, without what nobody reads: a thousand clusters have more than ten thousand.

mod kept;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::kept::{Kept, Templates, version_of};
use crate::controller::WatchedCluster;
use crate::controller::objects::Kind;
use crate::controller::observe::{ObservedPod, observe_pod};
use crate::controller::validate::ValidCluster;
use crate::metrics::cluster_label;
use crate::names::{cluster_of, managed_selector};

/// How many objects one answer has when all are listed: what is read of them at a time takes memory.
pub const PAGE: u32 = 100;

/// How many changes may wait for the controller.
const CHANGES: usize = 64;

/// How long the first lists may take before passes begin without them.
const LOADING_DEADLINE: Duration = Duration::from_secs(30);

/// What is known.
#[derive(Clone)]
pub struct Known {
    clusters: Arc<Mutex<HashMap<String, OfOne>>>,
    templates: Templates,
    /// How many lists have not been read to their end yet.
    loading: watch::Sender<usize>,
}

/// The objects and pods of a cluster.
pub type Found = (Vec<(Kind, DynamicObject)>, Vec<ObservedPod>);

/// Of one cluster.
#[derive(Default)]
struct OfOne {
    objects: BTreeMap<(Kind, String), Kept>,
    pods: BTreeMap<String, ObservedPod>,
}

/// What is watched, and how it is kept. One answers whether anything changed.
trait Shelf: Clone + Send + Sync + 'static {
    type Object: Resource<DynamicType: Clone> + Clone + Debug + DeserializeOwned + Send + 'static;

    fn put(&self, known: &mut OfOne, object: Self::Object) -> bool;
    /// Takes away what is not newer than this version.
    fn take(&self, known: &mut OfOne, name: &str, version: u64) -> bool;
    fn names(&self, known: &OfOne) -> Vec<String>;
}

#[derive(Clone)]
struct Objects {
    kind: Kind,
    templates: Templates,
}

#[derive(Clone)]
struct Pods;

impl Known {
    /// Knows nothing, for good: every pass reads everything.
    pub fn nothing() -> Self {
        Self { clusters: Arc::default(), templates: Templates::default(), loading: watch::Sender::new(1) }
    }

    /// Begins to watch these namespaces; gives for each the clusters that something changed of. The watches end when the set is
    /// dropped.
    pub fn watch(
        client: &Client,
        namespaces: &[Option<String>],
    ) -> (Self, Vec<mpsc::Receiver<ObjectRef<WatchedCluster>>>, JoinSet<()>) {
        let lists = namespaces.len() * (Kind::LISTED.len() + 1);
        let known = Self { loading: watch::Sender::new(lists), ..Self::nothing() };
        let mut watches = JoinSet::new();
        let mut all_changes = Vec::new();
        for namespace in namespaces {
            let (sender, changes) = mpsc::channel(CHANGES);
            all_changes.push(changes);
            let scope = Scope { known: known.clone(), namespace: namespace.clone(), changes: sender };
            for kind in Kind::LISTED {
                let resource = kind.api_resource();
                let api = match namespace {
                    Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                    None => Api::all_with(client.clone(), &resource),
                };
                watches.spawn(scope.clone().follow(known.shelf(kind), api));
            }
            watches.spawn(scope.follow(Pods, crate::controller::api(client, namespace.as_deref())));
        }
        (known, all_changes, watches)
    }

    /// Waits until everything is known, but not for ever: what a watch is refused is read in every pass, which says so.
    pub async fn wait_until_complete(&self) {
        let mut loading = self.loading.subscribe();
        let complete = loading.wait_for(|lists| *lists == 0);
        if tokio::time::timeout(LOADING_DEADLINE, complete).await.is_err() {
            tracing::warn!("not everything can be listed yet");
        }
    }

    /// Whether everything is known.
    pub fn is_complete(&self) -> bool {
        *self.loading.borrow() == 0
    }

    /// The objects and pods of a cluster; `None` while not everything is known.
    pub fn find(&self, valid: &ValidCluster) -> Option<Found> {
        if !self.is_complete() {
            return None;
        }
        let clusters = self.all();
        let Some(found) = clusters.get(&cluster_label(Some(&valid.namespace), valid.names.cluster())) else {
            return Some((Vec::new(), Vec::new()));
        };
        let read = |((kind, _), kept): (&(Kind, String), &Kept)| Some((*kind, kept.read()?));
        let there = found.objects.iter().filter(|(_, kept)| kept.is_there());
        let objects = there.map(read).collect::<Option<_>>()?;
        Some((objects, found.pods.values().cloned().collect()))
    }

    /// This process has written an object of a cluster.
    pub fn note_write(&self, valid: &ValidCluster, kind: Kind, written: DynamicObject) {
        if kind != Kind::Secret && self.is_complete() {
            let cluster = cluster_label(Some(&valid.namespace), valid.names.cluster());
            self.shelf(kind).put(self.all().entry(cluster).or_default(), written);
        }
    }

    fn shelf(&self, kind: Kind) -> Objects {
        Objects { kind, templates: self.templates.clone() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, OfOne>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One namespace, or all.
#[derive(Clone)]
struct Scope {
    known: Known,
    namespace: Option<String>,
    changes: mpsc::Sender<ObjectRef<WatchedCluster>>,
}

impl Scope {
    /// Keeps what a watch shows.
    async fn follow<S: Shelf>(self, kind: S, api: Api<S::Object>) {
        let config = watcher::Config::default().labels(&managed_selector()).page_size(PAGE);
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut is_loaded = false;
        // Those that a list has not shown yet, while one is read.
        let mut unseen = HashSet::new();
        while let Some(event) = events.next().await {
            let changed = match event {
                Ok(Event::Init) => {
                    unseen = self.keys(&kind);
                    None
                }
                Ok(Event::InitApply(object)) => {
                    if let Some(cluster) = label_of(&object) {
                        unseen.remove(&(cluster, object.name_any()));
                    }
                    self.put(&kind, object)
                }
                Ok(Event::Apply(object)) => self.put(&kind, object),
                Ok(Event::Delete(object)) => {
                    let version = version_of(&object);
                    label_of(&object).filter(|cluster| self.take(&kind, cluster, &object.name_any(), version))
                }
                Ok(Event::InitDone) => {
                    for (cluster, name) in std::mem::take(&mut unseen) {
                        if self.take(&kind, &cluster, &name, u64::MAX) {
                            self.tell(&cluster).await;
                        }
                    }
                    if !std::mem::replace(&mut is_loaded, true) {
                        self.known.loading.send_modify(|lists| *lists -= 1);
                    }
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "a watch failed, and begins anew");
                    None
                }
            };
            // At the beginning every resource has a pass anyway.
            if let Some(cluster) = changed.filter(|_| is_loaded) {
                self.tell(&cluster).await;
            }
        }
    }

    /// Gives the cluster, if that is news.
    fn put<S: Shelf>(&self, kind: &S, object: S::Object) -> Option<String> {
        let cluster = label_of(&object)?;
        kind.put(self.known.all().entry(cluster.clone()).or_default(), object).then_some(cluster)
    }

    fn take<S: Shelf>(&self, kind: &S, cluster: &str, name: &str, version: u64) -> bool {
        let mut clusters = self.known.all();
        let Some(of_one) = clusters.get_mut(cluster) else { return false };
        let was_there = kind.take(of_one, name, version);
        if !of_one.objects.values().any(Kept::is_there) && of_one.pods.is_empty() {
            clusters.remove(cluster);
        }
        was_there
    }

    fn keys<S: Shelf>(&self, kind: &S) -> HashSet<(String, String)> {
        let clusters = self.known.all();
        let is_in_scope = |cluster: &str| {
            let namespace = cluster.split_once('/').map(|(namespace, _)| namespace);
            self.namespace.is_none() || self.namespace.as_deref() == namespace
        };
        let in_scope = clusters.iter().filter(|(cluster, _)| is_in_scope(cluster));
        in_scope
            .flat_map(|(cluster, known)| kind.names(known).into_iter().map(|name| (cluster.clone(), name)))
            .collect()
    }

    async fn tell(&self, cluster: &str) {
        let Some((namespace, name)) = cluster.split_once('/') else { return };
        // Without a controller nobody has to know.
        let _ = self.changes.send(ObjectRef::new(name).within(namespace)).await;
    }
}

impl Shelf for Objects {
    type Object = DynamicObject;

    fn put(&self, known: &mut OfOne, mut object: DynamicObject) -> bool {
        object.metadata.managed_fields = None;
        let key = (self.kind, object.name_any());
        let kept = self.templates.keep(self.kind, &object);
        if known.objects.get(&key).is_some_and(|before| *before == kept || before.version > kept.version) {
            return false;
        }
        known.objects.insert(key, kept);
        true
    }

    fn take(&self, known: &mut OfOne, name: &str, version: u64) -> bool {
        let key = (self.kind, name.to_owned());
        let is_old = |kept: &&mut Kept| kept.is_there() && kept.version <= version;
        let Some(kept) = known.objects.get_mut(&key).filter(is_old) else { return false };
        *kept = Kept::gone(if version == u64::MAX { kept.version } else { version });
        true
    }

    fn names(&self, known: &OfOne) -> Vec<String> {
        let there = known.objects.iter().filter(|(key, kept)| key.0 == self.kind && kept.is_there());
        there.map(|(key, _)| key.1.clone()).collect()
    }
}

impl Shelf for Pods {
    type Object = Pod;

    fn put(&self, known: &mut OfOne, pod: Pod) -> bool {
        let pod = observe_pod(pod);
        known.pods.insert(pod.name.clone(), pod.clone()).is_none_or(|before| before != pod)
    }

    fn take(&self, known: &mut OfOne, name: &str, _: u64) -> bool {
        known.pods.remove(name).is_some()
    }

    fn names(&self, known: &OfOne) -> Vec<String> {
        known.pods.keys().cloned().collect()
    }
}

/// The cluster that an object says it belongs to.
fn label_of(object: &impl ResourceExt) -> Option<String> {
    Some(cluster_label(object.namespace().as_deref(), cluster_of(object.labels())?))
}

#[cfg(test)]
mod tests;

//! Many resources at once, all of them small.

use std::time::{Duration, Instant};

use broadcast_api::{BroadcastCluster, ConditionType};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::sleep;

use crate::api_server::{broker_secret, create_namespace};

const SECRET: &str = "rabbitmq";

/// How many are made at the same time.
const AT_A_TIME: usize = 8;

/// How often all of them are looked at, for each of them: looking costs the API server something.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Few of them are looked at no more often than this.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(100);

/// Resources in a namespace.
pub struct Fleet {
    client: Client,
    namespace: String,
    count: usize,
}

impl Fleet {
    /// Makes a namespace with so many resources of `nodes` nodes each, all of them on one broker.
    pub async fn create(client: &Client, namespace: &str, count: usize, nodes: u32, broker: &str) -> Self {
        create_namespace(client, namespace).await;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        secrets.create(&PostParams::default(), &broker_secret(SECRET, broker)).await.unwrap();
        let clusters: Api<BroadcastCluster> = Api::namespaced(client.clone(), namespace);
        let create = async |number| {
            let resource = build(&name(namespace, number), nodes);
            clusters.create(&PostParams::default(), &resource).await.map(drop)
        };
        stream::iter(0..count).map(create).buffer_unordered(AT_A_TIME).try_collect::<()>().await.unwrap();
        Self { client: client.clone(), namespace: namespace.to_owned(), count }
    }

    /// The name of a resource, which its exchange has, too.
    pub fn name_of(&self, number: usize) -> String {
        name(&self.namespace, number)
    }

    /// Waits until every resource has said of this condition that it is true, and tells how long that took.
    pub async fn wait_until(&self, condition: ConditionType, patience: Duration) -> Duration {
        let started = Instant::now();
        let look_every = LOOK_EVERY.saturating_mul(u32::try_from(self.count).unwrap_or(u32::MAX));
        loop {
            let missing = self.find_without(condition).await;
            if missing.is_empty() {
                return started.elapsed();
            }
            let (left, first) = (missing.len(), &missing[0]);
            let all = self.count;
            assert!(started.elapsed() < patience, "{left} of {all} are not {condition:?}: {first}");
            sleep(look_every.max(LOOK_AT_MOST_EVERY)).await;
        }
    }

    async fn find_without(&self, wanted: ConditionType) -> Vec<String> {
        let clusters: Api<BroadcastCluster> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = clusters.list(&ListParams::default()).await.unwrap();
        assert_eq!(all.items.len(), self.count);
        let is_true = |resource: &&BroadcastCluster| {
            let conditions = resource.status.iter().flat_map(|status| &status.conditions);
            conditions.clone().any(|found| found.type_ == wanted.as_str() && found.status == "True")
        };
        let without = all.items.iter().filter(|resource| !is_true(resource));
        without.map(|resource| format!("{}: {:?}", resource.name_any(), resource.status)).collect()
    }
}

fn name(namespace: &str, number: usize) -> String {
    format!("{namespace}-{number}")
}

fn build(name: &str, nodes: u32) -> BroadcastCluster {
    serde_json::from_value(json!({
        "apiVersion": "broadcast.dev/v1alpha1",
        "kind": "BroadcastCluster",
        "metadata": {"name": name},
        "spec": {
            "rabbitmq": {"secretRef": {"name": SECRET}},
            "exchange": name,
            "queueName": name,
            "nodes": {"replicas": nodes},
        },
    }))
    .unwrap()
}

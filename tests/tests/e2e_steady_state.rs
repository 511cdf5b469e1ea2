//! A cluster that is as it should be, and to which nobody writes, costs the API server nothing.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use broadcast_api::BroadcastCluster;
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::{self, Scenario};
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt, pin_mut};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

/// Four probes of the broker.
const QUIET_SECONDS: u32 = 60;

/// How long the status may take to show the last write.
const STATUS_PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn a_ready_cluster_without_writes_changes_no_object_for_a_minute() {
    cluster::run("steady", async |stage| {
        stage.apply(&stage.sample("orders", 2)).await;
        stage.wait_until_ready("orders", 2).await;
        let written = stage.heart("orders").await.put("users", "42", &json!("Ada"), None).await.unwrap();
        wait_for("the status to show the write", STATUS_PATIENCE, async || {
            let status = stage.fetch("orders").await.status.unwrap();
            let applied: Vec<_> = status.nodes.iter().map(|node| node.applied).collect();
            let is_shown = applied.iter().all(|applied| *applied == Some(written.last));
            if is_shown && status.heart.is_some() {
                Ok(())
            } else {
                Err(format!("{applied:?} {:?}", status.heart))
            }
        })
        .await;

        let watches = [
            watch::<BroadcastCluster>(stage).boxed_local(),
            watch::<Deployment>(stage).boxed_local(),
            watch::<Pod>(stage).boxed_local(),
            watch::<Service>(stage).boxed_local(),
            watch::<ConfigMap>(stage).boxed_local(),
            watch::<Secret>(stage).boxed_local(),
            watch::<ServiceAccount>(stage).boxed_local(),
            watch::<PersistentVolumeClaim>(stage).boxed_local(),
            watch::<Event>(stage).boxed_local(),
        ];
        let changes = join_all(watches).await.concat();
        assert!(changes.is_empty(), "{changes:#?}");
    });
}

/// Every change to objects of a kind while it should be quiet.
async fn watch<K>(stage: &Scenario) -> Vec<String>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned + 'static,
    K::DynamicType: Default,
{
    let api = stage.api::<K>();
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let changes = api.watch(&WatchParams::default().timeout(QUIET_SECONDS), &version).await.unwrap();
    pin_mut!(changes);
    let mut seen = Vec::new();
    while let Some(change) = changes.next().await {
        match change.unwrap() {
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Added(object) => seen.push(format!("new: {} {object:?}", object.name_any())),
            WatchEvent::Modified(object) => seen.push(format!("changed: {} {object:?}", object.name_any())),
            WatchEvent::Deleted(object) => seen.push(format!("gone: {} {object:?}", object.name_any())),
            WatchEvent::Error(error) => panic!("{error:?}"),
        }
    }
    seen
}

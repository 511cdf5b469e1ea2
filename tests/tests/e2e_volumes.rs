//! Volumes: a node's rows outlive its pod, and its volume goes when the node goes.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use broadcast_api::{ConditionType, DeletionPolicy, StorageSpec};
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::resource::{ROLLOUT_PATIENCE, condition, node_prefix, wait_for_agreement};
use broadcast_tests::cluster::{self, Scenario};
use broadcast_tests::processes::Folder;
use kube::ResourceExt;
use serde_json::{Value, json};

const SIZE: &str = "1Gi";

#[test]
fn rows_on_a_volume_outlive_the_only_pod_that_had_them() {
    cluster::run("volumes", async |stage| {
        let volumes = Volumes::provide(stage, 2);
        let mut resource = stage.sample("orders", 1);
        resource.spec.nodes.storage =
            Some(StorageSpec { size: SIZE.to_owned(), storage_class_name: volumes.class.clone() });
        stage.apply(&resource).await;
        stage.wait_until_ready("orders", 1).await;
        let heart = stage.heart("orders").await;
        let written = heart.put("users", "42", &json!("Ada"), None).await.unwrap();
        let node = stage.node("orders", 1).await;
        let before = wait_for_agreement(std::slice::from_ref(&node), written.last).await;

        let [pod] = &stage.running_pods(&node_prefix("orders", 1)).await[..] else { panic!("not one pod") };
        stage.kill_pod(&pod.name_any());
        wait_for("another pod", ROLLOUT_PATIENCE, async || {
            let running = stage.running_pods(&node_prefix("orders", 1)).await;
            let is_another = matches!(&running[..], [other] if other.uid() != pod.uid());
            if is_another { Ok(()) } else { Err(format!("{} pods", running.len())) }
        })
        .await;
        wait_for("the same rows", ROLLOUT_PATIENCE, async || {
            let status = node.node_status().await.map_err(|refused| format!("{refused:?}"))?;
            let same = (status.applied, &status.digest) == (before.applied, &before.digest);
            if same { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        assert_eq!(node.read("users", "42", written.last, "5s").await.unwrap().value, json!("Ada"));

        stage.kubectl(&["scale", "bcast/orders", "--replicas=2"]).unwrap();
        stage.wait_until_ready("orders", 2).await;
        assert_eq!(claims(stage).len(), 2);
        stage.kubectl(&["scale", "bcast/orders", "--replicas=1"]).unwrap();
        stage.wait_until_ready("orders", 1).await;
        wait_for("the claim of the removed node to be gone", ROLLOUT_PATIENCE, async || {
            let left = claims(stage);
            if left == ["persistentvolumeclaim/orders-node-1"] { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        // The folders may go only after the pods.
        delete(stage);
    });
}

#[test]
fn what_was_kept_of_a_deleted_resource_is_gone_on_with_by_another() {
    cluster::run("retained", async |stage| {
        let volumes = Volumes::provide(stage, 1);
        let mut resource = stage.sample("orders", 1);
        resource.spec.heart.replicas = 1;
        resource.spec.deletion_policy = DeletionPolicy::Retain;
        resource.spec.nodes.storage =
            Some(StorageSpec { size: SIZE.to_owned(), storage_class_name: volumes.class.clone() });
        stage.apply(&resource).await;
        let history = stage.wait_until_ready("orders", 1).await.uid().unwrap();
        let written = stage.heart("orders").await.put("users", "42", &json!("Ada"), None).await.unwrap();
        wait_for_agreement(&stage.nodes("orders", [1]).await, written.last).await;
        delete(stage);
        wait_for("an event that says how to go on", ROLLOUT_PATIENCE, async || {
            let events = stage.events("orders").await;
            let is_told = |note: &String| note.contains(&format!("spec.historyId {history:?}"));
            let is_told = events.iter().filter_map(|event| event.message.as_ref()).any(is_told);
            if is_told { Ok(()) } else { Err(format!("{events:#?}")) }
        })
        .await;
        assert_eq!(claims(stage), ["persistentvolumeclaim/orders-node-1"]);

        // One that does not say that it goes on with it does not touch it.
        stage.apply(&resource).await;
        wait_for("the refusal", ROLLOUT_PATIENCE, async || {
            let found = stage.fetch("orders").await;
            let declared = condition(&found, ConditionType::TopologyDeclared).ok_or("no condition")?;
            let is_told = declared.reason == "ForeignHistory" && declared.message.contains(&history);
            if is_told { Ok(()) } else { Err(format!("{declared:?}")) }
        })
        .await;
        delete(stage);

        resource.spec.history_id = Some(history);
        stage.apply(&resource).await;
        stage.wait_until_ready("orders", 1).await;
        let node = stage.node("orders", 1).await;
        assert_eq!(node.read("users", "42", written.last, "5s").await.unwrap().value, json!("Ada"));
        let next = stage.heart("orders").await.put("users", "43", &json!("Bob"), None).await.unwrap();
        assert_eq!(next.first, written.last + 1, "the history goes on");
        wait_for_agreement(std::slice::from_ref(&node), next.last).await;

        let patch = r#"{"spec":{"deletionPolicy":"Delete"}}"#;
        stage.kubectl(&["patch", "bcast/orders", "--type=merge", "--patch", patch]).unwrap();
        stage.wait_until_ready("orders", 1).await;
        delete(stage);
        wait_for("the claim to go with its resource", ROLLOUT_PATIENCE, async || {
            if claims(stage).is_empty() { Ok(()) } else { Err(format!("{:?}", claims(stage))) }
        })
        .await;
    });
}

fn delete(stage: &Scenario) {
    stage.kubectl(&["delete", "bcast/orders", "--timeout=60s", "--request-timeout=0"]).unwrap();
}

fn claims(stage: &Scenario) -> Vec<String> {
    stage.inventory().into_iter().filter(|object| object.starts_with("persistentvolumeclaim/")).collect()
}

/// Volumes for the scenario: the cluster's own where it has some; else folders of this machine.
struct Volumes<'a> {
    class: Option<String>,
    names: Vec<String>,
    stage: &'a Scenario,
    folder: Folder,
}

impl<'a> Volumes<'a> {
    fn provide(stage: &'a Scenario, count: usize) -> Self {
        let folder = Folder::new();
        let mut volumes = Self { class: None, names: Vec::new(), stage, folder };
        if stage.environment.kubelet_folder.is_some() {
            volumes.class = Some(stage.namespace.clone());
            for number in 0..count {
                volumes.make(&format!("{}-{number}", stage.namespace));
            }
        }
        volumes
    }

    fn make(&mut self, name: &str) {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).unwrap();
        // A node is not root, and this kind of volume is handed over as it is.
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        let volume: Value = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": SIZE},
                "hostPath": {"path": folder, "type": "Directory"},
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": self.class,
            },
        });
        self.stage.kubectl_with_input(&["create", "--filename=-"], &volume.to_string()).unwrap();
        self.names.push(name.to_owned());
    }
}

impl Drop for Volumes<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            // The pods that use it may be there yet: it goes after them.
            let _ = self.stage.kubectl(&["delete", "persistentvolume", name, "--wait=false"]);
        }
    }
}

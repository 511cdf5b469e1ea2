//! A paused resource is looked at and left alone.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use broadcast_api::{BroadcastCluster, ConditionType};
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster;
use broadcast_tests::cluster::resource::{ROLLOUT_PATIENCE, condition, is_current};
use k8s_openapi::api::core::v1::Service;
use kube::api::DeleteParams;

#[test]
fn while_paused_nothing_is_changed_and_afterwards_everything_is_caught_up_with() {
    cluster::run("pause", async |stage| {
        let mut resource = stage.sample("orders", 1);
        resource.spec.heart.replicas = 1;
        stage.apply(&resource).await;
        stage.wait_until_ready("orders", 1).await;
        stage.kubectl(&["annotate", "bcast/orders", "broadcast.dev/paused=true"]).unwrap();
        wait_for("the pause to be reported", ROLLOUT_PATIENCE, async || {
            let resource = stage.fetch("orders").await;
            let paused = condition(&resource, ConditionType::Paused).ok_or("no condition")?;
            if paused.status == "True" { Ok(()) } else { Err(format!("{paused:?}")) }
        })
        .await;
        stage.api::<Service>().delete("orders-read", &DeleteParams::default()).await.unwrap();
        let before = stage.inventory();

        stage.kubectl(&["scale", "bcast/orders", "--replicas=2"]).unwrap();
        // A status about the new spec is one of a pass that has seen it.
        wait_for("the status to be about the new spec", ROLLOUT_PATIENCE, async || {
            let resource = stage.fetch("orders").await;
            if is_current(&resource) { Ok(()) } else { Err(format!("{:?}", resource.status)) }
        })
        .await;
        assert_eq!(stage.inventory(), before);
        let paused = stage.fetch("orders").await;
        assert_eq!(paused.status.unwrap().nodes_ready, "1/2", "it says how things stand");

        stage.kubectl(&["annotate", "bcast/orders", "broadcast.dev/paused-"]).unwrap();
        stage.wait_until_ready("orders", 2).await;
        assert!(stage.inventory().contains("service/orders-read"));
    });
}

#[test]
fn a_paused_resource_can_be_deleted() {
    cluster::run("pause-delete", async |stage| {
        let mut resource = stage.sample("orders", 1);
        resource.spec.heart.replicas = 1;
        stage.apply(&resource).await;
        stage.wait_until_ready("orders", 1).await;
        stage.kubectl(&["annotate", "bcast/orders", "broadcast.dev/paused=true"]).unwrap();
        stage.kubectl(&["delete", "bcast/orders", "--timeout=60s", "--request-timeout=0"]).unwrap();
        let left = stage.api::<BroadcastCluster>().get_opt("orders").await.unwrap();
        assert!(left.is_none());
    });
}

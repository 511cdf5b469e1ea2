//! What guards hearts and nodes from others: a drain takes one pod at a time, and a policy says who may talk to them. The
//! local cluster's network enforces no policies: that each is accepted as it is meant is seen here, and no more.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use broadcast_api::PeerSpec;
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::resource::{ROLLOUT_PATIENCE, node_prefix};
use broadcast_tests::cluster::{self, Scenario};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::EvictParams;
use serde_json::json;
use tokio::time::timeout;

#[test]
fn a_drain_takes_one_node_and_one_heart_at_a_time_and_policies_follow_the_resource() {
    cluster::run("guards", async |stage| {
        let mut resource = stage.sample("orders", 3);
        stage.apply(&resource).await;
        stage.wait_until_ready("orders", 3).await;
        let (first, second) =
            (pod(stage, &node_prefix("orders", 1)).await, pod(stage, &node_prefix("orders", 2)).await);
        let machine = first.spec.as_ref().unwrap().node_name.clone().unwrap();
        // As in a drain: nothing new comes to the machine.
        stage.kubectl(&["cordon", &machine]).unwrap();
        let evicted = evict_when_allowed(stage, &first).await;
        // The client goes on trying for as long as it is told to come again.
        let second_answer = timeout(Duration::from_secs(5), evict(stage, &second)).await;
        let budget = stage.api::<PodDisruptionBudget>().get("orders-nodes").await.unwrap();
        stage.kubectl(&["uncordon", &machine]).unwrap();
        evicted.unwrap();
        assert!(!matches!(second_answer, Ok(Ok(()))), "two at a time");
        assert_eq!(budget.status.unwrap().disruptions_allowed, 0);
        stage.wait_until_ready("orders", 3).await;
        evict_when_allowed(stage, &second).await.unwrap();
        evict_when_allowed(stage, &pod(stage, "orders-heart-").await).await.unwrap();
        stage.wait_until_ready("orders", 3).await;

        let policy = fetch_policy(stage).await.unwrap();
        assert!(policy["ingress"].as_array().unwrap().iter().any(|rule| rule["from"].is_null()), "{policy}");
        let peer = PeerSpec { cidr: Some("10.0.0.0/8".to_owned()), ..PeerSpec::default() };
        resource.spec.network_policy.clients = Some(vec![peer]);
        resource.spec.network_policy.monitoring = Some(Vec::new());
        stage.apply(&resource).await;
        wait_for("the policy to name who may come in", ROLLOUT_PATIENCE, async || {
            let policy = fetch_policy(stage).await.ok_or("no policy")?;
            let from = json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}]);
            let ingress = policy["ingress"].as_array().unwrap();
            let is_right = ingress.len() == 2 && ingress[1]["from"] == from;
            if is_right { Ok(()) } else { Err(policy.to_string()) }
        })
        .await;
        resource.spec.network_policy.enabled = false;
        stage.apply(&resource).await;
        wait_for("the policy to go", ROLLOUT_PATIENCE, async || {
            fetch_policy(stage).await.map_or(Ok(()), |policy| Err(policy.to_string()))
        })
        .await;
    });
}

async fn pod(stage: &Scenario, prefix: &str) -> Pod {
    stage.running_pods(prefix).await.remove(0)
}

async fn evict(stage: &Scenario, pod: &Pod) -> Result<(), String> {
    let answer = stage.api::<Pod>().evict(&pod.name_any(), &EvictParams::default()).await;
    answer.map(drop).map_err(|error| error.to_string())
}

/// The controller of budgets may not have counted the pods yet.
async fn evict_when_allowed(stage: &Scenario, pod: &Pod) -> Result<(), String> {
    timeout(ROLLOUT_PATIENCE, evict(stage, pod)).await.unwrap_or_else(|_| Err("not allowed".to_owned()))
}

async fn fetch_policy(stage: &Scenario) -> Option<serde_json::Value> {
    let policy = stage.api::<NetworkPolicy>().get_opt("orders").await.unwrap()?;
    Some(serde_json::to_value(policy.spec).unwrap())
}

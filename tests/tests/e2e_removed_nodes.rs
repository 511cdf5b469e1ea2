//! Who leaves when there are to be fewer nodes: whom an annotation names, and nobody when it names one that there is not.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use broadcast_api::ConditionType;
use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::resource::{ROLLOUT_PATIENCE, condition, wait_for_agreement};
use broadcast_tests::cluster::{self, Scenario};
use serde_json::json;

const ANNOTATION: &str = "broadcast.dev/remove-node-ids";

#[test]
fn the_named_node_leaves_and_a_node_that_there_is_not_keeps_all() {
    cluster::run("removed-nodes", async |stage| {
        stage.apply(&stage.sample("orders", 3)).await;
        stage.wait_until_ready("orders", 3).await;
        let written = stage.heart("orders").await.put("users", "42", &json!("Ada"), None).await.unwrap();

        stage.kubectl(&["annotate", "bcast/orders", &format!("{ANNOTATION}=9")]).unwrap();
        stage.kubectl(&["scale", "bcast/orders", "--replicas=2"]).unwrap();
        wait_for_message(stage, ConditionType::NodesReady, "names node 9, which does not exist").await;
        assert_eq!(ids(stage).await, [1, 2, 3]);

        stage.kubectl(&["annotate", "bcast/orders", "--overwrite", &format!("{ANNOTATION}=nine")]).unwrap();
        wait_for_message(stage, ConditionType::Ready, "is not a list of node ids such as \"2,5\"").await;

        stage.kubectl(&["annotate", "bcast/orders", "--overwrite", &format!("{ANNOTATION}=1")]).unwrap();
        stage.wait_until_ready("orders", 2).await;
        assert_eq!(ids(stage).await, [2, 3]);
        let broker = stage.connect_to_broker().await;
        let queue = |id: u32| format!("{}_node_{id}", stage.broker_name("orders"));
        assert_eq!(broker.depth(&queue(1)).await, None);
        assert!(broker.depth(&queue(3)).await.is_some());
        wait_for_agreement(&stage.nodes("orders", 2..=3).await, written.last).await;

        // The lowest id that is free comes back, with all that was written meanwhile.
        stage.kubectl(&["annotate", "bcast/orders", &format!("{ANNOTATION}-")]).unwrap();
        stage.kubectl(&["scale", "bcast/orders", "--replicas=3"]).unwrap();
        stage.wait_until_ready("orders", 3).await;
        assert_eq!(ids(stage).await, [1, 2, 3]);
        wait_for_agreement(&stage.nodes("orders", 1..=3).await, written.last).await;
    });
}

async fn ids(stage: &Scenario) -> Vec<u32> {
    let status = stage.fetch("orders").await.status.unwrap_or_default();
    status.nodes.iter().map(|node| node.id).collect()
}

async fn wait_for_message(stage: &Scenario, type_: ConditionType, text: &str) {
    wait_for(&format!("{type_} to say {text:?}"), ROLLOUT_PATIENCE, async || {
        let resource = stage.fetch("orders").await;
        let found = condition(&resource, type_).ok_or("no condition")?;
        if found.message.contains(text) { Ok(()) } else { Err(found.message.clone()) }
    })
    .await;
}

//! Tokens: nobody without one gets anything, and they are changed under writes without a loss.

use std::time::Duration;

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, send, wait_for};
use broadcast_tests::mount::Mount;
use broadcast_tests::standalone::{Cluster, RECOVERY, STOP};
use broadcast_tests::tokens::Tokens;
use reqwest::Method;
use serde_json::json;

const NODES: u32 = 2;

/// What a process says when it has found other tokens.
const CHANGED: &str = "other tokens are valid now";

/// How long it may take until every process has found other tokens: they look every 5 s.
const CHANGE: Duration = Duration::from_secs(30);

fn settings(mount: &Mount) -> String {
    format!("auth: {{tokens_dir: {}}}\n", mount.join("").display())
}

/// Waits until every process has found other tokens so many times.
async fn wait_for_change(cluster: &Cluster, times: usize) {
    wait_for(&format!("every process to say {times} times: {CHANGED}"), CHANGE, async || {
        let hearts = cluster.running_hearts().map(|index| cluster.heart_process(index));
        let nodes = cluster.running_nodes().map(|id| cluster.node_process(id));
        let counts: Vec<_> =
            hearts.chain(nodes).map(|process| process.output().matches(CHANGED).count()).collect();
        if counts.iter().all(|found| *found >= times) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

/// What is answered to a write and to a read: a status, and what is wrong.
async fn ask(heart: &Client, node: &Client) -> [(u16, String); 2] {
    let written = heart.put("asked", "1", &json!(1), None).await;
    let read = node.get::<serde_json::Value>("v1/collections").await;
    let told = |refused: broadcast_tests::client::Refused| (refused.status, refused.message);
    let ok = || (200, String::new());
    [written.map_or_else(told, |_| ok()), read.map_or_else(told, |_| ok())]
}

#[tokio::test]
async fn tokens_are_changed_under_writes_and_cost_none() {
    let broker = Broker::shared().await;
    let (first, second) = (Tokens::named("first"), Tokens::named("second"));
    let mount = Mount::new();
    mount.replace(&first.files());
    let mut cluster = Cluster::prepare(&broker.url(), NODES);
    cluster.settings = settings(&mount);
    cluster.show(&first);
    cluster.start_all(2).await;
    let port = |client: &Client| client.base().port().unwrap();
    let (heart, node) = (Client::new(port(cluster.heart(0))), Client::new(port(cluster.node(1))));
    for (status, message) in ask(&heart, &node).await {
        assert_eq!(status, 401, "{message}");
        assert!(message.starts_with("a token is needed") && message.contains("under the key "), "{message}");
    }
    let swapped = Tokens { write: first.read.clone(), read: first.write.clone(), peer: String::new() };
    for (status, message) in ask(&heart.showing(&swapped), &node.showing(&swapped)).await {
        assert_eq!(status, 403, "{message}");
    }

    let load = cluster.start_load(4);
    load.progress(100).await;
    // At first not all processes know the new ones.
    mount.replace(&second.and(&first).files());
    load.progress(100).await;
    wait_for_change(&cluster, 1).await;
    cluster.show(&second);
    let next = cluster.start_load(4);
    next.progress(100).await;
    load.finish().await;
    mount.replace(&second.files());
    next.progress(100).await;
    wait_for_change(&cluster, 2).await;
    for (status, message) in ask(&heart.showing(&first), &node.showing(&first)).await {
        assert_eq!(status, 401, "{message}");
        assert!(message.starts_with("the token is not one of those that are valid now"), "{message}");
    }
    // What it needs it gets from its peers, with the new ones.
    cluster.take_node(2).kill();
    cluster.empty_disk(2);
    cluster.start_node(2);
    cluster.take_heart(0).stop(STOP).await;
    next.progress(100).await;
    next.finish().await;
    cluster.converge().await;
    let log = cluster.node_process(1).output() + &cluster.heart_process(1).output();
    assert!(!log.contains("token-0123456789"), "a token is in a log");
}

#[tokio::test]
async fn a_peer_with_another_token_gets_nothing_and_nothing_counts_as_lost() {
    let broker = Broker::shared().await;
    let (own, others) = (Tokens::named("own"), Tokens::named("others"));
    let (mount, mount_of_stranger) = (Mount::new(), Mount::new());
    mount.replace(&own.files());
    let wrong = Tokens { peer: others.peer.clone(), ..own.clone() };
    mount_of_stranger.replace(&wrong.files());
    let mut cluster = Cluster::prepare(&broker.url(), NODES);
    cluster.settings = settings(&mount);
    cluster.show(&own);
    cluster.start_heart(0);
    cluster.start_node(1);
    cluster.wait_until_ready().await;
    for key in 0..20 {
        cluster.put("users", &key.to_string(), &json!(key)).await;
    }
    let (log, snapshot) = ("v1/log?after=0", "v1/snapshot");
    for (path, client, status) in [
        (snapshot, cluster.node(1), 200),
        (log, cluster.node(1), 200),
        // It has only what some node lacks.
        (log, cluster.heart(0), 410),
    ] {
        let of_peer = client.request(Method::GET, path).send().await.unwrap();
        assert_eq!(of_peer.status().as_u16(), status, "{path}");
        let refused = send(client.showing(&wrong).request(Method::GET, path)).await.unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (401, "unauthorized"), "{path}");
        let as_reader = Tokens { peer: own.read.clone(), ..own.clone() };
        let refused = send(client.showing(&as_reader).request(Method::GET, path)).await.unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (403, "forbidden"), "{path}");
    }

    cluster.settings = settings(&mount_of_stranger);
    cluster.start_node(2);
    wait_for("the node to be told", RECOVERY, async || {
        let status = cluster.node(2).node_status().await.map_err(|refused| format!("{refused:?}"))?;
        let reason = status.reason.clone().unwrap_or_default();
        let is_told = reason.contains("takes none of the peer tokens of this node");
        if is_told && status.applied == 0 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let node = wait_for("the heart to hear of it", RECOVERY, async || {
        let status = cluster.active().await?;
        let node = status.nodes.iter().find(|node| node.id == 2).cloned();
        node.filter(|node| node.reason.is_some()).ok_or_else(|| format!("{status:?}"))
    })
    .await;
    assert_eq!((node.applied, node.missing), (0, None), "who is not let in knows of no loss: {node:?}");
    mount_of_stranger.replace(&own.files());
    cluster.converge().await;
}

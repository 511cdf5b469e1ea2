use serde_json::json;

use super::*;
use crate::testing::{api_server, cluster, expect, pod, refuse};

#[test]
fn a_key_cannot_leave_its_place_in_a_query() {
    assert_eq!(encode("a/b?c#d%e f&g=h+ü").to_string(), "a%2Fb%3Fc%23d%25e%20f%26g%3Dh%2B%C3%BC");
}

#[test]
fn a_refusal_is_told_in_the_words_of_whoever_refuses() {
    for (body, told) in [
        (r#"{"error":{"code":"no_nodes","message":"0 nodes have reported"}}"#, "0 nodes have reported (503)"),
        (r#"{"kind":"Status","message":"no endpoints"}"#, "no endpoints (503)"),
        ("error trying to reach service: dial tcp\nmore", "error trying to reach service: dial tcp (503)"),
        ("", "answers 503 Service Unavailable"),
    ] {
        assert_eq!(read_refusal(StatusCode::SERVICE_UNAVAILABLE, body), told);
    }
}

const CLUSTERS: &str = "GET /apis/broadcast.dev/v1alpha1/namespaces/shop/broadcastclusters?&limit=20";

fn listed(names: &[&str]) -> serde_json::Value {
    let item = |name: &&str| json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name}});
    let items: Vec<_> = names.iter().map(item).collect();
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items})
}

#[tokio::test]
async fn a_name_that_is_left_out_is_that_of_the_only_cluster() {
    for (names, meant) in [
        (vec!["orders"], Ok("orders")),
        (vec![], Err("namespace shop has no BroadcastCluster")),
        (vec!["orders", "users"], Err("has more than one BroadcastCluster: name one of orders, users")),
    ] {
        let (client, served) = api_server(vec![expect(CLUSTERS, listed(&names))]);
        let found = Cluster::find_meant(client, "shop".to_owned(), None).await.map(|found| found.name);
        served.await.unwrap();
        match (found, meant) {
            (Ok(found), Ok(meant)) => assert_eq!(found, meant),
            (Err(error), Err(told)) => assert!(error.to_string().contains(told), "{error}"),
            (found, _) => panic!("{found:?} for {names:?}"),
        }
    }
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told_with_what_to_do() {
    for (status, advice) in
        [(403, "no (403); ask whoever administers"), (404, "no (404); `kubectl get broadcastclusters")]
    {
        let (client, served) = api_server(vec![refuse(CLUSTERS, status)]);
        let error = Cluster::find_meant(client, "shop".to_owned(), None).await.err().unwrap().to_string();
        served.await.unwrap();
        assert!(
            error.starts_with("BroadcastClusters of namespace shop: ") && error.contains(advice),
            "{error}"
        );
    }
}

#[tokio::test]
async fn only_pods_that_run_are_asked_and_those_that_are_ready_first() {
    let nodes = "GET /api/v1/namespaces/shop/pods?&labelSelector=app.kubernetes.io%2Finstance%3Dorders%2C\
                 app.kubernetes.io%2Fcomponent%3Dnode";
    let mut leaving = pod("orders-node-4-a", Some(4), "Running", true);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let pods = [
        pod("orders-node-10-a", Some(10), "Running", false),
        pod("orders-node-2-a", Some(2), "Running", true),
        pod("orders-node-3-a", Some(3), "Pending", false),
        leaving,
    ];
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods});
    let (cluster, served) = cluster(vec![expect(nodes, list.clone()), expect(nodes, list)]);
    let found = cluster.find("node").await.unwrap();
    let ids: Vec<_> = found.iter().map(|asked| (asked.node, asked.is_ready)).collect();
    assert_eq!(ids, [(Some(2), true), (Some(10), false)]);
    assert_eq!(cluster.find_any("node").await.unwrap().pod, "orders-node-2-a");
    drop(cluster);
    served.await.unwrap();
}

#[tokio::test]
async fn a_pod_is_asked_through_the_proxy_and_its_refusal_names_it() {
    const PATH: &str = "GET /api/v1/namespaces/shop/pods/orders-heart-a:8080/proxy/v1/status";
    let (cluster, served) =
        cluster(vec![expect(PATH, json!({"role": "active"})), refuse(PATH, 503), expect(PATH, json!([]))]);
    let look = async || {
        cluster
            .look::<std::collections::BTreeMap<String, String>>("orders-heart-a", "/v1/status", DEADLINE)
            .await
    };
    assert_eq!(look().await.unwrap()["role"], "active");
    assert_eq!(look().await.unwrap_err().to_string(), "orders-heart-a: GET /v1/status: no (503)");
    assert!(look().await.unwrap_err().to_string().contains("may be of different versions"));
    drop(cluster);
    served.await.unwrap();
}

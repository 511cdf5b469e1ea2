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

const STATUS: &str = "GET /api/v1/namespaces/shop/pods/orders-heart-a:8080/proxy/v1/status";
const REPLAY: &str = "POST /api/v1/namespaces/shop/pods/orders-heart-a:8080/proxy/v1/dead-letters/replay";

/// The resource and the Secret that it has its tokens from.
fn tokens(name: &str, auth: &serde_json::Value) -> Vec<crate::testing::Exchange> {
    let resource = json!({"apiVersion": "broadcast.dev/v1alpha1", "kind": "BroadcastCluster",
        "metadata": {"name": "orders"},
        "spec": {"rabbitmq": {"secretRef": {"name": "rabbitmq"}}, "auth": auth}});
    let encode = |text: &str| json!(k8s_openapi::ByteString(text.as_bytes().to_vec()));
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "data": {"read": encode("new\nold\n"), "write": encode("write"), "peer": encode("peer")}});
    vec![
        expect("GET /apis/broadcast.dev/v1alpha1/namespaces/shop/broadcastclusters/orders", resource),
        expect(&format!("GET /api/v1/namespaces/shop/secrets/{name}"), secret),
    ]
}

async fn ask(cluster: &Cluster, request: Builder) -> Result<String, String> {
    let answered = cluster.ask("orders-heart-a", request, "{}", DEADLINE).await;
    answered.map(|answer| answer.body).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_pod_that_asks_for_a_token_gets_those_of_the_clusters_secret() {
    let mut exchanges = vec![expect(STATUS, json!(1)).unauthorized()];
    exchanges.extend(tokens("orders-auth", &json!({})));
    exchanges.extend([
        expect(STATUS, json!(1)).with_token("new").unauthorized(),
        expect(STATUS, json!(1)).with_token("old"),
        // It is known by now.
        expect(STATUS, json!(2)).with_token("old"),
        expect(REPLAY, json!(3)).unauthorized(),
    ]);
    exchanges.extend(tokens("orders-auth", &json!({})));
    exchanges.push(expect(REPLAY, json!(3)).with_token("write").with_body(json!({})));
    let (cluster, served) = cluster(exchanges);
    assert_eq!(ask(&cluster, Request::get("/v1/status")).await.as_deref(), Ok("1"));
    assert_eq!(ask(&cluster, Request::get("/v1/status")).await.as_deref(), Ok("2"));
    assert_eq!(ask(&cluster, Request::post("/v1/dead-letters/replay")).await.as_deref(), Ok("3"));
    drop(cluster);
    served.await.unwrap();
}

#[tokio::test]
async fn a_pod_that_takes_no_token_is_told_in_its_words_and_a_secret_that_has_none_by_its_name() {
    let mut exchanges = vec![expect(STATUS, json!(1)).unauthorized()];
    exchanges.extend(tokens("mine", &json!({"secretRef": {"name": "mine"}})));
    exchanges.extend(["new", "old"].map(|token| expect(STATUS, json!(1)).with_token(token).unauthorized()));
    exchanges.push(expect(STATUS, json!(1)).unauthorized());
    exchanges.push(tokens("mine", &json!({"secretRef": {"name": "mine"}})).remove(0));
    let empty = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}});
    exchanges.push(expect("GET /api/v1/namespaces/shop/secrets/mine", empty));
    // The API server's own 401 is no reason to read a Secret.
    exchanges.push(refuse(STATUS, 401));
    let (cluster, served) = cluster(exchanges);
    for told in [
        "orders-heart-a: GET /v1/status: not one of those that are valid now (401)",
        "Secret shop/mine with the tokens: there is no token under the key read;",
        "orders-heart-a: GET /v1/status: no (401)",
    ] {
        let error = ask(&cluster, Request::get("/v1/status")).await.unwrap_err();
        assert!(error.starts_with(told), "{error}");
    }
    drop(cluster);
    served.await.unwrap();
}

use serde_json::Value;

use super::*;
use crate::testing::api_server::{Exchange, api_server, expect, refuse};
use crate::testing::{cluster, ids, valid};

const SERVICE: &str = "/api/v1/namespaces/shop/services/orders-read";
const RESOURCE: &str = "/apis/broadcast.dev/v1alpha1/namespaces/shop/broadcastclusters/orders";

fn service() -> DesiredObject {
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-read"}});
    DesiredObject::new(Kind::Service, &body).unwrap()
}

fn owned_by(uid: &str) -> Value {
    let owner = json!({"apiVersion": "broadcast.dev/v1alpha1", "kind": "BroadcastCluster", "name": "orders",
        "uid": uid, "controller": true});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-read", "ownerReferences": [owner]}})
}

async fn apply_with(steps: &[Step], observed: ObservedObjects, exchanges: Vec<Exchange>) -> Applied {
    let (client, server) = api_server(exchanges);
    let status = cluster().status.unwrap_or_default();
    let applied = {
        let tools = Tools { client: &client, known: &Known::nothing(), session: None };
        apply(steps, &valid(), &tools, observed, status).await
    };
    drop(client);
    server.await.unwrap();
    applied
}

#[tokio::test]
async fn an_object_that_is_there_is_applied_by_force_and_under_the_operators_name() {
    let answer =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-read", "uid": "new"}});
    let request = format!("PATCH {SERVICE}?&force=true&fieldManager=broadcast-operator");
    let patch = expect(&request, answer).checked(|body| assert_eq!(*body, service().body));
    let key = (Kind::Service, "orders-read".to_owned());
    let observed = ObservedObjects::from([(key.clone(), Value::Null)]);
    let applied = apply_with(&[Step::Apply(service())], observed, vec![patch]).await;
    assert!(applied.failure.is_none());
    assert_eq!(applied.objects[&key]["metadata"]["uid"], json!("new"));
}

#[tokio::test]
async fn a_name_that_is_somebody_elses_is_not_taken_over() {
    let exchanges = vec![expect(&format!("GET {SERVICE}"), owned_by("somebody else"))];
    let steps = [Step::Apply(service()), Step::RecordGenesis];
    let applied = apply_with(&steps, ObservedObjects::new(), exchanges).await;
    let failure = applied.failure.unwrap();
    assert_eq!(failure.reason(), "NameTaken");
    assert_eq!(
        failure.to_string(),
        "Service \"orders-read\" exists and does not belong to this BroadcastCluster"
    );
    assert!(!applied.status.topology.genesis, "the first failure ends the pass");
}

#[tokio::test]
async fn a_name_that_is_free_is_taken() {
    let request = format!("PATCH {SERVICE}?&force=true&fieldManager=broadcast-operator");
    let exchanges = vec![refuse(&format!("GET {SERVICE}"), 404), expect(&request, owned_by(&valid().uid))];
    let applied = apply_with(&[Step::Apply(service())], ObservedObjects::new(), exchanges).await;
    assert!(applied.failure.is_none());
}

#[tokio::test]
async fn an_object_goes_in_the_foreground_and_one_that_is_gone_is_fine() {
    let in_foreground = |body: &Value| assert_eq!(body["propagationPolicy"], json!("Foreground"));
    for delete in [
        expect(&format!("DELETE {SERVICE}?"), owned_by("any")).checked(in_foreground),
        refuse(&format!("DELETE {SERVICE}?"), 404),
    ] {
        let observed = ObservedObjects::from([((Kind::Service, "orders-read".to_owned()), Value::Null)]);
        let steps = [Step::Delete(Kind::Service, "orders-read".to_owned())];
        let applied = apply_with(&steps, observed, vec![delete]).await;
        assert!(applied.failure.is_none() && applied.objects.is_empty());
    }
}

#[tokio::test]
async fn a_refusal_says_what_was_asked_and_what_was_answered() {
    let exchanges = vec![refuse(&format!("GET {SERVICE}"), 403)];
    let applied = apply_with(&[Step::Apply(service())], ObservedObjects::new(), exchanges).await;
    let failure = applied.failure.unwrap();
    assert_eq!(
        (failure.reason(), failure.to_string().as_str()),
        ("KubernetesForbidden", "get Service orders-read: no")
    );
}

#[tokio::test]
async fn nodes_are_written_down_in_order_and_once_before_what_is_made_for_them() {
    let request = format!("PATCH {RESOURCE}/status?&force=true&fieldManager=broadcast-operator");
    let answer = || serde_json::to_value(cluster()).unwrap();
    let first = expect(&request, answer()).checked(|body| {
        assert_eq!(
            body["status"]["nodes"][1],
            json!({"id": 2, "phase": "Pending", "queue": "write_requests_node_2"})
        );
        assert_eq!(body["status"]["topology"]["backlogBytes"], json!([7]));
    });
    let steps = [
        Step::RecordNodes(ids([1, 2])),
        Step::RecordBacklogs(vec![7]),
        Step::DeclareExchange(valid().topology.exchange()),
        Step::RecordNodes(ids([1, 3])),
        Step::RecordGenesis,
    ];
    let applied = apply_with(&steps, ObservedObjects::new(), vec![first]).await;
    let recorded =
        |status: &BroadcastClusterStatus| status.nodes.iter().map(|node| node.id).collect::<Vec<_>>();
    assert_eq!((recorded(&applied.saved), recorded(&applied.status)), (vec![1, 2], vec![1, 2, 3]));
    assert!(!applied.saved.topology.genesis && applied.status.topology.genesis);
}

#[tokio::test]
async fn the_finalizer_goes_alone_and_only_from_what_was_read() {
    let mut resource = serde_json::to_value(cluster()).unwrap();
    resource["metadata"]["finalizers"] = json!(["broadcast.dev/broker-objects", "other/finalizer"]);
    resource["metadata"]["resourceVersion"] = json!("7");
    let patch = expect(&format!("PATCH {RESOURCE}?&fieldManager=broadcast-operator"), resource.clone())
        .checked(|body| {
            assert_eq!(body["metadata"], json!({"finalizers": ["other/finalizer"], "resourceVersion": "7"}));
        });
    let exchanges = vec![expect(&format!("GET {RESOURCE}"), resource), patch];
    let applied = apply_with(&[Step::RemoveFinalizer], ObservedObjects::new(), exchanges).await;
    assert!(applied.failure.is_none());
}

use kube::runtime::events::{Recorder, Reporter};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::*;
use crate::controller::events::events;
use crate::testing::api_server::{Kept, keeping_api_server};
use crate::testing::{cluster, installation};

const RESOURCE: &str = "/apis/broadcast.dev/v1alpha1/namespaces/shop/broadcastclusters/orders";
const SECRET: &str = "/api/v1/namespaces/shop/secrets/rabbitmq";

const EVENTS: &str = "POST /apis/events.k8s.io/v1/namespaces/shop/events";

const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// An API server with these objects and an operator that talks to it.
fn operator(objects: &[(&str, Value)]) -> (Arc<Context>, Arc<Mutex<Kept>>) {
    operator_that_leads(objects, |_| Leadership::unlimited())
}

fn operator_that_leads(
    objects: &[(&str, Value)],
    leadership: impl FnOnce(Arc<Mutex<Kept>>) -> Leadership,
) -> (Arc<Context>, Arc<Mutex<Kept>>) {
    let objects = objects.iter().map(|(path, object)| ((*path).to_owned(), object.clone())).collect();
    let (client, kept) = keeping_api_server(objects);
    let turns = Arc::new(Semaphore::new(1));
    let recorder = Recorder::new(client.clone(), Reporter::from("test".to_owned()));
    let (events, publisher) = events(recorder, turns.clone());
    tokio::spawn(publisher.run());
    let context = Context {
        events,
        client,
        known: Known::nothing(),
        http: reqwest::Client::new(),
        installation: installation(),
        brokers: Brokers::default(),
        stores: Vec::new(),
        known_at_start: Mutex::default(),
        deletion_patience: PATIENCE,
        metrics: Metrics::register(&mut Registry::default()),
        memory: Memory::default(),
        leadership: leadership(kept.clone()),
        turns,
    };
    (Arc::new(context), kept)
}

fn resource() -> Value {
    serde_json::to_value(cluster()).unwrap()
}

async fn pass(context: &Arc<Context>) -> Result<Action, ReconcileError> {
    reconcile(Arc::new(DeserializeGuard(Ok(cluster()))), context.clone()).await
}

/// Events are published while passes go on.
async fn wait_for_event(kept: &Mutex<Kept>) {
    let is_there = || kept.lock().unwrap().writes.iter().any(|write| write == EVENTS);
    let wait = async {
        while !is_there() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
}

fn condition_of(kept: &Mutex<Kept>, type_: &str) -> (String, String) {
    let kept = kept.lock().unwrap();
    let conditions = kept.objects[RESOURCE]["status"]["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|condition| condition["type"] == type_).unwrap();
    (condition["status"].as_str().unwrap().to_owned(), condition["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_missing_secret_is_told_once_and_then_nothing_is_written() {
    let (context, kept) = operator(&[(RESOURCE, resource())]);
    let error = pass(&context).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.to_string().as_str()),
        ("SecretMissing", "Secret \"rabbitmq\" does not exist")
    );
    let (standing, message) = condition_of(&kept, "BrokerReachable");
    assert_eq!((standing.as_str(), message.as_str()), ("False", "Secret \"rabbitmq\" does not exist"));
    wait_for_event(&kept).await;
    let writes = std::mem::take(&mut kept.lock().unwrap().writes);
    assert_eq!(
        writes,
        [format!("PATCH {RESOURCE}/status"), EVENTS.to_owned()],
        "nothing is made before there is a broker"
    );

    pass(&context).await.unwrap_err();
    assert_eq!(kept.lock().unwrap().writes, [""; 0]);
}

#[tokio::test]
async fn a_secret_without_a_key_and_a_broker_that_is_not_there_have_reasons_of_their_own() {
    // A port that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let uri = format!("amqp://a:s3cret@127.0.0.1:{port}/");
    let cases = [
        (
            json!({"username": "YQ=="}),
            "SecretLacksKeys",
            "Secret \"rabbitmq\" lacks host, password".to_owned(),
        ),
        (
            json!({"uri": k8s_openapi::ByteString(uri.into_bytes())}),
            "BrokerUnreachable",
            format!("127.0.0.1:{port} is unreachable"),
        ),
    ];
    for (data, reason, message) in cases {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "rabbitmq"}, "data": data});
        let (context, kept) = operator(&[(RESOURCE, resource()), (SECRET, secret)]);
        let error = pass(&context).await.unwrap_err();
        assert_eq!(error.reason(), reason);
        let (standing, found) = condition_of(&kept, "Ready");
        assert!(standing == "False" && found.contains(&message) && !found.contains("s3cret"), "{found}");
    }
}

#[tokio::test]
async fn tokens_that_cannot_be_used_are_told_with_secret_and_key_and_no_pod_is_made() {
    let mut resource = resource();
    resource["status"] = json!({"topology": {"genesis": true}});
    resource["spec"]["auth"] = json!({"secretRef": {"name": "mine"}});
    let encode = |text: &str| json!(k8s_openapi::ByteString(text.as_bytes().to_vec()));
    let good = encode("good-token-0123456789");
    for (data, reason, message) in [
        (None, "SecretMissing", "spec.auth: Secret \"mine\" does not exist"),
        (
            Some(json!({"write": good, "read": good})),
            "SecretLacksKeys",
            "spec.auth: Secret \"mine\" lacks peer: each of the keys write, read and peer needs tokens, one a line",
        ),
        (
            Some(json!({"write": good, "read": good, "peer": encode("s3cret")})),
            "SecretInvalid",
            "spec.auth: Secret \"mine\", key \"peer\": line 1: a token has 16 to 512 characters",
        ),
    ] {
        let mut objects = vec![(RESOURCE, resource.clone())];
        let metadata = json!({"name": "mine"});
        objects.extend(data.map(|data| {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data});
            ("/api/v1/namespaces/shop/secrets/mine", secret)
        }));
        let (context, kept) = operator(&objects);
        pass(&context).await.unwrap_err();
        assert_eq!(condition_of(&kept, "HeartAvailable"), ("Unknown".to_owned(), message.to_owned()));
        assert_eq!(condition_of(&kept, "Stalled").0, "True");
        let conditions = kept.lock().unwrap().objects[RESOURCE]["status"]["conditions"].to_string();
        assert!(conditions.contains(reason), "{conditions}");
        let writes = &kept.lock().unwrap().writes;
        assert!(writes.iter().any(|write| write.ends_with("/services/orders-read")), "{writes:?}");
        assert!(!writes.iter().any(|write| write.contains("/deployments/")), "{writes:?}");
    }
}

#[tokio::test]
async fn a_resource_that_was_never_made_on_the_broker_goes_at_once() {
    let mut resource = resource();
    resource["metadata"]["deletionTimestamp"] = json!(Timestamp::now());
    let (context, kept) = operator(&[(RESOURCE, resource)]);
    pass(&context).await.unwrap();
    let kept = kept.lock().unwrap();
    assert_eq!(kept.writes, [format!("PATCH {RESOURCE}")]);
    assert_eq!(kept.objects[RESOURCE]["metadata"]["finalizers"], json!([]));
}

#[tokio::test]
async fn a_resource_whose_broker_is_gone_is_let_go_after_a_while_and_what_is_left_is_told() {
    let deleted = |ago: jiff::SignedDuration| {
        let mut resource = resource();
        resource["metadata"]["deletionTimestamp"] = json!(Timestamp::now() - ago);
        resource["status"] =
            json!({"nodes": [{"id": 1, "phase": "Ready", "queue": "write_requests_node_1"}]});
        resource
    };
    let (context, kept) = operator(&[(RESOURCE, deleted(PATIENCE / 2))]);
    assert_eq!(pass(&context).await.unwrap_err().reason(), "SecretMissing");
    let finalizers = kept.lock().unwrap().objects[RESOURCE]["metadata"]["finalizers"].clone();
    assert_eq!(finalizers, json!([FINALIZER]));

    let (context, kept) = operator(&[(RESOURCE, deleted(PATIENCE * 2))]);
    pass(&context).await.unwrap();
    assert_eq!(kept.lock().unwrap().objects[RESOURCE]["metadata"]["finalizers"], json!([]));
    wait_for_event(&kept).await;
}

#[tokio::test]
async fn a_resource_that_is_not_valid_does_not_hang_in_its_deletion() {
    let deleted = |ago: SignedDuration, edit: &dyn Fn(&mut Value)| {
        let mut resource = resource();
        resource["metadata"]["deletionTimestamp"] = json!(Timestamp::now() - ago);
        edit(&mut resource);
        resource
    };
    // An annotation is about a resource that is wanted.
    let annotated = deleted(PATIENCE / 2, &|resource| {
        resource["metadata"]["annotations"] = json!({"broadcast.dev/paused": "perhaps"});
    });
    let (context, kept) = operator(&[(RESOURCE, annotated)]);
    pass(&context).await.unwrap();
    assert_eq!(kept.lock().unwrap().objects[RESOURCE]["metadata"]["finalizers"], json!([]));

    let wrong = |resource: &mut Value| resource["spec"]["backlog"] = json!({"maxBytes": "1"});
    let (context, kept) = operator(&[(RESOURCE, deleted(PATIENCE / 2, &wrong))]);
    assert_eq!(pass(&context).await.unwrap_err().reason(), "InvalidSpec");
    assert_eq!(kept.lock().unwrap().objects[RESOURCE]["metadata"]["finalizers"], json!([FINALIZER]));
    let (context, kept) = operator(&[(RESOURCE, deleted(PATIENCE * 2, &wrong))]);
    pass(&context).await.unwrap();
    assert_eq!(kept.lock().unwrap().objects[RESOURCE]["metadata"]["finalizers"], json!([]));
    wait_for_event(&kept).await;
}

#[tokio::test]
async fn a_namespace_that_takes_its_secrets_first_does_not_hide_the_broker() {
    let uri = json!({"uri": k8s_openapi::ByteString(b"amqp://a:b@127.0.0.1:1/".to_vec())});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "rabbitmq"}, "data": uri});
    let (context, kept) = operator(&[(RESOURCE, resource()), (SECRET, secret)]);
    assert_eq!(pass(&context).await.unwrap_err().reason(), "BrokerUnreachable");

    let mut objects = std::mem::take(&mut kept.lock().unwrap().objects);
    objects.retain(|path, _| path == RESOURCE);
    let resource = objects.get_mut(RESOURCE).unwrap();
    resource["metadata"]["deletionTimestamp"] = json!(Timestamp::now());
    resource["status"]["nodes"] = json!([{"id": 1, "phase": "Ready", "queue": "write_requests_node_1"}]);
    kept.lock().unwrap().objects = objects;
    assert_eq!(pass(&context).await.unwrap_err().reason(), "BrokerUnreachable");
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_is_told_and_keeps_the_rest_of_its_status() {
    let mut resource = resource();
    resource["spec"]["nodes"]["replicas"] = json!("three");
    resource["status"] = json!({"topology": {"genesis": true}});
    let (context, kept) = operator(&[(RESOURCE, resource)]);
    assert_eq!(pass(&context).await.unwrap_err().reason(), "UnreadableResource");
    let (standing, message) = condition_of(&kept, "Ready");
    assert!(standing == "False" && message.contains("three"), "{message}");
    assert_eq!(kept.lock().unwrap().objects[RESOURCE]["status"]["topology"]["genesis"], json!(true));
    kept.lock().unwrap().writes.clear();
    pass(&context).await.unwrap_err();
    assert_eq!(kept.lock().unwrap().writes, [""; 0]);
}

#[tokio::test]
async fn a_pass_ends_with_leadership_wherever_it_is() {
    for allowed in [0, 1, 3] {
        // A clock that goes on by one with every write.
        let leadership = |kept: Arc<Mutex<Kept>>| {
            let clock = move || Duration::from_secs(kept.lock().unwrap().writes.len() as u64);
            let leadership = Leadership::on_clock(Arc::new(clock));
            leadership.last_until(Duration::from_secs(allowed));
            leadership
        };
        let mut resource = resource();
        resource["status"] = json!({"topology": {"genesis": true}});
        let (context, kept) = operator_that_leads(&[(RESOURCE, resource)], leadership);
        assert_eq!(pass(&context).await.unwrap_err().reason(), "NotLeading");
        assert_eq!(kept.lock().unwrap().writes.len() as u64, allowed);
    }
}

#[tokio::test]
async fn a_pass_that_has_no_turn_when_the_process_stops_does_nothing() {
    let (context, kept) = operator(&[(RESOURCE, resource())]);
    let turn = context.turns.acquire().await.unwrap();
    let (passed, ()) = tokio::join!(pass(&context), async { context.turns.close() });
    drop(turn);
    assert_eq!(passed.unwrap(), Action::await_change());
    assert_eq!(kept.lock().unwrap().writes, [""; 0]);
}

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::testing::api_server::{Exchange, api_server, expect, falling_silent_api_server, refuse};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases";
const TIME: &str = "2026-01-01T00:00:00.000000Z";

fn get(answer: Value) -> Exchange {
    expect(&format!("GET {LEASES}/operator"), answer)
}

fn put() -> String {
    format!("PUT {LEASES}/operator?&fieldManager=broadcast-operator")
}

fn post() -> String {
    format!("POST {LEASES}?&fieldManager=broadcast-operator")
}

fn lease(version: &str, spec: &Value) -> Value {
    let labels = json!({"of": "somebody"});
    let metadata =
        json!({"name": "operator", "namespace": "system", "resourceVersion": version, "labels": labels});
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})
}

fn held_by(holder: &str, version: &str) -> Value {
    lease(version, &json!({"holderIdentity": holder, "renewTime": TIME, "leaseTransitions": 4}))
}

/// An election in which these requests are made, on the test's own clock.
fn election(exchanges: Vec<Exchange>) -> (Election, Leadership, JoinHandle<()>) {
    let (client, server) = api_server(exchanges);
    let (election, leadership) = election_with(client);
    (election, leadership, server)
}

fn election_with(client: Client) -> (Election, Leadership) {
    let start = tokio::time::Instant::now();
    let leadership = Leadership::on_clock(Arc::new(move || start.elapsed()));
    let names =
        LeaseNames { namespace: "system".to_owned(), name: "operator".to_owned(), identity: "me".to_owned() };
    (Election::new(client, names, leadership.clone()), leadership)
}

fn readiness() -> watch::Sender<Readiness> {
    watch::Sender::new(Readiness::NotReady("starting".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_lease_it_is_created() {
    let create = expect(&post(), held_by("me", "1")).checked(|body| {
        assert_eq!(body["metadata"], json!({"name": "operator"}));
        let spec = &body["spec"];
        assert_eq!((&spec["holderIdentity"], &spec["leaseDurationSeconds"]), (&json!("me"), &json!(15)));
        assert_eq!(spec["leaseTransitions"], json!(0));
    });
    let (mut election, leadership, server) =
        election(vec![refuse(&format!("GET {LEASES}/operator"), 404), create]);
    election.win(&readiness()).await.unwrap();
    assert!(leadership.is_valid());
    drop(election);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_that_creates_it_too_late_stands_by() {
    let exchanges = vec![
        refuse(&format!("GET {LEASES}/operator"), 404),
        refuse(&post(), 409),
        get(held_by("other", "1")),
    ];
    let (mut election, leadership, server) = election(exchanges);
    let readiness = readiness();
    let win = timeout(Duration::from_secs(3), election.win(&readiness)).await;
    assert!(win.is_err() && !leadership.is_valid());
    assert_eq!(*readiness.borrow(), Readiness::Standby);
    drop(election);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_says_nothing_is_taken_with_its_version_and_what_others_put_into_it() {
    for spec in [Value::Null, json!({}), json!({"leaseTransitions": 4, "renewTime": TIME})] {
        let transitions = spec["leaseTransitions"].as_i64().unwrap_or(0) + 1;
        let replace = expect(&put(), held_by("me", "8")).checked(move |body| {
            assert_eq!(body["metadata"]["resourceVersion"], json!("7"));
            assert_eq!(body["metadata"]["labels"], json!({"of": "somebody"}));
            assert_eq!(body["spec"]["leaseTransitions"], json!(transitions));
        });
        let (mut election, leadership, server) = election(vec![get(lease("7", &spec)), replace]);
        election.win(&readiness()).await.unwrap();
        assert!(leadership.is_valid());
        drop(election);
        server.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_is_anothers_stops_at_once() {
    for (found, expected) in [
        (get(held_by("other", "9")), Loss::Taken("other".to_owned())),
        (refuse(&format!("GET {LEASES}/operator"), 404), Loss::Deleted),
    ] {
        let exchanges = vec![
            get(lease("7", &Value::Null)),
            expect(&put(), held_by("me", "8")),
            refuse(&put(), if expected == Loss::Deleted { 404 } else { 409 }),
            found,
        ];
        let (mut election, leadership, server) = election(exchanges);
        election.win(&readiness()).await.unwrap();
        let soon = leadership.now() + Duration::from_secs(3);
        assert_eq!(election.hold().await, expected);
        assert!(!leadership.is_valid());
        assert!(leadership.now() < soon, "{:?}", leadership.now());
        drop(election);
        server.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_gets_no_answer_stops_when_its_time_is_over() {
    let exchanges = vec![get(lease("7", &Value::Null)), expect(&put(), held_by("me", "8"))];
    let (client, server) = falling_silent_api_server(exchanges);
    let (mut election, leadership) = election_with(client);
    election.win(&readiness()).await.unwrap();
    let end = leadership.now() + Duration::from_secs(10);
    assert_eq!(election.hold().await, Loss::Expired);
    assert!(!leadership.is_valid());
    assert!(leadership.now() <= end + Duration::from_millis(10), "{:?}", leadership.now());
    drop(election);
    assert_eq!(server.await.unwrap(), 3, "unanswered requests");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_may_not_read_the_lease_is_not_ready_and_says_why() {
    let (mut election, leadership, server) = election(vec![refuse(&format!("GET {LEASES}/operator"), 403)]);
    let readiness = readiness();
    let win = timeout(Duration::from_secs(1), election.win(&readiness)).await;
    assert!(win.is_err() && !leadership.is_valid());
    assert_eq!(*readiness.borrow(), Readiness::NotReady("the Lease cannot be used: no".to_owned()));
    drop(election);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_nobodys_even_if_somebody_annotates_it_meanwhile() {
    let vacate = || {
        expect(&put(), lease("12", &json!({}))).checked(|body| {
            assert_eq!(body["spec"]["holderIdentity"], Value::Null);
            assert_eq!(body["spec"]["leaseTransitions"], json!(4));
        })
    };
    let exchanges = vec![
        get(lease("7", &Value::Null)),
        expect(&put(), held_by("me", "8")),
        get(held_by("me", "9")),
        refuse(&put(), 409),
        get(held_by("me", "10")),
        vacate().checked(|body| assert_eq!(body["metadata"]["resourceVersion"], json!("10"))),
    ];
    let (mut election, leadership, server) = election(exchanges);
    election.win(&readiness()).await.unwrap();
    election.release().await;
    assert!(!leadership.is_valid());
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_has_taken_is_not_released() {
    let exchanges =
        vec![get(lease("7", &Value::Null)), expect(&put(), held_by("me", "8")), get(held_by("other", "9"))];
    let (mut election, _, server) = election(exchanges);
    election.win(&readiness()).await.unwrap();
    election.release().await;
    server.await.unwrap();
}

//! An API server that expects certain requests in order and answers each as told.

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_test::mock::{self, Handle};

use crate::cluster::Cluster;

/// A request that is expected, and its answer.
pub(crate) struct Exchange {
    request: String,
    body: Option<Value>,
    token: Option<String>,
    status: u16,
    answer: Value,
}

/// Expects a request such as `GET /api/v1/…?…`.
pub(crate) fn expect(request: &str, answer: Value) -> Exchange {
    Exchange { request: request.to_owned(), body: None, token: None, status: 200, answer }
}

/// Expects a request that is answered with an error.
pub(crate) fn refuse(request: &str, status: u16) -> Exchange {
    let answer =
        json!({"kind": "Status", "status": "Failure", "code": status, "message": "no", "reason": "no"});
    Exchange { status, ..expect(request, answer) }
}

impl Exchange {
    /// With this token; without it, none.
    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { token: Some(format!("Bearer {token}")), ..self }
    }

    /// Answered as a pod does that wants another token.
    pub(crate) fn unauthorized(self) -> Self {
        let answer =
            json!({"error": {"code": "unauthorized", "message": "not one of those that are valid now"}});
        Self { status: 401, answer, ..self }
    }

    /// With this JSON as its body.
    pub(crate) fn with_body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }
}

/// The client of a server that expects these requests and no others; await the handle, once the client is dropped, to
/// know that all came.
pub(crate) fn api_server(exchanges: Vec<Exchange>) -> (Client, JoinHandle<()>) {
    let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
    (Client::new(service, "default"), tokio::spawn(serve(handle, exchanges)))
}

/// The same for `shop/orders`.
pub(crate) fn cluster(exchanges: Vec<Exchange>) -> (Cluster, JoinHandle<()>) {
    let (client, served) = api_server(exchanges);
    (Cluster::of(client, "shop", "orders"), served)
}

async fn serve(mut handle: Handle<Request<Body>, Response<Body>>, exchanges: Vec<Exchange>) {
    for exchange in exchanges {
        let Some((request, send)) = handle.next_request().await else {
            panic!("{} did not come", exchange.request);
        };
        assert_eq!(format!("{} {}", request.method(), request.uri()), exchange.request);
        let token = request.headers().get("broadcast-authorization");
        let token = token.map(|token| token.to_str().unwrap().to_owned());
        assert_eq!(token, exchange.token, "{}", exchange.request);
        let body = request.into_body().collect_bytes().await.unwrap();
        if let Some(expected) = exchange.body {
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
        }
        let answer = Body::from(serde_json::to_vec(&exchange.answer).unwrap());
        send.send_response(Response::builder().status(exchange.status).body(answer).unwrap());
    }
    if let Some((request, _)) = handle.next_request().await {
        panic!("{} {} was not expected", request.method(), request.uri());
    }
}

/// A pod of `shop/orders`.
pub(crate) fn pod(name: &str, node: Option<u32>, phase: &str, is_ready: bool) -> Value {
    let labels = node.map_or_else(|| json!({}), |node| json!({"broadcast.dev/node-id": node.to_string()}));
    let ready = if is_ready { "True" } else { "False" };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    })
}

//! API servers: one that expects certain requests in order and answers each as told, and one that keeps what is
//! written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_test::mock::{self, Handle};

/// A request that is expected, and its answer.
pub(crate) struct Exchange {
    request: String,
    check: Box<dyn FnOnce(&Value) + Send>,
    status: u16,
    answer: Value,
}

/// Expects a request such as `GET /api/v1/…?…`; anything in its body is fine.
pub(crate) fn expect(request: &str, answer: Value) -> Exchange {
    Exchange { request: request.to_owned(), check: Box::new(|_| {}), status: 200, answer }
}

/// Expects a request that is answered with an error.
pub(crate) fn refuse(request: &str, status: u16) -> Exchange {
    Exchange { status, ..expect(request, failure(status)) }
}

fn failure(status: u16) -> Value {
    let reason = if status == 404 { "NotFound" } else { "Other" };
    json!({"kind": "Status", "status": "Failure", "code": status, "message": "no", "reason": reason})
}

impl Exchange {
    /// Checks the body of the request.
    pub(crate) fn checked(self, check: impl FnOnce(&Value) + Send + 'static) -> Self {
        Self { check: Box::new(check), ..self }
    }
}

/// The client of a server that expects these requests and no others; await the handle to know that all came.
pub(crate) fn api_server(exchanges: Vec<Exchange>) -> (Client, JoinHandle<()>) {
    let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
    (Client::new(service, "default"), tokio::spawn(serve(handle, exchanges)))
}

/// The client of a server that answers these requests and then takes all that come without a word. The task counts
/// those.
pub(crate) fn falling_silent_api_server(exchanges: Vec<Exchange>) -> (Client, JoinHandle<usize>) {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    let server = tokio::spawn(async move {
        answer_in_order(&mut handle, exchanges).await;
        let mut unanswered = Vec::new();
        while let Some((_, send)) = handle.next_request().await {
            unanswered.push(send);
        }
        unanswered.len()
    });
    (Client::new(service, "default"), server)
}

async fn serve(mut handle: Handle<Request<Body>, Response<Body>>, exchanges: Vec<Exchange>) {
    answer_in_order(&mut handle, exchanges).await;
    if let Some((request, _)) = handle.next_request().await {
        panic!("{} {} was not expected", request.method(), request.uri());
    }
}

async fn answer_in_order(handle: &mut Handle<Request<Body>, Response<Body>>, exchanges: Vec<Exchange>) {
    for exchange in exchanges {
        let Some((request, send)) = handle.next_request().await else {
            panic!("{} did not come", exchange.request);
        };
        assert_eq!(format!("{} {}", request.method(), request.uri()), exchange.request);
        let body = request.into_body().collect_bytes().await.unwrap();
        (exchange.check)(&serde_json::from_slice(&body).unwrap_or_default());
        let answer = Body::from(serde_json::to_vec(&exchange.answer).unwrap());
        send.send_response(Response::builder().status(exchange.status).body(answer).unwrap());
    }
}

/// What an API server keeps, by path, and every write, as `PATCH /api/v1/…`.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) objects: BTreeMap<String, Value>,
    pub(crate) writes: Vec<String>,
}

/// The client of a server that keeps what is written, without defaults, garbage collection or label selectors.
pub(crate) fn keeping_api_server(objects: BTreeMap<String, Value>) -> (Client, Arc<Mutex<Kept>>) {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    let kept = Arc::new(Mutex::new(Kept { objects, writes: Vec::new() }));
    let server = kept.clone();
    tokio::spawn(async move {
        while let Some((request, send)) = handle.next_request().await {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let body = request.into_body().collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let answer = answer(&mut server.lock().unwrap(), &method, &path, body);
            let (status, answer) = answer.map_or_else(|| (404, failure(404)), |answer| (200, answer));
            let answer = Body::from(serde_json::to_vec(&answer).unwrap());
            send.send_response(Response::builder().status(status).body(answer).unwrap());
        }
    });
    (Client::new(service, "default"), kept)
}

fn answer(kept: &mut Kept, method: &Method, path: &str, body: Value) -> Option<Value> {
    if *method != Method::GET {
        kept.writes.push(format!("{method} {path}"));
    }
    match *method {
        Method::PATCH => {
            let object = kept.objects.entry(path.trim_end_matches("/status").to_owned()).or_insert(json!({}));
            merge(object, body);
            Some(object.clone())
        }
        Method::POST => Some(body),
        Method::DELETE => kept.objects.remove(path),
        _ => kept.objects.get(path).cloned().or_else(|| list(kept, path)),
    }
}

/// A path that ends with a plural and not with a name is a list.
fn list(kept: &Kept, path: &str) -> Option<Value> {
    let is_list = path.rsplit_once('/').is_some_and(|(parent, _)| parent.ends_with("/shop"));
    let items: Vec<_> = kept.objects.iter().filter(|(key, _)| key.starts_with(&format!("{path}/"))).collect();
    let without_type = |object: &Value| {
        let mut object = object.clone();
        object.as_object_mut().unwrap().retain(|key, _| key != "apiVersion" && key != "kind");
        object
    };
    let items: Vec<_> = items.into_iter().map(|(_, object)| without_type(object)).collect();
    is_list.then(|| json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
}

fn merge(object: &mut Value, patch: Value) {
    match (object, patch) {
        (Value::Object(fields), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(fields.entry(key).or_insert(Value::Null), value);
            }
        }
        (place, patch) => *place = patch,
    }
}

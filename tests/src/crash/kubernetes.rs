//! The way to the API server.

use std::future::pending;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::response::{IntoResponse, Response};
use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Gate, Turn};

/// More than any object has.
const MAX_BODY_BYTES: usize = 4 << 20;

/// A proxy on loopback, without TLS. It ends when this is dropped.
#[derive(Debug)]
pub struct KubernetesProxy {
    url: String,
    server: JoinHandle<()>,
}

impl KubernetesProxy {
    /// A proxy for what this client may do.
    pub async fn start(client: Client, gate: Gate) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(pass_on).with_state((client, gate));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, server }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for KubernetesProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass_on(State((client, gate)): State<(Client, Gate)>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let turn = if method.is_safe() { Turn::Pass } else { gate.take(format!("{method} {}", shorten(&path))) };
    if turn == Turn::Never {
        return pending().await;
    }
    let answer = send(&client, request).await;
    if turn == Turn::Last {
        gate.close();
        return pending().await;
    }
    answer
}

async fn send(client: &Client, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    // The client has its own.
    for name in [HOST, AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
    let request = Request::from_parts(parts, kube::client::Body::from(body));
    match client.send(request).await {
        Ok(answer) => {
            let (mut parts, body) = answer.into_parts();
            parts.headers.remove(TRANSFER_ENCODING);
            Response::from_parts(parts, Body::new(body))
        }
        Err(error) => (axum::http::StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// What is left is `deployments/orders-node-1`, whatever the namespace.
fn shorten(path: &str) -> &str {
    path.split_once("/namespaces/").and_then(|(_, rest)| rest.split_once('/')).map_or(path, |(_, rest)| rest)
}

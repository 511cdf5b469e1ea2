//! The admin interface: alive, ready and why not, metrics. It answers whatever the rest of the process does.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::http::with_json_fallbacks;

/// Whether the process can do its work now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It could, and waits until it is its turn.
    Standby,
    /// It cannot, and why.
    NotReady(String),
}

/// What the admin server shows.
#[derive(Clone)]
struct Admin {
    readiness: watch::Receiver<Readiness>,
    registry: Arc<Registry>,
}

/// `/healthz`, `/readyz` and `/metrics`.
pub fn admin_router(readiness: watch::Receiver<Readiness>, registry: Registry) -> Router {
    let admin = Admin { readiness, registry: Arc::new(registry) };
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(answer_readiness))
        .route("/metrics", get(answer_metrics));
    with_json_fallbacks(router).with_state(admin)
}

async fn answer_readiness(State(admin): State<Admin>) -> Response {
    match &*admin.readiness.borrow() {
        Readiness::Ready => "ready\n".into_response(),
        Readiness::Standby => "standby\n".into_response(),
        Readiness::NotReady(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
    }
}

async fn answer_metrics(State(admin): State<Admin>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    match encode(&mut text, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_follows_the_process_and_says_why_not() {
        let (sender, receiver) = watch::channel(Readiness::NotReady("connecting".to_owned()));
        let router = admin_router(receiver, Registry::default());
        assert_eq!(
            ask(&router, "/readyz").await,
            (StatusCode::SERVICE_UNAVAILABLE, "connecting\n".to_owned())
        );
        assert_eq!(ask(&router, "/healthz").await.0, StatusCode::OK);
        sender.send_replace(Readiness::Ready);
        assert_eq!(ask(&router, "/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
        sender.send_replace(Readiness::Standby);
        assert_eq!(ask(&router, "/readyz").await, (StatusCode::OK, "standby\n".to_owned()));
        assert_eq!(ask(&router, "/else").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn metrics_are_open_metrics() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("beats", "Heart beats", counter.clone());
        counter.inc();
        let (_sender, receiver) = watch::channel(Readiness::Ready);
        let (status, text) = ask(&admin_router(receiver, registry), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("beats_total 1\n") && text.ends_with("# EOF\n"), "{text}");
    }
}

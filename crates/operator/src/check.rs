//! The check of an installation from inside the cluster, which `helm test` runs: a running operator is ready, and
//! with its rights the resources can be listed where it watches. It changes nothing.

use std::time::Duration;

use broadcast_service::http::http_client;
use kube::Client;
use kube::api::ListParams;
use tokio::time::{Instant, sleep, timeout};

use crate::controller::error::ReconcileError;
use crate::controller::watched_clusters;
use crate::settings::Settings;

/// How long a new operator may take until clients are sent to it.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// How long one answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// What is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No way to the API server is configured.
    #[error("no Kubernetes cluster: {0}")]
    NoCluster(#[source] Box<kube::Error>),
    /// The HTTP client cannot be set up.
    #[error("HTTP client: {0}")]
    Http(#[source] reqwest::Error),
    /// No operator said that it is ready.
    #[error("{url}: {problem}")]
    NotReady {
        /// Who was asked.
        url: String,
        /// The last answer.
        problem: String,
    },
    /// The resources cannot be listed: their definition is missing, or the rights.
    #[error("BroadcastClusters in {place}: {problem}")]
    NotListed {
        /// Where.
        place: String,
        /// The API server's answer.
        problem: String,
    },
}

/// Checks the installation; `ready` is the URL of an operator's `/readyz`, which is asked if there is one.
pub async fn check_installation(settings: &Settings, ready: Option<&str>) -> Result<(), CheckError> {
    let client = Client::try_default().await.map_err(|error| CheckError::NoCluster(Box::new(error)))?;
    for namespace in settings.namespaces() {
        check_resources(&client, namespace.as_deref()).await?;
    }
    match ready {
        Some(url) => check_ready(&http_client().map_err(CheckError::Http)?, url, READY_DEADLINE).await,
        None => Ok(()),
    }
}

async fn check_resources(client: &Client, namespace: Option<&str>) -> Result<(), CheckError> {
    let place = namespace.map_or("all namespaces".to_owned(), |name| format!("namespace {name}"));
    let clusters = watched_clusters(client, namespace);
    let parameters = ListParams::default().limit(1);
    let problem = match timeout(ANSWER_DEADLINE, clusters.list(&parameters)).await {
        Ok(Ok(_)) => {
            println!("BroadcastClusters in {place}: served");
            return Ok(());
        }
        Ok(Err(error)) => ReconcileError::kube("list")(error).to_string(),
        Err(_) => "no answer from the API server".to_owned(),
    };
    Err(CheckError::NotListed { place, problem })
}

async fn check_ready(client: &reqwest::Client, url: &str, patience: Duration) -> Result<(), CheckError> {
    let deadline = Instant::now() + patience;
    loop {
        match ask(client, url).await {
            Ok(()) => {
                println!("{url}: ready");
                return Ok(());
            }
            Err(problem) if Instant::now() >= deadline => {
                return Err(CheckError::NotReady { url: url.to_owned(), problem });
            }
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn ask(client: &reqwest::Client, url: &str) -> Result<(), String> {
    let answer = client.get(url).timeout(ANSWER_DEADLINE).send().await;
    let answer = answer.map_err(|error| error.without_url().to_string())?;
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    if status.is_success() { Ok(()) } else { Err(format!("{status}: {}", text.trim())) }
}

#[cfg(test)]
mod tests {
    use broadcast_service::admin::{Readiness, admin_router};
    use broadcast_service::http::serve;
    use prometheus_client::registry::Registry;
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::testing::api_server::{api_server, expect, refuse};

    #[tokio::test]
    async fn an_operator_that_is_ready_passes_and_another_says_why_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        let (readiness, seen) = watch::channel(Readiness::NotReady("starting".to_owned()));
        let shutdown = CancellationToken::new();
        let router = admin_router(seen, Registry::default());
        tokio::spawn(serve(listener, router, shutdown.clone(), Duration::ZERO));
        let client = http_client().unwrap();
        let error = check_ready(&client, &url, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{url}: 503 Service Unavailable: starting"));
        readiness.send_replace(Readiness::Ready);
        check_ready(&client, &url, Duration::ZERO).await.unwrap();
        shutdown.cancel();
    }

    #[tokio::test]
    async fn resources_are_listed_where_the_operator_watches() {
        let empty = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []});
        let all = "GET /apis/broadcast.dev/v1alpha1/broadcastclusters?&limit=1";
        let own = "GET /apis/broadcast.dev/v1alpha1/namespaces/shop/broadcastclusters?&limit=1";
        let (client, requests) = api_server(vec![expect(all, empty), refuse(own, 403)]);
        check_resources(&client, None).await.unwrap();
        let error = check_resources(&client, Some("shop")).await.unwrap_err();
        assert_eq!(error.to_string(), "BroadcastClusters in namespace shop: list: no");
        drop(client);
        requests.await.unwrap();
    }
}

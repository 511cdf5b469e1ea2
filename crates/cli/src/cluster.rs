//! One `BroadcastCluster`: its resource, and its hearts and nodes through the API server's proxy.

use std::time::Duration;

use broadcast_api::BroadcastCluster;
use http::request::Builder;
use http::{Request, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::client::Body;
use kube::config::KubeConfigOptions;
use kube::{Client, Config, ResourceExt};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::de::DeserializeOwned;

use crate::arguments::Connection;
use crate::error::CliError;

/// How long the API server has for one answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// The port of the HTTP interface, in hearts and nodes.
const HTTP_PORT: u16 = 8080;

/// The label with a node's id.
const NODE_ID_LABEL: &str = "broadcast.dev/node-id";

/// What may not stand in a segment of a path.
const SEGMENT: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'/').add(b'?').add(b'<').add(b'>').add(b'\\');

/// A cluster.
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
    name: String,
}

/// A pod that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Its name.
    pub(crate) pod: String,
    /// The id of the node that it is, if it is one.
    pub(crate) node: Option<u32>,
    /// Whether Kubernetes calls it ready.
    pub(crate) is_ready: bool,
}

impl Cluster {
    /// Finds out which Kubernetes is meant. Asks it nothing yet.
    pub(crate) async fn connect(connection: &Connection, name: &str) -> Result<Self, CliError> {
        let config = match &connection.context {
            Some(context) => {
                let options =
                    KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                Config::from_kubeconfig(&options)
                    .await
                    .map_err(|error| CliError::Kubeconfig(error.to_string()))?
            }
            None => Config::infer().await.map_err(|error| CliError::Kubeconfig(error.to_string()))?,
        };
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| CliError::Kubeconfig(error.to_string()))?;
        Ok(Self { client, namespace, name: name.to_owned() })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The resource.
    pub(crate) async fn fetch(&self) -> Result<BroadcastCluster, CliError> {
        let clusters: Api<BroadcastCluster> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("BroadcastCluster {}/{}", self.namespace, self.name);
        within(what, clusters.get(&self.name)).await
    }

    /// The pods of its hearts or nodes that run, in order of their names.
    pub(crate) async fn find(&self, component: &'static str) -> Result<Vec<Asked>, CliError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let labels =
            format!("app.kubernetes.io/instance={},app.kubernetes.io/component={component}", self.name);
        let listed =
            within(format!("pods of {}", self.name), pods.list(&ListParams::default().labels(&labels)));
        let mut found: Vec<Asked> = listed.await?.items.iter().filter_map(read_pod).collect();
        found.sort_by(|one, other| (one.node, &one.pod).cmp(&(other.node, &other.pod)));
        Ok(found)
    }

    /// Asks a pod: the request's URI is a path of the pod's interface.
    pub(crate) async fn ask(&self, pod: &str, request: Builder, body: &str) -> Result<String, CliError> {
        let what = format!("{pod}: {}", describe(&request));
        let path = request.uri_ref().map(ToString::to_string).unwrap_or_default();
        let uri = format!("/api/v1/namespaces/{}/pods/{pod}:{HTTP_PORT}/proxy{path}", self.namespace);
        let request = request
            .uri(uri)
            .body(Body::from(body.as_bytes().to_vec()))
            .map_err(|error| CliError::Unreadable { what: what.clone(), problem: error.to_string() })?;
        let answered = within(what.clone(), async {
            let response = self.client.send(request).await?;
            let status = response.status();
            let body = response.into_body().collect_bytes().await?;
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        });
        match answered.await? {
            (status, body) if status.is_success() => Ok(body),
            (status, body) => Err(CliError::Refused { what, message: read_refusal(status, &body) }),
        }
    }

    /// Asks a pod for JSON.
    pub(crate) async fn look<T: DeserializeOwned>(&self, pod: &str, path: &str) -> Result<T, CliError> {
        let body = self.ask(pod, Request::get(path), "").await?;
        let what = format!("{pod}: GET {path}");
        serde_json::from_str(&body).map_err(|error| CliError::Unreadable { what, problem: error.to_string() })
    }
}

/// The path of a document.
pub(crate) fn document_path(collection: &str, key: &str) -> String {
    let encode = |text| utf8_percent_encode(text, SEGMENT);
    format!("/v1/collections/{}/{}", encode(collection), encode(key))
}

fn describe(request: &Builder) -> String {
    let method = request.method_ref().map(ToString::to_string).unwrap_or_default();
    format!("{method} {}", request.uri_ref().map(ToString::to_string).unwrap_or_default())
}

fn read_pod(pod: &Pod) -> Option<Asked> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Running") || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let is_ready = |(kind, status): (&str, &str)| kind == "Ready" && status == "True";
    let conditions = status.conditions.iter().flatten();
    Some(Asked {
        pod: pod.name_any(),
        node: pod.labels().get(NODE_ID_LABEL).and_then(|id| id.parse().ok()),
        is_ready: conditions.map(|one| (one.type_.as_str(), one.status.as_str())).any(is_ready),
    })
}

/// What a heart, a node or the API server says of why it refuses.
fn read_refusal(status: StatusCode, body: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let said = json["error"]["message"].as_str().or_else(|| json["message"].as_str());
    said.map_or_else(|| format!("answers {status}"), |message| format!("{message} ({})", status.as_u16()))
}

async fn within<T>(what: String, work: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CliError> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(CliError::Kube { what, source }),
        Err(_) => Err(CliError::Late { what, seconds: DEADLINE.as_secs() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_cannot_leave_its_place_in_a_path() {
        assert_eq!(document_path("users", "a/b?c#d%e f"), "/v1/collections/users/a%2Fb%3Fc%23d%25e%20f");
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_whoever_refuses() {
        for (body, told) in [
            (
                r#"{"error":{"code":"no_nodes","message":"0 nodes have reported"}}"#,
                "0 nodes have reported (503)",
            ),
            (r#"{"kind":"Status","message":"no endpoints"}"#, "no endpoints (503)"),
            ("<html>", "answers 503 Service Unavailable"),
        ] {
            assert_eq!(read_refusal(StatusCode::SERVICE_UNAVAILABLE, body), told);
        }
    }

    #[test]
    fn only_pods_that_run_and_stay_are_asked() {
        let pod = |phase: &str, ready: &str, deleted: bool| -> Pod {
            let timestamp = deleted.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(json!({
                "metadata": {"name": "p", "labels": {NODE_ID_LABEL: "3"}, "deletionTimestamp": timestamp},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        let asked = |is_ready| Some(Asked { pod: "p".to_owned(), node: Some(3), is_ready });
        assert_eq!(read_pod(&pod("Running", "True", false)), asked(true));
        assert_eq!(read_pod(&pod("Running", "False", false)), asked(false));
        assert_eq!(read_pod(&pod("Pending", "False", false)), None);
        assert_eq!(read_pod(&pod("Running", "True", true)), None);
    }
}

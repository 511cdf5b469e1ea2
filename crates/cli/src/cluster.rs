//! One `BroadcastCluster`: its resource, and its hearts and nodes through the API server's proxy.

use std::time::Duration;

use broadcast_api::BroadcastCluster;
use http::request::Builder;
use http::{HeaderValue, Request, StatusCode};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource, ResourceExt};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::de::DeserializeOwned;

mod access;

use crate::arguments::Connection;
use crate::error::CliError;
use access::{TOKEN_HEADER, Tokens, asks_for_token, key_of};

/// How long the API server has for one answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How many resources are looked at to find out which is meant.
const MAX_NAMES: u32 = 20;

/// The port of the HTTP interface, in hearts and nodes.
const HTTP_PORT: u16 = 8080;

/// The label with a node's id.
const NODE_ID_LABEL: &str = "broadcast.dev/node-id";

/// What may not stand in a path's segment or in a query's value.
const RESERVED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'/')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'\\');

/// How much of an answer is shown that is no JSON, in characters.
const MAX_TOLD: usize = 200;

/// A cluster.
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
    name: String,
    tokens: Tokens,
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

/// What a heart or a node answers when it does not refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
}

impl Cluster {
    /// Finds out which cluster of which Kubernetes is meant. One that is named is not looked for yet.
    pub(crate) async fn connect(connection: &Connection, name: Option<String>) -> Result<Self, CliError> {
        let config = read_config(connection).await?;
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| CliError::Kubeconfig(error.to_string()))?;
        Self::find_meant(client, namespace, name).await
    }

    pub(crate) async fn find_meant(
        client: Client,
        namespace: String,
        name: Option<String>,
    ) -> Result<Self, CliError> {
        let name = match name {
            Some(name) => name,
            None => find_only(&client, &namespace).await?,
        };
        Ok(Self { client, namespace, name, tokens: Tokens::default() })
    }

    #[cfg(test)]
    pub(crate) fn of(client: Client, namespace: &str, name: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), name: name.to_owned(), tokens: Tokens::default() }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Objects of its namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What errors call it.
    pub(crate) fn title(&self) -> String {
        format!("BroadcastCluster {}/{}", self.namespace, self.name)
    }

    /// The resource.
    pub(crate) async fn fetch(&self) -> Result<BroadcastCluster, CliError> {
        within(self.title(), DEADLINE, self.api::<BroadcastCluster>().get(&self.name)).await
    }

    /// The pods of its hearts or nodes that run, in order of their ids and names.
    pub(crate) async fn find(&self, component: &'static str) -> Result<Vec<Asked>, CliError> {
        let labels =
            format!("app.kubernetes.io/instance={},app.kubernetes.io/component={component}", self.name);
        let parameters = ListParams::default().labels(&labels);
        let pods = self.api::<Pod>();
        let listed = within(format!("pods of {}", self.title()), DEADLINE, pods.list(&parameters)).await?;
        let mut found: Vec<Asked> = listed.items.iter().filter_map(read_pod).collect();
        found.sort_by(|one, other| (one.node, &one.pod).cmp(&(other.node, &other.pod)));
        Ok(found)
    }

    /// One that is ready, or else any.
    pub(crate) async fn find_any(&self, component: &'static str) -> Result<Asked, CliError> {
        let found = self.find(component).await?;
        found.into_iter().max_by_key(|asked| asked.is_ready).ok_or_else(|| CliError::NobodyThere {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            component,
        })
    }

    /// Asks a pod: the request's URI is a path of the pod's interface. One that asks for a token is shown those of the cluster.
    pub(crate) async fn ask(
        &self,
        pod: &str,
        request: Builder,
        body: impl Into<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Answer, CliError> {
        let what = format!("{pod}: {}", describe(&request));
        let path = request.uri_ref().map(ToString::to_string).unwrap_or_default();
        let uri = format!("/api/v1/namespaces/{}/pods/{pod}:{HTTP_PORT}/proxy{path}", self.namespace);
        let request = request
            .uri(uri)
            .body(body.into())
            .map_err(|error| CliError::Input(format!("{what}: {error}")))?;
        let (parts, body) = request.into_parts();
        let send = async |token: Option<HeaderValue>| {
            let mut request = Request::from_parts(parts.clone(), Body::from(body.clone()));
            if let Some(token) = token {
                request.headers_mut().insert(TOKEN_HEADER, token);
            }
            within(what.clone(), deadline, async {
                let response = self.client.send(request).await?;
                let status = response.status();
                let body = response.into_body().collect_bytes().await?;
                Ok((status, String::from_utf8_lossy(&body).into_owned()))
            })
            .await
        };
        let key = key_of(&parts.method);
        let mut answered = send(self.tokens.last(key)).await?;
        if asks_for_token(&answered) {
            for token in self.fetch_tokens(key).await? {
                answered = send(Some(token.clone())).await?;
                if !asks_for_token(&answered) {
                    self.tokens.remember(key, token);
                    break;
                }
            }
        }
        match answered {
            (status, body) if status.is_success() => Ok(Answer { status, body }),
            (status, body) => Err(CliError::Refused { what, message: read_refusal(status, &body) }),
        }
    }

    /// Asks a pod for JSON.
    pub(crate) async fn look<T: DeserializeOwned>(
        &self,
        pod: &str,
        path: &str,
        deadline: Duration,
    ) -> Result<T, CliError> {
        let answer = self.ask(pod, Request::get(path), "", deadline).await?;
        read_json(&format!("{pod}: GET {path}"), &answer.body)
    }
}

/// Reads what somebody has answered.
pub(crate) fn read_json<T: DeserializeOwned>(what: &str, body: &str) -> Result<T, CliError> {
    serde_json::from_str(body)
        .map_err(|error| CliError::Unreadable { what: what.to_owned(), problem: error.to_string() })
}

/// As it may stand in a path's segment or in a query's value.
pub(crate) fn encode(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, RESERVED)
}

/// Waits for an answer.
pub(crate) async fn within<T>(
    what: String,
    deadline: Duration,
    work: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(CliError::Kube { what, source }),
        Err(_) => Err(CliError::Late { what, seconds: deadline.as_secs() }),
    }
}

async fn read_config(connection: &Connection) -> Result<Config, CliError> {
    let Connection { context, kubeconfig, .. } = connection;
    let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
    let config = match kubeconfig {
        Some(path) => {
            let file =
                Kubeconfig::read_from(path).map_err(|error| CliError::Kubeconfig(error.to_string()))?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| error.to_string())
        }
        None if context.is_some() => {
            Config::from_kubeconfig(&options).await.map_err(|error| error.to_string())
        }
        None => Config::infer().await.map_err(|error| error.to_string()),
    };
    config.map_err(CliError::Kubeconfig)
}

/// The name of the only one in a namespace.
async fn find_only(client: &Client, namespace: &str) -> Result<String, CliError> {
    let clusters: Api<BroadcastCluster> = Api::namespaced(client.clone(), namespace);
    let parameters = ListParams::default().limit(MAX_NAMES);
    let what = format!("BroadcastClusters of namespace {namespace}");
    let listed = within(what, DEADLINE, clusters.list_metadata(&parameters)).await?;
    let mut names: Vec<String> = listed.items.iter().map(ResourceExt::name_any).collect();
    let namespace = namespace.to_owned();
    match names.pop() {
        None => Err(CliError::NoCluster { namespace }),
        Some(name) if names.is_empty() => Ok(name),
        Some(name) => {
            names.push(name);
            Err(CliError::SeveralClusters { namespace, names })
        }
    }
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
    let mut conditions = status.conditions.iter().flatten();
    Some(Asked {
        pod: pod.name_any(),
        node: pod.labels().get(NODE_ID_LABEL).and_then(|id| id.parse().ok()),
        is_ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
    })
}

/// What a heart, a node or the API server says of why it refuses.
fn read_refusal(status: StatusCode, body: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let told = json["error"]["message"].as_str().or_else(|| json["message"].as_str());
    match told.unwrap_or_else(|| body.lines().next().unwrap_or_default()) {
        "" => format!("answers {status}"),
        told => format!("{} ({})", told.chars().take(MAX_TOLD).collect::<String>(), status.as_u16()),
    }
}

#[cfg(test)]
mod tests;

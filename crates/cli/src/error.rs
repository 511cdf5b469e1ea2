//! Why something was not done: what was wrong, where, and what to do next.

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// No configuration says which Kubernetes is meant.
    #[error("no Kubernetes to ask: {0}; see --kubeconfig, --context and the variable KUBECONFIG")]
    Kubeconfig(String),
    /// The Kubernetes API failed or refused.
    #[error("{what}: {}; {}", describe(source), advise(source))]
    Kube {
        /// What was asked for.
        what: String,
        /// What it answered.
        source: kube::Error,
    },
    /// Nobody answered in time.
    #[error(
        "{what}: no answer within {seconds} s; it may have been done all the same: look before you try again"
    )]
    Late {
        /// What was asked for.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A heart, a node or the API server refused.
    #[error("{what}: {message}")]
    Refused {
        /// Who was asked what.
        what: String,
        /// What it said.
        message: String,
    },
    /// There is nothing that could be meant.
    #[error(
        "namespace {namespace} has no BroadcastCluster; choose another one with --namespace: \
         `kubectl get broadcastclusters --all-namespaces` shows all"
    )]
    NoCluster {
        /// Where.
        namespace: String,
    },
    /// There are several that could be meant.
    #[error("namespace {namespace} has more than one BroadcastCluster: name one of {}", names.join(", "))]
    SeveralClusters {
        /// Where.
        namespace: String,
        /// Which.
        names: Vec<String>,
    },
    /// No pod can be asked.
    #[error(
        "no {component} of {namespace}/{name} runs; `kubectl get pods --namespace {namespace} --selector \
         app.kubernetes.io/instance={name},app.kubernetes.io/component={component}` and `kubectl broadcast status` show why"
    )]
    NobodyThere {
        /// The cluster's namespace.
        namespace: String,
        /// The cluster's name.
        name: String,
        /// `heart` or `node`.
        component: &'static str,
    },
    /// The node's pod cannot be asked.
    #[error(
        "node {node} of {namespace}/{name} does not run; `kubectl broadcast status` shows which there are and what is \
         wrong with them"
    )]
    NoSuchNode {
        /// The cluster's namespace.
        namespace: String,
        /// The cluster's name.
        name: String,
        /// The node's id.
        node: u32,
    },
    /// An answer is not what it should be.
    #[error("{what}: {problem}; this plugin and the cluster may be of different versions")]
    Unreadable {
        /// Who was asked what.
        what: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// What the user gave is unusable.
    #[error("{0}")]
    Input(String),
    /// The document does not exist.
    #[error("{collection}/{key} does not exist at position {position}; --at-least waits for a later write")]
    NoDocument {
        /// Its collection.
        collection: String,
        /// Its key.
        key: String,
        /// Where the node was.
        position: u64,
    },
    /// Nothing reads what is printed.
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        error => {
            let mut error: &dyn std::error::Error = error;
            while let Some(source) = error.source() {
                error = source;
            }
            error.to_string()
        }
    }
}

fn advise(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => "log in again",
            403 => "ask whoever administers the cluster for this permission",
            404 => {
                "`kubectl get broadcastclusters --all-namespaces` shows which there are, and whether Kubernetes knows them"
            }
            409 => "somebody else changed it at the same time: try again",
            _ => "try again",
        },
        _ => "`kubectl version` shows whether the API server can be reached",
    }
}

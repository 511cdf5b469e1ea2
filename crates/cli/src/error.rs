//! Why something was not done.

/// What went wrong, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// No configuration says which Kubernetes is meant.
    #[error("no Kubernetes to ask: {0}")]
    Kubeconfig(String),
    /// The Kubernetes API failed or refused.
    #[error("{what}: {source}")]
    Kube {
        /// What was asked for.
        what: String,
        /// What it answered.
        source: kube::Error,
    },
    /// It did not answer in time.
    #[error("{what}: no answer within {seconds} s")]
    Late {
        /// What was asked for.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A heart or a node refused.
    #[error("{what}: {message}")]
    Refused {
        /// Who was asked what.
        what: String,
        /// What it said.
        message: String,
    },
    /// No pod can be asked.
    #[error("no {0} of the cluster is running")]
    NobodyThere(&'static str),
    /// An answer is not what it should be.
    #[error("{what}: {problem}")]
    Unreadable {
        /// Who was asked what.
        what: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// Nothing reads what is printed.
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

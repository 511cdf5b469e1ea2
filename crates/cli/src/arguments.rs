//! What can be asked for.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Looks at BroadcastClusters and works with them
#[derive(Debug, Parser)]
#[command(name = "kubectl-broadcast", bin_name = "kubectl broadcast", version)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How to show the answer
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which Kubernetes, and where in it.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The namespace; by default that of the context
    #[arg(long, short, global = true)]
    pub(crate) namespace: Option<String>,
    /// The context of the kubeconfig; by default the current one
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For both
    Yaml,
}

/// How a write is to be acknowledged.
#[derive(Debug, Args)]
pub(crate) struct WriteOptions {
    /// Answer when it is durable in every queue, or applied by one, most or all of the nodes
    #[arg(long, value_enum, default_value_t = Ack::Broker)]
    pub(crate) ack: Ack,
    /// Makes a retry safe: the same id applies once
    #[arg(long)]
    pub(crate) id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ack {
    Broker,
    One,
    Quorum,
    All,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show heart, nodes, queues and conditions
    Status {
        /// The BroadcastCluster
        cluster: String,
        /// Show it again whenever it changes, until interrupted
        #[arg(long, short)]
        watch: bool,
    },
    /// Let every node read all its rows, and compare their digests; exit code 3 if any differ
    Verify {
        /// The BroadcastCluster
        cluster: String,
    },
    /// Read a document from a ready node
    Get {
        /// The BroadcastCluster
        cluster: String,
        /// Its collection
        collection: String,
        /// Its key
        key: String,
        /// Wait until the node has applied this write
        #[arg(long)]
        at_least: Option<u64>,
    },
    /// Store a document
    Put {
        /// The BroadcastCluster
        cluster: String,
        /// Its collection
        collection: String,
        /// Its key
        key: String,
        /// The document, as JSON
        value: String,
        #[command(flatten)]
        write: WriteOptions,
    },
    /// Delete a document
    Delete {
        /// The BroadcastCluster
        cluster: String,
        /// Its collection
        collection: String,
        /// Its key
        key: String,
        #[command(flatten)]
        write: WriteOptions,
    },
    /// Print what completes commands in a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Ack {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }
}

//! What can be asked for.

#![expect(clippy::doc_markdown, reason = "the texts are printed as they are")]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Looks at BroadcastClusters and works with them.
#[derive(Debug, Parser)]
#[command(name = "kubectl-broadcast", bin_name = "kubectl broadcast", version)]
#[command(after_help = "Exit codes: 0 done, 1 not done, 2 wrong arguments. `verify` has its own.")]
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
    /// The kubeconfig; by default what KUBECONFIG names, or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
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

/// Which cluster, where nothing else has a place of its own.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The BroadcastCluster; may be left out where the namespace has only one
    pub(crate) name: Option<String>,
}

/// Which cluster.
#[derive(Debug, Args)]
pub(crate) struct Of {
    /// The BroadcastCluster; may be left out where the namespace has only one
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// When writes are done.
#[derive(Debug, Args)]
pub(crate) struct Acknowledged {
    /// Answer when they are durable in every queue, or applied by one, most or all of the nodes
    #[arg(long, value_enum, default_value_t)]
    pub(crate) ack: Ack,
    /// How long to wait for the nodes, as 5s or 500ms
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ack {
    #[default]
    Broker,
    One,
    Quorum,
    All,
}

/// Which document.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Its collection
    pub(crate) collection: String,
    /// Its key
    pub(crate) key: String,
}

/// What concerns one write.
#[derive(Debug, Args)]
pub(crate) struct WriteOptions {
    /// Makes a retry safe: the same id applies once
    #[arg(long)]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) acknowledged: Acknowledged,
    #[command(flatten)]
    pub(crate) of: Of,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show heart, nodes, queues, and the conditions that are not as they should be
    Status {
        #[command(flatten)]
        named: Named,
        /// Go on until interrupted: on a terminal the table is drawn anew, elsewhere every change is a line
        #[arg(long, short)]
        watch: bool,
    },
    /// Read a document from a ready node
    Get {
        #[command(flatten)]
        place: Place,
        /// Wait until the node has applied this write
        #[arg(long, value_name = "SEQ")]
        at_least: Option<u64>,
        #[command(flatten)]
        of: Of,
    },
    /// Store a document
    Put {
        #[command(flatten)]
        place: Place,
        /// The document, as JSON; - reads it from standard input
        #[arg(allow_hyphen_values = true)]
        value: String,
        #[command(flatten)]
        options: WriteOptions,
    },
    /// Delete a document
    Delete {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        options: WriteOptions,
    },
    /// Make many writes, all or none: one JSON object a line, as {"op":"put","collection":"c","key":"k","value":1}
    Write {
        /// Where they are; - is standard input
        #[arg(long, short, default_value = "-")]
        file: PathBuf,
        #[command(flatten)]
        acknowledged: Acknowledged,
        #[command(flatten)]
        of: Of,
    },
    /// Let every node read all its rows, and compare them at one position
    #[command(after_help = "Exit codes: 0 all are equal, 1 some differ, 2 they could not be compared.")]
    Verify {
        #[command(flatten)]
        named: Named,
        /// How long to try: while writes go on, nodes are seldom at one position
        #[arg(long, default_value = "1m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Replace a node's database by another node's; what it has is put aside once the other one is there
    Rebuild {
        /// The node's id
        node: u32,
        /// How long to wait for the end of it
        #[arg(long, default_value = "10m", value_parser = parse_duration)]
        timeout: Duration,
        #[command(flatten)]
        of: Of,
    },
    /// Let the operator change nothing until `resume`; hearts and nodes go on
    Pause {
        #[command(flatten)]
        named: Named,
    },
    /// End a pause
    Resume {
        #[command(flatten)]
        named: Named,
    },
    /// Show the events of the resource, the newest last
    Events {
        #[command(flatten)]
        named: Named,
        /// Go on until interrupted
        #[arg(long, short)]
        watch: bool,
    },
    /// What nodes rejected, or what was dropped from a queue that was full
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Print what completes commands in a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// Show the oldest ones
    List {
        #[command(flatten)]
        named: Named,
        /// How many, at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Give letters back to the queues that they come from
    #[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "all"]))]
    Replay {
        /// Their ids
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// All that are there now
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        of: Of,
    },
}

/// A shell that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
            Shell::Powershell => Self::PowerShell,
        }
    }
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

/// A duration as in `500ms`, `5s`, `10m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let duration = match (number.parse::<u32>(), unit) {
        (Ok(number), "ms") => Some(Duration::from_millis(number.into())),
        (Ok(number), "s") => Some(Duration::from_secs(number.into())),
        (Ok(number), "m") => Some(Duration::from_secs(u64::from(number) * 60)),
        _ => None,
    };
    duration.ok_or_else(|| "a number with ms, s or m is needed, as in 30s".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_every_command_understands_may_stand_before_and_behind_it() {
        for line in [
            "kubectl-broadcast -n shop --context prod --kubeconfig /k -o json status orders -w",
            "kubectl-broadcast status -w orders -n shop --context prod --kubeconfig /k --output json",
        ] {
            let Arguments { connection, output, command } = parse(line).unwrap();
            assert_eq!(connection.namespace.as_deref(), Some("shop"));
            assert_eq!(connection.context.as_deref(), Some("prod"));
            assert_eq!(connection.kubeconfig, Some(PathBuf::from("/k")));
            assert_eq!(output, Format::Json);
            let Command::Status { named, watch } = command else { panic!("{command:?}") };
            assert_eq!((named.name.as_deref(), watch), (Some("orders"), true));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (line, kind) in [
            ("kubectl-broadcast", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("kubectl-broadcast stat", ErrorKind::InvalidSubcommand),
            ("kubectl-broadcast status -o wide", ErrorKind::InvalidValue),
            ("kubectl-broadcast rebuild", ErrorKind::MissingRequiredArgument),
            ("kubectl-broadcast rebuild one", ErrorKind::ValueValidation),
            ("kubectl-broadcast put users 42", ErrorKind::MissingRequiredArgument),
            ("kubectl-broadcast put users 42 1 --ack most", ErrorKind::InvalidValue),
            ("kubectl-broadcast put users 42 1 --timeout 5", ErrorKind::ValueValidation),
            ("kubectl-broadcast dead-letters replay", ErrorKind::MissingRequiredArgument),
            ("kubectl-broadcast dead-letters replay ab12 --all", ErrorKind::ArgumentConflict),
            ("kubectl-broadcast dead-letters list --limit 1001", ErrorKind::ValueValidation),
            ("kubectl-broadcast completion elvish", ErrorKind::InvalidValue),
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
        }
    }

    #[test]
    fn values_and_letters_are_taken_as_they_stand() {
        let arguments = parse("kubectl-broadcast put users 42 -1 --id r1 --ack all --name orders").unwrap();
        let Command::Put { value, options, .. } = arguments.command else { panic!() };
        assert_eq!((value.as_str(), options.id.as_deref()), ("-1", Some("r1")));
        assert_eq!((options.acknowledged.ack, options.of.name.as_deref()), (Ack::All, Some("orders")));
        let arguments = parse("kubectl-broadcast dead-letters replay ab12 cd34").unwrap();
        let Command::DeadLetters(DeadLetters::Replay { ids, all, .. }) = arguments.command else { panic!() };
        assert_eq!((ids, all), (vec!["ab12".to_owned(), "cd34".to_owned()], false));
    }

    #[test]
    fn a_duration_has_a_unit() {
        for (text, milliseconds) in [("500ms", 500), ("5s", 5_000), ("2m", 120_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in ["", "5", "s", "5h", "-5s", "5 s", "99999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}

//! The command line: arguments and environment in, an exit code out.
//!
//! 0 after a shutdown that was asked for; 2 when configuration, environment or the data directory have to be changed
//! by a human, with everything that is wrong; 1 otherwise, and a new start may help.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use broadcast_protocol::config::{ConfigError, NodeConfig};
use broadcast_service::amqp_url::{AmqpUrlError, AmqpUrlSource};
use broadcast_service::shutdown::cancelled_by_signals;
use broadcast_service::telemetry::{self, TelemetryError};

use crate::NodeError;

/// Applies the writes of one queue to a database of its own.
#[derive(Debug, clap::Parser)]
#[command(version, long_about = None, after_help = "Environment: NODE_ID (wins over the file), AMQP_URL or \
AMQP_URL_FILE (where the broker is), LOG (a filter such as \"debug\"), LOG_FORMAT (\"text\" or \"json\").")]
pub struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "node.yaml")]
    pub config: PathBuf,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("cannot read {path}: {error}")]
    UnreadableConfig { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Broker(#[from] AmqpUrlError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("signals: {0}")]
    Signals(std::io::Error),
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl CommandError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Node(NodeError::Store(error)) if error.is_refusal() => ExitCode::from(2),
            Self::Node(_) | Self::Signals(_) => ExitCode::FAILURE,
            _ => ExitCode::from(2),
        }
    }
}

/// Runs the command to its end.
pub async fn run_command(arguments: Arguments) -> ExitCode {
    match try_command(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node: {error}");
            error.exit_code()
        }
    }
}

async fn try_command(arguments: &Arguments) -> Result<(), CommandError> {
    let variable = |name: &str| std::env::var(name).ok();
    let config = read_config(&arguments.config, variable("NODE_ID").as_deref())?;
    let broker = AmqpUrlSource::from_environment(variable);
    if let AmqpUrlSource::Text(_) = broker {
        // A file may be mended while the node runs, a variable cannot.
        broker.fetch()?;
    }
    telemetry::init(variable)?;
    let shutdown = cancelled_by_signals().map_err(CommandError::Signals)?;
    Ok(crate::run(config, broker, shutdown).await?)
}

fn read_config(path: &Path, node_id: Option<&str>) -> Result<NodeConfig, CommandError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CommandError::UnreadableConfig { path: path.to_owned(), error })?;
    Ok(NodeConfig::parse(&path.display().to_string(), &text, node_id)?)
}

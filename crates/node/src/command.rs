//! The command line: arguments and environment in, an exit code out.
//!
//! 0 after a shutdown that was asked for; 2 when configuration, environment or the data directory have to be changed
//! by a human, with everything that is wrong; 1 otherwise, and a new start may help.

use std::path::PathBuf;
use std::process::ExitCode;

use broadcast_protocol::config::NodeConfig;
use broadcast_service::amqp_url::AmqpUrlSource;
use broadcast_service::shutdown::cancelled_by_signals;
use broadcast_service::telemetry;

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
    #[error("{}", .0.join("\n"))]
    Configuration(Vec<String>),
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
            Self::Configuration(_) => ExitCode::from(2),
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
    // First of all: the first process of a container does not notice signals that it does not handle.
    let shutdown = cancelled_by_signals().map_err(CommandError::Signals)?;
    let variable = |name: &str| std::env::var(name).ok();
    let broker = AmqpUrlSource::from_environment(variable);
    let config = read_config(arguments, &broker, variable).map_err(CommandError::Configuration)?;
    Ok(crate::run(config, broker, shutdown).await?)
}

/// The configuration, or everything that is wrong with file and environment.
fn read_config(
    arguments: &Arguments,
    broker: &AmqpUrlSource,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<NodeConfig, Vec<String>> {
    let mut problems = Vec::new();
    let path = arguments.config.display().to_string();
    let config = std::fs::read_to_string(&arguments.config)
        .map_err(|error| format!("cannot read {path}: {error}"))
        .and_then(|text| {
            NodeConfig::parse(&path, &text, variable("NODE_ID").as_deref()).map_err(|error| error.to_string())
        })
        .map_err(|problem| problems.push(problem));
    // A file may be mended while the node runs, a variable cannot.
    if let (AmqpUrlSource::Text(_), Err(error)) = (broker, broker.fetch()) {
        problems.push(error.to_string());
    }
    if let Err(error) = telemetry::init(variable) {
        problems.push(error.to_string());
    }
    match config {
        Ok(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let arguments = Arguments { config: PathBuf::from("/does/not/exist.yaml") };
        let variable = |name: &str| match name {
            "AMQP_URL" => Some("http://nowhere".to_owned()),
            "LOG" => Some("a=b=c".to_owned()),
            _ => None,
        };
        let broker = AmqpUrlSource::from_environment(variable);
        let problems = read_config(&arguments, &broker, variable).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
        for (problem, named) in problems.iter().zip(["/does/not/exist.yaml", "AMQP_URL", "LOG"]) {
            assert!(problem.contains(named), "{problem} does not name {named}");
        }
    }
}

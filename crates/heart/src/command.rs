//! The command line: exit code 2 for a wrong configuration, with everything that is wrong; 1 when the heart failed.

use std::path::PathBuf;
use std::process::ExitCode;

use broadcast_protocol::config::HeartConfig;
use broadcast_service::amqp_url::AmqpUrlSource;
use broadcast_service::{shutdown, telemetry};

use crate::{HeartError, run};

const WRONG_CONFIGURATION: u8 = 2;

/// Takes write requests over HTTP and publishes them to the fanout exchange.
///
/// Environment: `AMQP_URL` (default `amqp://guest:guest@127.0.0.1:5672/%2f`) or `AMQP_URL_FILE`; `LOG` (a filter, default
/// info); `LOG_FORMAT` (text or json).
#[derive(Debug, clap::Parser)]
#[command(version, about, verbatim_doc_comment)]
pub struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "heart.yaml")]
    config: PathBuf,
}

impl Arguments {
    /// Runs the heart until SIGTERM or SIGINT.
    pub async fn execute(self) -> ExitCode {
        // First of all: the first process of a container does not notice signals that it does not handle.
        let signals = shutdown::cancelled_by_signals();
        let environment = |name: &str| std::env::var(name).ok();
        let url_source = AmqpUrlSource::from_environment(environment);
        let config = match self.read_config(&url_source, environment) {
            Ok(config) => config,
            Err(problems) => {
                eprintln!("{}", problems.join("\n"));
                return ExitCode::from(WRONG_CONFIGURATION);
            }
        };
        let result = match signals {
            Ok(token) => run(config, url_source, token).await,
            Err(error) => {
                tracing::error!(%error, "cannot receive signals");
                return ExitCode::FAILURE;
            }
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ HeartError::NodesFile(_)) => {
                eprintln!("{error}");
                ExitCode::from(WRONG_CONFIGURATION)
            }
            Err(error) => {
                tracing::error!(%error, "the heart failed");
                ExitCode::FAILURE
            }
        }
    }

    /// The configuration, or everything that is wrong with file and environment.
    fn read_config(
        &self,
        url_source: &AmqpUrlSource,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<HeartConfig, Vec<String>> {
        let mut problems = Vec::new();
        if let Err(error) = telemetry::init(environment) {
            problems.push(error.to_string());
        }
        // A file may come later, or change: only what cannot mend itself is wrong from the start.
        if let (AmqpUrlSource::Text(_), Err(error)) = (url_source, url_source.fetch()) {
            problems.push(error.to_string());
        }
        let file = self.config.display().to_string();
        let config = std::fs::read_to_string(&self.config)
            .map_err(|error| format!("{file}: {error}"))
            .and_then(|text| HeartConfig::parse(&file, &text).map_err(|error| error.to_string()));
        match config {
            Ok(config) if problems.is_empty() => Ok(config),
            Ok(_) => Err(problems),
            Err(problem) => {
                problems.push(problem);
                Err(problems)
            }
        }
    }
}

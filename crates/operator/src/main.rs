//! The operator.

use std::process::ExitCode;

use broadcast_operator::check::check_installation;
use broadcast_operator::settings::{Command, Settings};
use broadcast_service::shutdown::cancelled_by_signals;
use broadcast_service::telemetry;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type AnyError = Box<dyn std::error::Error>;

/// Two threads, on a large machine as well: it waits most of the time, and every thread keeps memory of its own.
#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    let run = async || -> Result<(), AnyError> {
        // First of all: the first process of a container does not notice signals that it does not handle.
        let shutdown = cancelled_by_signals()?;
        telemetry::init(|name| std::env::var(name).ok())?;
        match &settings.command {
            None => Ok(broadcast_operator::run(settings, shutdown).await?),
            Some(Command::Check { ready }) => Ok(check_installation(&settings, ready.as_deref()).await?),
        }
    };
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operator: {error}");
            ExitCode::FAILURE
        }
    }
}

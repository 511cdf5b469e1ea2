//! `kubectl broadcast`: looks at `BroadcastClusters` and works with them, from a terminal or a script.
//!
//! - Everything goes through the Kubernetes API, hearts and nodes through its proxy: whoever may use that needs nothing
//!   else. Nothing waits longer than it says.
//! - Answers go to standard output, in the form that was asked for; what went wrong goes to standard error, with what to do.
//! - Exit codes: 0 done, 1 not done, 2 wrong arguments; `verify` has its own.

mod arguments;
mod cluster;
mod dead_letters;
mod documents;
mod error;
mod events;
mod output;
mod pause;
mod rebuild;
mod status;
#[cfg(test)]
mod testing;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::arguments::{Arguments, Command, Connection, DeadLetters, Format};
use crate::cluster::Cluster;
use crate::error::CliError;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments { connection, output, command } = Arguments::parse();
    let failure = match command {
        Command::Verify { .. } => ExitCode::from(verify::NOT_COMPARED),
        _ => ExitCode::FAILURE,
    };
    match run(&connection, output, command).await {
        Ok(code) => code,
        // Whoever read has seen enough.
        Err(CliError::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => failure,
        Err(error) => {
            eprintln!("error: {error}");
            failure
        }
    }
}

async fn run(connection: &Connection, format: Format, command: Command) -> Result<ExitCode, CliError> {
    let connect = async |name| Cluster::connect(connection, name).await;
    match command {
        Command::Status { named, watch } => status::run(&connect(named.name).await?, format, watch).await?,
        Command::Get { place, at_least, of } => {
            documents::get(&connect(of.name).await?, format, place, at_least).await?;
        }
        Command::Put { place, value, mut options } => {
            let cluster = connect(options.of.name.take()).await?;
            documents::put(&cluster, format, place, &value, &options).await?;
        }
        Command::Delete { place, mut options } => {
            let cluster = connect(options.of.name.take()).await?;
            documents::delete(&cluster, format, place, &options).await?;
        }
        Command::Write { file, acknowledged, of } => {
            documents::write(&connect(of.name).await?, format, &file, &acknowledged).await?;
        }
        Command::Verify { named, timeout } => {
            return verify::run(&connect(named.name).await?, format, timeout).await;
        }
        Command::Rebuild { node, timeout, of } => {
            rebuild::run(&connect(of.name).await?, format, node, timeout).await?;
        }
        Command::Pause { named } => pause::run(&connect(named.name).await?, format, true).await?,
        Command::Resume { named } => pause::run(&connect(named.name).await?, format, false).await?,
        Command::Events { named, watch } => events::run(&connect(named.name).await?, format, watch).await?,
        Command::DeadLetters(DeadLetters::List { named, limit }) => {
            dead_letters::list(&connect(named.name).await?, format, limit).await?;
        }
        Command::DeadLetters(DeadLetters::Replay { ids, of, .. }) => {
            dead_letters::replay(&connect(of.name).await?, format, &ids).await?;
        }
        Command::Completion { shell } => {
            let (shell, mut command) = (clap_complete::Shell::from(shell), Arguments::command());
            clap_complete::generate(shell, &mut command, "kubectl-broadcast", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

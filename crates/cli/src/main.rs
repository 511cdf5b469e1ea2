//! `kubectl broadcast`: looks at `BroadcastClusters` and works with them, from a terminal or a script.
//!
//! Everything goes through the Kubernetes API, hearts and nodes through its proxy: whoever may use that needs nothing else.
//! Answers go to standard output, in the form that was asked for; what went wrong to standard error. Exit codes: 0 done,
//! 1 not done, 2 wrong arguments, 3 `verify` found nodes that differ.

mod arguments;
mod cluster;
mod documents;
mod error;
mod output;
mod status;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::arguments::{Arguments, Command};
use crate::cluster::Cluster;
use crate::error::CliError;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, CliError> {
    let Arguments { connection, output, command } = arguments;
    if let Command::Completion { shell } = command {
        clap_complete::generate(
            shell,
            &mut Arguments::command(),
            "kubectl-broadcast",
            &mut std::io::stdout(),
        );
        return Ok(ExitCode::SUCCESS);
    }
    let connect = async |name: &str| Cluster::connect(&connection, name).await;
    match command {
        Command::Status { cluster, watch } => status::run(&connect(&cluster).await?, output, watch).await?,
        Command::Verify { cluster } => return verify::run(&connect(&cluster).await?, output).await,
        Command::Get { cluster, collection, key, at_least } => {
            documents::get(&connect(&cluster).await?, &collection, &key, at_least).await?;
        }
        Command::Put { cluster, collection, key, value, write } => {
            documents::put(&connect(&cluster).await?, &collection, &key, &value, &write).await?;
        }
        Command::Delete { cluster, collection, key, write } => {
            documents::delete(&connect(&cluster).await?, &collection, &key, &write).await?;
        }
        Command::Completion { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

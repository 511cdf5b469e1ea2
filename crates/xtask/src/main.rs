//! Development commands of the workspace: `cargo xtask COMMAND`.
//!
//! Nothing depends on this crate.

mod apt;
mod bench;
mod broker_tests;
mod cli;
mod cluster;
mod codegen;
mod context;
mod failure;
mod images;
mod install;
mod instructions;
mod rabbitmq;
mod reach;
mod sample;
mod step;
mod tests;
mod tools;

use std::process::ExitCode;

use crate::failure::Failure;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            if let Failure::Program { log: Some(log), .. } = &failure {
                eprintln!("everything it said is in {}", log.display());
                eprintln!(
                    "when that is mended, run the same command again: what is done already is not done twice"
                );
            }
            ExitCode::FAILURE
        }
    }
}

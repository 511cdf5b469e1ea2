//! The program `node`.

use std::process::ExitCode;

use broadcast_node::command::{Arguments, run_command};
use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    run_command(Arguments::parse()).await
}

//! `heart --config heart.yaml`

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    broadcast_heart::command::Arguments::parse().execute().await
}

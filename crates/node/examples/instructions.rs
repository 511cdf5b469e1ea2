//! Walks a hot path so many times, for a program that counts instructions: `cargo xtask test instructions`.
//!
//! What is walked over is prepared for the same number of times always, so that the difference between two runs is the path alone. An
//! example and not a benchmark for cargo, which gives those files names that change.

use std::process::ExitCode;

use broadcast_node::measure::{Database, MeasureError, build_messages, build_request, decode, encode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The most times.
const PREPARED: usize = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let walked = match &arguments[..] {
        [path, times] => times.parse().map_err(MeasureError::from).and_then(|times| walk(path, times)),
        _ => Err("two arguments: encode, decode or apply, and how many times".into()),
    };
    match walked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn walk(path: &str, times: usize) -> Result<(), MeasureError> {
    if times > PREPARED {
        return Err(format!("at most {PREPARED} times").into());
    }
    let messages = build_messages(PREPARED)?;
    let request = build_request();
    let folder = tempfile::TempDir::new()?;
    let mut database = Database::open(folder.path())?;
    match path {
        "encode" => (0..times).try_for_each(|_| encode(&request).map(drop)),
        "decode" => messages.iter().take(times).try_for_each(|message| decode(message.body()).map(drop)),
        "apply" => messages.into_iter().take(times).try_for_each(|message| database.apply([message])),
        _ => Err(format!("there is no path {path:?}").into()),
    }
}

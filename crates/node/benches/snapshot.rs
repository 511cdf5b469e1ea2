//! What a snapshot of a million rows costs: `cargo bench -p broadcast-node --bench snapshot [-- ROWS]`.
//!
//! Donor and joiner are processes of their own, so that the memory of each is its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use broadcast_node::measure::{Joiner, MeasureError, donate, fill};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: u64 = 1_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["donate", directory] => run(run_donor(Path::new(directory))),
        ["join", directory, peer] => run(run_joiner(Path::new(directory), peer)),
        [] => measure(ROWS),
        [rows] => rows.parse().map_err(MeasureError::from).and_then(measure),
        _ => Err("at most one argument, the number of rows, is allowed".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snapshot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(work: impl Future<Output = Result<(), MeasureError>>) -> Result<(), MeasureError> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// A process that is not left behind.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or nothing more can be done.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(rows: u64) -> Result<(), MeasureError> {
    for with_ids in [false, true] {
        let (donor, joiner) = (tempfile::TempDir::new()?, tempfile::TempDir::new()?);
        let started = Instant::now();
        fill(donor.path(), rows, with_ids)?;
        let filled = started.elapsed().as_secs_f64();
        let bytes = std::fs::metadata(donor.path().join("node.db"))?.len();
        println!(
            "{rows} rows, request ids: {with_ids}: {:.0} MiB, filled in {filled:.1} s",
            mebibytes(bytes)
        );
        let me = std::env::current_exe()?;
        let serving = Command::new(&me).arg("donate").arg(donor.path()).stdout(Stdio::piped()).spawn()?;
        let mut serving = Process(serving);
        let output = serving.0.stdout.take().ok_or("the donor has an output")?;
        let mut url = String::new();
        BufReader::new(output).read_line(&mut url)?;
        let idle = memory(serving.0.id(), "VmRSS")?;
        let join = Command::new(&me).arg("join").arg(joiner.path()).arg(url.trim()).status()?;
        if !join.success() {
            return Err("the joiner failed".into());
        }
        println!(
            "donor: {} above idle ({:.1} MiB)",
            show(memory(serving.0.id(), "VmHWM")?, idle),
            mebibytes(idle)
        );
        for name in ["node.db", "node.db-wal"] {
            let length = std::fs::metadata(joiner.path().join(name)).map_or(0, |file| file.len());
            println!("joiner's {name}: {:.0} MiB", mebibytes(length));
        }
    }
    Ok(())
}

async fn run_donor(directory: &Path) -> Result<(), MeasureError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    donate(directory, listener, CancellationToken::new()).await
}

async fn run_joiner(directory: &Path, peer: &str) -> Result<(), MeasureError> {
    let joiner = Joiner::open(directory)?;
    let (me, started) = (std::process::id(), Instant::now());
    let idle = memory(me, "VmRSS")?;
    let rows = joiner.join(peer.to_owned()).await?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "joiner: {rows} rows in {seconds:.1} s, {} above idle ({:.1} MiB)",
        show(memory(me, "VmHWM")?, idle),
        mebibytes(idle)
    );
    Ok(())
}

/// A process's memory in bytes, out of the kernel's account of it.
fn memory(process: u32, field: &str) -> Result<u64, MeasureError> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes: u64 =
        line.and_then(|line| line.split_whitespace().next()).ok_or("no such field")?.parse()?;
    Ok(kibibytes << 10)
}

fn show(peak: u64, idle: u64) -> String {
    format!("{:.1} MiB", mebibytes(peak.saturating_sub(idle)))
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

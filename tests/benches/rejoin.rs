//! A node with an emptied disk rejoins a cluster of three under load:
//! `cargo build --release -p broadcast-heart -p broadcast-node && cargo bench -p broadcast-tests --bench rejoin [-- ROWS]`.
//!
//! What it shows: how long until the node is ready, beside a plain copy of the same file with `SQLite`'s backup; how much memory donor
//! and joiner take above what they had at rest. At the end the databases are compared row by row.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, wait_for};
use broadcast_tests::oracle::{Oracle, open_read_only};
use broadcast_tests::processes::Process;
use broadcast_tests::standalone::Cluster;
use rusqlite::backup::Progress;
use serde_json::{Value, json};

const ROWS: u64 = 1_000_000;

/// How many writes one request carries while the rows are made.
const REQUEST: u64 = 5_000;

/// A thousand writes a second.
const LOAD_EVERY: Duration = Duration::from_millis(10);
const LOAD_WRITES: u64 = 10;

/// How much memory a node may take above what it had at rest.
const MEMORY_ABOVE_REST: u64 = 64 << 20;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_mins(10);

const JOINER: u32 = 3;

fn main() -> ExitCode {
    let rows = std::env::args().skip(1).find(|argument| argument != "--bench");
    let Ok(rows) = rows.map_or(Ok(ROWS), |rows| rows.parse()) else {
        eprintln!("the argument is the number of rows");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if runtime.block_on(measure(rows)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure(rows: u64) -> bool {
    let broker = Broker::start().await;
    let mut cluster = Cluster::start(&broker.url(), 3).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let empty = resident(cluster.node_process(JOINER));
    println!("making {rows} rows");
    for first in (0..rows).step_by(usize::try_from(REQUEST).unwrap()) {
        let count = REQUEST.min(rows - first);
        write(cluster.heart(0), &cluster.oracle, first, count).await;
    }
    cluster.wait_until_ready().await;

    let load = Load::start(cluster.heart(0).clone(), cluster.oracle.clone(), rows);
    cluster.take_node(JOINER).kill();
    cluster.empty_disk(JOINER);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let at_rest: Vec<u64> = [1, 2].map(|id| resident(cluster.node_process(id))).into();
    let started = Instant::now();
    cluster.start_node(JOINER);
    let mut most = [0; 3];
    wait_for("the node to be ready", PATIENCE, async || {
        for (most, id) in most.iter_mut().zip(1..) {
            *most = resident(cluster.node_process(id)).max(*most);
        }
        cluster.node_readiness(JOINER).await
    })
    .await;
    let rejoined = started.elapsed();
    let writes = load.finish().await;
    cluster.converge().await;
    println!("ready after {rejoined:.2?}, with {writes} writes meanwhile and before; all rows are equal");

    let copied = copy(&cluster);
    println!(
        "a copy of the same file by SQLite's backup: {copied:.2?}; to rejoin took {:.1} times as long",
        rejoined.as_secs_f64() / copied.as_secs_f64()
    );
    let donor = (0..2).map(|index| most[index].saturating_sub(at_rest[index])).max().unwrap_or(0);
    let joiner = most[2].saturating_sub(empty);
    println!("memory above rest: donor {} MiB, joiner {} MiB", donor >> 20, joiner >> 20);
    donor.max(joiner) < MEMORY_ABOVE_REST
}

async fn write(heart: &Client, oracle: &Oracle, first: u64, count: u64) {
    let row = |number: u64| {
        (format!("{number:08}"), json!({"number": number, "text": "a row of some length, as rows are"}))
    };
    let rows: Vec<(String, Value)> = (first..first + count).map(row).collect();
    let writes: Vec<Value> = rows
        .iter()
        .map(|(key, value)| json!({"op": "put", "collection": "rows", "key": key, "value": value}))
        .collect();
    let written = heart.write(&writes).await.unwrap();
    for (seq, (key, value)) in (written.first..).zip(&rows) {
        oracle.acknowledged("rows", key, Some(value), seq, 1);
    }
}

/// A writer that goes on until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(heart: Client, oracle: Oracle, rows: u64) -> Self {
        let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&writes));
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(LOAD_EVERY);
            while !stopped.load(Ordering::Relaxed) {
                tick.tick().await;
                let first = count.fetch_add(LOAD_WRITES, Ordering::Relaxed) % rows;
                write(&heart, &oracle, first, LOAD_WRITES).await;
            }
        });
        Self { stop, writes, task }
    }

    async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.writes.load(Ordering::Relaxed)
    }
}

fn copy(cluster: &Cluster) -> Duration {
    let target = cluster.database(1).with_extension("copy");
    let started = Instant::now();
    open_read_only(&cluster.database(1)).backup("main", &target, None::<fn(Progress)>).unwrap();
    started.elapsed()
}

/// The memory of a process that is its own, in bytes.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

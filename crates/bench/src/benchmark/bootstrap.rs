//! `bootstrap`: a new node under load, beside a copy of the file.

use std::fs::{File, copy};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::benchmark::{Bench, NODES, announce, in_order, seconds_since};
use crate::data::Shape;
use crate::error::{BenchError, Result, told};
use crate::load::{Until, open_loop};
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::Subject;
use crate::subject::ours::Ours;

/// A thousand writes a second meanwhile.
const LOAD_REQUESTS: f64 = 100.0;
const LOAD_WRITES: u64 = 10;

/// The load ends with what it goes on beside, long before this.
const LONGEST: Duration = Duration::from_mins(30);

const JOINER: u32 = NODES;

/// Writes a request while the rows are made.
const WRITES: u64 = 1_000;

#[derive(Clone, Copy)]
enum Measured {
    Join,
    Copy,
}

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let rows = settings.pick(1_000_000, 20_000);
    announce(&format!("bootstrap: making {rows} rows"));
    let mut ours = Ours::start(NODES).await;
    let shape = Shape { keys: rows, writes: WRITES, ..Shape::SINGLE };
    Bench::new(&ours).closed(4, shape, Until::Count(rows / WRITES)).await?;
    let (mut joined, mut copied, mut bytes) = (Samples::default(), Samples::default(), Samples::default());
    for round in 1..=settings.rounds {
        announce(&format!("bootstrap, round {round} of {}", settings.rounds));
        let shape = Shape { writes: LOAD_WRITES, ..shape };
        let load = open_loop(ours.clients(32, shape), 0, LOAD_REQUESTS, LONGEST);
        let work = async {
            for measured in in_order(round, [Measured::Join, Measured::Copy]) {
                match measured {
                    Measured::Join => joined.push(join(&mut ours).await?),
                    Measured::Copy => {
                        let (seconds, length) = copy_files(ours.cluster.database(1)).await?;
                        copied.push(seconds);
                        bytes.push(length);
                    }
                }
            }
            Ok::<(), BenchError>(())
        };
        tokio::select! {
            outcome = load => match outcome {
                Ok(_) => return told("the load ended before the node was ready"),
                Err(error) => return Err(error),
            },
            outcome = work => outcome?,
        }
        ours.wait_until_applied().await?;
    }
    let mut report = Report::new(
        "bootstrap",
        format!(
            "A node with an empty disk joins {NODES} nodes of {rows} rows, under 1,000 writes a second, until it is ready; beside a copy of \
             another node's file and its write-ahead log (`copy` and `fsync`) under the same load."
        ),
    );
    report.compare("until ready, copied", "s", &joined, "copy of the files", &copied);
    report.state("size of the files", "MB", &bytes.divided_by(1e6));
    report.check("times the copy", joined.ratios(&copied).median(), Bound::AtMost(3.0));
    report.notes.push(
        "The copy is no consistent database: the files are written to meanwhile, one after the other."
            .to_owned(),
    );
    Ok(report)
}

/// Kills the last node, empties its disk and starts it; gives the seconds until it is ready.
async fn join(ours: &mut Ours) -> Result<f64> {
    let cluster = &mut ours.cluster;
    cluster.take_node(JOINER).kill();
    cluster.empty_disk(JOINER);
    // The broker gives what the killed node had to the next one, and is rid of its connection.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let started = Instant::now();
    cluster.start_node(JOINER);
    while let Err(reason) = cluster.node_readiness(JOINER).await {
        if started.elapsed() > LONGEST {
            return Err(BenchError::TimedOut(LONGEST.as_secs(), format!("the node to be ready: {reason}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(seconds_since(started))
}

/// Copies a database and its write-ahead log until both are on the disk; gives seconds and bytes.
async fn copy_files(database: PathBuf) -> Result<(f64, f64)> {
    let copying = tokio::task::spawn_blocking(move || copy_and_sync(&database));
    copying.await.map_err(|error| BenchError::Told(error.to_string()))?
}

fn copy_and_sync(database: &Path) -> Result<(f64, f64)> {
    let pairs = ["db", "db-wal"]
        .map(|suffix| (database.with_extension(suffix), database.with_extension(format!("{suffix}.copy"))));
    let started = Instant::now();
    let mut bytes = 0;
    for (file, target) in &pairs {
        bytes += copy(file, target)?;
        File::open(target)?.sync_all()?;
    }
    let seconds = seconds_since(started);
    for (_, target) in &pairs {
        std::fs::remove_file(target)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a size")]
    Ok((seconds, bytes as f64))
}

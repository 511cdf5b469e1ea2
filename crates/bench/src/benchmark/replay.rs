//! `replay`: a node that catches up, beside a bare loop of the same upserts.

use std::time::Instant;

use broadcast_tests::processes::Folder;
use rusqlite::{Connection, params};

use crate::benchmark::{announce, in_order, seconds_since};
use crate::data::{COLLECTION, Shape, TABLE, UPSERT};
use crate::error::{BenchError, Result, told};
use crate::load::{Until, closed_loop};
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::Subject;
use crate::subject::ours::Ours;

/// Node 1 stays, so that there is somebody to write for; node 2 is away.
const NODES: u32 = 2;
const STAYS: u32 = 1;
const AWAY: u32 = 2;

/// Writes a request.
const WRITES: u64 = 1_000;

/// The size of the bare loop's transactions at its best.
const BEST_TRANSACTION: usize = 5_000;

/// What is upserted, made before the time is taken.
type Rows = Vec<(String, String)>;

/// A number of keys and what was measured with it, in writes a second.
struct Found {
    keys: u64,
    node: Samples,
    best: Samples,
    same: Samples,
    transaction: Samples,
}

#[derive(Clone, Copy, Debug)]
enum Measured {
    Ours,
    Bare,
}

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let writes = settings.pick(1_000_000, 50_000);
    let mut all = Vec::new();
    for keys in [10_000, settings.pick(1_000_000, 50_000)] {
        let shape = Shape { keys, writes: WRITES, ..Shape::SINGLE };
        let none = Samples::default;
        let mut found = Found { keys, node: none(), best: none(), same: none(), transaction: none() };
        for round in 1..=settings.rounds {
            for measured in in_order(round, [Measured::Ours, Measured::Bare]) {
                announce(&format!(
                    "replay over {keys} keys, round {round} of {}: {measured:?}",
                    settings.rounds
                ));
                match measured {
                    Measured::Ours => {
                        let (rate, transaction) = replay(shape, writes).await?;
                        found.node.push(rate);
                        found.transaction.push(transaction);
                    }
                    Measured::Bare => {
                        let (best, same) = upsert_bare(shape, writes, found.transaction.median()).await?;
                        found.best.push(best);
                        found.same.push(same);
                    }
                }
            }
        }
        all.push(found);
    }
    Ok(build_report(writes, &all))
}

/// Writes while a node is away, starts it, and gives how many writes it applied a second, from its start on, and how many in a
/// transaction.
#[expect(clippy::cast_precision_loss, reason = "counts of writes")]
async fn replay(shape: Shape, writes: u64) -> Result<(f64, f64)> {
    let mut ours = Ours::start(NODES).await;
    ours.cluster.take_node(AWAY).stop(broadcast_tests::standalone::STOP).await;
    closed_loop(ours.clients(4, shape), 0, Until::Count(writes / shape.writes)).await?;
    let position = ours.position().await?;
    ours.wait_for_node(STAYS, position).await?;
    let started = Instant::now();
    ours.cluster.start_node(AWAY);
    let seconds = ours.wait_for_node(AWAY, position).await?.duration_since(started).as_secs_f64();
    let count = async |name: &str| ours.cluster.node_metric(AWAY, name).await;
    let transactions = count("broadcast_node_commit_seconds_count").await;
    if count("broadcast_node_writes_applied_total").await < writes {
        return told("the node did not apply everything from its queue");
    }
    ours.check_no_repairs().await?;
    Ok((writes as f64 / seconds, writes as f64 / transactions.max(1) as f64))
}

/// The bare loop with its best transactions, and with ones of this size, which is what the node has shown so far; in writes a second.
async fn upsert_bare(shape: Shape, writes: u64, transaction: f64) -> Result<(f64, f64)> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of rows")]
    let transaction = (transaction as usize).max(1);
    let rows: Rows = (0..writes).map(|number| (shape.key(number), shape.value(number))).collect();
    let bare = move || Ok::<_, BenchError>((upsert(&rows, BEST_TRANSACTION)?, upsert(&rows, transaction)?));
    let done = tokio::task::spawn_blocking(bare).await;
    done.map_err(|error| BenchError::Told(error.to_string()))?
}

/// The same upserts in a database of one's own, at its best settings; gives how many a second.
fn upsert(rows: &Rows, transaction: usize) -> Result<f64> {
    let folder = Folder::new();
    let database = Connection::open(folder.join("bare.db"))?;
    database.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA cache_size = -200000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         PRAGMA wal_autocheckpoint = 100000;",
    )?;
    database.execute_batch(TABLE)?;
    let started = Instant::now();
    for rows in rows.chunks(transaction) {
        let transaction = database.unchecked_transaction()?;
        let mut upsert = database.prepare_cached(UPSERT)?;
        for (key, value) in rows {
            upsert.execute(params![COLLECTION, key, value])?;
        }
        transaction.commit()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of rows")]
    Ok(rows.len() as f64 / seconds_since(started))
}

fn build_report(writes: u64, all: &[Found]) -> Report {
    let mut report = Report::new(
        "replay",
        format!(
            "A node starts with an empty database and {writes} writes of 200 bytes in its queue; the time from its start until it has applied \
             them. Beside it a bare loop of the same upserts with SQLite's best settings (8 KiB pages, a cache of 200 MB, a long write-ahead \
             log, `synchronous=FULL`). The node also checks the chain, keeps the digest and the log, and takes the messages from the broker."
        ),
    );
    for found in all {
        let Found { keys, node, best, same, transaction } = found;
        report.compare(
            format!("{keys} keys"),
            "writes/s",
            node,
            format!("bare, {BEST_TRANSACTION} a transaction"),
            best,
        );
        report.compare(
            format!("{keys} keys"),
            "writes/s",
            node,
            "bare, as many a transaction as the node",
            same,
        );
        report.state(format!("{keys} keys, in a transaction of the node"), "writes", transaction);
        let ratio = node.ratios(best).median();
        report.check(format!("{keys} keys: times the bare loop at its best"), ratio, Bound::AtLeast(0.5));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_loop_upserts_every_row() {
        let shape = Shape { keys: 100, ..Shape::SINGLE };
        let rows: Rows = (0..250).map(|number| (shape.key(number), shape.value(number))).collect();
        assert!(upsert(&rows, 30).unwrap() > 0.0);
    }
}

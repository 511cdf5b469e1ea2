//! `bulk`: many writes a request, beside rqlite.

use crate::benchmark::{Bench, Figure, NODES, Throughput, UnderLoad, announce, in_order, latency_plot};
use crate::data::Shape;
use crate::error::Result;
use crate::load::Until;
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::Subject;
use crate::subject::ours::Ours;
use crate::subject::rqlite::Rqlite;

const WRITES: [u64; 2] = [100, 1_000];

/// The first is what the figures are of; the others are for the plot.
const CLIENTS: [usize; 3] = [8, 1, 2];

/// For each of `WRITES`, for each of `CLIENTS`.
type Found = Vec<Vec<Throughput>>;

#[derive(Clone, Copy, Debug)]
enum Measured {
    Ours,
    Rqlite,
    RqliteTransaction,
}

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let (mut ours, mut plain, mut transaction) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=settings.rounds {
        for measured in in_order(round, [Measured::Ours, Measured::Rqlite, Measured::RqliteTransaction]) {
            announce(&format!("bulk, round {round} of {}: {measured:?}", settings.rounds));
            match measured {
                Measured::Ours => ours.push(measure(&Ours::start(NODES).await, settings).await?),
                Measured::Rqlite => {
                    plain.push(measure(&Rqlite::start(settings, NODES, false).await?, settings).await?);
                }
                Measured::RqliteTransaction => {
                    transaction.push(measure(&Rqlite::start(settings, NODES, true).await?, settings).await?);
                }
            }
        }
    }
    Ok(build_report(&ours, [("rqlite", &plain), ("rqlite, one transaction a request", &transaction)]))
}

async fn measure<S: Subject>(subject: &S, settings: &Settings) -> Result<Found> {
    let mut bench = Bench::new(subject);
    bench.closed(8, Shape::SINGLE.with_writes(100), Until::Elapsed(settings.warm_up())).await?;
    let mut found = Vec::new();
    for writes in WRITES {
        let mut for_clients = Vec::new();
        for clients in CLIENTS {
            let shape = Shape::SINGLE.with_writes(writes);
            for_clients.push(bench.closed(clients, shape, Until::Elapsed(settings.duration())).await?);
        }
        found.push(for_clients);
    }
    Ok(found)
}

fn build_report(ours: &[Found], rivals: [(&str, &Vec<Found>); 2]) -> Report {
    let mut report = Report::new(
        "bulk",
        format!(
            "Many writes a request (keys of 16 bytes, values of 200), {} clients, {NODES} nodes; counted when all nodes have applied them. \
             A request of ours is all or nothing; rqlite is asked with and without that.",
            CLIENTS[0]
        ),
    );
    let of = |found: &[Found], writes: usize, figure: Figure| -> Samples {
        found.iter().map(|found| figure(&found[writes][0])).collect()
    };
    let rate: Figure = |found| found.writes_per_second;
    let figures: [(&str, &str, Figure); 3] = [
        ("", "writes/s", rate),
        (", p99", "ms", |found| found.latencies.milliseconds(0.99)),
        (", processor time", "µs/write", |found| found.processor_microseconds),
    ];
    for (index, writes) in WRITES.iter().enumerate() {
        for (what, unit, figure) in figures {
            for (name, theirs) in rivals {
                let what = format!("{writes} a request{what}");
                report.compare(what, unit, &of(ours, index, figure), name, &of(theirs, index, figure));
            }
        }
    }
    let against = |theirs: &Vec<Found>| of(ours, 0, rate).ratios(&of(theirs, 0, rate)).median();
    let worst = rivals.map(|(_, theirs)| against(theirs)).into_iter().fold(f64::NAN, f64::min);
    report.check("100 a request: times rqlite in its faster way (the aim is 10)", worst, Bound::AtLeast(4.0));
    let [plain, transaction] = rivals.map(|(name, found)| (name, hundreds(found)));
    let lines = [("ours", hundreds(ours)), plain, transaction];
    report.plots.push(latency_plot("Latency against load with 100 writes a request", "writes/s", &lines));
    report
        .notes
        .push("The plot is of 1, 2 and 8 clients in closed loops: medians over the rounds.".to_owned());
    report
}

/// What was measured with the smaller requests, from few clients to many.
fn hundreds(found: &[Found]) -> Vec<UnderLoad<'_>> {
    let of = |clients: usize| found.iter().map(move |found| &found[0][clients]);
    [1, 2, 0]
        .map(|clients| of(clients).map(|point| (point.writes_per_second, &point.latencies)).collect())
        .into()
}

//! `ingest`: single writes, beside rqlite.

use crate::benchmark::{Bench, Figure, NODES, Throughput, announce, latency_plot};
use crate::data::Shape;
use crate::error::Result;
use crate::load::Until;
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::Subject;
use crate::subject::ours::Ours;
use crate::subject::rqlite::Rqlite;

const CLIENTS: [usize; 4] = [1, 8, 64, 256];

/// Parts of the most that a subject takes, for the plot.
const LOADS: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];

/// What one start of a subject showed.
struct Sweep {
    /// For each of `CLIENTS`.
    closed: Vec<Throughput>,
    /// For each of `LOADS`.
    open: Vec<Throughput>,
}

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=settings.rounds {
        announce(&format!("ingest, round {round} of {}: ours", settings.rounds));
        ours.push(sweep(&Ours::start(NODES).await, settings).await?);
        announce(&format!("ingest, round {round} of {}: rqlite", settings.rounds));
        theirs.push(sweep(&Rqlite::start(settings, NODES, false).await?, settings).await?);
    }
    Ok(build_report(&ours, &theirs))
}

async fn sweep<S: Subject>(subject: &S, settings: &Settings) -> Result<Sweep> {
    let mut bench = Bench::new(subject);
    bench.closed(64, Shape::SINGLE, Until::Elapsed(settings.warm_up())).await?;
    let mut sweep = Sweep { closed: Vec::new(), open: Vec::new() };
    let mut most = 0.0_f64;
    for clients in CLIENTS {
        let found = bench.closed(clients, Shape::SINGLE, Until::Elapsed(settings.duration())).await?;
        most = most.max(found.writes_per_second);
        sweep.closed.push(found);
    }
    for load in LOADS {
        sweep.open.push(bench.open(load * most, Shape::SINGLE, settings.duration()).await?);
    }
    Ok(sweep)
}

fn build_report(ours: &[Sweep], theirs: &[Sweep]) -> Report {
    let mut report = Report::new(
        "ingest",
        format!(
            "One write a request (keys of 16 bytes, values of 200), {NODES} nodes. A write counts when all nodes have applied it. Ours \
             answers when the broker has synced it for every node (`ack=broker`), rqlite when a majority has (its default writes)."
        ),
    );
    let of = |sweeps: &[Sweep], index: usize, figure: Figure| -> Samples {
        sweeps.iter().map(|sweep| figure(&sweep.closed[index])).collect()
    };
    let figures: [(&str, &str, Figure); 4] = [
        ("", "writes/s", |found| found.writes_per_second),
        (", median", "ms", |found| found.latencies.milliseconds(0.5)),
        (", p99", "ms", |found| found.latencies.milliseconds(0.99)),
        (", processor time", "µs/write", |found| found.processor_microseconds),
    ];
    for (what, unit, figure) in figures {
        for (index, clients) in CLIENTS.iter().enumerate() {
            let what = format!("{clients} client{}{what}", if *clients == 1 { "" } else { "s" });
            report.compare(what, unit, &of(ours, index, figure), "rqlite", &of(theirs, index, figure));
        }
    }
    let ratios =
        of(ours, 2, |found| found.writes_per_second).ratios(&of(theirs, 2, |found| found.writes_per_second));
    report.check("64 clients: times rqlite (the aim is 10)", ratios.median(), Bound::AtLeast(5.0));
    if let (Some(ours), Some(theirs)) = (ours.last(), theirs.last()) {
        report
            .plots
            .push(latency_plot("Latency against load", &[("ours", &ours.open), ("rqlite", &theirs.open)]));
    }
    report.notes.push(
        "The plot is of open loops at 10 to 90 % of the most that each took in closed ones, in the last round; a latency counts from \
         when the request was due."
            .to_owned(),
    );
    report
}

#[cfg(test)]
mod tests {
    use crate::latency::Latencies;

    use super::*;

    fn sweep_of(rates: [f64; 4]) -> Sweep {
        let point = |rate: f64| Throughput {
            writes_per_second: rate,
            answered_per_second: rate,
            processor_microseconds: 1.0,
            latencies: Latencies::new(),
        };
        Sweep { closed: rates.into_iter().map(point).collect(), open: Vec::new() }
    }

    #[test]
    fn what_is_checked_is_the_ratio_with_64_clients_round_by_round() {
        let ours = [[1.0, 2.0, 1_200.0, 4.0], [1.0, 2.0, 900.0, 4.0], [1.0, 2.0, 700.0, 4.0]].map(sweep_of);
        let theirs = [[1.0, 2.0, 200.0, 4.0], [1.0, 2.0, 300.0, 4.0], [1.0, 2.0, 100.0, 4.0]].map(sweep_of);
        let report = build_report(&ours, &theirs);
        // 6, 3 and 7 times.
        assert!((report.checks[0].found - 6.0).abs() < 1e-9 && report.checks[0].holds());
        let row = report.rows.iter().find(|row| row.what == "64 clients").unwrap();
        assert!((row.ours.median() - 900.0).abs() < 1e-9);
    }
}

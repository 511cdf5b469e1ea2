//! `ingest`: single writes, beside rqlite and etcd.

use crate::benchmark::{Bench, Figure, NODES, Throughput, UnderLoad, announce, in_order, latency_plot};
use crate::data::Shape;
use crate::error::Result;
use crate::load::Until;
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::Subject;
use crate::subject::etcd::Etcd;
use crate::subject::ours::Ours;
use crate::subject::rqlite::Rqlite;

const CLIENTS: [usize; 4] = [1, 8, 64, 256];

/// Parts of the most that a subject takes, for the plot.
const LOADS: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];

/// What one start of a subject showed.
struct Sweep {
    /// For each of `CLIENTS`.
    closed: Vec<Throughput>,
    /// For each of `LOADS`: what was offered, in writes a second, and what came of it.
    open: Vec<(f64, Throughput)>,
}

/// All rounds of one subject.
struct Measured {
    name: &'static str,
    sweeps: Vec<Sweep>,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Ours,
    Quorum,
    Rqlite,
    Etcd,
}

const ALL: [Who; 4] = [Who::Ours, Who::Quorum, Who::Rqlite, Who::Etcd];

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let mut all = ALL.map(|who| Measured { name: who.name(), sweeps: Vec::new() });
    for round in 1..=settings.rounds {
        for who in in_order(round, ALL) {
            announce(&format!("ingest, round {round} of {}: {}", settings.rounds, who.name()));
            all[who as usize].sweeps.push(measure(who, settings).await?);
        }
    }
    Ok(build_report(&all))
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Quorum => "ours, ack=quorum",
            Self::Rqlite => "rqlite",
            Self::Etcd => "etcd",
        }
    }
}

async fn measure(who: Who, settings: &Settings) -> Result<Sweep> {
    match who {
        Who::Ours => sweep(&Ours::start(NODES).await, settings).await,
        Who::Quorum => sweep(&Ours::start(NODES).await.answering_at_quorum(), settings).await,
        Who::Rqlite => sweep(&Rqlite::start(settings, NODES, false).await?, settings).await,
        Who::Etcd => sweep(&Etcd::start(settings, NODES).await?, settings).await,
    }
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
        let offered = load * most;
        sweep.open.push((offered, bench.open(offered, Shape::SINGLE, settings.duration()).await?));
    }
    Ok(sweep)
}

impl Measured {
    /// A figure with so many of `CLIENTS`, for each round.
    fn closed(&self, clients: usize, figure: Figure) -> Samples {
        self.sweeps.iter().map(|sweep| figure(&sweep.closed[clients])).collect()
    }

    /// How much of what was offered was done, in percent.
    fn done(&self, load: usize) -> Samples {
        let open = self.sweeps.iter().filter_map(|sweep| sweep.open.get(load));
        open.map(|(offered, found)| 100.0 * found.writes_per_second / offered).collect()
    }

    fn for_plot(&self) -> Vec<UnderLoad<'_>> {
        let under = |load: usize| {
            let open = self.sweeps.iter().filter_map(move |sweep| sweep.open.get(load));
            open.map(|(offered, found)| (*offered, &found.latencies)).collect()
        };
        (0..LOADS.len()).map(under).collect()
    }
}

fn build_report(all: &[Measured; 4]) -> Report {
    let mut report = Report::new(
        "ingest",
        format!(
            "One write a request (keys of 16 bytes, values of 200), {NODES} nodes. A write counts when all nodes have applied it, whatever it was \
             answered at."
        ),
    );
    let [ours, quorum, rqlite, etcd] = all;
    let rate: Figure = |found| found.writes_per_second;
    let figures: [(&str, &str, Figure); 4] = [
        ("", "writes/s", rate),
        (", median", "ms", |found| found.latencies.milliseconds(0.5)),
        (", p99", "ms", |found| found.latencies.milliseconds(0.99)),
        (", processor time", "µs/write", |found| found.processor_microseconds),
    ];
    for (what, unit, figure) in figures {
        for (index, clients) in CLIENTS.iter().enumerate() {
            let what = format!("{clients} client{}{what}", if *clients == 1 { "" } else { "s" });
            let mine = ours.closed(index, figure);
            report.compare(&*what, unit, &mine, rqlite.name, &rqlite.closed(index, figure));
            report.compare(&*what, unit, &mine, etcd.name, &etcd.closed(index, figure));
            let (what, at_quorum) = (format!("{what}, ack=quorum"), quorum.closed(index, figure));
            report.compare(what, unit, &at_quorum, rqlite.name, &rqlite.closed(index, figure));
        }
    }
    for (index, load) in LOADS.iter().enumerate() {
        let what = format!("done of what is offered, {:.0} % of the most", 100.0 * load);
        report.compare(what, "%", &ours.done(index), rqlite.name, &rqlite.done(index));
    }
    let times = ours.closed(2, rate).ratios(&rqlite.closed(2, rate)).median();
    report.check("64 clients: times rqlite (the aim is 10)", times, Bound::AtLeast(5.0));
    let lines: Vec<_> = all.iter().map(|one| (one.name, one.for_plot())).collect();
    report.plots.push(latency_plot("Latency against load", "writes/s offered", &lines));
    report.notes.extend([DURABILITY, RIVALS, PLOT].map(str::to_owned));
    report
}

const DURABILITY: &str = "What an answer promises differs. rqlite and etcd answer when most members have synced a write to their logs: it survives the \
    loss of a machine with its disk. Ours answers at `ack=broker` (the default) when the broker has synced it for each node's queue: it \
    survives power cuts of every machine, but until a node has applied it, milliseconds later as a rule, the broker's disk is the only one \
    that has it. At `ack=quorum` ours answers when, after that, most nodes have applied and synced it: that is the like of what the \
    others promise.";

const RIVALS: &str = "rqlite and etcd are written to at their leader, which is their fastest way, and run with their default settings; etcd has room for \
    8 GB, is asked as JSON like the others, and keeps keys and values rather than rows: there is no SQL to ask it with.";

const PLOT: &str = "The plot is of open loops at 10 to 90 % of the most that each took in closed ones; a latency counts from when the request was due; \
    points are medians over the rounds.";

#[cfg(test)]
mod tests {
    use crate::latency::Latencies;

    use super::*;

    fn measured(name: &'static str, rates: &[[f64; 4]]) -> Measured {
        let point = |rate: f64| Throughput {
            writes_per_second: rate,
            answered_per_second: rate,
            processor_microseconds: 1.0,
            latencies: Latencies::new(),
        };
        let sweep = |rates: &[f64; 4]| Sweep {
            closed: rates.iter().copied().map(point).collect(),
            open: vec![(2.0 * rates[0], point(rates[0]))],
        };
        Measured { name, sweeps: rates.iter().map(sweep).collect() }
    }

    #[test]
    fn what_is_checked_is_the_ratio_with_64_clients_round_by_round() {
        let ours = [[1.0, 2.0, 1_200.0, 4.0], [1.0, 2.0, 900.0, 4.0], [1.0, 2.0, 700.0, 4.0]];
        let rqlite = [[1.0, 2.0, 200.0, 4.0], [1.0, 2.0, 300.0, 4.0], [1.0, 2.0, 100.0, 4.0]];
        let others = [[5.0; 4]; 3];
        let all = [("ours", &ours), ("quorum", &others), ("rqlite", &rqlite), ("etcd", &others)];
        let report = build_report(&all.map(|(name, rates)| measured(name, rates)));
        // 6, 3 and 7 times.
        assert!((report.checks[0].found - 6.0).abs() < 1e-9 && report.checks[0].holds());
        let row = report.rows.iter().find(|row| row.what == "64 clients").unwrap();
        assert!((row.ours.median() - 900.0).abs() < 1e-9);
        // Twice as much was offered as was done.
        let row = report.rows.iter().find(|row| row.unit == "%").unwrap();
        assert!((row.ours.median() - 50.0).abs() < 1e-9);
    }
}

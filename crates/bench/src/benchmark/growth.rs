//! `growth`: what a write costs with more nodes, more rows and larger values.

use crate::benchmark::{Bench, Figure, NODES, Throughput, announce};
use crate::data::Shape;
use crate::error::Result;
use crate::load::Until;
use crate::plot::{Plot, Series};
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::ours::Ours;

/// What was measured along one dimension: for each size, each round.
type Found = Vec<(u64, Vec<Throughput>)>;

/// Along the nodes and the rows, requests have so many writes and so many clients send them.
const WRITES: u64 = 100;
const CLIENTS: usize = 8;

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let nodes = measure_nodes(settings).await?;
    let rows = measure_rows(settings).await?;
    let values = measure_values(settings).await?;
    Ok(build_report(&nodes, &rows, &values))
}

async fn measure_nodes(settings: &Settings) -> Result<Found> {
    let sizes: &[u32] = settings.pick(&[1, 3, 5, 9], &[1, 3]);
    let mut found: Found = sizes.iter().map(|nodes| (u64::from(*nodes), Vec::new())).collect();
    let shape = Shape::SINGLE.with_writes(WRITES);
    for round in 1..=settings.rounds {
        for (nodes, (_, samples)) in sizes.iter().zip(&mut found) {
            announce(&format!("growth, round {round} of {}: {nodes} nodes", settings.rounds));
            let ours = Ours::start(*nodes).await;
            let mut bench = Bench::new(&ours);
            bench.closed(CLIENTS, shape, Until::Elapsed(settings.warm_up())).await?;
            samples.push(bench.closed(CLIENTS, shape, Until::Elapsed(settings.duration())).await?);
        }
    }
    Ok(found)
}

/// The rows come to about 10 GB on the disks of all nodes together.
async fn measure_rows(settings: &Settings) -> Result<Found> {
    let sizes: &[u64] = settings.pick(&[10_000, 100_000, 1_000_000, 10_000_000], &[1_000, 10_000]);
    let ours = Ours::start(NODES).await;
    let mut bench = Bench::new(&ours);
    let mut found = Vec::new();
    let mut filled = 0;
    for rows in sizes {
        announce(&format!("growth: {rows} rows"));
        let shape = Shape { keys: *rows, writes: WRITES, ..Shape::SINGLE };
        // The numbers go on: those from the rows there were up to the rows there are to be have new keys.
        bench.skip_to(filled / WRITES);
        bench.closed(CLIENTS, shape, Until::Count((rows - filled) / WRITES)).await?;
        filled = *rows;
        bench.closed(CLIENTS, shape, Until::Elapsed(settings.warm_up())).await?;
        let mut samples = Vec::new();
        for _ in 0..settings.rounds {
            samples.push(bench.closed(CLIENTS, shape, Until::Elapsed(settings.duration())).await?);
        }
        found.push((*rows, samples));
    }
    Ok(found)
}

/// Single writes over few keys: the database stays small.
async fn measure_values(settings: &Settings) -> Result<Found> {
    let sizes: &[u64] = settings.pick(&[100, 1 << 10, 16 << 10, 64 << 10, 256 << 10], &[100, 256 << 10]);
    let mut found: Found = sizes.iter().map(|bytes| (*bytes, Vec::new())).collect();
    for round in 1..=settings.rounds {
        announce(&format!("growth, round {round} of {}: values", settings.rounds));
        let ours = Ours::start(NODES).await;
        let mut bench = Bench::new(&ours);
        bench.closed(CLIENTS, Shape::SINGLE, Until::Elapsed(settings.warm_up())).await?;
        for (bytes, samples) in &mut found {
            let value_bytes = usize::try_from(*bytes).unwrap_or(usize::MAX);
            let shape = Shape { keys: 200, value_bytes, writes: 1 };
            samples.push(bench.closed(CLIENTS, shape, Until::Elapsed(settings.duration())).await?);
        }
    }
    Ok(found)
}

fn build_report(nodes: &Found, rows: &Found, values: &Found) -> Report {
    let mut report = Report::new(
        "growth",
        format!(
            "What a write costs, which counts when all nodes have applied it. Nodes and rows: {WRITES} writes a request, {CLIENTS} clients; rows on \
             {NODES} nodes, written over at random once they are there. Values: one write a request, {CLIENTS} clients, {NODES} nodes."
        ),
    );
    for (found, word) in [(nodes, "nodes"), (rows, "rows"), (values, "bytes a value")] {
        for (size, samples) in found {
            report.state(format!("{size} {word}"), "writes/s", &of(samples, |found| found.writes_per_second));
        }
        for (size, samples) in found {
            let used = of(samples, |found| found.processor_microseconds);
            report.state(format!("{size} {word}, processor time"), "µs/write", &used);
        }
        report.plots.push(plot(word, found));
    }
    let (first, last) = (nodes.first().map_or(1, |one| one.0), nodes.last().map_or(1, |one| one.0));
    #[expect(clippy::cast_precision_loss, reason = "numbers of nodes")]
    let times = Bound::AtMost(last as f64 / first as f64);
    for (what, cost) in [("time", time as Figure), ("processor time", processor_time)] {
        report.check(
            format!("{last} nodes: times the {what} a write takes with {first}"),
            growth(nodes, cost),
            times,
        );
    }
    let (first, last) = (rows.first().map_or(1, |one| one.0), rows.last().map_or(1, |one| one.0));
    for (what, cost) in [("time", time as Figure), ("processor time", processor_time)] {
        let what = format!("{last} rows: times the {what} a write takes with {first}");
        report.check(what, growth(rows, cost), Bound::AtMost(1.5));
    }
    report
}

/// In microseconds.
fn time(found: &Throughput) -> f64 {
    1e6 / found.writes_per_second
}

fn processor_time(found: &Throughput) -> f64 {
    found.processor_microseconds
}

fn of(samples: &[Throughput], figure: Figure) -> Samples {
    samples.iter().map(figure).collect()
}

/// How many times the first size's cost the last one's is.
fn growth(found: &Found, cost: Figure) -> f64 {
    match (found.first(), found.last()) {
        (Some((_, first)), Some((_, last))) => of(last, cost).ratios(&of(first, cost)).median(),
        _ => f64::NAN,
    }
}

fn plot(word: &str, found: &Found) -> Plot {
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let line = |colour: usize, name: &str, cost: Figure| Series {
        name: name.to_owned(),
        colour,
        is_dashed: false,
        points: found.iter().map(|(size, samples)| (*size as f64, of(samples, cost).median())).collect(),
    };
    Plot {
        title: format!("Cost of a write by {word}"),
        x: word.to_owned(),
        y: "µs".to_owned(),
        series: vec![line(0, "time", time), line(1, "processor time", processor_time)],
    }
}

#[cfg(test)]
mod tests {
    use crate::latency::Latencies;

    use super::*;

    fn found(costs: &[(u64, f64)]) -> Found {
        let point = |cost: f64| Throughput {
            writes_per_second: 1e6 / cost,
            answered_per_second: 1e6 / cost,
            processor_microseconds: 2.0 * cost,
            latencies: Latencies::new(),
        };
        costs.iter().map(|(size, cost)| (*size, vec![point(*cost)])).collect()
    }

    #[test]
    fn a_cost_may_grow_as_the_nodes_do_and_not_with_the_rows() {
        let nodes = found(&[(1, 10.0), (3, 25.0), (9, 89.0)]);
        for (at_ten_million, holds) in [(14.0, true), (16.0, false)] {
            let rows = found(&[(10_000, 10.0), (10_000_000, at_ten_million)]);
            let checks = build_report(&nodes, &rows, &Vec::new()).checks;
            let verdicts: Vec<bool> = checks.iter().map(crate::report::Check::holds).collect();
            assert_eq!(verdicts, [true, true, holds, holds], "{checks:?}");
        }
        let checks = build_report(&found(&[(1, 10.0), (9, 91.0)]), &nodes, &Vec::new()).checks;
        assert!(!checks[0].holds() && !checks[1].holds(), "{checks:?}");
    }
}

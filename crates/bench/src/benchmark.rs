//! The benchmarks, each with what it measures and what the figures are to be.

pub mod bootstrap;
pub mod bulk;
pub mod carrier;
pub mod generator;
pub mod growth;
pub mod ingest;
pub mod operator;
pub mod replay;
pub mod visible;

use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::data::Shape;
use crate::error::Result;
use crate::latency::Latencies;
use crate::load::{Outcome, Until, closed_loop, open_loop};
use crate::plot::{Plot, Series};
use crate::report::Report;
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::Subject;

/// How many replicas there are where nothing else is said.
const NODES: u32 = 3;

/// A benchmark, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Benchmark {
    /// Single writes by 1 to 256 clients, beside rqlite and etcd
    Ingest,
    /// 100 and 1,000 writes a request, beside rqlite
    Bulk,
    /// The broadcast beside what the broker alone can do
    Carrier,
    /// From a request until every node can be read, beside rqlite and the broker
    Visible,
    /// A new node under load, beside a copy of the file
    Bootstrap,
    /// A node that catches up, beside a bare loop of the same upserts
    Replay,
    /// What a write costs with more nodes, more rows and larger values
    Growth,
    /// The generator of the load, beside wrk
    Generator,
    /// An operator with 1 to 1,000 resources
    Operator,
}

impl Benchmark {
    /// Runs it.
    pub async fn run(self, settings: &Settings) -> Result<Report> {
        match self {
            Self::Ingest => ingest::run(settings).await,
            Self::Bulk => bulk::run(settings).await,
            Self::Carrier => carrier::run(settings).await,
            Self::Visible => visible::run(settings).await,
            Self::Bootstrap => bootstrap::run(settings).await,
            Self::Replay => replay::run(settings).await,
            Self::Growth => growth::run(settings).await,
            Self::Generator => generator::run(settings).await,
            Self::Operator => operator::run(settings).await,
        }
    }
}

/// How fast a subject took writes, and what they cost.
#[derive(Clone, Debug)]
pub struct Throughput {
    /// Writes a second, from the first request until every replica has applied the last.
    pub writes_per_second: f64,
    /// Writes a second, from the first request until the last was answered.
    pub answered_per_second: f64,
    /// Processor time of all its processes for a write, in microseconds.
    pub processor_microseconds: f64,
    /// How long the requests took.
    pub latencies: Latencies,
}

/// A load that a subject is put under, and the number of its next request: none is sent twice.
#[derive(Debug)]
pub struct Bench<'a, S> {
    /// The subject.
    pub subject: &'a S,
    next: u64,
}

impl<'a, S: Subject> Bench<'a, S> {
    /// For a subject that has taken no request yet.
    pub fn new(subject: &'a S) -> Self {
        Self { subject, next: 0 }
    }

    /// Closed-loop load by so many clients.
    pub async fn closed(&mut self, clients: usize, shape: Shape, until: Until) -> Result<Throughput> {
        let (next, clients) = (self.next, self.subject.clients(clients, shape));
        self.measure(shape, closed_loop(clients, next, until)).await
    }

    /// The next request has this number.
    pub fn skip_to(&mut self, number: u64) {
        self.next = number;
    }

    /// Open-loop load of so many requests a second, over enough connections not to be a bound.
    pub async fn open(&mut self, rate: f64, shape: Shape, duration: Duration) -> Result<Throughput> {
        const CONNECTIONS: usize = 256;
        let (next, clients) = (self.next, self.subject.clients(CONNECTIONS, shape));
        self.measure(shape, open_loop(clients, next, rate, duration)).await
    }

    async fn measure(
        &mut self,
        shape: Shape,
        load: impl Future<Output = Result<Outcome>>,
    ) -> Result<Throughput> {
        let before = self.subject.processor_seconds();
        let Outcome { started, took: answered, completed, latencies } = load.await?;
        self.subject.wait_until_applied().await?;
        let (took, used) = (started.elapsed(), self.subject.processor_seconds() - before);
        self.next += completed;
        #[expect(clippy::cast_precision_loss, reason = "a count of writes")]
        let writes = (completed * shape.writes) as f64;
        Ok(Throughput {
            writes_per_second: writes / took.as_secs_f64(),
            answered_per_second: writes / answered.as_secs_f64(),
            processor_microseconds: used * 1e6 / writes,
            latencies,
        })
    }
}

/// A load, in writes a second, and the latencies under it, for each time that it was measured.
pub type UnderLoad<'a> = Vec<(f64, &'a Latencies)>;

/// What is shown of a throughput.
type Figure = fn(&Throughput) -> f64;

/// What is measured in a round, in the order of that one: every second round goes the other way round, so that nobody always has the
/// machine as the same other one left it.
fn in_order<T, const COUNT: usize>(round: usize, mut measured: [T; COUNT]) -> [T; COUNT] {
    if round.is_multiple_of(2) {
        measured.reverse();
    }
    measured
}

/// Says on standard error what is done next.
pub fn announce(what: &str) {
    eprintln!("{} {what}", jiff::Zoned::now().strftime("%H:%M:%S"));
}

/// Latency against load: a line each for the median and the 99th percentile of each subject. For each subject its name, and for each
/// load what was measured under it, as often as it was: the load in writes a second, and the latencies. A point is of the medians.
pub fn latency_plot(title: &str, x: &str, subjects: &[(&str, Vec<UnderLoad<'_>>)]) -> Plot {
    let series = subjects.iter().enumerate().flat_map(|(subject, (name, loads))| {
        [(0.5, "median", false), (0.99, "p99", true)].map(|(quantile, word, is_dashed)| {
            let point = |measured: &UnderLoad<'_>| {
                let load: Samples = measured.iter().map(|(load, _)| *load).collect();
                let latency: Samples =
                    measured.iter().map(|(_, latencies)| latencies.milliseconds(quantile)).collect();
                (load.median(), latency.median())
            };
            let points = loads.iter().map(point).collect();
            Series { name: format!("{name}, {word}"), points, colour: subject, is_dashed }
        })
    });
    Plot { title: title.to_owned(), x: x.to_owned(), y: "ms".to_owned(), series: series.collect() }
}

/// The seconds since.
fn seconds_since(started: Instant) -> f64 {
    started.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_of_a_plot_is_of_medians() {
        let latencies = [1, 9, 5].map(|millis| {
            let mut latencies = Latencies::new();
            latencies.record(Duration::from_millis(millis));
            latencies
        });
        let measured = [300.0, 100.0, 200.0].into_iter().zip(&latencies).collect();
        let plot = latency_plot("Latency", "writes/s", &[("ours", vec![measured])]);
        let (load, latency) = plot.series[0].points[0];
        assert!((load - 200.0).abs() < 1e-9 && (latency - 5.0).abs() < 0.01, "{plot:?}");
    }

    #[test]
    fn every_second_round_goes_the_other_way_round() {
        let rounds = [1, 2, 3, 4].map(|round| in_order(round, ["ours", "rival"])[0]);
        assert_eq!(rounds, ["ours", "rival", "ours", "rival"]);
    }
}

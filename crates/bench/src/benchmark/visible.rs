//! `visible`: from a request until every node can be read, beside rqlite with strong reads and the broker alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use broadcast_tests::broker::Broker;
use bytes::Bytes;
use futures_util::future::try_join_all;
use hyper::Method;

use crate::benchmark::{Bench, NODES, announce, in_order};
use crate::data::{COLLECTION, Shape};
use crate::error::{Result, told};
use crate::http::Connection;
use crate::latency::Latencies;
use crate::load::{Client, Until, closed_loop, open_loop};
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::Subject;
use crate::subject::ours::{Ours, OursClient};
use crate::subject::perf_test::{Publishing, publish};
use crate::subject::rqlite::{Rqlite, RqliteClient, read_strong};

/// How many writes a second are followed until they can be read: few enough to be no load.
const PROBES_PER_SECOND: u32 = 50;

/// So many may be under way at a time.
const PROBES: usize = 32;

/// The load's clients, in a closed loop to find the most and in an open one to put it on.
const CLIENTS: usize = 64;

const QUANTILES: [(f64, &str); 3] = [(0.5, "median"), (0.99, "p99"), (0.999, "p99.9")];

/// The probes' numbers begin where the load's do not come to.
const FIRST_PROBE: u64 = 1 << 40;

/// Writes, and then reads everywhere what it wrote.
struct Probe<C> {
    writer: C,
    readers: Vec<Connection>,
    shape: Shape,
    /// From when a request was due until it was answered.
    answered: Arc<Mutex<Latencies>>,
}

/// What one start of a subject showed, idle and at half of the most.
#[derive(Default)]
struct Found {
    visible: [Latencies; 2],
    answered: [Latencies; 2],
}

/// Latencies of one kind, idle and at half of the most.
type OfBoth = fn(&Found) -> &[Latencies; 2];

#[derive(Clone, Copy, Debug)]
enum Measured {
    Ours,
    Rqlite,
    PerfTest,
}

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let (mut ours, mut theirs, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=settings.rounds {
        for measured in in_order(round, [Measured::Ours, Measured::Rqlite, Measured::PerfTest]) {
            announce(&format!("visible, round {round} of {}: {measured:?}", settings.rounds));
            match measured {
                Measured::Ours => {
                    let subject = Ours::start(NODES).await;
                    ours.push(measure(&subject, settings, &subject.node_ports()).await?);
                }
                Measured::Rqlite => {
                    let subject = Rqlite::start(settings, NODES, false).await?;
                    theirs.push(measure(&subject, settings, &subject.ports()).await?);
                }
                Measured::PerfTest => floor.push(measure_floor(settings).await?),
            }
        }
    }
    Ok(build_report(&ours, &theirs, &floor))
}

async fn measure<S: Subject>(subject: &S, settings: &Settings, ports: &[u16]) -> Result<Found>
where
    Probe<S::Client>: Client,
{
    let mut bench = Bench::new(subject);
    bench.closed(CLIENTS, Shape::SINGLE, Until::Elapsed(settings.warm_up())).await?;
    let most = bench.closed(CLIENTS, Shape::SINGLE, Until::Elapsed(settings.duration())).await?;
    let mut found = Found::default();
    let duration = 3 * settings.duration();
    (found.visible[0], found.answered[0]) = probe(subject, ports, FIRST_PROBE, duration).await?;
    let half = most.writes_per_second / 2.0;
    let (load, probed) = tokio::join!(
        bench.open(half, Shape::SINGLE, duration),
        probe(subject, ports, 2 * FIRST_PROBE, duration)
    );
    load?;
    (found.visible[1], found.answered[1]) = probed?;
    Ok(found)
}

async fn probe<S: Subject>(
    subject: &S,
    ports: &[u16],
    first: u64,
    duration: Duration,
) -> Result<(Latencies, Latencies)>
where
    Probe<S::Client>: Client,
{
    let answered = Arc::default();
    let shape = Shape { keys: u64::MAX, ..Shape::SINGLE };
    let probes = || -> Vec<Probe<S::Client>> {
        let probe = || Probe {
            writer: subject.client(shape),
            readers: ports.iter().map(|port| Connection::new(*port)).collect(),
            shape,
            answered: Arc::clone(&answered),
        };
        (0..PROBES).map(|_| probe()).collect()
    };
    // Whatever is slow the first time is not what is asked for.
    closed_loop(probes(), first + (1 << 30), Until::Count(PROBES as u64)).await?;
    *answered.lock().unwrap_or_else(PoisonError::into_inner) = Latencies::new();
    let outcome = open_loop(probes(), first, f64::from(PROBES_PER_SECOND), duration).await?;
    let answered = answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((outcome.latencies, answered))
}

impl<C> Probe<C> {
    fn record_answer(&self, due: Instant) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).record(due.elapsed());
    }
}

impl Client for Probe<OursClient> {
    async fn call(&mut self, number: u64, due: Instant) -> Result<()> {
        let written = self.writer.write(number).await?;
        self.record_answer(due);
        let (key, value) = (self.shape.key(number), self.shape.value(number));
        let path = format!("/v1/collections/{COLLECTION}/{key}?at_least={}&timeout=30s", written.last);
        let reads = self.readers.iter_mut().map(|node| read_ours(node, &path, &value));
        try_join_all(reads).await.map(drop)
    }
}

async fn read_ours(node: &mut Connection, path: &str, value: &str) -> Result<()> {
    let found = node.send(Method::GET, path, Bytes::new()).await?;
    if found == value { Ok(()) } else { told(format!("a node has something else at {path}")) }
}

impl Client for Probe<RqliteClient> {
    async fn call(&mut self, number: u64, due: Instant) -> Result<()> {
        self.writer.call(number, due).await?;
        self.record_answer(due);
        let (key, value) = (self.shape.key(number), self.shape.value(number));
        let reads = self.readers.iter_mut().map(|node| read_strong(node, &key, &value));
        try_join_all(reads).await.map(drop)
    }
}

/// The median and the 99th percentile of what `PerfTest`'s consumers see, in milliseconds.
async fn measure_floor(settings: &Settings) -> Result<(f64, f64)> {
    let broker = Broker::start_for_measurement().await;
    let publishing = Publishing {
        message_bytes: Shape::SINGLE.writes_body(0).len() as u64,
        in_flight: 200,
        queues: NODES,
        consumed: true,
        rate: Some(PROBES_PER_SECOND),
        duration: 3 * settings.duration(),
    };
    let published = publish(&settings.perf_test, &broker.url(), "floor", publishing).await?;
    match published.consumer_latency {
        Some(latency) => Ok(latency),
        None => told("PerfTest had consumers and told no latency of theirs"),
    }
}

fn build_report(ours: &[Found], theirs: &[Found], floor: &[(f64, f64)]) -> Report {
    let mut report = Report::new(
        "visible",
        format!(
            "From when a write was due until it could be read on each of {NODES} nodes, {PROBES_PER_SECOND} a second. Ours is read at each node with \
             `at_least`, rqlite at each node with strong reads. Idle: nothing else goes on; at half: {CLIENTS} clients were let write as fast as \
             they could before, and half of that goes on meanwhile, in an open loop."
        ),
    );
    let quantile = |latencies: &[&Latencies], quantile: f64| -> Samples {
        latencies.iter().map(|latencies| latencies.milliseconds(quantile)).collect()
    };
    for (load, word) in ["idle", "at half"].into_iter().enumerate() {
        let at = |found: &'_ [Found], of: OfBoth, q: f64| -> Samples {
            quantile(&found.iter().map(|found| &of(found)[load]).collect::<Vec<_>>(), q)
        };
        let (visible, answered): (OfBoth, OfBoth) = (|found| &found.visible, |found| &found.answered);
        for (kind, of) in [("readable", visible), ("answered", answered)] {
            for (q, name) in QUANTILES {
                let (ours, theirs) = (at(ours, of, q), at(theirs, of, q));
                report.compare(format!("{word}, {kind}: {name}"), "ms", &ours, "rqlite", &theirs);
            }
        }
        if load == 0 {
            let medians: Samples = floor.iter().map(|latency| latency.0).collect();
            let p99: Samples = floor.iter().map(|latency| latency.1).collect();
            report.compare(
                "idle, readable: median",
                "ms",
                &at(ours, visible, 0.5),
                "PerfTest's consumers",
                &medians,
            );
            report.compare(
                "idle, readable: p99",
                "ms",
                &at(ours, visible, 0.99),
                "PerfTest's consumers",
                &p99,
            );
            let times = at(ours, visible, 0.5).ratios(&medians).median();
            report.check("idle, median: times PerfTest's consumers", times, Bound::AtMost(3.0));
            let later = at(ours, visible, 0.99).median() - at(ours, answered, 0.99).median();
            report.check("idle, p99: ms after the answer's", later, Bound::AtMost(10.0));
        }
    }
    report.notes.push(
        "PerfTest tells the 99th percentile and nothing beyond it, on the console and as metrics, and takes it from a sample of about a thousand \
         messages, the later ones more often. Its latency ends when a consumer has the message; ours ends when a client has read the row."
            .to_owned(),
    );
    report
}

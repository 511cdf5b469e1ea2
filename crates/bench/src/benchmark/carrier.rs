//! `carrier`: the broadcast beside what the broker alone can do.

use crate::benchmark::{Bench, NODES, Throughput, announce};
use crate::data::Shape;
use crate::error::Result;
use crate::load::Until;
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::ours::Ours;
use crate::subject::perf_test::{Publishing, publish};
use broadcast_tests::broker::Broker;

/// The nodes' queues and the head's.
const QUEUES: u32 = NODES + 1;

/// What an envelope adds to its writes, about.
const ENVELOPE_BYTES: u64 = 330;

const WRITES: u64 = 100;

/// Two, so that the next message is there when the last one is confirmed.
const CLIENTS: usize = 2;

/// How many messages `PerfTest` has in flight when each is one write.
const IN_FLIGHT: u32 = 200;

#[derive(Default)]
struct Found {
    /// Bytes a second that the broker confirmed: requests of a hundred writes, beside one message in flight.
    confirmed: [Samples; 2],
    /// What the nodes applied of it, in bytes.
    applied: Samples,
    /// Single writes a second, beside a message for each.
    singles: [Samples; 2],
    writes_a_message: Samples,
    bytes_a_message: Samples,
}

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let mut found = Found::default();
    for round in 1..=settings.rounds {
        announce(&format!("carrier, round {round} of {}: ours", settings.rounds));
        let message_bytes = measure_ours(settings, &mut found).await?;
        announce(&format!("carrier, round {round} of {}: PerfTest", settings.rounds));
        measure_broker(settings, message_bytes, &mut found).await?;
    }
    Ok(build_report(&found))
}

#[expect(clippy::cast_precision_loss, reason = "counts of writes and bytes")]
async fn measure_ours(settings: &Settings, found: &mut Found) -> Result<u64> {
    let ours = Ours::start(NODES).await;
    let shape = Shape::SINGLE.with_writes(WRITES);
    let mut bench = Bench::new(&ours);
    bench.closed(CLIENTS, shape, Until::Elapsed(settings.warm_up())).await?;
    let before = count(&ours).await;
    let batches = bench.closed(CLIENTS, shape, Until::Elapsed(settings.duration())).await?;
    let after = count(&ours).await;
    let writes_a_message = (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64;
    let bytes_a_write = shape.writes_body(0).len() as f64 / WRITES as f64;
    let bytes_a_message = writes_a_message * bytes_a_write + ENVELOPE_BYTES as f64;
    let bytes = |writes_per_second: f64| writes_per_second / writes_a_message * bytes_a_message;
    found.confirmed[0].push(bytes(batches.answered_per_second));
    found.applied.push(bytes(batches.writes_per_second));
    found.writes_a_message.push(writes_a_message);
    found.bytes_a_message.push(bytes_a_message);
    let singles: Throughput = bench.closed(256, Shape::SINGLE, Until::Elapsed(settings.duration())).await?;
    found.singles[0].push(singles.answered_per_second);
    ours.check_no_repairs().await?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    Ok(bytes_a_message as u64)
}

/// Messages and writes that the heart had confirmed.
async fn count(ours: &Ours) -> (u64, u64) {
    let count = async |name: &str| ours.cluster.heart_metric(0, name).await;
    (count("broadcast_heart_messages_published_total").await, count("broadcast_heart_writes_total").await)
}

async fn measure_broker(settings: &Settings, message_bytes: u64, found: &mut Found) -> Result<()> {
    let single = Shape::SINGLE.writes_body(0).len() as u64;
    let alone = Publishing {
        message_bytes,
        in_flight: 1,
        queues: QUEUES,
        consumed: false,
        rate: None,
        duration: settings.duration(),
    };
    let each = Publishing { message_bytes: single, in_flight: IN_FLIGHT, ..alone };
    for (publishing, name) in [(alone, "alone"), (each, "each")] {
        // A broker without the messages of what was measured before.
        let broker = Broker::start_for_measurement().await;
        let published = publish(&settings.perf_test, &broker.url(), name, publishing).await?;
        #[expect(clippy::cast_precision_loss, reason = "a size")]
        match name {
            "alone" => found.confirmed[1].push(published.confirmed_per_second * message_bytes as f64),
            _ => found.singles[1].push(published.confirmed_per_second),
        }
    }
    Ok(())
}

fn build_report(found: &Found) -> Report {
    let mut report = Report::new(
        "carrier",
        format!(
            "Requests of {WRITES} writes by {CLIENTS} clients, {NODES} nodes, beside PerfTest with one message of the same size in flight into \
             {QUEUES} queues; and single writes by 256 clients beside PerfTest with {IN_FLIGHT} messages of one write in flight. PerfTest \
             only publishes: its queues have no consumers, which costs it nothing; ours are consumed and applied at the same time."
        ),
    );
    let mega = |samples: &Samples| samples.divided_by(1e6);
    let [ours, theirs] = &found.confirmed;
    report.compare("confirmed by the broker", "MB/s", &mega(ours), "PerfTest, 1 in flight", &mega(theirs));
    report.compare(
        "applied by all nodes",
        "MB/s",
        &mega(&found.applied),
        "PerfTest, 1 in flight",
        &mega(theirs),
    );
    let [singles, messages] = &found.singles;
    report.compare(
        "single writes",
        "writes/s",
        singles,
        format!("PerfTest, {IN_FLIGHT} in flight"),
        messages,
    );
    report.state("writes a message", "writes", &found.writes_a_message);
    report.state("size of a message", "bytes", &found.bytes_a_message);
    report.check(
        "bytes confirmed a second: times PerfTest",
        ours.ratios(theirs).median(),
        Bound::AtLeast(0.8),
    );
    let applied = found.applied.ratios(theirs).median();
    report.check("bytes applied by all nodes a second: times PerfTest", applied, Bound::AtLeast(0.5));
    report
}

//! `carrier`: the broadcast beside what the broker alone can do.

use broadcast_tests::broker::Broker;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::benchmark::{Bench, NODES, Throughput, announce, in_order};
use crate::data::Shape;
use crate::error::{Result, told};
use crate::load::Until;
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::ours::Ours;
use crate::subject::perf_test::{Published, Publishing, publish};

/// The nodes' queues and the head's.
const QUEUES: u32 = NODES + 1;

const WRITES: u64 = 100;

/// So many that a message is there whenever the last one is confirmed.
const CLIENTS: usize = 8;

/// How many messages `PerfTest` has in flight when each is one write.
const IN_FLIGHT: u32 = 200;

#[derive(Default)]
struct Found {
    /// Bytes a second that the broker confirmed of requests of a hundred writes.
    confirmed: Samples,
    /// What all nodes have applied of it, in bytes a second.
    applied: Samples,
    /// Single writes a second.
    singles: Samples,
    requests_a_message: Samples,
    /// Of which `PerfTest` makes a message of its own.
    bytes_a_request: Samples,
    /// Bytes a second that `PerfTest` had confirmed with one message in flight, which stay in the queues.
    alone: Samples,
    /// The same while every queue has a consumer.
    consumed: Samples,
    /// What each consumer was given of it, in bytes a second.
    received: Samples,
    /// Messages of one write that `PerfTest` had confirmed, a second.
    each: Samples,
}

#[derive(Clone, Copy, Debug)]
enum Measured {
    Ours,
    PerfTest,
}

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let mut found = Found::default();
    for round in 1..=settings.rounds {
        for measured in in_order(round, [Measured::Ours, Measured::PerfTest]) {
            announce(&format!("carrier, round {round} of {}: {measured:?}", settings.rounds));
            match measured {
                Measured::Ours => measure_ours(settings, &mut found).await?,
                Measured::PerfTest => measure_broker(settings, &mut found).await?,
            }
        }
    }
    Ok(build_report(&found))
}

#[expect(clippy::cast_precision_loss, reason = "counts of writes")]
async fn measure_ours(settings: &Settings, found: &mut Found) -> Result<()> {
    let ours = Ours::start(NODES).await;
    let shape = Shape::SINGLE.with_writes(WRITES);
    let mut bench = Bench::new(&ours);
    bench.closed(CLIENTS, shape, Until::Elapsed(settings.warm_up())).await?;
    let before = count(&ours).await;
    let batches = bench.closed(CLIENTS, shape, Until::Elapsed(settings.duration())).await?;
    let after = count(&ours).await;
    // The broker keeps few messages; those that say that nothing is new would soon have taken the place of all others.
    bench.closed(CLIENTS, shape, Until::Count(32)).await?;
    let bytes_a_write = bytes_a_write(&ours.head().await)?;
    let writes_a_message = (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64;
    found.confirmed.push(batches.answered_per_second * bytes_a_write);
    found.applied.push(batches.writes_per_second * bytes_a_write);
    found.requests_a_message.push(writes_a_message / WRITES as f64);
    found.bytes_a_request.push(WRITES as f64 * bytes_a_write);
    let singles: Throughput = bench.closed(256, Shape::SINGLE, Until::Elapsed(settings.duration())).await?;
    found.singles.push(singles.answered_per_second);
    ours.check_no_repairs().await
}

/// Messages and writes that the heart had confirmed.
async fn count(ours: &Ours) -> (u64, u64) {
    let count = async |name: &str| ours.cluster.heart_metric(0, name).await;
    (count("broadcast_heart_messages_published_total").await, count("broadcast_heart_writes_total").await)
}

/// A message of writes; one that carries none has no such field.
#[derive(Deserialize)]
struct Message {
    writes: Option<Vec<IgnoredAny>>,
}

/// What a write takes in the messages that the heart published last, with its share of what is around the writes.
#[expect(clippy::cast_precision_loss, reason = "sizes")]
fn bytes_a_write(messages: &[Vec<u8>]) -> Result<f64> {
    let (mut bytes, mut writes) = (0, 0);
    for body in messages {
        if let Some(more) = serde_json::from_slice::<Message>(body)?.writes {
            bytes += body.len();
            writes += more.len();
        }
    }
    if writes == 0 {
        told("the head queue has no message of writes")
    } else {
        Ok(bytes as f64 / writes as f64)
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes")]
async fn measure_broker(settings: &Settings, found: &mut Found) -> Result<()> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    let message_bytes = found.bytes_a_request.median() as u64;
    let alone = Publishing {
        message_bytes,
        in_flight: 1,
        queues: QUEUES,
        consumed: false,
        rate: None,
        duration: settings.duration(),
    };
    let consumed = Publishing { consumed: true, ..alone };
    let single = Shape::SINGLE.writes_body(0).len() as u64;
    let each = Publishing { message_bytes: single, in_flight: IN_FLIGHT, ..alone };
    let bytes = |messages: f64| messages * message_bytes as f64;
    let published = publish_alone(settings, alone).await?;
    found.alone.push(bytes(published.confirmed_per_second));
    let published = publish_alone(settings, consumed).await?;
    found.consumed.push(bytes(published.confirmed_per_second));
    let Some(received) = published.received_per_second else {
        return told("PerfTest had consumers and told of nothing that they received");
    };
    found.received.push(bytes(received / f64::from(QUEUES)));
    found.each.push(publish_alone(settings, each).await?.confirmed_per_second);
    Ok(())
}

/// On a broker without the messages of what was measured before.
async fn publish_alone(settings: &Settings, publishing: Publishing) -> Result<Published> {
    let broker = Broker::start_for_measurement().await;
    publish(&settings.perf_test, &broker.url(), "bench", publishing).await
}

fn build_report(found: &Found) -> Report {
    let mut report = Report::new(
        "carrier",
        format!(
            "Requests of {WRITES} writes by {CLIENTS} clients, {NODES} nodes, beside PerfTest with one message in flight into {QUEUES} queues, each of \
             as many bytes as such a request takes in what the heart publishes, with nobody who consumes them and with a consumer for each, which \
             acknowledges every message and does nothing with it; and single writes by 256 clients beside PerfTest with {IN_FLIGHT} messages of \
             one write in flight. The heart has one message in flight, too, and puts into it what requests there are; what it publishes is \
             consumed and applied at the same time. The bytes are those of the messages that it published last, read from the broker."
        ),
    );
    let mega = |samples: &Samples| samples.divided_by(1e6);
    let (alone, consumed) = ("PerfTest, 1 in flight", "PerfTest, 1 in flight, consumed");
    let (confirmed, applied) = (mega(&found.confirmed), mega(&found.applied));
    report.compare("confirmed by the broker", "MB/s", &confirmed, alone, &mega(&found.alone));
    report.compare("confirmed by the broker", "MB/s", &confirmed, consumed, &mega(&found.consumed));
    report.compare(
        "applied by all nodes",
        "MB/s",
        &applied,
        "PerfTest, each consumer",
        &mega(&found.received),
    );
    let messages = format!("PerfTest, {IN_FLIGHT} in flight");
    report.compare("single writes", "writes/s", &found.singles, messages, &found.each);
    report.state("requests a message", "requests", &found.requests_a_message);
    report.state("size of a request", "bytes", &found.bytes_a_request);
    let ratio = found.confirmed.ratios(&found.alone).median();
    report.check("bytes confirmed a second: times PerfTest", ratio, Bound::AtLeast(0.8));
    let ratio = found.applied.ratios(&found.received).median();
    report.check(
        "bytes applied by all nodes a second: times PerfTest's consumers",
        ratio,
        Bound::AtLeast(0.5),
    );
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_write_is_that_in_messages_of_writes() {
        let messages = [r#"{"writes":[1,2,3]}"#, r#"{"last":3}"#, r#"{"writes":[1]}"#];
        let messages = messages.map(|body| body.as_bytes().to_vec());
        assert!((bytes_a_write(&messages).unwrap() - 8.0).abs() < 1e-9);
        assert!(bytes_a_write(&messages[1..2]).is_err());
    }
}

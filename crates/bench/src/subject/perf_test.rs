//! `PerfTest`, the load generator of `RabbitMQ` itself: what the broker alone can do.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use broadcast_tests::processes::{Folder, Process};

use crate::error::{Result, told};
use crate::statistics::Samples;

/// The first seconds, in which Java compiles what it runs often: they would make the rival look slow.
const WARM_UP_SECONDS: usize = 3;

/// What it adds to the time that it is told: to start, connect and declare.
const PATIENCE: Duration = Duration::from_mins(3);

/// What it publishes through a fanout exchange of its own.
#[derive(Clone, Copy, Debug)]
pub struct Publishing {
    /// The size of a message, in bytes.
    pub message_bytes: u64,
    /// How many messages may be unconfirmed.
    pub in_flight: u32,
    /// How many durable queues each goes to.
    pub queues: u32,
    /// Whether each queue has a consumer; without one what is published stays.
    pub consumed: bool,
    /// Messages a second; as many as can be without it.
    pub rate: Option<u32>,
    /// For how long, after the warm-up.
    pub duration: Duration,
}

/// What it measured.
#[derive(Debug, PartialEq)]
pub struct Published {
    /// Messages that were confirmed, a second.
    pub confirmed_per_second: f64,
    /// Messages that all consumers together were given, a second.
    pub received_per_second: Option<f64>,
    /// From publishing to a consumer, in milliseconds: the median and the 99th percentile.
    pub consumer_latency: Option<(f64, f64)>,
}

/// Runs it against a broker, under names that nobody else uses.
pub async fn publish(folder: &Path, amqp_url: &str, name: &str, publishing: Publishing) -> Result<Published> {
    let Publishing { message_bytes, in_flight, queues, consumed, rate, duration } = publishing;
    let seconds = duration.as_secs() + WARM_UP_SECONDS as u64;
    let mut command = Command::new("java");
    command.arg("-cp").arg(folder.join("*")).arg("com.rabbitmq.perf.PerfTest");
    command.args([
        "--id",
        "x",
        "--uri",
        amqp_url,
        "--type",
        "fanout",
        "--exchange",
        name,
        "--routing-key",
        "",
    ]);
    command.args(["--flag", "persistent", "--auto-delete", "false", "--producers", "1"]);
    command.args(["--queue-pattern", &format!("{name}-%d"), "--queue-pattern-from", "1"]);
    command.args(["--queue-pattern-to", &queues.to_string()]);
    command.args(["--consumers", &if consumed { queues } else { 0 }.to_string()]);
    command.args(["--size", &message_bytes.to_string(), "--confirm", &in_flight.to_string()]);
    command.args(["--time", &seconds.to_string()]);
    if let Some(rate) = rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let folder = Folder::new();
    let mut process = Process::start("PerfTest", &mut command, &folder.join("perf-test.log"));
    let status = process.wait(duration + PATIENCE).await;
    let text = process.output();
    if !status.success() {
        return told(format!("PerfTest: {status}\n{text}"));
    }
    parse(&text).map_or_else(|| told(format!("PerfTest said something else than expected:\n{text}")), Ok)
}

fn parse(text: &str) -> Option<Published> {
    let (confirmed, received) = (rates(text, ", confirmed: "), rates(text, ", received: "));
    let latencies = text.lines().find_map(|line| line.strip_prefix("id: x, consumer latency "));
    let consumer_latency = match latencies {
        Some(line) => Some(parse_latencies(line)?),
        None => None,
    };
    (!confirmed.is_empty()).then(|| Published {
        confirmed_per_second: confirmed.median(),
        received_per_second: (!received.is_empty()).then(|| received.median()),
        consumer_latency,
    })
}

/// What it tells of something each second, after the warm-up.
fn rates(text: &str, label: &str) -> Samples {
    let rates =
        text.lines().filter(|line| line.contains(" time ")).skip(WARM_UP_SECONDS).filter_map(|line| {
            let line = line.split_once(label)?.1;
            line.split_once(" msg/s")?.0.parse::<f64>().ok()
        });
    rates.collect()
}

/// `min/median/75th/95th/99th 1/2/3/4/5 µs`
fn parse_latencies(line: &str) -> Option<(f64, f64)> {
    let mut words = line.split(' ').skip(1);
    let numbers: Option<Vec<f64>> = words.next()?.split('/').map(|word| word.parse().ok()).collect();
    let to_milliseconds = match words.next()? {
        "µs" => 1e-3,
        "ms" => 1.0,
        _ => return None,
    };
    match numbers?[..] {
        [_, median, _, _, p99] => Some((median * to_milliseconds, p99 * to_milliseconds)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 2.22.1 prints it.
    const OUTPUT: &str = "\
id: x, starting producer #0
id: x, time 1.001 s, sent: 17 msg/s, confirmed: 17 msg/s, nacked: 0 msg/s, min/median/75th/95th/99th confirm latency: 1702/3814/5665/9776/25575 µs
id: x, time 2.002 s, sent: 35 msg/s, confirmed: 35 msg/s, nacked: 0 msg/s, min/median/75th/95th/99th confirm latency: 1776/3656/7275/14819/21206 µs
id: x, time 3.001 s, sent: 35 msg/s, confirmed: 35 msg/s, nacked: 0 msg/s, min/median/75th/95th/99th confirm latency: 1776/3656/7275/14819/21206 µs
id: x, time 4.001 s, sent: 720 msg/s, confirmed: 700 msg/s, nacked: 0 msg/s, min/median/75th/95th/99th confirm latency: 1776/3656/7275/14819/21206 µs
id: x, time 5.001 s, sent: 4.4 msg/s, confirmed: 4.4 msg/s, nacked: 0 msg/s, received: 9 msg/s, min/median/75th/95th/99th consumer latency: 1/2/3/4/5 µs
id: x, time 6.001 s, sent: 740 msg/s, confirmed: 740 msg/s, nacked: 0 msg/s, received: 9 msg/s, min/median/75th/95th/99th consumer latency: 1/2/3/4/5 µs
test stopped (Reached time limit)
id: x, sending rate avg: 16 msg/s
id: x, receiving rate avg: 7046 msg/s
";

    #[test]
    fn the_seconds_of_the_warm_up_do_not_count() {
        let published = parse(OUTPUT).unwrap();
        assert_eq!((published.confirmed_per_second, published.received_per_second), (700.0, Some(9.0)));
        assert_eq!(published.consumer_latency, None);
    }

    #[test]
    fn latencies_are_those_of_the_consumers_in_milliseconds() {
        let output = format!(
            "{OUTPUT}id: x, consumer latency min/median/75th/95th/99th 500/2500/3000/4000/9000 µs\n\
             id: x, confirm latency min/median/75th/95th/99th 1/2/3/4/5 µs\n"
        );
        let latency = parse(&output).unwrap().consumer_latency.unwrap();
        assert!((latency.0 - 2.5).abs() < 1e-9 && (latency.1 - 9.0).abs() < 1e-9, "{latency:?}");
    }

    #[test]
    fn what_is_not_understood_is_no_figure() {
        assert_eq!(parse("Exception in thread main\n"), None);
        assert_eq!(parse(&format!("{OUTPUT}id: x, consumer latency min/median 1/2 parsecs\n")), None);
    }
}

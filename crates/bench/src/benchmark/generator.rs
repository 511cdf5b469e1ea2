//! `generator`: the generator of the load beside wrk, to see that no other figure is the generator's own.

use std::process::Command;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::put;
use broadcast_tests::processes::{Folder, Process};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::benchmark::{announce, in_order};
use crate::data::{COLLECTION, Shape};
use crate::error::{Result, told};
use crate::http::Connection;
use crate::load::{Until, closed_loop};
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;
use crate::subject::ours::OursClient;

const CLIENTS: [usize; 3] = [1, 64, 256];

/// What a heart answers to a write.
const ANSWER: &str = r#"{"first":1,"last":1,"epoch":1,"ack":"broker"}"#;

/// What wrk takes to connect and to end, at most.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug)]
enum Measured {
    Ours,
    Wrk,
}

/// Answers every write at once and does nothing with it. It has threads of its own, and ends when this is dropped.
struct Server {
    port: u16,
    runtime: Option<Runtime>,
}

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let server = Server::start().await?;
    let none = || (Samples::default(), Samples::default());
    let mut found: Vec<(Samples, Samples)> = CLIENTS.iter().map(|_| none()).collect();
    measure_ours(&server, CLIENTS[1], settings.warm_up()).await?;
    for round in 1..=settings.rounds {
        announce(&format!("generator, round {round} of {}", settings.rounds));
        for (clients, (ours, wrk)) in CLIENTS.iter().zip(&mut found) {
            for measured in in_order(round, [Measured::Ours, Measured::Wrk]) {
                match measured {
                    Measured::Ours => ours.push(measure_ours(&server, *clients, settings.duration()).await?),
                    Measured::Wrk => wrk.push(measure_wrk(&server, *clients, settings.duration()).await?),
                }
            }
        }
    }
    Ok(build_report(&found))
}

impl Server {
    async fn start() -> Result<Self> {
        let runtime = Runtime::new()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?.into_std()?;
        let port = listener.local_addr()?.port();
        let answer = async |_: Path<(String, String)>, _: Bytes| ANSWER;
        let router = Router::new().route("/v1/collections/{collection}/{key}", put(answer));
        runtime.spawn(async move { axum::serve(TcpListener::from_std(listener)?, router).await });
        Ok(Self { port, runtime: Some(runtime) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of requests")]
async fn measure_ours(server: &Server, clients: usize, duration: Duration) -> Result<f64> {
    let client = || OursClient::new(Connection::new(server.port), Shape::SINGLE);
    let clients: Vec<_> = (0..clients).map(|_| client()).collect();
    let outcome = closed_loop(clients, 0, Until::Elapsed(duration)).await?;
    Ok(outcome.completed as f64 / outcome.took.as_secs_f64())
}

async fn measure_wrk(server: &Server, clients: usize, duration: Duration) -> Result<f64> {
    let folder = Folder::new();
    let value = Shape::SINGLE.value(0).replace('"', "\\\"");
    let script = folder.write(
        "put.lua",
        &format!(
            "wrk.method = \"PUT\"\nwrk.body = \"{value}\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\n"
        ),
    );
    let threads = clients.min(std::thread::available_parallelism().map_or(1, Into::into));
    let mut command = Command::new("wrk");
    command.args(["--threads", &threads.to_string(), "--connections", &clients.to_string()]);
    command.args(["--duration", &format!("{}s", duration.as_secs()), "--script"]).arg(script);
    let (port, key) = (server.port, Shape::SINGLE.key(0));
    command.arg(format!("http://127.0.0.1:{port}/v1/collections/{COLLECTION}/{key}"));
    let mut process = Process::start("wrk", &mut command, &folder.join("wrk.log"));
    process.wait(duration + PATIENCE).await;
    let text = process.output();
    parse(&text).map_or_else(|| told(format!("wrk said something else than expected:\n{text}")), Ok)
}

/// Requests a second; nothing when one of them failed.
fn parse(text: &str) -> Option<f64> {
    let has_failed = ["Non-2xx", "Socket errors"].iter().any(|word| text.contains(word));
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()?;
    (!has_failed).then_some(rate)
}

fn build_report(found: &[(Samples, Samples)]) -> Report {
    let mut report = Report::new(
        "generator",
        "The generator that all other benchmarks use beside wrk, both against one server that answers single writes at once and does nothing \
         with them, all three on this machine. Ours makes another key and value for every request and measures how long each took; wrk \
         sends the same one again and again.",
    );
    for (clients, (ours, wrk)) in CLIENTS.iter().zip(found) {
        let what = format!("{clients} client{}", if *clients == 1 { "" } else { "s" });
        report.compare(what, "requests/s", ours, "wrk", wrk);
    }
    let times = found.get(1).map_or(f64::NAN, |(ours, wrk)| ours.ratios(wrk).median());
    report.check("64 clients: times wrk", times, Bound::AtLeast(0.5));
    report.notes.push(
        "What is measured elsewhere is not bound by the generator as long as it is far below these rates."
            .to_owned(),
    );
    report
}

#[cfg(test)]
mod tests {
    use crate::load::Client as _;

    use super::*;

    const OUTPUT: &str = "  2 threads and 64 connections\n  100 requests in 2.00s, 1.00MB read\nRequests/sec:  20123.45\nTransfer/sec:      1.00MB\n";

    #[test]
    fn the_rate_counts_when_every_request_was_answered() {
        assert_eq!(parse(OUTPUT), Some(20_123.45));
        for line in
            ["  Socket errors: connect 0, read 1, write 0, timeout 0\n", "  Non-2xx or 3xx responses: 3\n"]
        {
            assert_eq!(parse(&format!("{line}{OUTPUT}")), None);
        }
        assert_eq!(parse("unable to connect\n"), None);
    }

    #[tokio::test]
    async fn the_server_takes_what_the_generator_sends() {
        let server = Server::start().await.unwrap();
        let mut client = OursClient::new(Connection::new(server.port), Shape::SINGLE);
        client.call(7, std::time::Instant::now()).await.unwrap();
    }
}

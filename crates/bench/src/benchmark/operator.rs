//! `operator`: one operator with many resources, on an API server and a `RabbitMQ` of its own, none of whose nodes ever has a pod.

use std::path::Path;
use std::time::{Duration, Instant};

use broadcast_api::ConditionType;
use broadcast_tests::api_server::audit::{Mark, Requests};
use broadcast_tests::api_server::{ApiServer, OPERATOR};
use broadcast_tests::broker::Broker;
use broadcast_tests::fleet::Fleet;
use broadcast_tests::operator::{Operator, OperatorSettings};
use broadcast_tests::processes::{Folder, Process};
use broadcast_tests::stand_in::{IDLE, StandIn};
use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use crate::benchmark::{NODES, announce, seconds_since};
use crate::error::{BenchError, Result, told};
use crate::machine::{Memory, memory, processor_seconds};
use crate::report::{Bound, Report};
use crate::settings::Settings;
use crate::statistics::Samples;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_hours(1);

/// Nothing more is to come when nothing was written for so long: numbers of the broker are found 15 s later at the earliest, by the first
/// look after that.
const SETTLING: Duration = Duration::from_secs(40);

/// How often it is looked whether something was written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is written after a repair, an event as a rule, comes within this.
const AFTERMATH: Duration = Duration::from_secs(5);

/// What the checks are of.
const HUNDRED: usize = 100;
const THOUSAND: usize = 1_000;

/// What the Messaging Topology Operator took for 100 exchanges with 300 queues and 300 bindings: seconds, and MiB.
const RIVAL: &str = "Messaging Topology Operator, measured by hand elsewhere, another run";
const RIVAL_SECONDS: f64 = 11.5;
const RIVAL_MIB: f64 = 64.0;

/// What one run showed.
struct Found {
    /// Until all were declared and said so.
    declared: Step,
    /// Until the last request that wrote something, in seconds.
    written: f64,
    memory: Memory,
    quiet: Quiet,
    /// After it was killed, until every resource had a pass.
    restart: Step,
    /// After an exchange was deleted by hand, until it was back.
    repair: Step,
}

/// Something that the operator does, and what it asks the API server meanwhile.
struct Step {
    seconds: f64,
    processor_seconds: f64,
    writes: Requests,
    reads: Requests,
}

/// A time in which nothing changes.
struct Quiet {
    writes: Requests,
    reads_per_second: f64,
    /// What operator, API server and broker use of a core, in percent.
    processor: [f64; 3],
}

type StepOf = fn(&Found) -> &Step;

/// Runs the benchmark.
pub async fn run(settings: &Settings) -> Result<Report> {
    let sizes: &[usize] = settings.pick(&[1, 10, HUNDRED, THOUSAND], &[1, 10]);
    let mut all: Vec<(usize, Vec<Found>)> = sizes.iter().map(|size| (*size, Vec::new())).collect();
    for round in 1..=settings.rounds {
        for (resources, found) in &mut all {
            // It takes a quarter of an hour.
            if *resources == THOUSAND && round > 1 {
                continue;
            }
            announce(&format!("operator, round {round} of {}: {resources} resources", settings.rounds));
            found.push(measure(*resources, settings).await?);
        }
    }
    Ok(build_report(&all))
}

async fn measure(resources: usize, settings: &Settings) -> Result<Found> {
    let (api_server, broker) = tokio::join!(ApiServer::start(), Broker::start_for_measurement());
    let client = api_server.client().await;
    let _stand_in = StandIn::start(&client).await;
    let namespace = format!("{IDLE}fleet");
    let fleet = Fleet::create(&client, &namespace, resources, NODES, &broker.url()).await;
    let folder = Folder::new();
    let operator = OperatorSettings {
        lease: Some(namespace.clone()),
        ..OperatorSettings::new(&api_server.kubeconfig(OPERATOR), "", &folder.join("operator.log"))
    };
    let log = api_server.audit_log();

    let now = || (Mark::now(&log), Instant::now());
    let begun = now();
    let running = operator.start();
    fleet.wait_until(ConditionType::TopologyDeclared, PATIENCE).await;
    let declared = Step::ended(&begun, &running, 0.0)?;
    let written = settle(&log, begun.1).await?;
    let processes = [running.process(), api_server.process(), broker.process()].map(Process::id);
    let quiet = Quiet::wait(&now().0, processes, resources, settings).await?;
    let memory = found(memory(running.process().id()))?;
    running.kill();

    let begun = now();
    let running = operator.start();
    wait_for_passes(&running, resources).await?;
    let restart = Step::ended(&begun, &running, 0.0)?;
    settle(&log, begun.1).await?;

    let (begun, used) = (now(), used(&running)?);
    broker.by_hand().await.delete_exchange(&fleet.name_of(0)).await;
    wait_for_exchange(&broker, &fleet.name_of(0)).await?;
    let seconds = seconds_since(begun.1);
    tokio::time::sleep(AFTERMATH).await;
    let repair = Step { seconds, ..Step::ended(&begun, &running, used)? };
    Ok(Found { declared, written, memory, quiet, restart, repair })
}

impl Step {
    /// What came of it since its beginning, when the operator had used so much processor time.
    fn ended((mark, started): &(Mark, Instant), operator: &Operator, used_before: f64) -> Result<Self> {
        let seconds = seconds_since(*started);
        let processor_seconds = used(operator)? - used_before;
        Ok(Self { seconds, processor_seconds, writes: mark.writes(), reads: mark.reads() })
    }
}

impl Quiet {
    async fn wait(mark: &Mark, processes: [u32; 3], resources: usize, settings: &Settings) -> Result<Self> {
        let whole = if resources == THOUSAND { Duration::from_mins(5) } else { Duration::from_secs(30) };
        let time = settings.pick(whole, Duration::from_secs(15));
        let used = || processes.map(|id| processor_seconds(id).unwrap_or(f64::NAN));
        let before = used();
        tokio::time::sleep(time).await;
        let after = used();
        let processor = [0, 1, 2].map(|index| 100.0 * (after[index] - before[index]) / time.as_secs_f64());
        let reads_per_second = count(&mark.reads()) / time.as_secs_f64();
        Ok(Self { writes: mark.writes(), reads_per_second, processor })
    }
}

/// Waits until nothing was written for a while, and tells when the last of it was, in seconds since the beginning.
async fn settle(log: &Path, begun: Instant) -> Result<f64> {
    let mut last = Instant::now();
    while last.elapsed() < SETTLING {
        if begun.elapsed() > PATIENCE {
            return Err(BenchError::TimedOut(PATIENCE.as_secs(), "the last write".to_owned()));
        }
        let mark = Mark::now(log);
        tokio::time::sleep(LOOK_EVERY).await;
        if !mark.writes().is_empty() {
            last = Instant::now();
        }
    }
    Ok(last.duration_since(begun).as_secs_f64())
}

/// The processor time of an operator so far, in seconds.
fn used(operator: &Operator) -> Result<f64> {
    found(processor_seconds(operator.process().id()))
}

fn found<T>(of_operator: Option<T>) -> Result<T> {
    of_operator.map_or_else(|| told("the operator has ended"), Ok)
}

/// Every resource has had a pass when there were so many: none has a second one before the others had their first.
async fn wait_for_passes(operator: &Operator, passes: usize) -> Result<()> {
    let started = Instant::now();
    loop {
        // It does not answer at once.
        let metrics = operator.metrics().await.unwrap_or_default();
        let counts = metrics.lines().filter(|line| line.starts_with("broadcast_operator_reconciles_total"));
        let done: usize = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        if done >= passes {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(BenchError::TimedOut(
                PATIENCE.as_secs(),
                format!("{passes} passes; {done} are done"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wait_for_exchange(broker: &Broker, name: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        // The broker closes the channel of whoever asks for what is not there.
        let by_hand = broker.by_hand().await;
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let (kind, arguments) = (ExchangeKind::Fanout, FieldTable::default());
        match by_hand.channel().exchange_declare(name.into(), kind, options, arguments).await {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn count(requests: &Requests) -> f64 {
    f64::from(u32::try_from(requests.values().sum::<usize>()).unwrap_or(u32::MAX))
}

fn build_report(all: &[(usize, Vec<Found>)]) -> Report {
    let mut report = Report::new(
        "operator",
        format!(
            "So many resources of {NODES} nodes each are there when an operator starts; its API server and its broker are its own. No node ever \
             has a pod. Declared: until each resource says that its exchanges and queues are. Everything \
             written: until the last request that made or changed something. Restarted: until each had a pass. Repaired: \
             from when an exchange was deleted by hand until it is back. Requests are those that the API server notes of the operator, \
             without its Lease. {THOUSAND} resources are measured in the first round only."
        ),
    );
    for (resources, found) in all {
        state(&mut report, *resources, found);
    }
    let of = |size: usize, figure: fn(&Found) -> f64| {
        let found = all.iter().find(|(resources, _)| *resources == size);
        found.map(|(_, found)| found.iter().map(figure).collect::<Samples>())
    };
    if let (Some(seconds), Some(mib)) = (of(HUNDRED, until_declared), of(HUNDRED, peak_mib)) {
        let rival = |figure: f64| seconds.iter().map(|_| figure).collect::<Samples>();
        let (their_seconds, their_mib) = (rival(RIVAL_SECONDS), rival(RIVAL_MIB));
        report.compare("100 resources, declared", "s", &seconds, RIVAL, &their_seconds);
        report.compare("100 resources, memory at most", "MiB", &mib, RIVAL, &their_mib);
        let (faster, part) = (their_seconds.ratios(&seconds).median(), mib.ratios(&their_mib).median());
        report.check("100 resources: times as fast as the rival's figure", faster, Bound::AtLeast(5.0));
        report.check("100 resources: part of the rival's memory", part, Bound::AtMost(1.0 / 3.0));
    }
    if let Some(mib) = of(THOUSAND, resident_mib) {
        report.check("1,000 resources: MiB resident", mib.median(), Bound::AtMost(40.0));
    }
    let written = all.iter().flat_map(|(_, found)| found).map(|found| count(&found.quiet.writes)).sum();
    report.check("writes while nothing changes", written, Bound::AtMost(0.0));
    report.notes.push(format!(
        "The figures of the {RIVAL}, are of 100 exchanges, 300 queues and 300 bindings: {RIVAL_SECONDS} s and {RIVAL_MIB} MiB. They are not of \
         this run and not of this machine's state now."
    ));
    report
}

fn until_declared(found: &Found) -> f64 {
    found.declared.seconds
}

fn resident_mib(found: &Found) -> f64 {
    found.memory.resident_mib
}

fn peak_mib(found: &Found) -> f64 {
    found.memory.peak_mib
}

/// The rows of one number of resources, and what was asked for in the last round.
fn state(report: &mut Report, resources: usize, all: &[Found]) {
    #[expect(clippy::cast_precision_loss, reason = "a count of resources")]
    let each = resources as f64;
    let mut row = |what: &str, unit, figure: &dyn Fn(&Found) -> f64| {
        report.state(format!("{resources}: {what}"), unit, &all.iter().map(figure).collect());
    };
    let steps: [(&str, StepOf); 3] = [
        ("declared", |found| &found.declared),
        ("restarted", |found| &found.restart),
        ("repaired", |found| &found.repair),
    ];
    for (word, step) in steps {
        row(word, "s", &|found| step(found).seconds);
        row(&format!("{word}, processor time"), "s", &|found| step(found).processor_seconds);
        // Of a repair one resource is the cause, of the other steps all.
        let (per, of) = if word == "repaired" { ("", 1.0) } else { (" a resource", each) };
        row(&format!("{word}, writes{per}"), "requests", &|found| count(&step(found).writes) / of);
        row(&format!("{word}, reads{per}"), "requests", &|found| count(&step(found).reads) / of);
    }
    row("everything written", "s", &|found| found.written);
    row("memory", "MiB", &resident_mib);
    row("memory at most", "MiB", &peak_mib);
    row("nothing changes, writes", "requests", &|found| count(&found.quiet.writes));
    row("nothing changes, reads", "requests/s", &|found| found.quiet.reads_per_second);
    for (index, name) in ["operator", "API server", "broker"].into_iter().enumerate() {
        row(&format!("nothing changes, {name}"), "% of a core", &|found| found.quiet.processor[index]);
    }
    if let Some(last) = all.last() {
        for (word, step) in steps {
            let Step { writes, reads, .. } = step(last);
            report.notes.push(format!("{resources}, {word}: writes {writes:?}, reads {reads:?}"));
        }
        if !last.quiet.writes.is_empty() {
            report.notes.push(format!("{resources}, nothing changes: writes {:?}", last.quiet.writes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(seconds: f64, mib: f64, quiet_writes: usize) -> Found {
        let requests = |times| Requests::from([("patch broadcastclusters/status".to_owned(), times)]);
        let step = || Step { seconds, processor_seconds: 0.1, writes: requests(200), reads: Requests::new() };
        let quiet = Quiet { writes: requests(quiet_writes), reads_per_second: 0.0, processor: [0.0; 3] };
        let memory = Memory { resident_mib: mib, peak_mib: mib };
        Found { declared: step(), written: 9.0, memory, quiet, restart: step(), repair: step() }
    }

    #[test]
    fn every_check_can_fail() {
        for (seconds, mib, quiet_writes, holds) in [(2.0, 20.0, 0, true), (3.0, 41.0, 1, false)] {
            let all = [HUNDRED, THOUSAND].map(|size| (size, vec![found(seconds, mib, quiet_writes)]));
            let checks = build_report(&all).checks;
            assert_eq!(checks.len(), 4);
            assert!(checks.iter().all(|check| check.holds() == holds), "{checks:?}");
        }
    }

    #[test]
    fn requests_are_told_for_each_resource() {
        let report = build_report(&[(HUNDRED, vec![found(2.0, 20.0, 0)])]);
        let row = report.rows.iter().find(|row| row.what == "100: declared, writes a resource").unwrap();
        assert!((row.ours.median() - 2.0).abs() < 1e-9);
    }
}

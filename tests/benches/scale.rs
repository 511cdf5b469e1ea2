//! One operator with many resources, on an API server and a RabbitMQ of its own:
//! `cargo build --release -p broadcast-operator && cargo bench -p broadcast-tests --bench scale [-- RESOURCES SECONDS idle]`.
//!
//! What it shows: how long until all resources have what they need, from nothing and after a restart; what the operator reads and writes
//! while nothing changes, what it takes of a core, and its memory. With `idle` no node ever has a pod. `BROADCAST_OPERATOR` names another
//! program to measure.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use broadcast_api::ConditionType;
use broadcast_tests::api_server::audit::{Mark, Requests};
use broadcast_tests::api_server::{ApiServer, OPERATOR};
use broadcast_tests::broker::Broker;
use broadcast_tests::fleet::Fleet;
use broadcast_tests::operator::{Operator, OperatorSettings};
use broadcast_tests::processes::{Folder, Process};
use broadcast_tests::stand_in::{IDLE, StandIn};

const RESOURCES: usize = 1000;

const SECONDS: u64 = 300;

const NODES: u32 = 3;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_hours(1);

/// What is written when all is done: numbers that are found 15 s later at the earliest, by the first look after that.
const SETTLING: Duration = Duration::from_mins(1);

/// What all of them may take.
const MEMORY: u64 = 40 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<u64>().ok());
    let resources = numbers.next().map_or(RESOURCES, |number| usize::try_from(number).unwrap());
    let quiet = Duration::from_secs(numbers.next().unwrap_or(SECONDS));
    let is_idle = arguments.iter().any(|argument| argument == "idle");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if runtime.block_on(measure(resources, quiet, is_idle)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure(resources: usize, quiet: Duration, is_idle: bool) -> bool {
    let (api_server, broker) = tokio::join!(ApiServer::start(), Broker::start());
    let client = api_server.client().await;
    let _stand_in = StandIn::start(&client).await;
    let namespace = if is_idle { format!("{IDLE}fleet") } else { "fleet".to_owned() };
    let wanted = if is_idle { ConditionType::TopologyDeclared } else { ConditionType::Ready };
    let fleet = Fleet::create(&client, &namespace, resources, NODES, &broker.url()).await;
    println!("{resources} resources of {NODES} nodes, {}", if is_idle { "without pods" } else { "ready" });

    let folder = Folder::new();
    let settings = OperatorSettings {
        lease: Some(namespace.clone()),
        ..OperatorSettings::new(&api_server.kubeconfig(OPERATOR), "", &folder.join("operator.log"))
    };
    let (operator, mark) = (settings.start(), Mark::now(&api_server.audit_log()));
    let took = fleet.wait_until(wanted, PATIENCE).await;
    println!(
        "from nothing: all are {wanted:?} after {:.1}s; {}",
        took.as_secs_f64(),
        describe(operator.process())
    );
    println!("  requests: {:?} {:?}", mark.writes(), mark.reads());

    tokio::time::sleep(SETTLING).await;
    let is_quiet = measure_steady_state(&api_server, &broker, &operator, quiet).await;
    operator.kill();
    let operator = settings.start();
    let (took, passes) = wait_for_passes(&operator, resources).await;
    println!(
        "after a restart: {passes} passes after {:.1}s; {}",
        took.as_secs_f64(),
        describe(operator.process())
    );
    let is_quiet_again = measure_steady_state(&api_server, &broker, &operator, quiet).await;
    is_quiet && is_quiet_again
}

/// Whether nothing was written, and memory was not exceeded.
async fn measure_steady_state(
    api: &ApiServer,
    broker: &Broker,
    operator: &Operator,
    quiet: Duration,
) -> bool {
    let processes =
        [("operator", operator.process()), ("API server", api.process()), ("broker", broker.process())];
    let mark = Mark::now(&api.audit_log());
    let before = processes.map(|(_, process)| cpu_seconds(process));
    tokio::time::sleep(quiet).await;
    let (writes, reads) = (mark.writes(), mark.reads());
    println!("{quiet:?} of nothing: writes {writes:?}; {:.1} reads/s {reads:?}", per_second(&reads, quiet));
    for ((name, process), before) in processes.iter().zip(before) {
        let used = cpu_seconds(process) - before;
        println!(
            "  {name}: {used:.1}s of a core ({:.1}%), {}",
            100.0 * used / quiet.as_secs_f64(),
            describe(process)
        );
    }
    writes.is_empty() && memory(operator.process(), "VmRSS:") < MEMORY
}

/// Every resource has had a pass when there were so many: none has a second one before the others had their first.
async fn wait_for_passes(operator: &Operator, passes: usize) -> (Duration, usize) {
    let started = Instant::now();
    loop {
        let metrics = operator.metrics().await.unwrap_or_default();
        let counts = metrics.lines().filter(|line| line.starts_with("broadcast_operator_reconciles_total"));
        let done: usize = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        if done >= passes {
            return (started.elapsed(), done);
        }
        assert!(started.elapsed() < PATIENCE, "{done} passes");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn per_second(requests: &Requests, time: Duration) -> f64 {
    let all = u32::try_from(requests.values().sum::<usize>()).unwrap();
    f64::from(all) / time.as_secs_f64()
}

fn describe(process: &Process) -> String {
    let mib = |line| memory(process, line) >> 20;
    format!("{} MiB resident, {} MiB at most", mib("VmRSS:"), mib("VmHWM:"))
}

/// Out of `/proc`, in bytes.
fn memory(process: &Process, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|found| found.starts_with(line)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Of user and system, since the process began.
fn cpu_seconds(process: &Process) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u32 = fields[11..13].iter().map(|ticks| ticks.parse::<u32>().unwrap()).sum();
    // Linux counts in hundredths of a second, whatever its clock does.
    f64::from(ticks) / 100.0
}

//! The test command: everything that can be tested on this machine, with the output of the tests as it comes.

use std::fs;
use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;

use crate::apt;
use crate::cluster::{Cluster, look_around, take_down};
use crate::codegen;
use crate::context::{Context, write_whole};
use crate::failure::{AtPath, Result, told};
use crate::install::{check_chart, install_rabbitmq, provide_images};
use crate::rabbitmq::RabbitMq;
use crate::step::{run_in_the_open, words};
use crate::tools::Tools;

/// A part of the tests, by what it needs.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Suite {
    /// Form, lints, generated files, unit tests, the chart's form: needs nothing
    Unit,
    /// The protocol in simulated clusters: needs nothing
    Sim,
    /// The programs against a real RabbitMQ on this machine
    Broker,
    /// Everything on a real Kubernetes
    E2e,
}

/// What the suites are run with.
pub(crate) struct Choices {
    /// The versions that the broker's suite is run with, one after the other.
    pub(crate) rabbitmq: Vec<RabbitMq>,
    /// For how long each of them has faults by chance.
    pub(crate) chaos_minutes: u32,
    /// The number that decides their order; without it another one each time.
    pub(crate) chaos_seed: Option<u64>,
    /// How many clusters are simulated.
    pub(crate) seeds: u64,
    /// The only one to simulate.
    pub(crate) seed: Option<u64>,
}

/// Runs the suites in order and stops at the first that fails.
pub(crate) fn run(context: &Context, suites: &[Suite], choices: &Choices) -> Result<()> {
    let suites = if suites.is_empty() { Suite::value_variants() } else { suites };
    for suite in suites {
        let started = Instant::now();
        let (name, outcome) = match suite {
            Suite::Unit => ("unit", test_units(context)),
            Suite::Sim => ("sim", simulate(context, choices)),
            Suite::Broker => ("broker", test_with_brokers(context, choices)),
            Suite::E2e => ("e2e", test_end_to_end(context)),
        };
        let verdict = if outcome.is_ok() { "passed" } else { "FAILED" };
        println!("test suite {name}: {verdict} after {}", words(started.elapsed()));
        outcome?;
    }
    Ok(())
}

fn cargo(context: &Context, arguments: &str) -> Result<()> {
    println!("cargo {arguments}");
    run_in_the_open(context.cargo().args(arguments.split(' ')))
}

/// Simulated clusters, and then whether a protocol with broken rules is told from the right one.
fn simulate(context: &Context, choices: &Choices) -> Result<()> {
    let simulator = "run --quiet --profile simulation --package broadcast-simulator --";
    if let Some(seed) = choices.seed {
        return cargo(context, &format!("{simulator} --seed {seed}"));
    }
    cargo(context, &format!("{simulator} --seeds {}", choices.seeds))?;
    cargo(context, &format!("{simulator} --mutations"))
}

fn test_units(context: &Context) -> Result<()> {
    cargo(context, "fmt --all --check")?;
    cargo(context, "clippy --workspace --all-targets -- -D warnings")?;
    codegen::check(context)?;
    cargo(context, "test --workspace --exclude broadcast-tests")?;
    cargo(context, "test --package broadcast-tests --lib")?;
    let helm = Tools::build_helm(context)?.path("helm");
    let chart = context.root.join("charts/broadcast-operator");
    run_in_the_open(std::process::Command::new(helm).args(["lint", "--strict"]).arg(chart))
}

fn test_with_brokers(context: &Context, choices: &Choices) -> Result<()> {
    cargo(context, "build --package broadcast-heart --package broadcast-node")?;
    let report = context.target.join("broker-tests.txt");
    let mut verdicts = Vec::new();
    let mut test = |version: RabbitMq| {
        let started = Instant::now();
        write_whole(&report, b"")?;
        let outcome = test_with_broker(context, version, choices, &report);
        let verdict = if outcome.is_ok() { "passed" } else { "FAILED" };
        let measured = fs::read_to_string(&report).at("read", &report)?;
        let took = words(started.elapsed());
        verdicts.push(format!("{measured}with RabbitMQ {}: {verdict} after {took}", version.name()));
        outcome
    };
    let outcome = choices.rabbitmq.iter().try_for_each(|version| test(*version));
    // What was measured, once more below all that the tests printed.
    println!("{}", verdicts.join("\n"));
    outcome
}

fn test_with_broker(context: &Context, version: RabbitMq, choices: &Choices, report: &Path) -> Result<()> {
    let root = version.provide(context)?;
    let arguments = "test --package broadcast-tests --test broker*";
    println!("with RabbitMQ {}: cargo {arguments}", version.name());
    let mut tests = context.cargo();
    tests.args(arguments.split(' ')).env("BROADCAST_TEST_REPORT", report);
    tests.env("CHAOS_MINUTES", choices.chaos_minutes.to_string());
    if let Some(seed) = choices.chaos_seed {
        tests.env("CHAOS_SEED", seed.to_string());
    }
    match root {
        Some(root) => tests.env("BROADCAST_RABBITMQ_ROOT", root),
        None => tests.env_remove("BROADCAST_RABBITMQ_ROOT"),
    };
    run_in_the_open(&mut tests)
}

/// A cluster that was there before is left as it is; one that was started for the tests goes with them, whatever came of them, and the
/// machine has to look as before.
fn test_end_to_end(context: &Context) -> Result<()> {
    apt::install(context, apt::FOR_RECORDS)?;
    let cluster = Cluster::bring_up(context)?;
    let outcome = test_on_cluster(context, &cluster);
    let Some(before) = &cluster.before else { return outcome };
    let gone = take_down(context);
    outcome.and(gone)?;
    let after = look_around();
    let left: Vec<_> = after.difference(before).map(String::as_str).collect();
    if left.is_empty() {
        Ok(())
    } else {
        told(format!("the local cluster left behind:\n  {}", left.join("\n  ")))
    }
}

fn test_on_cluster(context: &Context, cluster: &Cluster) -> Result<()> {
    let images = provide_images(context, cluster, None)?;
    install_rabbitmq(context, cluster)?;
    let arguments = "test --package broadcast-tests --test e2e* -- --test-threads=1";
    let mut tests = context.cargo();
    tests.args(arguments.split(' ')).env("BROADCAST_CHART", context.root.join("charts/broadcast-operator"));
    cluster.introduce_to(&mut tests);
    if let Some(images) = &images {
        check_chart(context, cluster, images)?;
        tests.env("BROADCAST_IMAGE_OPERATOR", &images.operator);
        tests.env("BROADCAST_IMAGE_HEART", &images.heart).env("BROADCAST_IMAGE_NODE", &images.node);
    }
    println!("cargo {arguments}");
    run_in_the_open(&mut tests)
}

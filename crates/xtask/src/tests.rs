//! The test command: everything that can be tested on this machine, with the output of the tests as it comes.

use std::time::Instant;

use clap::ValueEnum;

use crate::apt;
use crate::broker_tests::{self, BrokerChoices};
use crate::cluster::{Cluster, look_around, take_down};
use crate::codegen;
use crate::context::Context;
use crate::failure::{Result, told};
use crate::install::{check_chart, install_rabbitmq, provide_images};
use crate::instructions;
use crate::rabbitmq::RabbitMq;
use crate::step::{run_in_the_open, words};
use crate::tools::Tools;

/// A part of the tests, by what it needs.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Suite {
    /// Form, lints, generated files, unit tests, the chart: needs nothing but Helm and Prometheus, which it brings
    Unit,
    /// The protocol in simulated clusters: needs nothing
    Sim,
    /// What the hot paths cost in instructions, beside what is recorded: needs nothing but Valgrind, which it brings
    Instructions,
    /// The programs against a real RabbitMQ on this machine
    Broker,
    /// The operator alone against a real API server and a real RabbitMQ on this machine: killed after each of its actions
    Api,
    /// Everything on a real Kubernetes
    E2e,
}

/// What the suites are run with.
pub(crate) struct Choices {
    /// What the broker's suite is run with.
    pub(crate) broker: BrokerChoices,
    /// How many clusters are simulated.
    pub(crate) seeds: u64,
    /// The only one to simulate.
    pub(crate) seed: Option<u64>,
    /// The end-to-end tests to run, as in `drift`; none means all.
    pub(crate) only: Vec<String>,
}

/// Runs the suites in order and stops at the first that fails.
pub(crate) fn run(context: &Context, suites: &[Suite], choices: &Choices) -> Result<()> {
    let suites = if suites.is_empty() { Suite::value_variants() } else { suites };
    for suite in suites {
        let started = Instant::now();
        let (name, outcome) = match suite {
            Suite::Unit => ("unit", test_units(context)),
            Suite::Sim => ("sim", simulate(context, choices)),
            Suite::Instructions => ("instructions", instructions::check(context)),
            Suite::Broker => ("broker", broker_tests::run(context, &choices.broker)),
            Suite::Api => ("api", test_operator(context)),
            Suite::E2e => ("e2e", test_end_to_end(context, &choices.only)),
        };
        let verdict = if outcome.is_ok() { "passed" } else { "FAILED" };
        println!("test suite {name}: {verdict} after {}", words(started.elapsed()));
        outcome?;
    }
    Ok(())
}

/// Whatever is built is built with `--workspace`: a part alone has other features of its dependencies, all of which would be
/// compiled once more.
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
    cargo(context, "test --workspace --lib --bins")?;
    test_chart(context)
}

fn test_chart(context: &Context) -> Result<()> {
    apt::install(context, apt::FOR_MONITORING)?;
    let helm = Tools::build_helm(context)?.path("helm");
    let arguments = "test --workspace --test chart";
    println!("cargo {arguments}");
    run_in_the_open(context.cargo().args(arguments.split(' ')).env("HELM", helm).env("PROMTOOL", "promtool"))
}

/// Needs no cluster, and no root.
fn test_operator(context: &Context) -> Result<()> {
    RabbitMq::Bookworm.provide(context)?;
    Tools::build_api_server(context)?;
    cargo(context, "build --package broadcast-operator")?;
    cargo(context, "test --package broadcast-tests --test api")
}

/// A cluster that was there before is left as it is; one that was started for the tests goes with them, whatever came of them, and the
/// machine has to look as before.
fn test_end_to_end(context: &Context, only: &[String]) -> Result<()> {
    apt::install(context, apt::FOR_RECORDS)?;
    apt::install(context, apt::FOR_MONITORING)?;
    let cluster = Cluster::bring_up(context)?;
    let outcome = test_on_cluster(context, &cluster, only);
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

fn test_on_cluster(context: &Context, cluster: &Cluster, only: &[String]) -> Result<()> {
    let images = provide_images(context, cluster, None)?;
    install_rabbitmq(context, cluster)?;
    // One of the tests runs it.
    cargo(context, "build --workspace --bin kubectl-broadcast")?;
    let chosen: Vec<_> = only.iter().map(|name| format!("--test e2e_{name}")).collect();
    let chosen = if chosen.is_empty() { "--test e2e*".to_owned() } else { chosen.join(" ") };
    // What one behaviour does wrong hides nothing of the others.
    let arguments = format!("test --workspace --no-fail-fast {chosen} -- --test-threads=1");
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

//! What can be asked for.

use clap::{Parser, Subcommand, ValueEnum};

use crate::bench::{self, BenchChoices};
use crate::broker_tests::BrokerChoices;
use crate::cluster::{self, Cluster};
use crate::codegen;
use crate::context::Context;
use crate::failure::Result;
use crate::images;
use crate::install::{apply_sample, install_operator, install_rabbitmq, provide_images};
use crate::instructions;
use crate::rabbitmq::RabbitMq;
use crate::sample;
use crate::tests::{self, Choices, Suite};
use crate::tools::Tools;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development commands of Broadcast Operator")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring up a working broadcast cluster on a real Kubernetes, from nothing
    ///
    /// Uses the cluster that KUBECONFIG names; without it a local one is started, which needs root on Debian 12.
    Up {
        /// How many nodes it has
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        nodes: u32,
        /// Where to push images to, for a cluster that is not the local one; without it the chart's own names are pulled
        #[arg(long)]
        registry: Option<String>,
    },
    /// Take the local Kubernetes down; nothing of it stays but the cache
    Down,
    /// Print the path of the cluster's kubeconfig
    Kubeconfig,
    /// Run the tests: all suites, or those that are named
    Test {
        /// What to test
        suites: Vec<Suite>,
        /// The RabbitMQ that the suite `broker` is run with; without it one after the other
        #[arg(long)]
        rabbitmq: Option<RabbitMq>,
        /// How often the suite `broker` is run with each RabbitMQ; it ends at the first failure
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        times: u32,
        /// How many minutes of faults by chance the suite `broker` has, with each RabbitMQ
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1440))]
        chaos_minutes: u32,
        /// Repeats the faults of a run that printed this number
        #[arg(long)]
        chaos_seed: Option<u64>,
        /// How many clusters the suite `sim` simulates
        #[arg(long, default_value_t = 100_000)]
        seeds: u64,
        /// The suite `sim` simulates this one alone and prints everything that happens in it
        #[arg(long)]
        seed: Option<u64>,
        /// The suite `e2e` runs these of its tests alone: `drift` is `tests/tests/e2e_drift.rs`
        #[arg(long, value_name = "TEST")]
        only: Vec<String>,
    },
    /// Write the files that are generated from the resource's types
    Codegen {
        /// Only say whether they are up to date
        #[arg(long)]
        check: bool,
    },
    /// Build and cache the programs of the local Kubernetes
    Tools,
    /// Build the images of operator, heart and node
    Images,
    /// Measure beside what one would use instead; the report goes to target/bench
    Bench(BenchChoices),
    /// Count the instructions of the hot paths and record them, for the suite `instructions` to compare with
    Instructions,
}

/// Does what the command line says.
pub(crate) fn run() -> Result<()> {
    let arguments = Arguments::parse();
    let context = Context::from_environment()?;
    match arguments.command {
        Command::Kubeconfig => cluster::print_kubeconfig(&context),
        Command::Codegen { check: true } => codegen::check(&context),
        Command::Codegen { check: false } => codegen::generate(&context),
        command => {
            let _no_other_command = context.lock()?;
            run_alone(&context, command)
        }
    }
}

fn run_alone(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Up { nodes, registry } => up(context, nodes, registry.as_deref()),
        Command::Down => {
            let was_there = cluster::take_down(context)?;
            println!(
                "{}",
                if was_there { "nothing of the local cluster is left" } else { "there is no local cluster" }
            );
            Ok(())
        }
        Command::Test { suites, rabbitmq, times, chaos_minutes, chaos_seed, seeds, seed, only } => {
            let rabbitmq = rabbitmq.map_or_else(|| RabbitMq::value_variants().to_vec(), |one| vec![one]);
            let broker = BrokerChoices { rabbitmq, times, chaos_minutes, chaos_seed };
            let choices = Choices { broker, seeds, seed, only };
            tests::run(context, &suites, &choices)
        }
        Command::Tools => Tools::build(context).map(drop),
        Command::Bench(choices) => bench::run(context, &choices),
        Command::Instructions => instructions::record(context),
        Command::Images => {
            let images = images::build_own(context)?;
            for image in [&images.operator, &images.heart, &images.node] {
                println!("{} in {}", image.name, image.archive.display());
            }
            Ok(())
        }
        Command::Kubeconfig | Command::Codegen { .. } => Ok(()),
    }
}

fn up(context: &Context, nodes: u32, registry: Option<&str>) -> Result<()> {
    let cluster = Cluster::bring_up(context)?;
    install_rabbitmq(context, &cluster)?;
    let images = provide_images(context, &cluster, registry)?;
    install_operator(context, &cluster, images.as_ref())?;
    apply_sample(context, &cluster, nodes)?;
    sample::load_and_show(context, &cluster, nodes)
}

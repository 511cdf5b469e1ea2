//! `bench`: builds the programs and their rivals, and starts the benchmarks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::apt;
use crate::context::{Context, short_hash};
use crate::failure::{AtPath, Result};
use crate::step::{Step, run_in_the_open};
use crate::tools::Tools;

/// What is measured, and how.
#[derive(Args)]
pub(crate) struct BenchChoices {
    /// ingest, bulk, carrier, visible, bootstrap, replay, growth, generator, operator; all of them without any
    names: Vec<String>,
    /// Writes the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Small numbers, to see that everything works: the figures say little
    #[arg(long)]
    quick: bool,
    /// How often each thing is measured, in turn with its rival [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
}

/// Where the report goes.
const REPORT: &str = "bench";

/// Runs the benchmarks; what they say is for whoever started them.
pub(crate) fn run(context: &Context, choices: &BenchChoices) -> Result<()> {
    let BenchChoices { names, json, quick, rounds } = choices;
    apt::install(context, apt::FOR_BROKER_TESTS)?;
    apt::install(context, apt::FOR_RIVALS)?;
    let tools = Tools::build_rivals(context)?;
    if names.is_empty() || names.iter().any(|name| name == "operator") {
        Tools::build_api_server(context)?;
    }
    let perf_test = fetch_perf_test(context)?;
    let build = "build --release --package broadcast-heart --package broadcast-node --package broadcast-operator \
                 --package broadcast-bench";
    println!("cargo {build}");
    run_in_the_open(context.cargo().args(build.split(' ')))?;
    let mut bench = Command::new(context.target.join("release/bench"));
    bench.arg("--rqlited").arg(tools.path("rqlited")).arg("--etcd").arg(tools.path("etcd"));
    bench.arg("--perf-test").arg(perf_test);
    bench.arg("--report").arg(context.target.join(REPORT));
    bench.args(["--rounds", &rounds.unwrap_or(if *quick { 1 } else { 3 }).to_string()]);
    if *quick {
        bench.arg("--quick");
    }
    if let Some(file) = json {
        bench.arg("--json").arg(file);
    }
    run_in_the_open(bench.args(names))
}

/// `PerfTest` with everything it needs in one folder, each file as `SHA256SUMS` has it.
fn fetch_perf_test(context: &Context) -> Result<PathBuf> {
    let source = context.root.join("tests/tools/perftest");
    let read = |name: &str| {
        let path = source.join(name);
        fs::read(&path).at("read", &path)
    };
    let key = short_hash([read("pom.xml")?, read("SHA256SUMS")?].iter().map(Vec::as_slice));
    let folder = context.cache.join("tools").join(format!("perftest-{key}"));
    if folder.exists() {
        return Ok(folder);
    }
    let partial = folder.with_extension("partial");
    context.step("fetching PerfTest", |step| {
        if partial.exists() {
            fs::remove_dir_all(&partial).at("remove", &partial)?;
        }
        fs::create_dir_all(&partial).at("create", &partial)?;
        copy_dependencies(step, &source, &partial)?;
        let mut compare = Command::new("sha256sum");
        compare.current_dir(&partial).args(["--check", "--strict"]).arg(source.join("SHA256SUMS"));
        step.run(&mut compare)?;
        fs::rename(&partial, &folder).at("create", &folder)
    })?;
    Ok(folder)
}

fn copy_dependencies(step: &Step, source: &Path, folder: &Path) -> Result<()> {
    const GOAL: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";
    let mut maven = Command::new("mvn");
    maven.args(["--batch-mode", "--strict-checksums", "--file"]).arg(source.join("pom.xml")).arg(GOAL);
    maven.arg("-DincludeScope=runtime").arg(format!("-DoutputDirectory={}", folder.display()));
    step.run(&mut maven)
}

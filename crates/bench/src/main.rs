//! `bench`: what `cargo xtask bench` starts once everything is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use broadcast_bench::benchmark::{Benchmark, announce};
use broadcast_bench::error::Result;
use broadcast_bench::machine::Machine;
use broadcast_bench::report::{Report, render_markdown};
use broadcast_bench::settings::Settings;
use clap::{Parser, ValueEnum};
use serde::Serialize;

#[derive(Parser)]
struct Arguments {
    /// All of them without any
    benchmarks: Vec<Benchmark>,
    /// Small numbers, to see that everything works
    #[arg(long)]
    quick: bool,
    /// How often each thing is measured
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Where the figures go as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// The folder of the report and its plots
    #[arg(long)]
    report: PathBuf,
    /// The program
    #[arg(long)]
    rqlited: PathBuf,
    /// The program
    #[arg(long)]
    etcd: PathBuf,
    /// The folder with `PerfTest`
    #[arg(long)]
    perf_test: PathBuf,
}

/// How long the machine has to become quiet.
const PATIENCE: Duration = Duration::from_mins(4);

#[derive(Serialize)]
struct Figures<'a> {
    machine: &'a Machine,
    quick: bool,
    rounds: usize,
    reports: &'a [Report],
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { benchmarks, quick, rounds, json, report, rqlited, etcd, perf_test } = Arguments::parse();
    let benchmarks = if benchmarks.is_empty() { Benchmark::value_variants().to_vec() } else { benchmarks };
    let settings = Settings { quick, rounds: rounds.into(), rqlited, etcd, perf_test };
    wait_until_quiet().await;
    let machine = Machine::look();
    for doubt in machine.doubts() {
        eprintln!("{doubt}");
    }
    let mut reports = Vec::new();
    let mut failed = 0;
    for benchmark in benchmarks {
        match benchmark.run(&settings).await {
            Ok(found) => {
                println!("{}", render_markdown(&machine, settings.quick, settings.rounds, &found));
                reports.push(found);
            }
            Err(error) => {
                announce(&format!("{benchmark:?} failed: {error}"));
                failed += 1;
            }
        }
        // After each: hours of measurements are not lost with the last one.
        if let Err(error) = write(&machine, &settings, &reports, &report, json.as_deref()) {
            eprintln!("cannot write the report: {error}");
            return ExitCode::FAILURE;
        }
    }
    println!("each benchmark has a page, with its plots beside it, in {}", report.display());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What was built just now is still in the load average, which is of a minute.
async fn wait_until_quiet() {
    let started = Instant::now();
    while !Machine::look().is_quiet() && started.elapsed() < PATIENCE {
        announce("waiting for the machine to be quiet");
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
}

fn write(
    machine: &Machine,
    settings: &Settings,
    reports: &[Report],
    folder: &Path,
    json: Option<&Path>,
) -> Result<()> {
    let Settings { quick, rounds, .. } = *settings;
    fs::create_dir_all(folder)?;
    for report in reports {
        let page = render_markdown(machine, quick, rounds, report);
        fs::write(folder.join(format!("{}.md", report.name)), page)?;
        for plot in &report.plots {
            fs::write(folder.join(plot.file_name(report.name)), plot.draw()?)?;
        }
    }
    if let Some(file) = json {
        fs::write(file, serde_json::to_vec_pretty(&Figures { machine, quick, rounds, reports })?)?;
    }
    Ok(())
}

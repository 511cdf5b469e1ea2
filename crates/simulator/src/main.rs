//! Runs simulations: `broadcast-simulator --seeds N`, or one with its trace: `--seed S`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use broadcast_simulator::{Mutation, Tally, Violation, simulate};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// From so many seeds on, something that was never exercised is an error.
const COMPLETE_FROM: u64 = 10_000;

#[derive(Parser)]
#[command(about = "Simulates clusters under faults, one for each seed")]
struct Arguments {
    /// How many seeds to simulate
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// Simulate this one and print everything that happens in it
    #[arg(long)]
    seed: Option<u64>,
    /// Go on after a failure, and list all that fail
    #[arg(long)]
    keep_going: bool,
    /// Break this rule of the protocol (its name in the code)
    #[arg(long, value_parser = parse_mutation)]
    mutation: Option<Mutation>,
}

fn parse_mutation(name: &str) -> Result<Mutation, String> {
    let known = || Mutation::ALL.map(|mutation| format!("{mutation:?}")).join(", ");
    let found = Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == name);
    found.ok_or_else(|| format!("one of {}", known()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let outcome = simulate(seed, arguments.mutation, true);
        return match outcome.violation {
            Some(violation) => fail(seed, &violation),
            None => ExitCode::SUCCESS,
        };
    }
    let started = Instant::now();
    let (tally, failed) = simulate_all(&arguments);
    println!("{}", tally.describe());
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let rate = tally.seeds() as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} seeds a second");
    if let Some((seed, violation)) = failed {
        return fail(seed, &violation);
    }
    let missing = tally.missing();
    if tally.seeds() >= COMPLETE_FROM && !missing.is_empty() {
        eprintln!("never exercised: {}", missing.join("; "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn fail(seed: u64, violation: &Violation) -> ExitCode {
    eprintln!("seed {seed} violates \"{}\": {}", violation.invariant, violation.text);
    eprintln!("to see all of it: cargo xtask test sim --seed {seed}");
    ExitCode::FAILURE
}

/// All seeds from 1 on, up to the first that fails.
fn simulate_all(arguments: &Arguments) -> (Tally, Option<(u64, Violation)>) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, is_over) = (AtomicU64::new(1), AtomicBool::new(false));
    let results = Mutex::new((Tally::default(), None::<(u64, Violation)>));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > arguments.seeds || is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = simulate(seed, arguments.mutation, false);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.0.add_seed(&outcome.tally);
                    if let Some(violation) = outcome.violation {
                        if arguments.keep_going {
                            println!("seed {seed} violates \"{}\": {}", violation.invariant, violation.text);
                        } else {
                            is_over.store(true, Ordering::Relaxed);
                        }
                        results.1.get_or_insert((seed, violation));
                    }
                }
            });
        }
        scope.spawn(|| show_progress(&next, &is_over, arguments.seeds));
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn show_progress(next: &AtomicU64, is_over: &AtomicBool, seeds: u64) {
    let pause = if std::io::stderr().is_terminal() { 1 } else { 10 };
    let mut said = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let done = next.load(Ordering::Relaxed).saturating_sub(1);
        if done >= seeds || is_over.load(Ordering::Relaxed) {
            return;
        }
        if said.elapsed() >= Duration::from_secs(pause) {
            said = Instant::now();
            eprintln!("{done} of {seeds} seeds");
        }
    }
}

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
    /// Break the rules of the protocol one by one; each has to be found within that many seeds
    #[arg(long)]
    mutations: bool,
}

/// A seed and what it violates.
type Failure = (u64, Violation);

fn parse_mutation(name: &str) -> Result<Mutation, String> {
    let known = || Mutation::ALL.map(|mutation| format!("{mutation:?}")).join(", ");
    let found = Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == name);
    found.ok_or_else(|| format!("one of {}", known()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_well = if let Some(seed) = arguments.seed {
        let violation = simulate(seed, arguments.mutation, true).violation;
        violation.inspect(|violation| tell(seed, violation)).is_none()
    } else if arguments.mutations {
        Mutation::ALL.into_iter().filter(|mutation| !find(*mutation, arguments.seeds)).count() == 0
    } else {
        simulate_all(&arguments)
    };
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(seed: u64, violation: &Violation) {
    eprintln!("seed {seed} violates \"{}\": {}", violation.invariant, violation.text);
    eprintln!("to see all of it: cargo xtask test sim --seed {seed}");
}

fn simulate_all(arguments: &Arguments) -> bool {
    let started = Instant::now();
    let (tally, failures) = search(arguments.seeds, arguments.keep_going, |seed| {
        let outcome = simulate(seed, arguments.mutation, false);
        (outcome.tally, outcome.violation)
    });
    println!("{}", tally.describe());
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let rate = tally.seeds() as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} seeds a second");
    for (seed, violation) in &failures {
        tell(*seed, violation);
    }
    let missing = tally.missing();
    let is_complete = missing.is_empty() || tally.seeds() < COMPLETE_FROM;
    if !is_complete {
        eprintln!("never exercised: {}", missing.join("; "));
    }
    failures.is_empty() && is_complete
}

/// Whether a broken rule is noticed by a seed that is well without.
fn find(mutation: Mutation, seeds: u64) -> bool {
    let (tally, failures) = search(seeds, false, |seed| {
        let outcome = simulate(seed, Some(mutation), false);
        let violation = outcome.violation.filter(|_| simulate(seed, None, false).violation.is_none());
        (outcome.tally, violation)
    });
    match failures.first() {
        Some((seed, violation)) => {
            println!("{mutation:?}: found by seed {seed}: {}: {}", violation.invariant, violation.text);
        }
        None => eprintln!("{mutation:?}: not found by {} seeds", tally.seeds()),
    }
    !failures.is_empty()
}

/// All seeds from 1 on, up to the first that fails unless it goes on.
fn search(
    seeds: u64,
    goes_on: bool,
    run: impl Fn(u64) -> (Tally, Option<Violation>) + Sync,
) -> (Tally, Vec<Failure>) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, is_over) = (AtomicU64::new(1), AtomicBool::new(false));
    let results = Mutex::new((Tally::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds || is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let (tally, violation) = run(seed);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.0.add_seed(&tally);
                    if let Some(violation) = violation {
                        results.1.push((seed, violation));
                        is_over.fetch_or(!goes_on, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| show_progress(&next, &is_over, seeds));
    });
    let (tally, mut failures) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|(seed, _)| *seed);
    (tally, failures)
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

//! The suite `broker`: the programs against each RabbitMQ, as often as is wanted, and what came of it.

use std::fmt::{self, Display};
use std::fs;
use std::ops::AddAssign;
use std::path::Path;
use std::time::Instant;

use crate::context::{Context, write_whole};
use crate::failure::{AtPath, Result};
use crate::rabbitmq::RabbitMq;
use crate::step::{run_in_the_open, words};

/// How many tests run at a time. Most of what they do is wait; with more of them, two cores are not enough for what is promised to
/// happen within seconds.
const AT_A_TIME: u32 = 8;

/// What the suite is run with.
pub(crate) struct BrokerChoices {
    /// The versions, one after the other.
    pub(crate) rabbitmq: Vec<RabbitMq>,
    /// How often with all of them, up to the first failure.
    pub(crate) times: u32,
    /// For how long each of them has faults by chance.
    pub(crate) chaos_minutes: u32,
    /// The number that decides their order; without it another one each time.
    pub(crate) chaos_seed: Option<u64>,
}

/// Runs the suite.
pub(crate) fn run(context: &Context, choices: &BrokerChoices) -> Result<()> {
    let build = "build --workspace --bin heart --bin node";
    println!("cargo {build}");
    run_in_the_open(context.cargo().args(build.split(' ')))?;
    let mut rounds = Rounds::default();
    let outcome = (1..=choices.times).try_for_each(|time| {
        if choices.times > 1 {
            println!("time {time} of {}", choices.times);
        }
        choices.rabbitmq.iter().try_for_each(|version| rounds.add(context, *version, choices))
    });
    // Once more below all that the tests printed.
    println!("{}", rounds.verdicts.join("\n"));
    if rounds.verdicts.len() > 1 {
        println!("{} runs, {} passed: {}", rounds.verdicts.len(), rounds.passed, rounds.sums);
    }
    outcome
}

/// What came of the runs so far.
#[derive(Default)]
struct Rounds {
    verdicts: Vec<String>,
    passed: usize,
    sums: Sums,
}

impl Rounds {
    fn add(&mut self, context: &Context, version: RabbitMq, choices: &BrokerChoices) -> Result<()> {
        let started = Instant::now();
        let report = context.target.join("broker-tests");
        let (told, counted) = (report.join("told"), report.join("counted"));
        for file in [&told, &counted] {
            write_whole(file, b"")?;
        }
        let outcome = test(context, version, choices, &report);
        let verdict = if outcome.is_ok() { "passed" } else { "FAILED" };
        let measured = fs::read_to_string(&told).at("read", &told)?;
        let sums = Sums::of(&fs::read_to_string(&counted).at("read", &counted)?);
        let took = words(started.elapsed());
        let name = version.name();
        self.verdicts.push(format!("{measured}with RabbitMQ {name}: {verdict} after {took}; {sums}"));
        self.passed += usize::from(outcome.is_ok());
        self.sums += sums;
        outcome
    }
}

fn test(context: &Context, version: RabbitMq, choices: &BrokerChoices, report: &Path) -> Result<()> {
    let root = version.provide(context)?;
    let arguments = format!("test --workspace --test broker* -- --test-threads={AT_A_TIME}");
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

/// What all tests of a run did to the programs, and what they found in the databases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    killed: u64,
    faults: u64,
    acknowledged: u64,
    lost: u64,
    doubled: u64,
}

impl Sums {
    /// Adds up lines of the kind `killed 1`.
    fn of(lines: &str) -> Self {
        let sum = |what: &str| -> u64 {
            let counted = lines.lines().filter_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
            counted.filter_map(|count| count.parse::<u64>().ok()).sum()
        };
        Self {
            killed: sum("killed"),
            faults: sum("faults"),
            acknowledged: sum("acknowledged"),
            lost: sum("lost"),
            doubled: sum("doubled"),
        }
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.killed += other.killed;
        self.faults += other.faults;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.doubled += other.doubled;
    }
}

impl Display for Sums {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { killed, faults, acknowledged, lost, doubled } = self;
        write!(
            formatter,
            "{killed} processes killed, {faults} other faults, {acknowledged} acknowledged writes compared with the databases, \
             lost {lost}, doubled {doubled}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_counted_adds_up() {
        let mut sums = Sums::of("killed 1\nacknowledged 200\nkilled 1\nfaults 1\nlost 0\nacknowledged 50\n");
        assert_eq!(sums, Sums { killed: 2, faults: 1, acknowledged: 250, ..Sums::default() });
        sums += Sums::of("lost 3\ndoubled 2\nacknowledged 1");
        assert_eq!(
            sums.to_string(),
            "2 processes killed, 1 other faults, 251 acknowledged writes compared with the databases, lost 3, doubled 2"
        );
    }
}

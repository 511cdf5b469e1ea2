//! What the hot paths cost in instructions. Unlike times, counts are the same on a busy machine, so that a change that makes a path slower
//! is told from noise.
//!
//! A count is the difference between walking a path many times and few times: what comes before and after it is in both.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt;
use crate::context::{Context, write_whole};
use crate::failure::{AtPath, Failure, Result, told};
use crate::step::{ask, run_in_the_open};

const PATHS: &[&str] = &["encode", "decode", "apply"];

const FEW: u64 = 5;
const MANY: u64 = 20;

/// By how much a count may differ from the recorded one, in percent.
const TOLERANCE: u64 = 5;

/// Instructions by path, for 1,000 writes.
type Counts = BTreeMap<String, u64>;

/// Compares with what is recorded.
pub(crate) fn check(context: &Context) -> Result<()> {
    let file = file(context);
    let recorded = fs::read(&file).at("read", &file)?;
    let recorded: Counts = serde_json::from_slice(&recorded).or_else(|error| {
        told(format!("{} is not what `cargo xtask instructions` writes: {error}", file.display()))
    })?;
    let found = count(context)?;
    let differences = compare(&recorded, &found);
    if differences.is_empty() {
        return Ok(());
    }
    told(format!(
        "{}\nif that is meant to be, or the compiler is another one: record it with `cargo xtask instructions`",
        differences.join("\n")
    ))
}

/// Counts and records.
pub(crate) fn record(context: &Context) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(&count(context)?).unwrap_or_default();
    text.push(b'\n');
    write_whole(&file(context), &text)
}

fn file(context: &Context) -> PathBuf {
    context.root.join("crates/node/examples/instructions.json")
}

/// What is not as recorded. What became cheaper counts too: recorded, it cannot get lost again unseen.
fn compare(recorded: &Counts, found: &Counts) -> Vec<String> {
    let mut differences = Vec::new();
    for (path, &count) in found {
        let Some(&before) = recorded.get(path) else {
            differences.push(format!("{path}: {count} instructions, and nothing is recorded"));
            continue;
        };
        if count.abs_diff(before) * 100 > before * TOLERANCE {
            differences.push(format!(
                "{path}: {count} instructions for 1,000 writes, {before} are recorded; they may differ by {TOLERANCE} %"
            ));
        }
    }
    differences
}

fn count(context: &Context) -> Result<Counts> {
    apt::install(context, apt::FOR_INSTRUCTIONS)?;
    let build = "build --release --package broadcast-node --example instructions";
    println!("cargo {build}");
    run_in_the_open(context.cargo().args(build.split(' ')))?;
    let program = context.target.join("release/examples/instructions");
    let mut counts = Counts::new();
    for path in PATHS {
        let (few, many) = (walk(&program, path, FEW)?, walk(&program, path, MANY)?);
        let count = many.saturating_sub(few) / (MANY - FEW);
        println!("{path}: {count} instructions for 1,000 writes");
        counts.insert((*path).to_owned(), count);
    }
    Ok(counts)
}

/// All instructions of a run.
fn walk(program: &Path, path: &str, times: u64) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = ask(valgrind.args([path, &times.to_string()]))?;
    let printed = String::from_utf8_lossy(&output.stderr);
    match read_total(&printed) {
        Some(total) if output.status.success() => Ok(total),
        _ => {
            Err(Failure::Told(format!("valgrind {} {path}: {}\n{printed}", program.display(), output.status)))
        }
    }
}

/// `==7== Collected : 123456`
fn read_total(printed: &str) -> Option<u64> {
    printed.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(encode: u64, decode: u64) -> Counts {
        [("encode".to_owned(), encode), ("decode".to_owned(), decode)].into()
    }

    #[test]
    fn more_than_five_percent_in_either_direction_is_told() {
        for (found, told) in [(1_000, false), (1_050, false), (1_051, true), (950, false), (949, true)] {
            let differences = compare(&counts(1_000, 7), &counts(found, 7));
            assert_eq!(!differences.is_empty(), told, "{found}");
        }
    }

    #[test]
    fn a_path_that_is_not_recorded_is_told() {
        let recorded = Counts::from([("encode".to_owned(), 5)]);
        assert_eq!(compare(&recorded, &counts(5, 7)), ["decode: 7 instructions, and nothing is recorded"]);
    }

    #[test]
    fn the_total_is_read_from_what_callgrind_says() {
        assert_eq!(read_total("==7== \n==7== Events    : Ir\n==7== Collected : 123456\n"), Some(123_456));
        assert_eq!(read_total("==7== no\n"), None);
    }
}

//! What a test measured and did, for whoever ran it: also when it passes, and again when all tests are done.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// `cargo xtask test` names a folder here, and prints what is in it in the end.
const VARIABLE: &str = "BROADCAST_TEST_REPORT";

/// What is added up over all tests of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A process was killed.
    Killed,
    /// Something else was done that no program or disk should have to suffer.
    Faults,
    /// An acknowledged write was compared with every database.
    Acknowledged,
    /// An acknowledged write was not found, or not as it should be.
    Lost,
    /// A write was applied more often than it was asked for.
    Doubled,
}

/// Tells a line. What is printed with `println` is shown only when a test fails.
pub fn tell(line: &str) {
    let _nobody_to_tell = writeln!(std::io::stderr(), "{line}");
    add_line("told", line);
}

/// Adds to one of the sums.
pub fn count(what: Counted, number: usize) {
    if number > 0 {
        add_line("counted", &format!("{} {number}", format!("{what:?}").to_lowercase()));
    }
}

/// Several tests, and several programs, may write at the same time: each line is one write.
fn add_line(file: &str, line: &str) {
    let Some(folder) = std::env::var_os(VARIABLE).filter(|folder| folder != OsStr::new("")) else { return };
    let file = File::options().create(true).append(true).open(Path::new(&folder).join(file));
    file.unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
}

//! The cluster's long-running programs: they outlive the command that started them, and only they are ever ended.
//!
//! A process is remembered by its id and its start time: an id alone may by now belong to somebody else's process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::cluster::layout::Layout;
use crate::context::write_whole;
use crate::failure::{AtPath, Failure, Result};
use crate::step::ask;

/// A process that cannot be mistaken for another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// In clock ticks since the machine started.
    started: u64,
}

impl Process {
    /// The process that has this id now, unless it has ended.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Self::find(self.pid).as_ref() == Some(self)
    }

    /// Ends it for good. One that has ended already is fine.
    pub(crate) fn kill(&self) -> Result<()> {
        if self.is_alive() {
            ask(Command::new("sh").arg("-c").arg(format!("kill -KILL {}", self.pid)))?;
        }
        Ok(())
    }
}

/// State and start time out of a line of `/proc/PID/stat`; the program's name in it may contain spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Starts a program in a session of its own and remembers it.
pub(crate) fn start(layout: &Layout, name: &str, program: &Path, arguments: &[String]) -> Result<()> {
    fs::create_dir_all(&layout.logs).at("create", &layout.logs)?;
    let log = layout.logs.join(format!("{name}.log"));
    let output = File::create(&log).at("create", &log)?;
    let errors = output.try_clone().at("write", &log)?;
    let mut command = Command::new("setsid");
    command.arg(program).args(arguments).current_dir(&layout.folder);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let child = command
        .spawn()
        .map_err(|source| Failure::Io { what: format!("cannot start {}", program.display()), source })?;
    // The child execs in place: its id stays the program's. When it is gone at once, its log says why, and readiness never comes.
    if let Some(process) = Process::find(child.id()) {
        let text = serde_json::to_vec(&process).unwrap_or_default();
        write_whole(&record(layout, name), &text)?;
    }
    Ok(())
}

/// The remembered processes that are still alive, by name.
pub(crate) fn running(layout: &Layout) -> Vec<(String, Process)> {
    let records = fs::read_dir(layout.file("processes")).into_iter().flatten().flatten();
    records
        .filter_map(|entry| {
            let process: Process = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
            let name = entry.path().file_stem()?.to_string_lossy().into_owned();
            process.is_alive().then_some((name, process))
        })
        .collect()
}

fn record(layout: &Layout, name: &str) -> PathBuf {
    layout.file("processes").join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_start_time_are_found_behind_an_odd_name() {
        let stat = "812 (a) (b c) S 1 812 812 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 4711 1 2 3";
        assert_eq!(parse_stat(stat), Some(('S', 4711)));
    }

    #[test]
    fn a_process_with_the_same_id_but_another_start_time_is_another() {
        let own = Process::find(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!Process { started: own.started + 1, ..own }.is_alive());
    }
}

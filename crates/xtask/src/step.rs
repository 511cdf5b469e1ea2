//! Long pieces of work that tell how they are doing: what is being done, how long it took last time, that it is still going on; and,
//! when it fails, the last lines of its log and where the rest is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::context::{Context, write_whole};
use crate::failure::{AtPath, Failure, Result};

/// Work that is going on: where its programs write, and what it last said of its progress.
pub(crate) struct Step {
    log: PathBuf,
    started: Instant,
    detail: Mutex<String>,
}

impl Context {
    /// Does the work under a name that says what is being done (`building etcd`).
    pub(crate) fn step<T>(&self, name: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
        let log = self.cache.join("log").join(format!("{}.log", file_name(name)));
        write_whole(&log, b"")?;
        let started = Instant::now();
        let step = Step { log, started, detail: Mutex::default() };
        let durations = self.cache.join("durations.json");
        let last = read_durations(&durations).get(name).copied();
        let outcome = thread::scope(|scope| {
            let (done, is_done) = mpsc::channel::<()>();
            let step = &step;
            scope.spawn(move || heartbeat(name, last, step, &is_done));
            let outcome = work(step);
            drop(done);
            outcome
        });
        let took = started.elapsed();
        match &outcome {
            Ok(_) => {
                clear_line();
                eprintln!("{name}: {}", words(took));
                remember_duration(&durations, name, took)?;
            }
            Err(failure) => {
                clear_line();
                eprintln!("{name}: failed after {}", words(took));
                if let Failure::Program { log: Some(log), .. } = failure {
                    print_tail(log);
                }
            }
        }
        outcome
    }
}

impl Step {
    /// Says how far the work is; shown with the next sign of life.
    pub(crate) fn say(&self, detail: impl Into<String>) {
        *self.detail.lock().unwrap_or_else(PoisonError::into_inner) = detail.into();
    }

    /// Runs a program to its end; what it prints goes to the step's log.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let output = self.open_log()?;
        let errors = output.try_clone().at("write", &self.log)?;
        let status = command.stdin(Stdio::null()).stdout(output).stderr(errors).status();
        self.judge(command, status)
    }

    /// Runs a program to its end and gives what it printed; what it printed as errors goes to the step's log.
    pub(crate) fn read(&self, command: &mut Command) -> Result<String> {
        let errors = self.open_log()?;
        let output = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).output();
        let (status, printed) = match output {
            Ok(output) => (Ok(output.status), output.stdout),
            Err(error) => (Err(error), Vec::new()),
        };
        self.judge(command, status)?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// Runs a program with the given text as its input.
    pub(crate) fn feed(&self, command: &mut Command, input: &str) -> Result<()> {
        let output = self.open_log()?;
        let errors = output.try_clone().at("write", &self.log)?;
        let status =
            command.stdin(Stdio::piped()).stdout(output).stderr(errors).spawn().and_then(|mut child| {
                // A program that ends before it has read everything says in its own words why: that error is the better one.
                let written =
                    child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
                let status = child.wait()?;
                written.map(|()| status).or(Ok(status))
            });
        self.judge(command, status)
    }

    /// Asks again and again until the answer is something, for as long as is given.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut ask: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            if Instant::now() >= deadline {
                let outcome = format!("did not come about within {}", words(patience));
                return Err(Failure::Program {
                    command: what.to_owned(),
                    outcome,
                    log: Some(self.log.clone()),
                });
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Adds a line of one's own to the log, with how long the step has been going on.
    pub(crate) fn note(&self, line: &str) -> Result<()> {
        writeln!(self.open_log()?, "[{}] {line}", words(self.started.elapsed())).at("write", &self.log)
    }

    fn open_log(&self) -> Result<File> {
        File::options().append(true).create(true).open(&self.log).at("write", &self.log)
    }

    fn judge(&self, command: &Command, status: std::io::Result<ExitStatus>) -> Result<()> {
        judge(command, status, Some(&self.log))
    }
}

/// Runs a program whose output is for whoever started this one.
pub(crate) fn run_in_the_open(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status();
    judge(command, status, None)
}

/// Runs a short program and gives what it did, whatever that was.
pub(crate) fn ask(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    output.map_err(|source| cannot_start(command, source))
}

fn judge(command: &Command, status: std::io::Result<ExitStatus>, log: Option<&Path>) -> Result<()> {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Program {
            command: describe(command),
            outcome: status
                .code()
                .map_or("was killed".to_owned(), |code| format!("ended with status {code}")),
            log: log.map(Path::to_owned),
        }),
        Err(source) => Err(cannot_start(command, source)),
    }
}

fn cannot_start(command: &Command, source: std::io::Error) -> Failure {
    Failure::Io { what: format!("cannot start `{}`", command.get_program().display()), source }
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(std::ffi::OsStr::to_string_lossy));
    words.join(" ")
}

/// Prints signs of life until the channel is closed: on a terminal one line that counts, elsewhere a line every 30 seconds.
fn heartbeat(name: &str, last: Option<Duration>, step: &Step, is_done: &mpsc::Receiver<()>) {
    let hint = last.map_or(String::new(), |last| format!(" (last time {})", words(last)));
    let on_terminal = std::io::stderr().is_terminal();
    // Work that is quick needs no announcement: its result is the first line printed.
    let mut pause = if on_terminal { Duration::from_millis(200) } else { Duration::from_secs(2) };
    let mut announced = false;
    while is_done.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let detail = step.detail.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let separator = if detail.is_empty() { "" } else { ": " };
        if on_terminal {
            eprint!("\r\x1b[K{name} … {}{hint}{separator}{detail}", words(step.started.elapsed()));
        } else if announced {
            eprintln!("{name} … {}{hint}{separator}{detail}", words(step.started.elapsed()));
        } else {
            eprintln!("{name} …{hint}{separator}{detail}");
        }
        announced = true;
        pause = if on_terminal { Duration::from_secs(1) } else { Duration::from_secs(30) };
    }
}

fn clear_line() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn print_tail(log: &Path) {
    const LINES: usize = 20;
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return;
    }
    eprintln!("the last lines of {}:", log.display());
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        eprintln!("    {line}");
    }
}

fn read_durations(path: &Path) -> BTreeMap<String, Duration> {
    let seconds: BTreeMap<String, f64> =
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    seconds
        .into_iter()
        .filter_map(|(name, seconds)| Some((name, Duration::try_from_secs_f64(seconds).ok()?)))
        .collect()
}

fn remember_duration(path: &Path, name: &str, took: Duration) -> Result<()> {
    let mut durations = read_durations(path);
    durations.insert(name.to_owned(), took);
    let seconds: BTreeMap<_, _> = durations.iter().map(|(name, took)| (name, took.as_secs_f64())).collect();
    let text = serde_json::to_vec_pretty(&seconds).unwrap_or_default();
    write_whole(path, &text)
}

/// A duration as one would say it: `5 min 3 s`, `42 s`, `0.8 s`.
pub(crate) fn words(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

fn file_name(step: &str) -> String {
    step.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(cache: &Path) -> Context {
        Context { root: cache.to_owned(), cache: cache.to_owned(), target: cache.to_owned() }
    }

    #[test]
    fn durations_read_like_speech() {
        for (millis, expected) in [(812, "0.8 s"), (42_000, "42 s"), (303_000, "5 min 3 s")] {
            assert_eq!(words(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn a_step_remembers_how_long_it_took() {
        let folder = tempfile::tempdir().unwrap();
        context(folder.path()).step("counting to three", |_| Ok(())).unwrap();
        assert!(read_durations(&folder.path().join("durations.json")).contains_key("counting to three"));
    }

    #[test]
    fn a_failed_program_is_named_with_its_status_and_log() {
        let folder = tempfile::tempdir().unwrap();
        let failure = context(folder.path())
            .step("failing", |step| step.run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])))
            .unwrap_err();
        let Failure::Program { command, outcome, log: Some(log) } = failure else { panic!("{failure:?}") };
        assert_eq!(
            (command.as_str(), outcome.as_str()),
            ("sh -c echo no >&2; exit 3", "ended with status 3")
        );
        assert_eq!(fs::read_to_string(log).unwrap(), "no\n");
    }

    #[test]
    fn waiting_ends_at_the_deadline_and_says_what_for() {
        let folder = tempfile::tempdir().unwrap();
        let failure = context(folder.path())
            .step("waiting", |step| step.wait("the sun", Duration::ZERO, || Ok(None::<()>)))
            .unwrap_err();
        assert_eq!(failure.to_string(), "`the sun` did not come about within 0.0 s");
    }

    #[test]
    fn a_program_that_does_not_read_its_input_fails_with_its_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(1 << 20);
        let failure = context(folder.path())
            .step("feeding", |step| step.feed(Command::new("sh").args(["-c", "exit 4"]), &long))
            .unwrap_err();
        assert!(failure.to_string().ends_with("ended with status 4"), "{failure}");
    }
}

//! Processes of a test: none outlives it, whatever way it ends, and a failed test shows the last lines of their logs.
//!
//! A process that is dropped is killed. Should the test itself be killed, a guard kills its processes: a shell that
//! waits for the end of a pipe that only the test holds.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::client::wait_for;
use crate::report::{Counted, count};

/// How many lines of a log a failed test shows.
const SHOWN_LINES: usize = 60;

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    guard: Child,
}

impl Process {
    /// Starts `command`; what it prints is added to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let errors = file.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        let guard = Command::new("sh")
            .args(["-c", "trap '' INT TERM; read -r _; kill -9 $0", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), log: log.to_owned(), child, guard }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal: `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) {
        count(Counted::Faults, usize::from(signal == "STOP"));
        let status =
            Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success(), "cannot send {signal} to {}", self.name);
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(mut self) {
        count(Counted::Killed, 1);
        self.end();
    }

    /// Tells it to stop (SIGTERM) and waits until it has; panics when it does not do so in order within `deadline`.
    pub async fn stop(mut self, deadline: Duration) {
        self.signal("TERM");
        let status = self.wait(deadline).await;
        assert!(status.success(), "{} did not stop in order: {status}", self.name);
    }

    /// Waits until it has ended by itself; panics when it takes longer than `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, deadline, async || self.child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned()))
            .await
    }

    /// Everything that it has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The guard first: once the process is reaped, its id may be another's.
    fn end(&mut self) {
        for child in [&mut self.guard, &mut self.child] {
            let _ended_already = child.kill();
            let _ended_already = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
            eprintln!("---- the last lines of {} ({}):\n{shown}", self.name, self.log.display());
        }
    }
}

/// A folder that is removed when dropped, unless the test fails.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes an empty one.
    pub fn new() -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("broadcast-test-{}-{count}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        Self(path)
    }

    /// The path of an entry.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- left for a look: {}", self.0.display());
        } else if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A port of loopback that nobody listens on and that this function has not given before.
///
/// Below the range that the kernel takes ports for outgoing connections from: one of those could be in use by the
/// time the port is listened on. Test programs that run at the same time have blocks of their own: the ports of a process that is
/// started again are free meanwhile, and nobody else may take them.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const END: u16 = 32_000;
    const BLOCK: u16 = 500;
    /// Whoever listens on a block's first port has the block.
    static TAKEN: Mutex<(Vec<TcpListener>, Range<u16>)> = Mutex::new((Vec::new(), 0..0));
    let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (signs, block) = &mut *taken;
    loop {
        if let Some(port) = block.find(|port| listen(*port).is_ok()) {
            return port;
        }
        let next = (FIRST..END).step_by(BLOCK.into()).find_map(|first| Some((first, listen(first).ok()?)));
        let (first, sign) = next.unwrap_or_else(|| panic!("no free port on loopback from {FIRST} on"));
        signs.push(sign);
        *block = first + 1..first + BLOCK;
    }
}

/// The path of a program of this workspace (`heart`, `node`, `kubectl-broadcast`), built for the same profile as the one that runs.
pub fn program(name: &str) -> PathBuf {
    let me = std::env::current_exe().unwrap();
    // target/<profile>/deps/<test> or target/<profile>/<program>
    let folder = me.parent().unwrap();
    let folder = if folder.ends_with("deps") { folder.parent().unwrap() } else { folder };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: build it with `cargo build --bin {name}`", path.display());
    path
}

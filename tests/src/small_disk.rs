//! Disks that are small, full or read-only: file systems in memory, which need root.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::report::{Counted, count};

/// A disk of its own at a path, empty at first. It is gone when this is dropped, or when the test is killed.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    guard: Child,
}

impl SmallDisk {
    /// Makes the folder if need be.
    pub fn mount(path: &Path, bytes: u64) -> Self {
        fs::create_dir_all(path).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(path));
        // Ends with the pipe, which only the test holds.
        let guard = Command::new("sh")
            .args(["-c", "trap '' INT TERM; read -r _; umount --lazy \"$0\""])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self { path: path.to_owned(), guard }
    }

    /// Fills it until nothing is free.
    pub fn fill(&self) {
        count(Counted::Faults, 1);
        let mut ballast = File::create(self.ballast()).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    /// Frees what [`SmallDisk::fill`] took.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    /// Nothing can be written to it any more, or again. Nobody may have a file open for writing.
    pub fn set_read_only(&self, read_only: bool) {
        count(Counted::Faults, usize::from(read_only));
        let mode = if read_only { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", mode]).arg(&self.path));
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _unmounted = self.guard.wait();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}, which needs root: {problem}");
}

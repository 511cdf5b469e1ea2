//! How much is measured, and where the rivals are.

use std::path::PathBuf;
use std::time::Duration;

/// What all benchmarks are run with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Small numbers, to see that everything works: the figures say little.
    pub quick: bool,
    /// How often each thing is measured.
    pub rounds: usize,
    /// The program `rqlited`.
    pub rqlited: PathBuf,
    /// The program `etcd`.
    pub etcd: PathBuf,
    /// The folder with `PerfTest` and what it needs.
    pub perf_test: PathBuf,
}

impl Settings {
    /// The first of two in full, the second when it has to be quick.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// How long one load lasts.
    pub fn duration(&self) -> Duration {
        self.pick(Duration::from_secs(10), Duration::from_secs(2))
    }

    /// How long a load lasts that comes before the measured ones.
    pub fn warm_up(&self) -> Duration {
        self.pick(Duration::from_secs(5), Duration::from_secs(1))
    }
}

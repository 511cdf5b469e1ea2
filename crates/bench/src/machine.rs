//! The machine that was measured on, as far as it explains a figure.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// A load average per core above which something else was at work.
const BUSY: f64 = 0.5;

/// What a figure depends on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many cores may be used.
    pub cores: usize,
    /// In MiB.
    pub memory_mib: u64,
    /// The kernel's version.
    pub kernel: String,
    /// The type of the file system that everything is stored on.
    pub file_system: String,
    /// The load average of the minute before the benchmarks began.
    pub load_before: f64,
}

impl Machine {
    /// Looks around; what cannot be found out is empty.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let temporary = fs::canonicalize(std::env::temp_dir()).unwrap_or_else(|_| std::env::temp_dir());
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            memory_mib: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib >> 10),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system_of(&read("/proc/mounts"), &temporary).unwrap_or_default().to_owned(),
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// Whether nothing else was at work.
    #[expect(clippy::cast_precision_loss, reason = "a number of cores")]
    pub fn is_quiet(&self) -> bool {
        self.load_before <= BUSY * self.cores as f64
    }

    /// What takes the worth from every figure, if anything does.
    pub fn doubts(&self) -> Vec<String> {
        let busy = (!self.is_quiet()).then(|| {
            format!(
                "The machine was not quiet: its load average was {:.1} on {} cores.",
                self.load_before, self.cores
            )
        });
        let volatile = (self.file_system == "tmpfs").then(|| {
            "Everything was stored in memory (TMPDIR is a tmpfs): nothing was ever synced to a disk."
                .to_owned()
        });
        busy.into_iter().chain(volatile).collect()
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim()))
}

/// The deepest mount point above the path counts.
fn file_system_of<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind)
}

/// The processor time that a process has used so far, in seconds, or nothing when it is gone.
pub fn processor_seconds(process: u32) -> Option<f64> {
    /// What the kernel counts in, on every Linux that this is built for.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is a name in parentheses, which may have spaces in it.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// The memory of a process, in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What is resident.
    pub resident_mib: f64,
    /// The most that ever was.
    pub peak_mib: f64,
}

/// The memory of a process, or nothing when it is gone.
pub fn memory(process: u32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let mib = |name| Some(field(&status, name)?.split(' ').next()?.parse::<f64>().ok()? / 1_024.0);
    Some(Memory { resident_mib: mib("VmRSS")?, peak_mib: mib("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_point_says_what_a_path_is_stored_on() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(file_system_of(mounts, Path::new("/tmp/x")), Some("tmpfs"));
        assert_eq!(file_system_of(mounts, Path::new("/tmpx")), Some("ext4"));
    }

    #[test]
    fn a_busy_machine_and_a_disk_in_memory_are_named() {
        let quiet = Machine { load_before: 0.2, cores: 2, file_system: "ext4".to_owned(), ..Machine::look() };
        assert!(quiet.doubts().is_empty());
        let busy = Machine { load_before: 4.0, file_system: "tmpfs".to_owned(), ..quiet };
        assert_eq!(busy.doubts().len(), 2);
    }

    #[test]
    fn a_process_that_runs_has_memory() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident_mib > 0.5 && memory.peak_mib >= memory.resident_mib, "{memory:?}");
        assert!(super::memory(u32::MAX).is_none());
    }

    #[test]
    fn a_process_that_works_uses_time() {
        let me = std::process::id();
        let before = processor_seconds(me).unwrap();
        let mut noise = 1_u64;
        while processor_seconds(me).unwrap() < before + 0.05 {
            noise = crate::data::mix(noise);
        }
        assert_ne!(noise, 1);
        assert_eq!(processor_seconds(u32::MAX), None);
    }
}

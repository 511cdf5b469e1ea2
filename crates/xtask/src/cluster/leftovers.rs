//! What a local cluster leaves on the machine, found by looking and not by remembering, so that it can be removed whatever became of
//! the cluster: taken down, killed in the middle of its start, or half alive.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::firewall;
use crate::cluster::layout::{BLOCK_PREFIX, HOST_INTERFACE, Layout, NETWORK, POD_INTERFACE};
use crate::cluster::processes::{self, Process};
use crate::context::write_whole;
use crate::failure::{AtPath, Result};
use crate::step::{Step, ask};

/// One thing that is still there.
pub(crate) enum Leftover {
    Process(String, Process),
    Mount(PathBuf),
    Interface(String),
    Chain(String),
    ControlGroup(PathBuf),
    Setting(PathBuf, String),
    Path(PathBuf),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(name, process) => write!(f, "process {} ({name})", process.pid),
            Self::Mount(path) => write!(f, "mount {}", path.display()),
            Self::Interface(name) => write!(f, "network interface {name}"),
            Self::Chain(name) => write!(f, "packet filter chain {name}"),
            Self::ControlGroup(path) => write!(f, "control group {}", path.display()),
            Self::Setting(path, was) => write!(f, "{} that was {} before", path.display(), was.trim()),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Everything that is there, in the order in which it can be removed: what holds something comes before what it holds.
pub(crate) fn find(layout: &Layout) -> Vec<Leftover> {
    let mut found = find_processes(layout);
    found.extend(find_mounts(layout).into_iter().map(Leftover::Mount));
    found.extend(find_interfaces().into_iter().map(Leftover::Interface));
    found.extend(firewall::find_chains().into_iter().map(Leftover::Chain));
    found.extend(find_control_groups().into_iter().map(Leftover::ControlGroup));
    found.extend(find_settings(layout));
    found.extend(find_paths(layout).into_iter().map(Leftover::Path));
    found
}

/// Removes what it can. A thing that resists is no error here: it is found again.
pub(crate) fn remove(step: &Step, found: &[Leftover]) -> Result<()> {
    let mut chains_are_gone = false;
    for leftover in found {
        step.note(&format!("away with {leftover}"))?;
        match leftover {
            Leftover::Process(_, process) => process.kill()?,
            Leftover::Mount(path) => try_to(step, Command::new("umount").arg(path))?,
            Leftover::Interface(name) => try_to(step, Command::new("ip").args(["link", "delete", name]))?,
            Leftover::Chain(_) if chains_are_gone => {}
            Leftover::Chain(_) => {
                firewall::remove_chains(step)?;
                chains_are_gone = true;
            }
            Leftover::ControlGroup(path) => try_to(step, Command::new("rmdir").arg(path))?,
            Leftover::Setting(path, was) => fs::write(path, was).at("write", path)?,
            // Never through a mount that could not be removed.
            Leftover::Path(path) => {
                try_to(step, Command::new("rm").args(["-r", "-f", "--one-file-system"]).arg(path))?;
            }
        }
    }
    Ok(())
}

fn try_to(step: &Step, command: &mut Command) -> Result<()> {
    let output = ask(command)?;
    if !output.status.success() {
        step.note(String::from_utf8_lossy(&output.stderr).trim())?;
    }
    Ok(())
}

/// The cluster's own programs, the kubelet first, so that it starts nothing anew; then the runtime's helpers, then what ran in pods.
fn find_processes(layout: &Layout) -> Vec<Leftover> {
    let mut own = processes::running(layout);
    own.sort_by_key(|(name, _)| name != "kubelet");
    let socket = layout.socket();
    let containers = container_ids(layout);
    let mut helpers = Vec::new();
    let mut contained = Vec::new();
    for pid in all_process_ids() {
        let Some(process) = Process::find(pid) else { continue };
        if is_runtime_helper(pid, &socket) {
            helpers.push(("containerd-shim".to_owned(), process));
        } else if is_in_one_of(&containers, pid) {
            contained.push((command_name(pid), process));
        }
    }
    own.into_iter()
        .chain(helpers)
        .chain(contained)
        .map(|(name, process)| Leftover::Process(name, process))
        .collect()
}

fn all_process_ids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn is_runtime_helper(pid: u32, socket: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    words.first().is_some_and(|program| program.ends_with("containerd-shim-runc-v2"))
        && words.iter().any(|word| Path::new(word.as_ref()) == socket)
}

/// The containers that the runtime has or had: each has a folder, and a control group that ends with its name.
fn container_ids(layout: &Layout) -> Vec<String> {
    paths_in(&layout.tasks()).iter().filter_map(|path| file_name(path)).collect()
}

fn is_in_one_of(containers: &[String], pid: u32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.lines().any(|group| containers.iter().any(|id| group.ends_with(id)))
}

fn command_name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// The innermost first.
fn find_mounts(layout: &Layout) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found: Vec<_> = mount_points(&table).into_iter().filter(|path| layout.owns(path)).collect();
    found.reverse();
    found
}

/// The kernel writes blanks in a path as octal numbers.
fn mount_points(table: &str) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    points
        .map(|path| PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
        .collect()
}

/// Pods' ends first: once their bridge is gone, nothing tells whose they were.
fn find_interfaces() -> Vec<String> {
    let list = |selection: &[&str]| {
        let output = ask(Command::new("ip").args(["-oneline", "link", "show"]).args(selection));
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        interface_names(&text)
    };
    [list(&["master", POD_INTERFACE]), list(&["dev", POD_INTERFACE]), list(&["dev", HOST_INTERFACE])].concat()
}

/// From lines like `7: veth12ab@if2: <BROADCAST…`.
fn interface_names(listing: &str) -> Vec<String> {
    let names = listing.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    names.map(str::to_owned).collect()
}

/// The innermost first, in every hierarchy.
fn find_control_groups() -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies =
        fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path().join("kubepods"));
    let mut found = Vec::new();
    for top in hierarchies.chain([base.join("kubepods")]) {
        collect_folders(&top, &mut found);
    }
    found
}

fn collect_folders(folder: &Path, found: &mut Vec<PathBuf>) {
    // Two hierarchies may be one under two names (`cpu`, `cpuacct`): a link is followed by neither.
    if !folder.is_dir() || folder.is_symlink() {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        collect_folders(&entry.path(), found);
    }
    found.push(folder.to_owned());
}

fn find_paths(layout: &Layout) -> Vec<PathBuf> {
    // The kubelet links every container's log here, wherever the logs themselves are.
    let mut found = paths_in(Path::new("/var/log/containers"));
    found.retain(|link| fs::read_link(link).is_ok_and(|target| layout.owns(&target)));
    found.extend(find_network_notes(layout));
    // The runtime's helpers listen on sockets in a folder that every runtime of the machine shares.
    for task in paths_in(&layout.tasks()) {
        let address = fs::read_to_string(task.join("address")).unwrap_or_default();
        found.extend(address.trim().strip_prefix("unix://").map(PathBuf::from));
    }
    // There was no other kubelet when this cluster started: what a kubelet puts at a fixed place is its own.
    let kubelet_socket = PathBuf::from("/var/lib/kubelet/device-plugins/kubelet.sock");
    found.extend(layout.folder.exists().then_some(kubelet_socket));
    found.extend([layout.run.clone(), layout.folder.clone()]);
    found.retain(|path| path.exists() || path.is_symlink());
    // Containers of one pod share a helper and its socket.
    found.dedup();
    found
}

/// The network plugins' notes of what they gave to which container. Notes of the loopback interface name the container alone.
fn find_network_notes(layout: &Layout) -> Vec<PathBuf> {
    let containers = container_ids(layout);
    let mut notes = paths_in(Path::new("/var/lib/cni/results"));
    notes.retain(|note| {
        let name = file_name(note).unwrap_or_default();
        name.starts_with(&format!("{NETWORK}-")) || containers.iter().any(|id| name.contains(id.as_str()))
    });
    notes
}

fn paths_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// Kernel settings that a cluster changed and that are still changed, with what they were.
fn find_settings(layout: &Layout) -> Vec<Leftover> {
    let saved = fs::read(layout.settings()).unwrap_or_default();
    let saved: BTreeMap<PathBuf, String> = serde_json::from_slice(&saved).unwrap_or_default();
    let changed = saved.into_iter().filter(|(path, was)| fs::read_to_string(path).is_ok_and(|is| is != *was));
    changed.map(|(path, was)| Leftover::Setting(path, was)).collect()
}

/// Remembers the kernel settings that the kubelet and the network plugins change.
pub(crate) fn remember_settings(layout: &Layout) -> Result<()> {
    let names = ["kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "net/ipv4/ip_forward"];
    let paths = names.map(|name| Path::new("/proc/sys").join(name));
    let saved: BTreeMap<_, _> =
        paths.iter().filter_map(|path| Some((path, fs::read_to_string(path).ok()?))).collect();
    write_whole(&layout.settings(), &serde_json::to_vec(&saved).unwrap_or_default())
}

/// Folders that a cluster's programs make outside its own, and that others may use: they go when they are empty.
pub(crate) fn remove_empty_folders(step: &Step) -> Result<()> {
    let folders = [
        "/var/lib/cni/results",
        "/var/lib/cni",
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet",
        "/var/log/containers",
        "/run/containerd/s",
        "/run/containerd",
    ];
    for folder in folders.into_iter().filter(|folder| Path::new(folder).exists()) {
        try_to(step, Command::new("rmdir").arg(folder))?;
    }
    Ok(())
}

/// What somebody else has that the cluster needs for itself alone.
pub(crate) fn find_others(layout: &Layout) -> Result<Vec<String>> {
    let mut others = Vec::new();
    let own: Vec<u32> = processes::running(layout).into_iter().map(|(_, process)| process.pid).collect();
    for pid in all_process_ids() {
        if command_name(pid) == "kubelet" && !own.contains(&pid) && Process::find(pid).is_some() {
            others.push(format!("process {pid} is another Kubernetes' kubelet"));
        }
    }
    let addresses = ask(Command::new("ip").args(["-oneline", "-4", "address"]))?;
    for line in String::from_utf8_lossy(&addresses.stdout).lines() {
        if line.contains(&format!(" {BLOCK_PREFIX}"))
            && !line.contains(HOST_INTERFACE)
            && !line.contains(POD_INTERFACE)
        {
            others.push(format!(
                "this address lies in the cluster's own block {BLOCK_PREFIX}0.0/16: {}",
                line.trim()
            ));
        }
    }
    Ok(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read_as_they_are() {
        let table = "proc /proc proc rw 0 0\ntmpfs /a\\040b/c tmpfs rw 0 0\n";
        assert_eq!(mount_points(table), [PathBuf::from("/proc"), PathBuf::from("/a b/c")]);
    }

    #[test]
    fn a_pods_interface_is_named_without_its_other_end() {
        let listing = "7: veth12ab@if2: <BROADCAST,UP> mtu 1500 master bcast-pods\n5: bcast-pods: <BROADCAST> mtu 1500\n";
        assert_eq!(interface_names(listing), ["veth12ab", "bcast-pods"]);
    }
}

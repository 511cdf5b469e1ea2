//! What the machine looks like from outside, to compare before a local cluster with after it: knows nothing of how the cluster is
//! removed, so that it notices what the removal does not know of.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cluster::processes::Process;
use crate::step::ask;

/// Kinds of programs that a cluster starts, as the kernel shortens their names.
const PROGRAMS: [&str; 11] = [
    "containerd",
    "containerd-shim",
    "coredns",
    "etcd",
    "kube-apiserver",
    "kube-controller",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "pause",
    "runc",
];

/// Folders in which a cluster's programs leave things.
const FOLDERS: [&str; 8] = [
    "/opt",
    "/run/broadcast-operator",
    "/run/containerd/s",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];

const SETTINGS: [&str; 5] = [
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
];

/// Every fact that a cluster could have changed, each as a line to read.
pub(crate) type Facts = BTreeSet<String>;

/// Collects them.
pub(crate) fn look_around() -> Facts {
    let mut facts = BTreeSet::new();
    for line in fs::read_to_string("/proc/self/mounts").unwrap_or_default().lines() {
        facts.extend(line.split(' ').nth(1).map(|path| format!("mount {path}")));
    }
    for line in printed(Command::new("ip").args(["-oneline", "link"])).lines() {
        facts.extend(line.split(": ").nth(1).map(|name| format!("interface {name}")));
    }
    for family in ["iptables-save", "ip6tables-save"] {
        // A chain without a policy is one that somebody made.
        let saved = printed(&mut Command::new(family));
        facts.extend(
            saved.lines().filter(|line| line.starts_with(':') && line.contains(" - ")).map(str::to_owned),
        );
    }
    // What has ended and only waits for this very process, which started it, to take note is gone.
    for pid in entries(Path::new("/proc"))
        .into_iter()
        .filter(|pid| pid.parse().ok().and_then(Process::find).is_some())
    {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        facts.extend(PROGRAMS.contains(&name.trim()).then(|| format!("process {pid} {}", name.trim())));
    }
    for folder in FOLDERS {
        facts.extend(entries(Path::new(folder)).into_iter().map(|entry| format!("{folder}/{entry}")));
    }
    for hierarchy in entries(Path::new("/sys/fs/cgroup")) {
        let groups = entries(&Path::new("/sys/fs/cgroup").join(&hierarchy));
        facts.extend(groups.into_iter().map(|group| format!("control group {hierarchy}/{group}")));
    }
    for setting in SETTINGS {
        let value = fs::read_to_string(Path::new("/proc/sys").join(setting)).unwrap_or_default();
        facts.insert(format!("setting {setting} = {}", value.trim()));
    }
    facts
}

fn printed(command: &mut Command) -> String {
    ask(command).map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

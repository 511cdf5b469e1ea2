//! Debian packages that a command needs: installed when missing, without starting any service they bring.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::context::{Context, write_whole};
use crate::failure::{AtPath, Result, told};
use crate::step::{Step, ask};

/// What the local cluster and its images are made with.
pub(crate) const FOR_THE_CLUSTER: &[&str] = &[
    "buildah",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "debian-archive-keyring",
    "iproute2",
    "iptables",
    "mmdebstrap",
    "mount",
    "openssl",
    "runc",
];

/// What static binaries that contain C are compiled with, and what makes images of them.
pub(crate) const FOR_OWN_IMAGES: &[&str] = &["buildah", "gcc", "libc6-dev", "musl-tools"];

/// The real records that are loaded for a first look and in tests.
pub(crate) const FOR_RECORDS: &[&str] = &["iso-codes"];

/// The broker of the tests that need no cluster.
pub(crate) const FOR_BROKER_TESTS: &[&str] = &["rabbitmq-server"];

/// Reads alerts and queries (`promtool`), and scrapes the cluster under test.
pub(crate) const FOR_MONITORING: &[&str] = &["prometheus"];

/// What the rivals in benchmarks are built with (rqlite contains C), fetched and run with (Maven brings Java), and one of them.
pub(crate) const FOR_RIVALS: &[&str] = &["gcc", "libc6-dev", "maven", "wrk"];

/// Counts instructions (`callgrind`).
pub(crate) const FOR_INSTRUCTIONS: &[&str] = &["libc6-dbg", "valgrind"];

/// What another Debian release's programs are unpacked with, and run in.
pub(crate) const FOR_ROOTS: &[&str] = &["debian-archive-keyring", "mmdebstrap", "mount"];

/// Installs those of the packages that are missing.
pub(crate) fn install(context: &Context, packages: &[&str]) -> Result<()> {
    let missing = missing_packages(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root()? {
        return told(format!(
            "these Debian packages are needed: {list}\ninstall them with: sudo apt-get install {list}\n\
             (as root this command installs them itself)"
        ));
    }
    context.step(&format!("installing {list}"), |step| {
        let without_services = KeepServicesDown::new()?;
        if !has_package_lists() {
            step.run(&mut apt(&["update"]))?;
        }
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(&missing);
        if step.run(&mut apt(&arguments)).is_err() {
            // Lists that are too old name versions that are gone from the mirror.
            step.run(&mut apt(&["update"]))?;
            step.run(&mut apt(&arguments))?;
        }
        drop(without_services);
        keep_down_after_a_reboot(step, &missing)
    })
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(ask(Command::new("id").arg("-u"))?.stdout == b"0\n")
}

/// The mirror that this machine's packages come from: it has the other releases too. Nothing where apt does not say.
pub(crate) fn fetch_mirror() -> Result<Option<String>> {
    let format = ["indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"];
    let output = ask(Command::new("apt-get").args(format))?;
    Ok(find_mirror(&String::from_utf8_lossy(&output.stdout)).map(str::to_owned))
}

fn find_mirror(targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        ["bookworm" | "trixie", "main", mirror] => Some(mirror),
        _ => None,
    })
}

fn missing_packages<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let query = ["--show", "--showformat", "${Package} ${db:Status-Status}\n"];
    let Ok(output) = ask(Command::new("dpkg-query").args(query).args(packages)) else {
        return told(format!(
            "this machine has no dpkg-query: the commands here are made for Debian 12, and need what its packages bring: {}",
            packages.join(" ")
        ));
    };
    let known = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(packages.iter().copied().filter(|package| !is_installed(&known, package)).collect())
}

fn is_installed(known: &str, package: &str) -> bool {
    known.lines().any(|line| line.split_once(' ') == Some((package, "installed")))
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["--quiet", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments);
    command
}

fn has_package_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

/// Debian starts a service as soon as its package is installed, unless this file forbids it. One that is there already is left alone.
struct KeepServicesDown(bool);

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl KeepServicesDown {
    fn new() -> Result<Self> {
        let path = Path::new(POLICY);
        if path.exists() {
            return Ok(Self(false));
        }
        write_whole(path, b"#!/bin/sh\nexit 101\n")?;
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path, executable).at("make executable", path)?;
        Ok(Self(true))
    }
}

impl Drop for KeepServicesDown {
    fn drop(&mut self) {
        if self.0 {
            let _gone_already = fs::remove_file(POLICY);
        }
    }
}

fn keep_down_after_a_reboot(step: &Step, installed: &[&str]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for service in ["containerd", "prometheus", "rabbitmq-server"] {
        if installed.contains(&service) {
            step.run(Command::new("systemctl").args(["disable", service]))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_release_itself() {
        let targets = "nodistro main https://n.test/\nbookworm-security main http://s.test/\nbookworm main http://d.test/debian/\n";
        assert_eq!(find_mirror(targets), Some("http://d.test/debian/"));
        assert_eq!(find_mirror("noble main http://u.test/\n"), None);
    }

    #[test]
    fn a_package_that_was_removed_or_is_unknown_is_not_installed() {
        let known = "runc installed\nbuildah config-files\n";
        assert!(is_installed(known, "runc"));
        assert!(!is_installed(known, "buildah"));
        assert!(!is_installed(known, "run"));
    }
}

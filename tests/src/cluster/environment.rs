//! What `cargo xtask test e2e` says of the cluster, and the operator in it.

use std::env;
use std::fmt;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use kube::Client;

/// Where the operator is installed.
pub const OPERATOR_NAMESPACE: &str = "broadcast-system";

/// The installation's name, which is its Deployment's too.
pub const RELEASE: &str = "broadcast-operator";

/// The cluster under test and what to use it with.
pub struct Environment {
    /// The kubelet's folder, where it is on this machine: then pods' files can be read and their processes killed.
    pub kubelet_folder: Option<PathBuf>,
    /// Where the API server notes what the operator writes, where it does.
    pub audit_log: Option<PathBuf>,
    kubectl: String,
    helm: String,
    chart: String,
    /// The chart's settings for images that were built here.
    images: Vec<String>,
}

impl Environment {
    /// Reads the variables. What must be there has no default: a test that quietly did nothing would be worse.
    pub(super) fn read() -> Self {
        needed("KUBECONFIG");
        Self {
            kubelet_folder: env::var_os("BROADCAST_KUBELET_DIR").map(PathBuf::from),
            audit_log: env::var_os("BROADCAST_AUDIT_LOG").map(PathBuf::from),
            kubectl: needed("KUBECTL"),
            helm: needed("HELM"),
            chart: needed("BROADCAST_CHART"),
            images: read_images(),
        }
    }

    /// `kubectl` for the cluster.
    pub fn kubectl(&self) -> Command {
        Command::new(&self.kubectl)
    }

    /// Installs the operator or, where it is there already, sees to it that it is this one.
    pub async fn install_operator(&self, kube: &Client) {
        super::create_restricted_namespace(kube, OPERATOR_NAMESPACE).await;
        self.install(RELEASE, OPERATOR_NAMESPACE, &[]).unwrap();
    }

    /// Installs or upgrades a release of the chart, with these arguments (`--set=…`) and no values of before.
    pub fn install(&self, release: &str, namespace: &str, arguments: &[&str]) -> Result<String, Complaint> {
        let mut helm = Command::new(&self.helm);
        helm.args(["upgrade", "--install", release, &self.chart, "--namespace", namespace]);
        helm.args(["--reset-values", "--wait", "--timeout=180s"]).args(&self.images);
        // A test does not wait for as long as a person would like it to.
        helm.arg("--set=deletionPatienceSeconds=30").args(arguments);
        read(&mut helm, "")
    }

    /// What `helm` answers, or what it says is wrong.
    pub fn helm(&self, arguments: &[&str]) -> Result<String, Complaint> {
        read(Command::new(&self.helm).args(arguments), "")
    }
}

/// The images are the chart's own unless all three are named.
fn read_images() -> Vec<String> {
    if env::var_os("BROADCAST_IMAGE_OPERATOR").is_none() {
        return Vec::new();
    }
    let operator = needed("BROADCAST_IMAGE_OPERATOR");
    let (repository, tag) = operator.rsplit_once(':').expect("BROADCAST_IMAGE_OPERATOR has a tag");
    let (heart, node) = (needed("BROADCAST_IMAGE_HEART"), needed("BROADCAST_IMAGE_NODE"));
    let settings =
        [("image.repository", repository), ("image.tag", tag), ("heartImage", &heart), ("nodeImage", &node)];
    settings.iter().map(|(name, value)| format!("--set-string={name}={value}")).collect()
}

pub(crate) fn needed(variable: &str) -> String {
    let value = env::var(variable).unwrap_or_default();
    assert!(
        !value.is_empty(),
        "{variable} is not set: run these tests with `cargo xtask test`, which brings up what they need and sets it"
    );
    value
}

/// What a program said when it failed. A test that cannot go on prints it as it was said.
pub struct Complaint(String);

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs a program to its end and gives what it printed.
pub(crate) fn read(command: &mut Command, input: &str) -> Result<String, Complaint> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let complaints = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    // A program that ends before it has read everything says why in its own words.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let complaints = complaints.join().unwrap();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Complaint(format!("{command:?}: {}: {}", output.status, complaints.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_says_why() {
        let complaint =
            read(Command::new("sh").args(["-c", "cat >&2; exit 3"]), "no").unwrap_err().to_string();
        assert!(complaint.ends_with("exit status: 3: no"), "{complaint}");
    }
}

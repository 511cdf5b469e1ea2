//! The cluster to work with: the one that `KUBECONFIG` names, else a real Kubernetes of one node that is started here.
//!
//! The local one is taken as it is when all of its programs run and it answers; anything less is what a dead run left behind, which is
//! removed before a new one starts. It lives on after the command that started it.

mod down;
mod files;
mod firewall;
mod layout;
mod leftovers;
mod pki;
mod processes;
mod start;
mod witness;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::apt;
use crate::context::Context;
use crate::failure::{Result, told};
use crate::step::ask;
use crate::tools::Tools;

pub(crate) use down::take_down;
pub(crate) use witness::{Facts, look_around};

use layout::Layout;

/// A cluster that answers.
pub(crate) struct Cluster {
    pub(crate) kubeconfig: PathBuf,
    /// Where its state is, when it is the one that is started here.
    local: Option<Layout>,
    /// What the machine looked like before, when it is a local one that was started by this call.
    pub(crate) before: Option<Facts>,
    kubectl: PathBuf,
    helm: PathBuf,
    search_path: OsString,
}

impl Cluster {
    /// Finds the cluster or brings it up.
    pub(crate) fn bring_up(context: &Context) -> Result<Self> {
        if let Some(kubeconfig) = find_named_kubeconfig(context) {
            let tools = Tools::build(context)?;
            let cluster = Self::new(&tools, kubeconfig, None);
            return cluster.must_answer().map(|()| cluster);
        }
        if !apt::is_root()? {
            return told(
                "a local cluster needs root: run this command as root, or set KUBECONFIG to a cluster that is there already",
            );
        }
        apt::install(context, apt::FOR_THE_CLUSTER)?;
        let tools = Tools::build(context)?;
        let layout = Layout::of(context);
        let running = Self::new(&tools, layout.kubeconfig(), Some(Layout::of(context)));
        if start::is_complete(&layout) && running.must_answer().is_ok() {
            return Ok(running);
        }
        take_down(context)?;
        let before = look_around();
        start::start(context, &layout, &tools)?;
        Ok(Self { before: Some(before), ..running })
    }

    fn new(tools: &Tools, kubeconfig: PathBuf, local: Option<Layout>) -> Self {
        let (kubectl, helm, search_path) = (tools.path("kubectl"), tools.path("helm"), tools.search_path());
        Self { kubeconfig, local, before: None, kubectl, helm, search_path }
    }

    /// Whether its nodes are this machine: then its addresses can be reached from here.
    pub(crate) fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// The container runtime's socket, for a local cluster: images are handed to it directly.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.local.as_ref().map(Layout::socket)
    }

    /// A folder of this machine that pods of a local cluster may use as a volume; it goes with the cluster.
    pub(crate) fn volume_folder(&self, name: &str) -> Option<PathBuf> {
        self.local.as_ref().map(|layout| layout.file("volumes").join(name))
    }

    /// A kubectl command for this cluster.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        command
    }

    /// A Helm command for this cluster.
    pub(crate) fn helm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.helm);
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        command
    }

    /// Lets a program find this cluster and the tools for it.
    pub(crate) fn introduce_to(&self, command: &mut Command) {
        command.env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.search_path);
        command.env("KUBECTL", &self.kubectl).env("HELM", &self.helm);
        if let Some(layout) = &self.local {
            command.env("BROADCAST_KUBELET_DIR", layout.kubelet_folder());
            command.env("BROADCAST_AUDIT_LOG", layout.audit_log());
        }
    }

    fn must_answer(&self) -> Result<()> {
        let output = ask(&mut self.kubectl(&["get", "--raw", "/readyz", "--request-timeout=10s"]))?;
        if output.status.success() {
            return Ok(());
        }
        told(format!(
            "the cluster of {} does not answer: {}",
            self.kubeconfig.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}

/// Prints where the kubeconfig of the cluster is.
pub(crate) fn print_kubeconfig(context: &Context) -> Result<()> {
    let local = Layout::of(context).kubeconfig();
    let path = find_named_kubeconfig(context).unwrap_or(local);
    if !path.exists() {
        return told(format!("there is no {}: bring a cluster up with `cargo xtask up`", path.display()));
    }
    println!("{}", path.display());
    Ok(())
}

/// The cluster that somebody chose. Who exported the local one's kubeconfig, as is recommended, still means the local one.
fn find_named_kubeconfig(context: &Context) -> Option<PathBuf> {
    let named = env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from)?;
    (named != Layout::of(context).kubeconfig()).then_some(named)
}

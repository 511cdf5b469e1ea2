//! Names, addresses and folders of the local cluster. All of them are its own: whatever carries one of these names was made here and
//! may be removed.

use std::path::{Path, PathBuf};

use crate::context::Context;

/// The one node's name.
pub(crate) const NODE: &str = "local";
/// The interface that carries the node's address. A bridge, because not every kernel has the dummy type.
pub(crate) const HOST_INTERFACE: &str = "bcast-host";
/// The bridge that pods are attached to.
pub(crate) const POD_INTERFACE: &str = "bcast-pods";

/// The pods' network, for its plugins.
pub(crate) const NETWORK: &str = "broadcast";

/// Everything lives in one block that is rarely used elsewhere, so that it can run inside a pod of another cluster.
pub(crate) const BLOCK_PREFIX: &str = "10.197.";
pub(crate) const HOST_ADDRESS: &str = "10.197.0.1";
pub(crate) const SERVICE_NETWORK: &str = "10.197.64.0/18";
pub(crate) const FIRST_SERVICE_ADDRESS: &str = "10.197.64.1";
pub(crate) const POD_NETWORK: &str = "10.197.128.0/17";

/// Ports on loopback. None is the usual one of its program: those may be taken.
pub(crate) const ETCD_CLIENT_PORT: u16 = 23_790;
pub(crate) const ETCD_PEER_PORT: u16 = 23_800;
pub(crate) const CONTROLLER_PORT: u16 = 23_801;
pub(crate) const SCHEDULER_PORT: u16 = 23_802;
pub(crate) const KUBELET_HEALTH_PORT: u16 = 23_803;
pub(crate) const PROXY_HEALTH_PORT: u16 = 23_804;
pub(crate) const PROXY_METRICS_PORT: u16 = 23_805;
/// On the node's own address, so they collide with nothing but a program that listens on every address.
pub(crate) const API_PORT: u16 = 6_443;
pub(crate) const KUBELET_PORT: u16 = 10_250;

/// Where the cluster keeps its state.
pub(crate) struct Layout {
    /// Everything but the runtime's state and the logs; gone after `down`.
    pub(crate) folder: PathBuf,
    /// The container runtime's state and socket; gone after `down`.
    pub(crate) run: PathBuf,
    /// What the cluster's programs print. Outlives the cluster, for whoever wants to know why it ended.
    pub(crate) logs: PathBuf,
}

impl Layout {
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            folder: context.cache.join("cluster"),
            run: PathBuf::from("/run/broadcast-operator"),
            logs: context.cache.join("log/cluster"),
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }

    /// The container runtime's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    /// Where the API server notes what the operator writes.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.file("audit.log")
    }

    /// Where the kubelet keeps pods' volumes.
    pub(crate) fn kubelet_folder(&self) -> PathBuf {
        self.file("kubelet")
    }

    /// The kernel settings as they were before the cluster.
    pub(crate) fn settings(&self) -> PathBuf {
        self.file("settings.json")
    }

    /// Where the runtime keeps a folder for each container.
    pub(crate) fn tasks(&self) -> PathBuf {
        self.run.join("io.containerd.runtime.v2.task/k8s.io")
    }

    /// Where the kubelet lets containers' output go.
    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.file("pod-logs")
    }

    pub(crate) fn owns(&self, path: &Path) -> bool {
        path.starts_with(&self.folder) || path.starts_with(&self.run)
    }
}

//! The configuration files of the cluster's programs. Pure text: what each setting is for stands beside it.

use crate::cluster::layout::{
    HOST_ADDRESS, KUBELET_HEALTH_PORT, KUBELET_PORT, Layout, NETWORK, POD_INTERFACE, POD_NETWORK,
};
use crate::install::OPERATOR_NAMESPACE;

/// All files by name, relative to the cluster's folder.
pub(crate) fn build_files(layout: &Layout, pause_image: &str) -> [(&'static str, String); 5] {
    [
        ("containerd.toml", build_containerd(layout, pause_image)),
        ("cni/10-bridge.conflist", build_network(layout)),
        ("kubelet.yaml", build_kubelet(layout)),
        ("Corefile", build_name_server(layout)),
        ("audit.yaml", build_audit_policy()),
    ]
}

fn build_containerd(layout: &Layout, pause_image: &str) -> String {
    let (folder, run, socket) = (layout.folder.display(), layout.run.display(), layout.socket());
    let socket = socket.display();
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "{run}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  # A root without CAP_SYS_RESOURCE may not lower the score that the kernel gives a process.
  restrict_oom_score_adj = true
  # So that whose they are can be seen from where they are.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{run}/runc"
"#
    )
}

/// Pods reach each other, Services and the host; masquerading, which only the way out would need, is left out.
fn build_network(layout: &Layout) -> String {
    let run = layout.run.display();
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "{NETWORK}", "plugins": [
  {{"type": "bridge", "bridge": "{POD_INTERFACE}", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {{"type": "host-local", "dataDir": "{run}/addresses", "ranges": [[{{"subnet": "{POD_NETWORK}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}
]}}
"#
    )
}

fn build_kubelet(layout: &Layout) -> String {
    let (folder, socket, pod_logs) = (layout.folder.display(), layout.socket(), layout.pod_logs());
    let (socket, pod_logs) = (socket.display(), pod_logs.display());
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {HOST_ADDRESS}
port: {KUBELET_PORT}
healthzPort: {KUBELET_HEALTH_PORT}
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://{socket}
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: "{folder}/pki/ca.crt"}}}}
authorization: {{mode: Webhook}}
clusterDNS: [{HOST_ADDRESS}]
clusterDomain: cluster.local
resolvConf: ""
podLogsDir: "{pod_logs}"
volumePluginDir: "{folder}/volume-plugins"
# A changed ConfigMap or Secret reaches its pods within seconds.
syncFrequency: 10s
configMapAndSecretChangeDetectionStrategy: Watch
# An image that was thrown away to make room could not be fetched again.
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}}
"#
    )
}

/// What the operator's pods write, and nobody else, with the time at which it came: a witness for tests.
fn build_audit_policy() -> String {
    let of_operator = format!(
        "userGroups: [\"system:serviceaccounts:{OPERATOR_NAMESPACE}\"]
  verbs: [create, update, patch, delete]"
    );
    format!(
        "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  {of_operator}
  resources: [{{group: coordination.k8s.io}}]
- level: Metadata
  {of_operator}
- level: None
"
    )
}

fn build_name_server(layout: &Layout) -> String {
    let kubeconfig = layout.kubeconfig();
    let kubeconfig = kubeconfig.display();
    format!(
        "cluster.local:53 {{
    bind {HOST_ADDRESS}
    errors
    cache 5
    kubernetes cluster.local {{
        kubeconfig {kubeconfig} broadcast
    }}
}}
"
    )
}

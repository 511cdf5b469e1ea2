//! Starts the local cluster: container runtime, store, control plane, node, name server.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cluster::files::build_files;
use crate::cluster::layout::{
    API_PORT, CONTROLLER_PORT, ETCD_CLIENT_PORT, ETCD_PEER_PORT, HOST_ADDRESS, HOST_INTERFACE, Layout, NODE,
    POD_NETWORK, PROXY_HEALTH_PORT, PROXY_METRICS_PORT, SCHEDULER_PORT, SERVICE_NETWORK,
};
use crate::cluster::{leftovers, pki, processes};
use crate::context::{Context, write_whole};
use crate::failure::{AtPath, Result, told};
use crate::images;
use crate::step::{Step, ask};
use crate::tools::Tools;

const PATIENCE: Duration = Duration::from_mins(2);

/// The programs in the order in which they start.
const PROGRAMS: [&str; 8] = [
    "containerd",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
];

/// Whether every program of the cluster is alive.
pub(crate) fn is_complete(layout: &Layout) -> bool {
    let running = processes::running(layout);
    PROGRAMS.iter().all(|program| running.iter().any(|(name, _)| name == program))
}

/// Starts everything on a machine where nothing of a local cluster is left, and waits until the node is ready.
pub(crate) fn start(context: &Context, layout: &Layout, tools: &Tools) -> Result<()> {
    let others = leftovers::find_others(layout)?;
    if !others.is_empty() {
        return told(format!(
            "a local cluster has no room on this machine:\n  {}\nend that, or set KUBECONFIG to the cluster to use",
            others.join("\n  ")
        ));
    }
    let pause = images::build_pause(context, tools)?;
    context.step("starting the local cluster", |step| {
        let started = start_everything(step, layout, tools, &pause);
        if started.is_err() {
            report_dead_programs(layout);
        }
        started
    })
}

fn start_everything(step: &Step, layout: &Layout, tools: &Tools, pause: &images::Image) -> Result<()> {
    for folder in [&layout.folder, &layout.run] {
        fs::create_dir_all(folder).at("create", folder)?;
    }
    leftovers::remember_settings(layout)?;
    pki::create(step, layout, API_PORT)?;
    for (name, content) in build_files(layout, &pause.name) {
        write_whole(&layout.file(name), content.as_bytes())?;
    }
    step.run(Command::new("ip").args(["link", "add", HOST_INTERFACE, "type", "bridge"]))?;
    step.run(Command::new("ip").args([
        "address",
        "add",
        &format!("{HOST_ADDRESS}/32"),
        "dev",
        HOST_INTERFACE,
    ]))?;
    step.run(Command::new("ip").args(["link", "set", HOST_INTERFACE, "up"]))?;

    let start_one = |name: &str, arguments: Vec<String>| {
        step.say(name);
        processes::start(layout, name, &tools.path(name), &arguments)
    };
    start_one("containerd", words(&["--config", &shown(&layout.file("containerd.toml"))]))?;
    start_one("etcd", etcd_arguments(layout))?;
    start_one("kube-apiserver", api_server_arguments(layout))?;
    step.wait("the container runtime", PATIENCE, || Ok(layout.socket().exists().then_some(())))?;
    images::import(step, &layout.socket(), pause)?;
    wait_for_success(step, "the API server's readiness", || kubectl(tools, layout, "get --raw /readyz"))?;
    start_one("kube-controller-manager", controller_manager_arguments(layout))?;
    start_one("kube-scheduler", scheduler_arguments(layout))?;
    start_one("kubelet", kubelet_arguments(layout))?;
    start_one("kube-proxy", proxy_arguments(layout))?;
    start_one("coredns", words(&["-conf", &shown(&layout.file("Corefile"))]))?;
    step.say("waiting for the node");
    let ready = format!("wait --for=condition=Ready node/{NODE} --timeout=2s");
    wait_for_success(step, "the node's readiness", || kubectl(tools, layout, &ready))?;
    // Pods are refused until their namespace has its account.
    let account = "get serviceaccount default --namespace default";
    wait_for_success(step, "the default service account", || kubectl(tools, layout, account))
}

fn kubectl(tools: &Tools, layout: &Layout, arguments: &str) -> Command {
    let mut command = Command::new(tools.path("kubectl"));
    command.env("KUBECONFIG", layout.kubeconfig()).args(arguments.split(' '));
    command
}

fn wait_for_success(step: &Step, what: &str, command: impl Fn() -> Command) -> Result<()> {
    step.wait(what, PATIENCE, || {
        let output = ask(&mut command())?;
        if !output.status.success() {
            step.note(String::from_utf8_lossy(&output.stderr).trim())?;
        }
        Ok(output.status.success().then_some(()))
    })
}

/// A program that ended at once is the likeliest reason why the others wait in vain.
fn report_dead_programs(layout: &Layout) {
    let running = processes::running(layout);
    for program in PROGRAMS {
        let log = layout.logs.join(format!("{program}.log"));
        if !running.iter().any(|(name, _)| name == program) && log.exists() {
            eprintln!("{program} is not running; what it said is in {}", log.display());
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&argument| argument.to_owned()).collect()
}

fn etcd_arguments(layout: &Layout) -> Vec<String> {
    let client = format!("http://127.0.0.1:{ETCD_CLIENT_PORT}");
    let peer = format!("http://127.0.0.1:{ETCD_PEER_PORT}");
    vec![
        format!("--data-dir={}", shown(&layout.file("etcd"))),
        // A cluster that is thrown away with the machine's power needs no disk to wait for.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]
}

fn api_server_arguments(layout: &Layout) -> Vec<String> {
    let key = |name: &str| shown(&layout.file("pki").join(name));
    vec![
        format!("--etcd-servers=http://127.0.0.1:{ETCD_CLIENT_PORT}"),
        format!("--secure-port={API_PORT}"),
        format!("--bind-address={HOST_ADDRESS}"),
        format!("--advertise-address={HOST_ADDRESS}"),
        format!("--tls-cert-file={}", key("api.crt")),
        format!("--tls-private-key-file={}", key("api.key")),
        format!("--client-ca-file={}", key("ca.crt")),
        format!("--service-account-key-file={}", key("sa.pub")),
        format!("--service-account-signing-key-file={}", key("sa.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--token-auth-file={}", key("tokens.csv")),
        "--authorization-mode=Node,RBAC".to_owned(),
        format!("--audit-policy-file={}", shown(&layout.file("audit.yaml"))),
        format!("--audit-log-path={}", shown(&layout.audit_log())),
        format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
        "--allow-privileged=true".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--kubelet-client-certificate={}", key("kubelet-client.crt")),
        format!("--kubelet-client-key={}", key("kubelet-client.key")),
    ]
}

fn controller_manager_arguments(layout: &Layout) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", shown(&layout.kubeconfig())),
        format!("--service-account-private-key-file={}", shown(&layout.file("pki/sa.key"))),
        format!("--root-ca-file={}", shown(&layout.file("pki/ca.crt"))),
        "--use-service-account-credentials".to_owned(),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={CONTROLLER_PORT}"),
    ]
}

fn scheduler_arguments(layout: &Layout) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", shown(&layout.kubeconfig())),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={SCHEDULER_PORT}"),
    ]
}

fn kubelet_arguments(layout: &Layout) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", shown(&layout.kubeconfig())),
        format!("--config={}", shown(&layout.file("kubelet.yaml"))),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={HOST_ADDRESS}"),
        format!("--cert-dir={}", shown(&layout.file("kubelet-pki"))),
        format!("--root-dir={}", shown(&layout.kubelet_folder())),
    ]
}

fn proxy_arguments(layout: &Layout) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", shown(&layout.kubeconfig())),
        format!("--hostname-override={NODE}"),
        format!("--cluster-cidr={POD_NETWORK}"),
        "--proxy-mode=iptables".to_owned(),
        "--iptables-localhost-nodeports=false".to_owned(),
        "--conntrack-max-per-core=0".to_owned(),
        format!("--healthz-bind-address=127.0.0.1:{PROXY_HEALTH_PORT}"),
        format!("--metrics-bind-address=127.0.0.1:{PROXY_METRICS_PORT}"),
    ]
}

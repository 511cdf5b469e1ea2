//! What runs in the pods has no more rights than it needs, and the namespaces would not let it have more.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs;

use broadcast_tests::cluster::environment::OPERATOR_NAMESPACE;
use broadcast_tests::cluster::{self, Scenario};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

#[test]
fn every_pod_is_unprivileged_and_without_a_shell_under_restricted_pod_security() {
    cluster::run("images", async |stage| {
        stage.apply(&stage.sample("orders", 1)).await;
        stage.wait_until_ready("orders", 1).await;
        for namespace in [stage.namespace.as_str(), OPERATOR_NAMESPACE] {
            check_namespace(stage, namespace).await;
        }
    });
}

async fn check_namespace(stage: &Scenario, name: &str) {
    let namespaces: Api<Namespace> = Api::all(stage.kube.clone());
    let label =
        namespaces.get(name).await.unwrap().labels().get("pod-security.kubernetes.io/enforce").cloned();
    assert_eq!(label.as_deref(), Some("restricted"), "{name}");
    let pods: Api<Pod> = Api::namespaced(stage.kube.clone(), name);
    let pods = pods.list(&ListParams::default()).await.unwrap();
    assert!(!pods.items.is_empty(), "no pods in {name}");
    for pod in &pods {
        check_pod(stage, pod);
    }
}

fn check_pod(stage: &Scenario, pod: &Pod) {
    let name = pod.name_any();
    let spec = pod.spec.as_ref().unwrap();
    let of_pod = spec.security_context.as_ref().unwrap();
    assert_eq!(of_pod.run_as_non_root, Some(true), "{name}");
    let is_operator = pod.namespace().as_deref() == Some(OPERATOR_NAMESPACE);
    if !is_operator {
        assert_eq!(spec.automount_service_account_token, Some(false), "{name} has a token it has no use for");
    }
    for container in &spec.containers {
        let of_container = container.security_context.as_ref().unwrap();
        assert_eq!(of_container.read_only_root_filesystem, Some(true), "{name}");
        assert_eq!(of_container.allow_privilege_escalation, Some(false), "{name}");
        let dropped = of_container.capabilities.as_ref().and_then(|capabilities| capabilities.drop.clone());
        assert_eq!(dropped, Some(vec!["ALL".to_owned()]), "{name}");
        assert!(
            container.liveness_probe.is_some() && container.readiness_probe.is_some(),
            "{name} has no probes"
        );
    }
    let namespace = format!("--namespace={}", pod.namespace().unwrap());
    for shell in ["sh", "/bin/sh", "/bin/busybox"] {
        let refusal =
            stage.kubectl(&["exec", &name, &namespace, "--", shell, "-c", "true"]).unwrap_err().to_string();
        let is_absent = ["no such file or directory", "executable file not found"]
            .iter()
            .any(|text| refusal.contains(text));
        assert!(is_absent, "{name}, {shell}: {refusal}");
    }
    if stage.environment.kubelet_folder.is_some() {
        let process = cluster::resource::find_process(pod);
        let status = fs::read_to_string(process.join("status")).unwrap();
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        assert!(user.split_whitespace().all(|id| id != "0"), "{name} runs as {user}");
    }
}

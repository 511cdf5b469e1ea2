//! Two replicas of the operator: whatever befalls the one that leads, the other takes over, and no two ever write at a
//! time.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use broadcast_tests::client::{send, wait_for};
use broadcast_tests::cluster::environment::OPERATOR_NAMESPACE;
use broadcast_tests::cluster::forward::is_ready;
use broadcast_tests::cluster::operators::Leader;
use broadcast_tests::cluster::{self, Scenario};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use reqwest::Method;
use tokio::time::Instant;

/// The Lease's duration, a look at it, and time for two busy cores.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(40);

/// How soon another leads when the leader gives up leadership: well before the Lease would have run out.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a process that does not lead any more may take to end.
const END_PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_replica_that_stands_by_is_ready_and_says_that_it_does_not_lead() {
    cluster::run("standby", async |stage| {
        let leader = stage.leader(TAKE_OVER_PATIENCE).await;
        let pods = wait_for("two ready replicas", TAKE_OVER_PATIENCE, async || {
            let pods = stage.operators().list(&ListParams::default()).await.unwrap().items;
            let is_settled = pods.len() == 2 && pods.iter().all(is_ready);
            if is_settled { Ok(pods) } else { Err(format!("{pods:?}")) }
        })
        .await;
        for pod in pods {
            let leads = pod.name_any() == leader.pod;
            let (client, _forward) = stage.operator_admin(&pod.name_any()).await;
            let ask = async |path: &str| {
                send(client.request(Method::GET, path)).await.unwrap().text().await.unwrap()
            };
            assert_eq!(ask("readyz").await, if leads { "ready\n" } else { "standby\n" });
            let metrics = ask("metrics").await;
            let line = format!("broadcast_operator_leader {}", i32::from(leads));
            assert!(metrics.lines().any(|found| found == line), "{line} is not in:\n{metrics}");
        }
    });
}

#[test]
fn a_leader_that_is_killed_in_the_midst_of_its_work_is_followed_by_another_that_finishes_it() {
    cluster::run("killed-leader", async |stage| {
        let (log, leader, pod) = prepare(stage).await;
        stage.begin_to_scale("orders", 4).await;
        stage.kill(&pod);

        let successor = stage.leader_after(Some(&leader), TAKE_OVER_PATIENCE).await;
        stage.wait_until_ready("orders", 4).await;
        if let Some(log) = log {
            log.assert_one_writer_at_a_time(&[&leader.pod, &successor.pod]);
        }
        // A container that dies often is restarted ever later; a new pod is started at once.
        let namespace = format!("--namespace={OPERATOR_NAMESPACE}");
        stage.kubectl(&["delete", "pod", &leader.pod, &namespace, "--wait=false"]).unwrap();
    });
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over_before_its_lease_runs_out() {
    cluster::run("handed-over", async |stage| {
        let (log, leader, _) = prepare(stage).await;
        let namespace = format!("--namespace={OPERATOR_NAMESPACE}");
        let told = Instant::now();
        stage.kubectl(&["delete", "pod", &leader.pod, &namespace, "--wait=false"]).unwrap();
        let successor = stage.leader_after(Some(&leader), HAND_OVER_PATIENCE).await;
        eprintln!("{} followed {} after {:?}", successor.identity, leader.identity, told.elapsed());

        stage.kubectl(&["scale", "bcast/orders", "--replicas=3"]).unwrap();
        stage.wait_until_ready("orders", 3).await;
        if let Some(log) = log {
            log.assert_one_writer_at_a_time(&[&leader.pod, &successor.pod]);
        }
    });
}

#[test]
fn a_leader_that_was_stopped_for_longer_than_its_lease_ends_and_writes_nothing_when_it_goes_on() {
    cluster::run("stopped-leader", async |stage| {
        if !is_cluster_of_this_machine(stage) {
            return;
        }
        let (log, leader, pod) = prepare(stage).await;
        stage.begin_to_scale("orders", 5).await;
        stage.signal(&pod, "STOP");

        let successor = stage.leader_after(Some(&leader), TAKE_OVER_PATIENCE).await;
        assert_ne!(successor.pod, leader.pod);
        stage.signal(&pod, "CONT");
        let (end, said) = stage.end_of_process(&pod, END_PATIENCE).await;
        assert_eq!(end.exit_code, 1, "{end:?}");
        assert!(said.contains("leadership lost"), "{said}");

        stage.wait_until_ready("orders", 5).await;
        if let Some(log) = log {
            log.assert_one_writer_at_a_time(&[&leader.pod, &successor.pod]);
        }
    });
}

#[test]
fn a_leader_that_is_cut_off_from_the_api_server_ends_before_the_other_takes_over() {
    cluster::run("cut-off-leader", async |stage| {
        if !is_cluster_of_this_machine(stage) {
            return;
        }
        let (log, leader, pod) = prepare(stage).await;
        stage.begin_to_scale("orders", 4).await;
        let partition = stage.cut_off(&pod).await;

        let successor = stage.leader_after(Some(&leader), TAKE_OVER_PATIENCE).await;
        assert_ne!(successor.pod, leader.pod);
        let (end, said) = stage.end_of_process(&pod, END_PATIENCE).await;
        assert_eq!(end.exit_code, 1, "{end:?}");
        assert!(said.contains("leadership lost: no renewal was answered"), "{said}");
        let taken = stage.fetch_lease().await.spec.unwrap().acquire_time.unwrap().0;
        let ended = end.finished_at.unwrap().0;
        assert!(ended < taken, "it ended at {ended}, and another led from {taken}");

        stage.wait_until_ready("orders", 4).await;
        drop(partition);
        wait_for("the one that was cut off to stand by", TAKE_OVER_PATIENCE, async || {
            let pod = stage.operators().get(&leader.pod).await.unwrap();
            if is_ready(&pod) { Ok(()) } else { Err(format!("{:?}", pod.status)) }
        })
        .await;
        assert_eq!(stage.leader(TAKE_OVER_PATIENCE).await, successor);
        if let Some(log) = log {
            log.assert_one_writer_at_a_time(&[&leader.pod, &successor.pod]);
        }
    });
}

/// A cluster of two nodes, made by the leader; the leader, and its pod.
async fn prepare(stage: &Scenario) -> (Option<cluster::audit::Mark>, Leader, Pod) {
    let leader = stage.leader(TAKE_OVER_PATIENCE).await;
    let log = stage.mark_audit_log();
    stage.apply(&stage.sample("orders", 2)).await;
    stage.wait_until_ready("orders", 2).await;
    let pod = stage.operators().get(&leader.pod).await.unwrap();
    (log, leader, pod)
}

/// Whether signals and the packet filter reach the operator's pods.
fn is_cluster_of_this_machine(stage: &Scenario) -> bool {
    let is_here = stage.environment.kubelet_folder.is_some();
    if !is_here {
        eprintln!("this needs a cluster whose node is this machine");
    }
    is_here
}

use broadcast_service::amqp::{AmqpError, QueueDepth};
use serde_json::json;

use super::*;
use crate::broker::{BrokerError, ObservedBroker};
use crate::controller::error::Problem;
use crate::controller::objects::Kind;
use crate::heart::HeartReport;
use crate::secret::SecretError;
use crate::testing::api_server::{api_server, expect};
use crate::testing::{cluster, ids, nothing, ready_status, valid};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn members() -> Members {
    Members { staying: ids([1, 2, 3]), ..Members::default() }
}

fn report(nodes: &[(u32, &str, u64, &str)]) -> HeartReport {
    let node = |(id, state, applied, digest): &(u32, &str, u64, &str)| json!({"id": id, "state": state, "applied": applied, "lag_writes": 40 - applied, "lag_seconds": 0.2, "digest": digest});
    let nodes: Vec<_> = nodes.iter().map(node).collect();
    let report = json!({"role": "active", "epoch": 7, "position": 40, "nodes": nodes});
    HeartReport { pod: "orders-heart-x".to_owned(), ..serde_json::from_value(report).unwrap() }
}

/// A cluster of three nodes at work.
fn at_work() -> Observed {
    let mut observed = nothing();
    let depth = QueueDepth { messages: 0, consumers: 1 };
    let node_queues = ids([1, 2, 3]).into_iter().map(|id| (id, depth)).collect();
    observed.broker = Ok(ObservedBroker { node_queues, ..ObservedBroker::default() });
    for id in ids([1, 2, 3]) {
        let body = json!({"metadata": {"labels": {"broadcast.dev/node-id": id.to_string()}}, "status": ready_status(&json!(null))});
        observed.objects.insert((Kind::Deployment, format!("orders-node-{id}")), body);
    }
    observed.recorded = ids([1, 2, 3]);
    observed.heart = Ok(report(&[(1, "ready", 40, "d"), (2, "ready", 40, "d"), (3, "ready", 40, "d")]));
    observed
}

fn status_of(
    observed: &Observed,
    members: &Members,
    failure: Option<&ReconcileError>,
) -> BroadcastClusterStatus {
    let findings = Findings { cluster: &valid(), observed, members, failure };
    build_status(&findings, &BroadcastClusterStatus::default(), at(0))
}

fn standing(status: &BroadcastClusterStatus) -> Vec<(&str, &str, &str)> {
    status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect()
}

#[test]
fn a_cluster_at_work_is_ready() {
    let status = status_of(&at_work(), &members(), None);
    insta::assert_yaml_snapshot!(status);
}

#[test]
fn what_is_wrong_is_in_the_condition_that_it_belongs_to_and_in_ready() {
    let broker = |source| Problem::Broker(BrokerError { object: "queue q".to_owned(), source });
    let unreachable = AmqpError::Unreachable { address: "mq:5672".to_owned(), text: "refused".to_owned() };
    let cases: Vec<(Problem, &str, &str, &str)> = vec![
        (SecretError::Missing("s".to_owned()).into(), "BrokerReachable", "SecretMissing", "Stalled"),
        (broker(unreachable), "BrokerReachable", "BrokerUnreachable", "Reconciling"),
        (
            broker(AmqpError::ArgumentsDiffer("arg".to_owned())),
            "TopologyDeclared",
            "BrokerArgumentsDiffer",
            "Stalled",
        ),
    ];
    for (problem, type_, reason, progress) in cases {
        let observed = Observed { broker: Err(problem.clone()), ..at_work() };
        let failure = ReconcileError::Problem(problem);
        for status in
            [status_of(&observed, &members(), None), status_of(&at_work(), &members(), Some(&failure))]
        {
            let standing = standing(&status);
            for expected in [(type_, "False", reason), ("Ready", "False", reason), (progress, "True", reason)]
            {
                assert!(standing.contains(&expected), "{expected:?} is not in {standing:?}");
            }
        }
    }
}

#[test]
fn tokens_that_cannot_be_used_are_told_whether_hearts_still_answer_without_or_not() {
    let tokens = Err(SecretError::Missing("mine".to_owned()));
    let asked = Observed { tokens: tokens.clone(), ..at_work() };
    let not_asked = Observed { heart: Err("401 Unauthorized".to_owned()), tokens, ..at_work() };
    for (observed, available) in [
        (asked, ("HeartAvailable", "True", "Active")),
        (not_asked, ("HeartAvailable", "Unknown", "SecretMissing")),
    ] {
        let status = status_of(&observed, &members(), None);
        let standing = standing(&status);
        for expected in [available, ("Ready", "False", "SecretMissing"), ("Stalled", "True", "SecretMissing")]
        {
            assert!(standing.contains(&expected), "{expected:?} is not in {standing:?}");
        }
        let ready = condition(&status.conditions, ConditionType::Ready).unwrap();
        assert_eq!(ready.message, "spec.auth: Secret \"mine\" does not exist");
    }
}

#[test]
fn nodes_that_differ_at_one_position_are_named() {
    let mut observed = at_work();
    observed.heart = Ok(report(&[(1, "ready", 40, "d"), (2, "ready", 40, "x"), (3, "ready", 39, "y")]));
    let status = status_of(&observed, &members(), None);
    let consistent = condition(&status.conditions, ConditionType::Consistent).unwrap();
    assert_eq!(consistent.message, "at position 40 node 1 has d, node 2 has x");
    assert!(standing(&status).contains(&("Ready", "False", "DigestsDiffer")));
    assert_eq!((status.lag_writes, status.worst_node), (Some(1), Some(3)));
}

#[test]
fn a_write_that_nobody_has_is_named_with_the_way_to_go_on_without_it() {
    let mut observed = at_work();
    let mut heart = report(&[(1, "ready", 40, "d"), (2, "repairing", 7, "x"), (3, "repairing", 9, "y")]);
    (heart.nodes[1].missing, heart.nodes[2].missing) = (Some(8), Some(10));
    observed.heart = Ok(heart);
    let status = status_of(&observed, &members(), None);
    let data_loss = condition(&status.conditions, ConditionType::DataLoss).unwrap();
    assert_eq!((data_loss.status.as_str(), data_loss.reason.as_str()), ("True", "WriteMissing"));
    assert!(data_loss.message.contains("node 2 misses write 8"), "{}", data_loss.message);
    assert!(data_loss.message.contains("broadcast.dev/accept-data-loss=8"), "{}", data_loss.message);
    assert!(standing(&status).iter().any(|(type_, status, _)| (*type_, *status) == ("Ready", "False")));
}

#[test]
fn a_phase_is_the_probes_and_the_hearts_word_together() {
    let cases = [
        (Some(1), "ready", NodePhase::Ready),
        (Some(1), "", NodePhase::Ready),
        (None, "ready", NodePhase::Starting),
        (None, "repairing", NodePhase::Repairing),
        (Some(1), "failing", NodePhase::Failing),
        (Some(1), "bootstrapping", NodePhase::Bootstrapping),
        (Some(1), "diverged", NodePhase::Diverged),
    ];
    for (ready, state, expected) in cases {
        let mut observed = at_work();
        let node = observed.objects.get_mut(&(Kind::Deployment, "orders-node-1".to_owned())).unwrap();
        node["status"]["readyReplicas"] = json!(ready);
        observed.heart = Ok(report(&[(1, state, 40, "d")]));
        assert_eq!(status_of(&observed, &members(), None).nodes[0].phase, expected, "{ready:?} {state}");
    }
    let members = Members { staying: ids([1, 4]), leaving: ids([2]), ..Members::default() };
    let phases: Vec<_> = status_of(&at_work(), &members, None).nodes.iter().map(|node| node.phase).collect();
    assert_eq!(phases, [NodePhase::Ready, NodePhase::Removing, NodePhase::Pending]);
}

#[test]
fn a_node_that_is_being_removed_is_work_to_do_but_neither_lag_nor_a_difference() {
    let mut observed = at_work();
    observed.heart = Ok(report(&[(1, "ready", 40, "d"), (2, "ready", 40, "d"), (3, "ready", 7, "x")]));
    let members = Members { staying: ids([1, 2]), leaving: ids([3]), ..Members::default() };
    let mut cluster = valid();
    cluster.nodes.replicas = 2;
    let findings = Findings { cluster: &cluster, observed: &observed, members: &members, failure: None };
    let status = build_status(&findings, &BroadcastClusterStatus::default(), at(0));
    assert_eq!((status.lag_writes, status.worst_node, status.replicas), (Some(0), None, 3));
    let standing = standing(&status);
    for expected in [("Ready", "True", "Ready"), ("Reconciling", "True", "RemovingNodes")] {
        assert!(standing.contains(&expected), "{expected:?} is not in {standing:?}");
    }
    let message = |type_| condition(&status.conditions, type_).unwrap().message.as_str();
    assert_eq!(message(ConditionType::Reconciling), "being removed: node 3");
    assert_eq!(message(ConditionType::Consistent), "2 of 2 nodes have the same digest at position 40");
}

#[test]
fn a_condition_that_stands_keeps_its_time_and_consistency_is_not_lost_under_load() {
    let (cluster, members) = (valid(), members());
    let status = |observed: &Observed, recorded: &BroadcastClusterStatus, second| {
        let findings = Findings { cluster: &cluster, observed, members: &members, failure: None };
        build_status(&findings, recorded, at(second))
    };
    let first = status(&at_work(), &BroadcastClusterStatus::default(), 1);
    let mut moving = at_work();
    moving.heart = Ok(report(&[(1, "ready", 38, "a"), (2, "ready", 39, "b"), (3, "ready", 40, "c")]));
    let second = status(&moving, &first, 2);
    assert_eq!(standing(&first), standing(&second));
    assert!(second.conditions.iter().all(|condition| condition.last_transition_time.0 == at(1)));
    moving.heart = Err("gone".to_owned());
    let third = status(&moving, &second, 3);
    let ready = condition(&third.conditions, ConditionType::Ready).unwrap();
    assert_eq!((ready.status.as_str(), ready.last_transition_time.0), ("False", at(3)));
}

#[test]
fn a_failure_that_found_out_nothing_keeps_what_was_known_for_a_while() {
    let known = status_of(&at_work(), &members(), None);
    let failure = ReconcileError::Timeout;
    let status = |since| build_failure_status(&known, Some(2), (&failure, since), at(9));
    let soon = status(Duration::from_secs(40));
    assert_eq!((&soon.nodes, &soon.heart, soon.observed_generation), (&known.nodes, &known.heart, Some(2)));
    assert!(standing(&soon).contains(&("Ready", "False", "Timeout")));
    assert!(standing(&soon).contains(&("BrokerReachable", "True", "Connected")));
    let late = status(Duration::from_mins(1));
    for type_ in
        ["BrokerReachable", "TopologyDeclared", "HeartAvailable", "NodesReady", "Consistent", "DataLoss"]
    {
        assert!(standing(&late).contains(&(type_, "Unknown", "Timeout")), "{type_}");
    }
    assert_eq!((&late.nodes, &late.heart), (&known.nodes, &known.heart));
}

/// What kstatus makes of a resource, which is what Flux, `kubectl` plugins and others wait by: the rules of
/// sigs.k8s.io/cli-utils, `pkg/kstatus/status` (generic resources).
fn kstatus(generation: i64, status: &BroadcastClusterStatus) -> &'static str {
    let is = |type_, value| condition(&status.conditions, type_).is_some_and(|found| found.status == value);
    if status.observed_generation.is_some_and(|observed| observed != generation) {
        return "InProgress";
    }
    if is(ConditionType::Reconciling, "True") {
        return "InProgress";
    }
    if is(ConditionType::Stalled, "True") {
        return "Failed";
    }
    match condition(&status.conditions, ConditionType::Ready) {
        Some(ready) if ready.status == "True" => "Current",
        _ => "InProgress",
    }
}

#[test]
fn tools_that_know_only_the_conventions_see_what_people_see() {
    let broker =
        |source| ReconcileError::Problem(BrokerError { object: "queue q".to_owned(), source }.into());
    let refused = broker(AmqpError::AccessRefused("no".to_owned()));
    let unreachable = broker(AmqpError::Unreachable { address: "mq".to_owned(), text: "gone".to_owned() });
    let removing = Members { leaving: ids([3]), ..members() };
    let replacing = Members { outdated: ids([3]), ..members() };
    let mut starting = at_work();
    starting.heart = Err("no heart has an address yet".to_owned());
    for (observed, members, failure, expected) in [
        (at_work(), members(), None, "Current"),
        (at_work(), removing, None, "InProgress"),
        (at_work(), replacing, None, "InProgress"),
        (starting, members(), None, "InProgress"),
        (at_work(), members(), Some(&unreachable), "InProgress"),
        (at_work(), members(), Some(&refused), "Failed"),
    ] {
        let status = status_of(&observed, &members, failure);
        assert_eq!(kstatus(1, &status), expected, "{:?}", standing(&status));
        assert_eq!(kstatus(2, &status), "InProgress", "a spec that nobody has looked at");
        let both = [ConditionType::Reconciling, ConditionType::Stalled]
            .map(|type_| condition(&status.conditions, type_).unwrap().status == "True");
        assert_ne!(both, [true, true]);
    }
}

#[test]
fn numbers_alone_are_written_now_and_then_and_everything_else_at_once() {
    let recorded = status_of(&at_work(), &members(), None);
    assert!(!decide_write(&recorded, &recorded, None));
    let mut numbers = recorded.clone();
    numbers.nodes[0].applied = Some(41);
    numbers.nodes[0].digest = Some("e".to_owned());
    numbers.heart.as_mut().unwrap().position = 41;
    numbers.lag_writes = Some(1);
    assert!(!decide_write(&recorded, &numbers, Some(NUMBERS_EVERY / 2)));
    assert!(decide_write(&recorded, &numbers, Some(NUMBERS_EVERY)));
    assert!(decide_write(&recorded, &numbers, None));
    let mut phase = recorded.clone();
    phase.nodes[0].phase = NodePhase::Failing;
    assert!(decide_write(&recorded, &phase, Some(Duration::ZERO)));
}

#[tokio::test]
async fn a_status_is_written_whole() {
    const PATH: &str = "/apis/broadcast.dev/v1alpha1/namespaces/shop/broadcastclusters/orders/status";
    let status = status_of(&at_work(), &members(), None);
    let request = format!("PATCH {PATH}?&force=true&fieldManager=broadcast-operator");
    let body = json!({
        "apiVersion": "broadcast.dev/v1alpha1",
        "kind": "BroadcastCluster",
        "metadata": {"name": "orders"},
        "status": status,
    });
    let patch = expect(&request, serde_json::to_value(cluster()).unwrap())
        .checked(move |sent| assert_eq!(*sent, body));
    let (client, server) = api_server(vec![patch]);
    publish_status(&client, &valid(), &status).await.unwrap();
    drop(client);
    server.await.unwrap();
}

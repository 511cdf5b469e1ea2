use serde_json::json;

use super::*;
use crate::testing::{ids, nothing, ready_status, valid};

/// Nodes of which these are ready; the heart says of each what is given.
fn observed(ready: &[u32], states: &[(u32, &str)]) -> Observed {
    let mut observed = nothing();
    for (id, _) in states {
        let name = format!("orders-node-{id}");
        let probed = if ready.contains(id) { ready_status(&json!(1)) } else { json!({}) };
        let labels = json!({"broadcast.dev/node-id": id.to_string()});
        let owners = json!([{"uid": valid().uid}]);
        let metadata = json!({"name": name, "generation": 1, "labels": labels, "ownerReferences": owners});
        observed.objects.insert((Kind::Deployment, name), json!({"metadata": metadata, "status": probed}));
    }
    let nodes: Vec<_> = states.iter().map(|(id, state)| json!({"id": id, "state": state})).collect();
    observed.heart = Ok(serde_json::from_value(json!({"role": "active", "nodes": nodes})).unwrap());
    observed.recorded = ids(states.iter().map(|(id, _)| *id));
    observed
}

fn all_ready(count: u32) -> Observed {
    let (ready, states): (Vec<_>, Vec<_>) = (1..=count).map(|id| (id, (id, "ready"))).unzip();
    observed(&ready, &states)
}

fn sized(replicas: u32, remove_first: &[u32]) -> ValidCluster {
    let mut cluster = valid();
    cluster.nodes.replicas = replicas;
    cluster.annotations.remove_first = remove_first.iter().filter_map(|id| NodeId::new(*id)).collect();
    cluster
}

#[test]
fn the_highest_leave_unless_others_are_named() {
    let cases: [(u32, &[u32], &[u32]); 7] = [
        (3, &[], &[4, 5]),
        (3, &[2, 5], &[2, 5]),
        (4, &[2, 5], &[2]),
        (3, &[1], &[1, 5]),
        (2, &[1], &[1, 4, 5]),
        // Named for another time: there are enough of the others.
        (4, &[9, 2], &[2]),
        (5, &[2], &[]),
    ];
    for (replicas, named, leaving) in cases {
        let members = decide_members(&sized(replicas, named), &all_ready(5));
        assert_eq!(members.leaving, ids(leaving.iter().copied()), "{replicas} {named:?}");
        assert_eq!(members.refusal, None);
        assert_eq!(members.staying.len(), usize::try_from(replicas).unwrap());
    }
}

#[test]
fn a_node_that_there_is_not_cannot_be_removed() {
    let members = decide_members(&sized(2, &[9]), &all_ready(3));
    assert_eq!((members.staying, members.leaving), (ids([1, 2, 3]), ids([])));
    assert_eq!(
        members.refusal.unwrap().to_string(),
        "no node is removed: broadcast.dev/remove-node-ids names node 9, which does not exist; there is node 1, node 2, node 3. \
         Correct the annotation, or take it away to remove the highest"
    );
}

#[test]
fn a_removal_that_has_begun_is_finished_whatever_the_annotation_says_now() {
    let mut observed = all_ready(3);
    observed.removing = ids([2]);
    for named in [&[][..], &[1], &[9]] {
        assert_eq!(decide_members(&sized(2, named), &observed).leaving, ids([2]), "{named:?}");
    }
    assert_eq!(decide_members(&sized(3, &[]), &observed).leaving, ids([]), "more are wanted again");
}

#[test]
fn nobody_leaves_while_a_node_that_stays_is_not_complete() {
    for state in ["bootstrapping", "repairing", "diverged"] {
        let observed = observed(&[1, 2, 3], &[(1, "ready"), (2, state), (3, "ready")]);
        let members = decide_members(&sized(2, &[]), &observed);
        assert_eq!(members.leaving, ids([]), "{state}");
        let refusal = members.refusal.unwrap();
        assert_eq!(refusal.to_string(), "node 3 stays until node 2 has what it lacks");
        assert_eq!(refusal.reason(), "RemovalWaitsForRepair");
        // The other way round nothing depends on it.
        assert_eq!(decide_members(&sized(2, &[2]), &observed).leaving, ids([2]), "{state}");
    }
}

#[test]
fn the_last_ready_node_does_not_leave_and_one_without_a_pod_may() {
    let mut observed = observed(&[3], &[(1, "failing"), (2, "failing"), (3, "ready")]);
    let members = decide_members(&sized(2, &[]), &observed);
    assert_eq!(members.refusal, Some(Refusal::LastReady(ids([3]))));
    observed.objects.remove(&(Kind::Deployment, "orders-node-3".to_owned()));
    let members = decide_members(&sized(2, &[]), &observed);
    assert_eq!((members.refusal, members.leaving), (None, ids([])));
}

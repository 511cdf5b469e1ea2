//! What somebody deleted on the broker by hand, and is back: heart and nodes make it anew within seconds and count it, and
//! what is still gone when the operator looks it declares itself. Either way it is told.

use std::collections::BTreeMap;

use broadcast_protocol::names::NodeId;

use crate::controller::events::EventDraft;
use crate::controller::validate::ValidCluster;
use crate::heart::HeartReport;

/// How often something was made anew, by who counts it and what it is, for people. Counts begin anew with a process.
pub type Repairs = BTreeMap<(String, String), u64>;

/// What the hearts say.
pub fn count_repairs(cluster: &ValidCluster, heart: &HeartReport) -> Repairs {
    let names = cluster.topology.names();
    let exchange = names.exchange();
    let mut repairs = Repairs::new();
    let mut count = |by: String, what: String, times| _ = repairs.insert((by, what), times);
    let own = (heart.pod.clone(), heart.restored);
    for (pod, restored) in heart.restored_by_others.iter().chain([&own]) {
        count(pod.clone(), format!("exchange {exchange} was gone"), restored.exchange);
        count(pod.clone(), format!("queue {} was gone", names.head_queue()), restored.head_queue);
    }
    for node in &heart.nodes {
        let Some(id) = NodeId::new(node.id) else { continue };
        let queue = names.node_queue(id);
        count(format!("node {id}"), format!("queue {queue} was gone"), node.queues_restored);
        let unbound = format!("queue {queue} was not bound to exchange {exchange}");
        count(heart.pod.clone(), unbound, node.bindings_restored);
    }
    repairs
}

/// What was made anew since `before`; nothing when nobody has looked before.
pub fn find_repaired(before: Option<&Repairs>, now: &Repairs) -> Vec<String> {
    let Some(before) = before else { return Vec::new() };
    let is_new = |key, count: &u64| *count > before.get(key).copied().unwrap_or(0);
    now.iter().filter(|(key, count)| is_new(*key, count)).map(|((_, what), _)| what.clone()).collect()
}

/// Tells what was gone.
pub fn draft_repairs(gone: &[String]) -> Option<EventDraft> {
    (!gone.is_empty()).then(|| EventDraft {
        warning: true,
        reason: "DriftRepaired".to_owned(),
        note: format!("{}; made anew. What nodes missed they fetch from the others", gone.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::heart::Restored;
    use crate::testing::valid;

    fn repairs(pod: &str, exchange: u64, queue_of_2: u64, binding_of_2: u64) -> Repairs {
        let node = json!({"id": 2, "queues_restored": queue_of_2, "bindings_restored": binding_of_2});
        let report = json!({"restored": {"exchange": exchange, "head_queue": 0}, "nodes": [node]});
        let report: HeartReport = serde_json::from_value(report).unwrap();
        count_repairs(&valid(), &HeartReport { pod: pod.to_owned(), ..report })
    }

    #[test]
    fn what_is_counted_anew_is_told_by_name() {
        let before = repairs("a", 1, 0, 1);
        assert_eq!(find_repaired(Some(&before), &before), [""; 0]);
        assert_eq!(
            find_repaired(Some(&before), &repairs("a", 2, 1, 2)),
            [
                "exchange write_requests_fanout was gone",
                "queue write_requests_node_2 was not bound to exchange write_requests_fanout",
                "queue write_requests_node_2 was gone",
            ]
        );
        let note = draft_repairs(&find_repaired(Some(&before), &repairs("a", 2, 0, 1))).unwrap().note;
        assert!(note.starts_with("exchange write_requests_fanout was gone; made anew"), "{note}");
        assert_eq!(draft_repairs(&[]), None);
    }

    #[test]
    fn a_heart_that_stands_by_may_have_been_first() {
        let before = repairs("a", 0, 0, 0);
        let report: HeartReport = serde_json::from_value(json!({"nodes": []})).unwrap();
        let restored_by_others = vec![("b".to_owned(), Restored { exchange: 1, head_queue: 0 })];
        let now = count_repairs(&valid(), &HeartReport { pod: "a".to_owned(), restored_by_others, ..report });
        assert_eq!(find_repaired(Some(&before), &now), ["exchange write_requests_fanout was gone"]);
    }

    #[test]
    fn a_new_operator_tells_nothing_old_and_a_new_heart_counts_from_nothing() {
        assert_eq!(find_repaired(None, &repairs("a", 3, 3, 3)), [""; 0]);
        let before = repairs("a", 3, 0, 3);
        assert_eq!(find_repaired(Some(&before), &repairs("b", 0, 0, 0)), [""; 0]);
        assert_eq!(find_repaired(Some(&before), &repairs("b", 1, 0, 0)).len(), 1);
    }
}

//! Events: one for each transition of a condition that somebody would want to know of, none while nothing changes.

use std::sync::Arc;
use std::time::Duration;

use broadcast_api::{BroadcastClusterStatus, ConditionType, NodeStatus};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::sync::{Semaphore, mpsc};

use crate::controller::objects::hash_text;
use crate::controller::status::condition;

/// The API server takes notes of up to 1 kB.
const MAX_NOTE_BYTES: usize = 1000;

/// How many events wait to be published at most.
const MAX_WAITING: usize = 1024;

/// How long an event waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(1);

/// How long the API server has to take an event.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(10);

/// The conditions whose transitions are told. The others say the same in other words.
const TOLD: [ConditionType; 9] = [
    ConditionType::Paused,
    ConditionType::Conflict,
    ConditionType::BrokerReachable,
    ConditionType::TopologyDeclared,
    ConditionType::HeartAvailable,
    ConditionType::NodesReady,
    ConditionType::Consistent,
    ConditionType::DataLoss,
    ConditionType::Ready,
];

/// An event before it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventDraft {
    /// Whether it is bad news.
    pub warning: bool,
    /// In one word.
    pub reason: String,
    /// For people.
    pub note: String,
}

/// The events that tell how `new` differs from `old`.
pub fn decide_events(old: &BroadcastClusterStatus, new: &BroadcastClusterStatus) -> Vec<EventDraft> {
    let mut drafts: Vec<EventDraft> = Vec::new();
    for type_ in TOLD {
        let (before, Some(after)) = (condition(&old.conditions, type_), condition(&new.conditions, type_))
        else {
            continue;
        };
        let good = if type_.is_abnormal_when_true() { "False" } else { "True" };
        let is_good = after.status == good;
        let is_news = match before {
            None => is_news_at_the_beginning(type_, is_good),
            Some(before) => before.status != after.status || (!is_good && before.reason != after.reason),
        };
        if !is_news || after.status == "Unknown" {
            continue;
        }
        let draft =
            EventDraft { warning: !is_good, reason: after.reason.clone(), note: after.message.clone() };
        if !drafts.iter().any(|other| other.reason == draft.reason) {
            drafts.push(draft);
        }
    }
    drafts.extend(new.nodes.iter().filter(|node| was_rebuilt(old, node)).map(|node| EventDraft {
        warning: true,
        reason: "NodeRebuilt".to_owned(),
        note: format!(
            "node {} has put its rows aside, as they were not what they should be or somebody asked for it, and was rebuilt \
             from another node",
            node.id
        ),
    }));
    drafts
}

/// Since it was looked at before: a process counts from 0, and one that was never looked at has no before.
fn was_rebuilt(old: &BroadcastClusterStatus, node: &NodeStatus) -> bool {
    let before = old.nodes.iter().find(|other| other.id == node.id).and_then(|other| other.rebuilds);
    before.is_some_and(|before| node.rebuilds > Some(before))
}

/// At the beginning nothing is ready, which is no news; nor is a conflict that never was, or a broker that can be reached: what is
/// declared there is.
fn is_news_at_the_beginning(type_: ConditionType, is_good: bool) -> bool {
    match type_ {
        ConditionType::HeartAvailable | ConditionType::NodesReady | ConditionType::Ready => is_good,
        ConditionType::BrokerReachable
        | ConditionType::Conflict
        | ConditionType::DataLoss
        | ConditionType::Paused => !is_good,
        _ => true,
    }
}

/// Where events are told. Somebody else publishes them, one after the other, and no pass waits for that.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Told>);

/// Publishes what is told.
pub struct Publisher {
    recorder: Recorder,
    told: mpsc::Receiver<Told>,
    turns: Arc<Semaphore>,
}

/// An event, and what it is about.
type Told = (ObjectReference, EventDraft);

/// The two ends. Before an event is published it waits for a turn, as passes do: what came before it is done first.
pub fn events(recorder: Recorder, turns: Arc<Semaphore>) -> (Events, Publisher) {
    let (sender, told) = mpsc::channel(MAX_WAITING);
    (Events(sender), Publisher { recorder, told, turns })
}

impl Events {
    /// Tells events about a resource, in order. It waits when too many wait already.
    pub async fn tell(&self, about: &ObjectReference, drafts: Vec<EventDraft>) {
        for draft in drafts {
            // Nobody publishes any more when the process ends; the condition says the same.
            let _ = self.0.send((about.clone(), draft)).await;
        }
    }
}

impl Publisher {
    /// Publishes until nobody can tell anything any more. An event that is lost is logged: the condition says the same.
    pub async fn run(mut self) {
        while let Some((about, draft)) = self.told.recv().await {
            // Passes that wait for room have the turns: nobody is waited for long, and when there is little room not at all.
            let has_room = self.told.len() < MAX_WAITING / 2;
            let patience = if has_room { TURN_PATIENCE } else { Duration::ZERO };
            let _turn = tokio::time::timeout(patience, self.turns.acquire()).await;
            let event = build_event(draft);
            match tokio::time::timeout(PUBLISH_DEADLINE, self.recorder.publish(&event, &about)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, reason = event.reason, "an event was not published");
                }
                Err(_) => {
                    tracing::warn!(reason = event.reason, "an event was not taken in {PUBLISH_DEADLINE:?}");
                }
            }
        }
    }
}

/// The recorder counts events that differ in nothing but their notes as one, and shows the first note.
fn build_event(draft: EventDraft) -> Event {
    let note = shorten(draft.note);
    Event {
        type_: if draft.warning { EventType::Warning } else { EventType::Normal },
        action: format!("Reconcile-{}", hash_text(&note)),
        reason: draft.reason,
        note: Some(note),
        secondary: None,
    }
}

fn shorten(mut note: String) -> String {
    if note.len() > MAX_NOTE_BYTES {
        let end = (0..=MAX_NOTE_BYTES - 3).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::runtime::events::Reporter;
    use serde_json::json;

    use super::*;
    use crate::testing::api_server::{falling_silent_api_server, keeping_api_server};

    fn status(conditions: &[(&str, &str, &str)]) -> BroadcastClusterStatus {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(type_, status, reason)| {
                json!({"type": type_, "status": status, "reason": reason, "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({"conditions": conditions})).unwrap()
    }

    #[test]
    fn only_transitions_are_told_and_each_reason_once() {
        type Conditions<'a> = &'a [(&'a str, &'a str, &'a str)];
        type Told<'a> = &'a [(bool, &'a str)];
        let cases: &[(Conditions<'_>, Conditions<'_>, Told<'_>)] = &[
            (&[], &[("Ready", "False", "NodesNotReady"), ("Conflict", "False", "NoConflict")], &[]),
            (&[], &[("BrokerReachable", "False", "SecretMissing")], &[(true, "SecretMissing")]),
            (
                &[],
                &[("BrokerReachable", "True", "Connected"), ("TopologyDeclared", "True", "Declared")],
                &[(false, "Declared")],
            ),
            (&[], &[("Conflict", "True", "Conflict")], &[(true, "Conflict")]),
            (&[], &[("Consistent", "Unknown", "NotComparable")], &[]),
            (&[("Ready", "True", "Ready")], &[("Ready", "True", "Ready")], &[]),
            (&[("Ready", "False", "A")], &[("Ready", "False", "A")], &[]),
            (&[("BrokerReachable", "False", "A")], &[("BrokerReachable", "False", "B")], &[(true, "B")]),
            (&[("Ready", "False", "A")], &[("Ready", "True", "Ready")], &[(false, "Ready")]),
            (
                &[("Conflict", "True", "Conflict")],
                &[("Conflict", "False", "NoConflict")],
                &[(false, "NoConflict")],
            ),
            (
                &[("NodesReady", "True", "AllReady"), ("Ready", "True", "Ready")],
                &[("NodesReady", "False", "NodesNotReady"), ("Ready", "False", "NodesNotReady")],
                &[(true, "NodesNotReady")],
            ),
        ];
        for (old, new, expected) in cases {
            let drafts = decide_events(&status(old), &status(new));
            let found: Vec<_> = drafts.iter().map(|draft| (draft.warning, draft.reason.as_str())).collect();
            assert_eq!(found, *expected, "{old:?} {new:?}");
        }
    }

    #[test]
    fn a_rebuilt_node_is_told_of_once() {
        let with = |rebuilds: Option<u64>| BroadcastClusterStatus {
            nodes: vec![NodeStatus { id: 2, rebuilds, ..NodeStatus::default() }],
            ..BroadcastClusterStatus::default()
        };
        for (before, after, told) in [
            (None, Some(1), false),
            (Some(0), Some(1), true),
            (Some(1), Some(1), false),
            (Some(1), Some(0), false),
            (Some(1), None, false),
        ] {
            let drafts = decide_events(&with(before), &with(after));
            assert_eq!(
                drafts.iter().any(|draft| draft.note.contains("node 2")),
                told,
                "{before:?} {after:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_waits_for_its_turn_but_passes_that_have_all_turns_can_tell_as_many_as_they_want() {
        let (client, kept) = keeping_api_server(BTreeMap::new());
        let turns = Arc::new(Semaphore::new(1));
        let recorder = Recorder::new(client, Reporter::from("test".to_owned()));
        let (events, publisher) = events(recorder, turns.clone());
        let about = ObjectReference { namespace: Some("shop".to_owned()), ..ObjectReference::default() };
        let draft =
            |note: usize| EventDraft { warning: false, reason: "R".to_owned(), note: note.to_string() };
        let writes = || kept.lock().unwrap().writes.len();
        let running = tokio::spawn(publisher.run());

        let turn = turns.acquire().await.unwrap();
        events.tell(&about, vec![draft(0)]).await;
        tokio::time::sleep(TURN_PATIENCE / 2).await;
        assert_eq!(writes(), 0);
        drop(turn);
        tokio::time::sleep(TURN_PATIENCE / 2).await;
        assert_eq!(writes(), 1);

        let _turn = turns.acquire().await.unwrap();
        let many = 3 * MAX_WAITING;
        events.tell(&about, (1..many).map(draft).collect()).await;
        turns.close();
        drop(events);
        running.await.unwrap();
        assert_eq!(writes(), many);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_takes_no_event_keeps_none_of_the_next_ones() {
        let (client, served) = falling_silent_api_server(Vec::new());
        let recorder = Recorder::new(client, Reporter::from("test".to_owned()));
        let (events, publisher) = events(recorder, Arc::new(Semaphore::new(1)));
        let draft = |note: &str| EventDraft { warning: false, reason: "R".to_owned(), note: note.to_owned() };
        events.tell(&ObjectReference::default(), vec![draft("one"), draft("two")]).await;
        drop(events);
        publisher.run().await;
        assert_eq!(served.await.unwrap(), 2);
    }

    #[test]
    fn only_what_says_the_same_is_the_same_event() {
        let event = |note: &str| {
            let draft = EventDraft { warning: false, reason: "NodesAdded".to_owned(), note: note.to_owned() };
            build_event(draft).action
        };
        assert_eq!(event("nodes 1, 2 come"), event("nodes 1, 2 come"));
        assert_ne!(event("nodes 1, 2 come"), event("nodes 3, 4 come"));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = shorten("ü".repeat(1000));
        assert!(note.len() <= MAX_NOTE_BYTES && note.ends_with('…'));
        assert_eq!(shorten("short".to_owned()), "short");
    }
}

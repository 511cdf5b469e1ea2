//! What a pass did, told as events: who came, who went, who was replaced, and what had to be put right. Each is done once,
//! so that each is told once.

use std::collections::BTreeSet;

use broadcast_protocol::names::NodeId;
use serde_json::Value;

use crate::controller::events::EventDraft;
use crate::controller::objects::{DesiredObject, Kind, ObservedObjects};
use crate::controller::plan::Step;
use crate::controller::validate::ValidCluster;
use crate::names::{APPLIED_ANNOTATION, NODE_ID_LABEL};

/// For each step that somebody would want to know of its place in the plan, and what tells of it once it is done.
pub fn draft_actions(
    cluster: &ValidCluster,
    recorded: &BTreeSet<NodeId>,
    objects: &ObservedObjects,
    steps: &[Step],
) -> Vec<(usize, EventDraft)> {
    let draft = |(place, step): (usize, &Step)| {
        let (reason, note) = describe(cluster, recorded, objects, step)?;
        Some((place, EventDraft { warning: false, reason: reason.to_owned(), note }))
    };
    steps.iter().enumerate().filter_map(draft).collect()
}

fn describe(
    cluster: &ValidCluster,
    recorded: &BTreeSet<NodeId>,
    objects: &ObservedObjects,
    step: &Step,
) -> Option<(&'static str, String)> {
    match step {
        Step::RecordNodes(ids) => {
            let new: Vec<_> = ids.difference(recorded).map(NodeId::to_string).collect();
            let wanted = cluster.nodes.replicas;
            let note = format!("nodes {} come, as spec.nodes.replicas is {wanted}", new.join(", "));
            (!new.is_empty()).then_some(("NodesAdded", note))
        }
        Step::Delete(Kind::Deployment, name) => {
            let id = &objects.get(&(Kind::Deployment, name.clone()))?["metadata"]["labels"][NODE_ID_LABEL];
            let (id, wanted) = (id.as_str()?, cluster.nodes.replicas);
            let note =
                format!("node {id} goes, as spec.nodes.replicas is {wanted}: first its pod, then its queue");
            Some(("NodeRemoved", note))
        }
        Step::CreateTokens(name) => {
            let note = format!("Secret {name:?} has the tokens that hearts and nodes ask for from now on");
            Some(("TokensCreated", note))
        }
        Step::Apply(object) => {
            describe_change(cluster, object, objects.get(&(object.kind, object.name.clone()))?)
        }
        _ => None,
    }
}

/// Of an object that was there.
fn describe_change(
    cluster: &ValidCluster,
    object: &DesiredObject,
    found: &Value,
) -> Option<(&'static str, String)> {
    let (kind, name) = (object.kind.as_str(), &object.name);
    if object.kind == Kind::Secret {
        let note = format!(
            "hearts and nodes get the access to the broker that Secret {:?} describes now; each renews its session with it",
            cluster.secret
        );
        return Some(("CredentialsChanged", note));
    }
    let hash = |object: &Value| object["metadata"]["annotations"][APPLIED_ANNOTATION].clone();
    if hash(&object.body) == hash(found) {
        return Some(("ObjectRepaired", format!("{kind} {name} was not as it was applied, and is again")));
    }
    match object.body["metadata"]["labels"][NODE_ID_LABEL].as_str() {
        Some(id) if object.kind == Kind::Deployment => {
            Some(("NodeReplaced", format!("node {id} gets the pod that the resource asks for now")))
        }
        _ if *name == cluster.names.heart() && object.kind == Kind::Deployment => {
            Some(("HeartsReplaced", "the hearts become what the resource asks for now".to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::build::build_resources;
    use crate::testing::{access, ids, other_access, valid};

    fn objects_of(cluster: &ValidCluster, other: bool) -> Vec<DesiredObject> {
        let access = if other { other_access() } else { access() };
        let resources =
            build_resources(cluster, &ids([1, 2]), Some(&access), &ObservedObjects::new()).unwrap();
        let ordered = resources.into_ordered().unwrap();
        ordered
            .foundations
            .into_iter()
            .chain([ordered.heart])
            .chain(ordered.nodes.into_values().flatten())
            .collect()
    }

    /// What is told of these steps in a cluster with everything.
    fn told(cluster: &ValidCluster, edit: impl Fn(&mut ObservedObjects), steps: &[Step]) -> Vec<String> {
        let named =
            objects_of(&valid(), false).into_iter().map(|object| ((object.kind, object.name), object.body));
        let mut objects: ObservedObjects = named.collect();
        edit(&mut objects);
        let drafts = draft_actions(cluster, &ids([1, 2]), &objects, steps);
        drafts.into_iter().map(|(place, draft)| format!("{place} {} {}", draft.reason, draft.note)).collect()
    }

    fn apply_all(cluster: &ValidCluster, other: bool) -> Vec<Step> {
        objects_of(cluster, other).into_iter().map(Step::Apply).collect()
    }

    #[test]
    fn who_comes_and_who_goes_is_told_with_the_reason() {
        let mut cluster = valid();
        cluster.nodes.replicas = 4;
        let steps = [
            Step::RecordGenesis,
            Step::RecordNodes(ids([1, 2, 3, 4])),
            Step::Delete(Kind::Deployment, "orders-node-2".to_owned()),
            Step::Delete(Kind::Service, "orders-old".to_owned()),
        ];
        assert_eq!(
            told(&cluster, |_| {}, &steps),
            [
                "1 NodesAdded nodes 3, 4 come, as spec.nodes.replicas is 4",
                "2 NodeRemoved node 2 goes, as spec.nodes.replicas is 4: first its pod, then its queue",
            ]
        );
    }

    #[test]
    fn another_image_and_other_credentials_are_told_of_each_part() {
        let mut cluster = valid();
        cluster.heart.image = Some("heart:next".to_owned());
        cluster.nodes.image = Some("node:next".to_owned());
        let steps: Vec<_> = apply_all(&cluster, true).into_iter().filter(is_told_of).collect();
        let reasons: Vec<_> = told(&cluster, |_| {}, &steps)
            .iter()
            .map(|line| line.split(' ').nth(1).unwrap().to_owned())
            .collect();
        assert_eq!(reasons, ["CredentialsChanged", "HeartsReplaced", "NodeReplaced", "NodeReplaced"]);
    }

    /// Those that differ: a plan has no others.
    fn is_told_of(step: &Step) -> bool {
        matches!(step, Step::Apply(object) if matches!(object.kind, Kind::Secret | Kind::Deployment))
    }

    #[test]
    fn what_somebody_changed_is_told_by_name_and_what_is_new_is_not() {
        let cluster = valid();
        let is_service = |step: &Step| matches!(step, Step::Apply(object) if object.name == "orders-read");
        let steps: Vec<_> = apply_all(&cluster, false).into_iter().filter(is_service).collect();
        let key = (Kind::Service, "orders-read".to_owned());
        let change =
            |objects: &mut ObservedObjects| objects.get_mut(&key).unwrap()["spec"]["ports"] = Value::Null;
        assert_eq!(
            told(&cluster, change, &steps),
            ["0 ObjectRepaired Service orders-read was not as it was applied, and is again"]
        );
        assert_eq!(told(&cluster, |objects| drop(objects.remove(&key)), &steps), [""; 0]);
    }
}

use kube::core::ObjectMeta;
use serde_json::{Value, json};

use super::*;
use crate::testing::valid;

fn scope(known: &Known, namespace: Option<&str>) -> (Scope, mpsc::Receiver<ObjectRef<WatchedCluster>>) {
    let (sender, changed) = mpsc::channel(CHANGES);
    (Scope { known: known.clone(), namespace: namespace.map(str::to_owned), changes: sender }, changed)
}

fn object(name: &str, body: &Value) -> DynamicObject {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": valid().names.labels(),
            "managedFields": [{"manager": "somebody"}]},
    });
    object["spec"] = body.clone();
    serde_json::from_value(object).unwrap()
}

fn complete() -> Known {
    let known = Known::nothing();
    known.loading.send_replace(0);
    known
}

#[test]
fn an_object_is_found_as_it_was_put_but_for_who_wrote_it() {
    let (known, valid) = (complete(), valid());
    let (scope, _changed) = scope(&known, None);
    let shelf = known.shelf(Kind::Deployment);
    assert_eq!(scope.put(&shelf, object("a", &json!({"replicas": 1}))).as_deref(), Some("shop/orders"));
    assert_eq!(scope.put(&shelf, object("a", &json!({"replicas": 1}))), None, "it is no news");
    assert!(scope.put(&shelf, object("a", &json!({"replicas": 2}))).is_some());
    let (objects, pods) = known.find(&valid).unwrap();
    let [(Kind::Deployment, found)] = objects.as_slice() else { panic!("{objects:?}") };
    assert_eq!(
        (&found.data["spec"], found.metadata.managed_fields.as_ref()),
        (&json!({"replicas": 2}), None)
    );
    assert!(pods.is_empty());
    let take = || scope.take(&shelf, "shop/orders", "a", 0);
    assert!(take() && !take());
    assert_eq!(known.find(&valid).unwrap().0.len(), 0);
    assert!(known.all().is_empty());
}

#[test]
fn nothing_is_found_before_everything_is_known() {
    assert!(Known::nothing().find(&valid()).is_none());
    assert!(complete().find(&valid()).is_some());
}

#[test]
fn a_list_shows_what_is_gone_in_its_own_namespace_and_of_its_own_kind() {
    let known = complete();
    let (all, _changed) = scope(&known, None);
    let deployments = known.shelf(Kind::Deployment);
    all.put(&deployments, object("a", &Value::Null));
    all.put(&known.shelf(Kind::Service), object("a", &Value::Null));
    let pod = ObjectMeta { labels: Some(valid().names.labels()), ..object("p", &Value::Null).metadata };
    all.put(&Pods, Pod { metadata: pod, ..Pod::default() });
    let keys = |namespace, shelf: &Objects| scope(&known, namespace).0.keys(shelf).len();
    assert_eq!(keys(None, &deployments), 1);
    assert_eq!(keys(Some("shop"), &deployments), 1);
    assert_eq!(keys(Some("other"), &deployments), 0);
    assert_eq!(keys(None, &known.shelf(Kind::ConfigMap)), 0);
    assert_eq!(scope(&known, None).0.keys(&Pods).len(), 1);
}

fn version(version: u64, replicas: u64) -> DynamicObject {
    let mut object = object("a", &json!({"replicas": replicas}));
    object.metadata.resource_version = Some(version.to_string());
    object
}

/// How many replicas the one object has.
fn replicas(known: &Known) -> Option<u64> {
    known.find(&valid()).unwrap().0.first()?.1.data["spec"]["replicas"].as_u64()
}

#[test]
fn what_was_written_is_known_at_once_and_what_a_watch_shows_of_before_is_no_news() {
    let known = complete();
    let (scope, _changed) = scope(&known, None);
    let shelf = known.shelf(Kind::Deployment);
    known.note_write(&valid(), Kind::Deployment, version(9, 1));
    known.note_write(&valid(), Kind::Secret, version(9, 1));
    assert_eq!((replicas(&known), known.find(&valid()).unwrap().0.len()), (Some(1), 1), "and no Secret");
    assert_eq!(scope.put(&shelf, version(8, 7)), None);
    assert_eq!(scope.put(&shelf, version(9, 1)), None, "the write itself");
    assert_eq!(replicas(&known), Some(1));
    assert!(scope.put(&shelf, version(10, 2)).is_some());
    // An answer may come later than what the watch shows.
    known.note_write(&valid(), Kind::Deployment, version(9, 1));
    assert_eq!(replicas(&known), Some(2));
}

#[test]
fn what_is_made_anew_does_not_go_with_what_was_there_before() {
    let known = complete();
    let (scope, _changed) = scope(&known, None);
    let take = |version| scope.take(&known.shelf(Kind::Deployment), "shop/orders", "a", version);
    known.note_write(&valid(), Kind::Deployment, version(12, 1));
    assert!(!take(11) && replicas(&known) == Some(1));
    assert!(take(13) && replicas(&known).is_none());
    known.note_write(&valid(), Kind::Deployment, version(14, 1));
    assert!(take(u64::MAX), "a list that lacks it says nothing of versions");
}

#[test]
fn the_answer_to_a_deletion_that_comes_after_its_end_brings_nothing_back() {
    let known = complete();
    let (scope, _changed) = scope(&known, None);
    let kinds = || known.find(&valid()).unwrap().0.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    known.note_write(&valid(), Kind::ConfigMap, version(5, 1));
    known.note_write(&valid(), Kind::Deployment, version(9, 1));
    assert!(scope.take(&known.shelf(Kind::Deployment), "shop/orders", "a", 11));
    known.note_write(&valid(), Kind::Deployment, version(10, 1));
    assert_eq!(kinds(), [Kind::ConfigMap]);
    assert_eq!(known.shelf(Kind::Deployment).names(&known.all()["shop/orders"]), [""; 0]);
    known.note_write(&valid(), Kind::Deployment, version(12, 1));
    assert_eq!(kinds(), [Kind::ConfigMap, Kind::Deployment]);
}

#[test]
fn nothing_is_noted_before_everything_is_known() {
    let known = Known::nothing();
    known.note_write(&valid(), Kind::Deployment, version(9, 1));
    assert!(known.all().is_empty());
}

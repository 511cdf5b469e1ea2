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
    let shelf = Objects(Kind::Deployment);
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
    assert!(scope.take(&shelf, "shop/orders", "a") && !scope.take(&shelf, "shop/orders", "a"));
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
    let deployments = Objects(Kind::Deployment);
    all.put(&deployments, object("a", &Value::Null));
    all.put(&Objects(Kind::Service), object("a", &Value::Null));
    let pod = ObjectMeta { labels: Some(valid().names.labels()), ..object("p", &Value::Null).metadata };
    all.put(&Pods, Pod { metadata: pod, ..Pod::default() });
    let keys = |namespace, shelf: &Objects| scope(&known, namespace).0.keys(shelf).len();
    assert_eq!(keys(None, &deployments), 1);
    assert_eq!(keys(Some("shop"), &deployments), 1);
    assert_eq!(keys(Some("other"), &deployments), 0);
    assert_eq!(keys(None, &Objects(Kind::ConfigMap)), 0);
    assert_eq!(scope(&known, None).0.keys(&Pods).len(), 1);
}

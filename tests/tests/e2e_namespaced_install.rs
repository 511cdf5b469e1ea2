//! An operator for one namespace does its work there, and may do nothing anywhere else.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use broadcast_tests::cluster::environment::{OPERATOR_NAMESPACE, RELEASE};
use broadcast_tests::cluster::resource::wait_for_agreement;
use broadcast_tests::cluster::{self, Scenario};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

/// The release in the scenario's namespace, and the names of what is in it.
const OWN_RELEASE: &str = "own";
const OWN_NAME: &str = "own-broadcast-operator";

/// Verbs, API group and resource; what the operator may do with them in its namespace. Elsewhere it may nothing.
const RIGHTS: [(&str, &str, &str, bool); 15] = [
    ("list", "broadcast.dev", "broadcastclusters", true),
    ("watch", "broadcast.dev", "broadcastclusters", true),
    ("delete", "broadcast.dev", "broadcastclusters", false),
    ("create", "apps", "deployments", true),
    ("delete", "networking.k8s.io", "networkpolicies", true),
    ("patch", "policy", "poddisruptionbudgets", true),
    ("list", "coordination.k8s.io", "leases", false),
    ("get", "", "secrets", true),
    ("list", "", "secrets", false),
    ("watch", "", "secrets", false),
    ("delete", "", "secrets", false),
    ("list", "", "pods", true),
    ("delete", "", "pods", false),
    ("create", "", "pods/exec", false),
    ("create", "rbac.authorization.k8s.io", "rolebindings", false),
];

#[test]
fn an_operator_of_one_namespace_works_there_with_no_rights_elsewhere() {
    cluster::run("namespaced", async |stage| {
        // Two operators for one resource would be one too many.
        stage.environment.install(RELEASE, OPERATOR_NAMESPACE, &["--set=watchNamespaces=own"]).unwrap();
        let values = ["--set=watchNamespaces=own", "--set=crds.enabled=false"];
        stage.environment.install(OWN_RELEASE, &stage.namespace, &values).unwrap();
        check_nothing_counts_for_the_cluster(stage).await;
        check_rights(stage).await;

        stage.apply(&stage.sample("orders", 2)).await;
        stage.wait_until_ready("orders", 2).await;
        let written = stage.heart("orders").await.put("users", "42", &json!("Ada"), None).await.unwrap();
        wait_for_agreement(&stage.nodes("orders", 1..=2).await, written.last).await;

        let namespace = format!("--namespace={}", stage.namespace);
        let said =
            stage.environment.helm(&["test", OWN_RELEASE, &namespace, "--logs", "--timeout=90s"]).unwrap();
        assert!(
            said.contains(&format!("BroadcastClusters in namespace {}: served", stage.namespace)),
            "{said}"
        );
    });
}

async fn check_nothing_counts_for_the_cluster(stage: &Scenario) {
    let parameters = ListParams::default().labels("app.kubernetes.io/name=broadcast-operator");
    let roles: Api<ClusterRole> = Api::all(stage.kube.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(stage.kube.clone());
    let mut names: Vec<_> =
        roles.list(&parameters).await.unwrap().iter().map(ResourceExt::name_any).collect();
    names.extend(bindings.list(&parameters).await.unwrap().iter().map(ResourceExt::name_any));
    assert_eq!(names, [""; 0]);
}

async fn check_rights(stage: &Scenario) {
    for (verb, group, resource, expected) in RIGHTS {
        for (namespace, expected) in [
            (Some(stage.namespace.as_str()), expected),
            (Some("kube-system"), false),
            (Some(OPERATOR_NAMESPACE), false),
            (None, false),
        ] {
            let is_allowed = may(stage, namespace, verb, group, resource).await;
            assert_eq!(is_allowed, expected, "{verb} {resource} in {namespace:?}");
        }
    }
}

/// Whether the operator may do this in a namespace, or in all.
async fn may(stage: &Scenario, namespace: Option<&str>, verb: &str, group: &str, resource: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').map_or((resource, None), |(a, b)| (a, Some(b)));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{}:{OWN_NAME}", stage.namespace)),
            groups: Some(vec!["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()]),
            resource_attributes: Some(ResourceAttributes {
                namespace: namespace.map(str::to_owned),
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(stage.kube.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    answer.status.unwrap().allowed
}

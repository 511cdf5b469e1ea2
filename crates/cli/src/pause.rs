//! The annotation by which the operator changes nothing.

use broadcast_api::BroadcastCluster;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde_json::json;

use crate::arguments::Format;
use crate::cluster::{Cluster, DEADLINE, within};
use crate::error::CliError;
use crate::output;
use crate::status::PAUSED_ANNOTATION;

#[derive(Debug, Serialize)]
struct Answer {
    name: String,
    namespace: String,
    paused: bool,
    /// Whether it was otherwise before.
    changed: bool,
}

/// Pauses or resumes.
pub(crate) async fn run(cluster: &Cluster, format: Format, paused: bool) -> Result<(), CliError> {
    let before = cluster.fetch().await?;
    let changed = before.annotations().get(PAUSED_ANNOTATION).is_some_and(|value| value == "true") != paused;
    if changed {
        let value = paused.then_some("true");
        let patch = json!({"metadata": {"annotations": {PAUSED_ANNOTATION: value}}});
        let clusters = cluster.api::<BroadcastCluster>();
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        within(cluster.title(), DEADLINE, clusters.patch(cluster.name(), &parameters, &patch)).await?;
    }
    let (name, namespace) = (cluster.name().to_owned(), cluster.namespace().to_owned());
    output::print(format, &Answer { name, namespace, paused, changed }, |answer, _| describe(answer))
}

fn describe(Answer { name, paused, changed, .. }: &Answer) -> String {
    let was = if *changed { "is" } else { "was already" };
    let state = if *paused {
        "paused: the operator changes nothing; hearts and nodes go on"
    } else {
        "at work: the operator does what the resource says"
    };
    format!("{name} {was} {state}")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::{cluster, expect};

    fn resource(annotation: Option<&str>) -> Value {
        let annotations = annotation.map_or_else(|| json!({}), |value| json!({PAUSED_ANNOTATION: value}));
        json!({
            "apiVersion": "broadcast.dev/v1alpha1", "kind": "BroadcastCluster",
            "metadata": {"name": "orders", "annotations": annotations},
            "spec": {"rabbitmq": {"secretRef": {"name": "rabbitmq"}}},
        })
    }

    #[tokio::test]
    async fn the_annotation_is_written_only_where_that_changes_anything() {
        let path = "/apis/broadcast.dev/v1alpha1/namespaces/shop/broadcastclusters/orders";
        for (annotation, paused, written) in [
            (None, true, Some(json!("true"))),
            (Some("false"), true, Some(json!("true"))),
            (Some("true"), true, None),
            (Some("true"), false, Some(json!(null))),
            (None, false, None),
        ] {
            let change = written.map(|value| {
                let body = json!({"metadata": {"annotations": {PAUSED_ANNOTATION: value}}});
                expect(&format!("PATCH {path}?"), resource(None)).with_body(body)
            });
            let get = expect(&format!("GET {path}"), resource(annotation));
            let (cluster, served) = cluster([get].into_iter().chain(change).collect());
            run(&cluster, Format::Json, paused).await.unwrap();
            drop(cluster);
            served.await.unwrap();
        }
    }

    #[test]
    fn people_learn_what_that_means() {
        let answer = |paused, changed| {
            describe(&Answer { name: "orders".to_owned(), namespace: "shop".to_owned(), paused, changed })
        };
        assert!(answer(true, true).starts_with("orders is paused: the operator changes nothing"));
        assert!(answer(false, false).starts_with("orders was already at work"));
    }
}

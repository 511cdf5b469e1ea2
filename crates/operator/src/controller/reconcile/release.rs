//! What is told when a resource was let go.

use broadcast_api::BroadcastCluster;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;

use super::{Context, label_of};
use crate::controller::events::EventDraft;
use crate::controller::observe::Observed;
use crate::controller::plan::{describe_broker_objects, has_broker_objects};
use crate::controller::validate::ValidCluster;

/// The resource was let go: its series go, and what had to be left on the broker is told.
pub(super) async fn report_release(
    cluster: &BroadcastCluster,
    valid: &ValidCluster,
    observed: &Observed,
    context: &Context,
) {
    context.metrics.forget(&label_of(cluster));
    context.memory.forget(&valid.uid);
    if !has_broker_objects(observed) {
        return;
    }
    let left = describe_broker_objects(valid, &observed.recorded);
    if valid.retains {
        let note = format!(
            "as deletionPolicy says, {left} and volumes stay; a resource of this name with spec.historyId {:?} goes on with them",
            valid.history
        );
        let draft = EventDraft { warning: false, reason: "DataRetained".to_owned(), note };
        context.events.tell(&cluster.object_ref(&()), vec![draft]).await;
    } else if let Err(problem) = &observed.broker {
        publish_left_behind(&cluster.object_ref(&()), &problem.to_string(), &left, context).await;
    }
}

/// Tells what was left on the broker.
pub async fn publish_left_behind(about: &ObjectReference, problem: &str, left: &str, context: &Context) {
    tracing::warn!(
        name = about.name,
        namespace = about.namespace,
        problem,
        left,
        "broker objects were left behind"
    );
    let note = format!("{problem}; left on the broker: {left}");
    let draft = EventDraft { warning: true, reason: "BrokerObjectsLeftBehind".to_owned(), note };
    context.events.tell(about, vec![draft]).await;
}

//! A resource that is not of its own type (another version's definition is installed): nothing can be done for it but
//! to say so, and to let it go in the end. It does not keep the others from being worked on.

use broadcast_api::{BroadcastCluster, BroadcastClusterStatus};
use jiff::Timestamp;
use kube::api::Api;
use kube::core::DynamicObject;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::{CustomResourceExt, Resource};

use crate::controller::apply::release;
use crate::controller::error::ReconcileError;
use crate::controller::events::decide_events;
use crate::controller::reconcile::{Context, publish_left_behind};
use crate::controller::status::{build_failure_status, publish_conditions};
use crate::metrics::cluster_label;

/// One pass over it. Of its status little more than the conditions is written: the rest may hold what must not be lost.
pub async fn reconcile_unreadable(
    invalid: &InvalidObject,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let resource = BroadcastCluster::api_resource();
    let name = invalid.metadata.name.clone().unwrap_or_default();
    let namespace = invalid.metadata.namespace.clone().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &resource);
    let Some(object) = api.get_opt(&name).await.map_err(ReconcileError::kube("get the BroadcastCluster"))?
    else {
        return Ok(Action::await_change());
    };
    let about = object.object_ref(&resource);
    if object.metadata.deletion_timestamp.as_ref().is_some_and(|time| context.is_overdue(time.0)) {
        release(&context.client, &object.metadata).await?;
        context.metrics.forget(&cluster_label(Some(&namespace), &name));
        publish_left_behind(&about, &invalid.error, "everything that it had there", context).await;
        return Ok(Action::await_change());
    }
    let error = ReconcileError::Unreadable(invalid.error.clone());
    let conditions = serde_json::from_value(object.data["status"]["conditions"].clone()).unwrap_or_default();
    let recorded = BroadcastClusterStatus { conditions, ..BroadcastClusterStatus::default() };
    let since_finding = context.memory.since_finding(object.metadata.uid.as_deref().unwrap_or_default());
    let failure = (&error, since_finding);
    let status = build_failure_status(&recorded, object.metadata.generation, failure, Timestamp::now());
    if status.conditions != recorded.conditions {
        publish_conditions(&context.client, &namespace, &name, &status).await?;
        context.events.tell(&about, decide_events(&recorded, &status)).await;
    }
    Err(error)
}

//! Does what the plan says, in its order, and stops at the first failure: the next pass goes on from what is there.

use broadcast_api::{BroadcastCluster, BroadcastClusterStatus, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PropagationPolicy};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::broker::{
    Session, declare_exchange, declare_queue, describe_exchange, describe_queue, publish_genesis,
    remove_exchange, remove_queue, replace_queue,
};
use crate::controller::WatchedCluster;
use crate::controller::error::{Problem, ReconcileError};
use crate::controller::known::Known;
use crate::controller::objects::{DesiredObject, Kind, ObservedObjects};
use crate::controller::observe::{api_of, belongs_to};
use crate::controller::plan::Step;
use crate::controller::status::publish_status;
use crate::controller::tokens::create_tokens;
use crate::controller::validate::ValidCluster;
use crate::names::{FINALIZER, MANAGER};

/// What steps are done with.
pub struct Tools<'a> {
    /// The API server.
    pub client: &'a Client,
    /// Where objects are known from without asking.
    pub known: &'a Known,
    /// The broker, if it was reached.
    pub session: Option<&'a Session>,
}

/// What came of a plan.
#[derive(Debug)]
pub struct Applied {
    /// How many steps are done.
    pub done: usize,
    /// What was not on the broker when it was declared.
    pub made: Vec<String>,
    /// The objects that are there now.
    pub objects: ObservedObjects,
    /// The status with what was recorded on the way.
    pub status: BroadcastClusterStatus,
    /// The status as it stands in the resource by now.
    pub saved: BroadcastClusterStatus,
    /// Why it ended early.
    pub failure: Option<ReconcileError>,
}

/// Does the steps. What is to be recorded is written before the next step that is something else; what is recorded in the end is left
/// to the status that the pass writes.
pub async fn apply(
    steps: &[Step],
    cluster: &ValidCluster,
    tools: &Tools<'_>,
    observed: ObservedObjects,
    status: BroadcastClusterStatus,
) -> Applied {
    let saved = status.clone();
    let mut applied = Applied { done: 0, made: Vec::new(), objects: observed, status, saved, failure: None };
    for step in steps {
        tracing::debug!(cluster = cluster.names.cluster(), ?step, "applying");
        if let Err(error) = apply_step(step, cluster, tools, &mut applied).await {
            applied.failure = Some(error);
            break;
        }
        applied.done += 1;
    }
    applied
}

async fn apply_step(
    step: &Step,
    cluster: &ValidCluster,
    tools: &Tools<'_>,
    applied: &mut Applied,
) -> Result<(), ReconcileError> {
    if !step.is_note() && applied.status != applied.saved {
        publish_status(tools.client, cluster, &applied.status).await?;
        applied.saved.clone_from(&applied.status);
    }
    match step {
        Step::RecordNodes(ids) => {
            let nodes = &mut applied.status.nodes;
            for id in ids {
                if nodes.iter().all(|node| node.id != id.get()) {
                    let queue = cluster.topology.names().node_queue(*id);
                    nodes.push(NodeStatus { id: id.get(), queue, ..NodeStatus::default() });
                }
            }
            nodes.sort_by_key(|node| node.id);
            Ok(())
        }
        Step::RecordGenesis => {
            applied.status.topology.genesis = true;
            Ok(())
        }
        Step::RecordBacklogs(bytes) => {
            applied.status.topology.backlog_bytes.clone_from(bytes);
            Ok(())
        }
        Step::CreateTokens(name) => create_tokens(tools.client, cluster, name).await,
        Step::Apply(object) => apply_object(object, cluster, tools, &mut applied.objects).await,
        Step::Delete(kind, name) => delete_object(*kind, name, cluster, tools, &mut applied.objects).await,
        Step::RemoveFinalizer => remove_finalizer(tools.client, cluster).await,
        Step::DeclareExchange(_)
        | Step::DeclareQueue(_)
        | Step::ReplaceQueue { .. }
        | Step::PublishGenesis(_)
        | Step::RemoveQueue(_)
        | Step::RemoveExchange(_) => {
            // At the beginning nothing has been there before.
            let has_begun = applied.status.topology.genesis;
            let made = apply_broker_step(step, cluster, tools.session, has_begun).await?;
            applied.made.extend(made);
            Ok(())
        }
    }
}

/// Says what was not there and is now.
async fn apply_broker_step(
    step: &Step,
    cluster: &ValidCluster,
    session: Option<&Session>,
    has_begun: bool,
) -> Result<Option<String>, Problem> {
    // A plan has steps for the broker only when it was reached.
    let Some(session) = session else { return Ok(None) };
    match step {
        Step::DeclareExchange(exchange) => {
            let is_new = declare_exchange(session, exchange, has_begun).await?;
            return Ok(is_new.then(|| describe_exchange(&exchange.name)));
        }
        Step::DeclareQueue(queue) => {
            let is_new = declare_queue(session, queue, has_begun).await?;
            return Ok(is_new.then(|| describe_queue(&queue.name)));
        }
        Step::ReplaceQueue { queue, former } => replace_queue(session, queue, former).await?,
        Step::PublishGenesis(queue) => publish_genesis(session, &cluster.history, queue).await?,
        Step::RemoveQueue(queue) => remove_queue(session, queue).await?,
        Step::RemoveExchange(exchange) => remove_exchange(session, exchange).await?,
        Step::RecordNodes(_)
        | Step::RecordGenesis
        | Step::RecordBacklogs(_)
        | Step::CreateTokens(_)
        | Step::Apply(_)
        | Step::Delete(..)
        | Step::RemoveFinalizer => {}
    }
    Ok(None)
}

async fn apply_object(
    object: &DesiredObject,
    cluster: &ValidCluster,
    tools: &Tools<'_>,
    objects: &mut ObservedObjects,
) -> Result<(), ReconcileError> {
    let api = api_of(tools.client, &cluster.namespace, object.kind);
    let (kind, name) = (object.kind, &object.name);
    let key = (kind, name.clone());
    if !objects.contains_key(&key) {
        // Server-side apply would take over what somebody else made under this name.
        let found =
            api.get_opt(name).await.map_err(ReconcileError::kube(format!("get {} {name}", kind.as_str())))?;
        if found.is_some_and(|found| !belongs_to(&found, cluster)) {
            return Err(ReconcileError::NameTaken { kind, name: name.clone() });
        }
    }
    let parameters = PatchParams::apply(MANAGER).force();
    let result = api
        .patch(name, &parameters, &Patch::Apply(&object.body))
        .await
        .map_err(ReconcileError::kube(format!("apply {} {name}", kind.as_str())))?;
    objects.insert(key, serde_json::to_value(&result).unwrap_or_default());
    tools.known.note_write(cluster, kind, result);
    Ok(())
}

/// In the foreground: a Deployment is there until its pods are gone.
async fn delete_object(
    kind: Kind,
    name: &str,
    cluster: &ValidCluster,
    tools: &Tools<'_>,
    objects: &mut ObservedObjects,
) -> Result<(), ReconcileError> {
    let parameters =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    match api_of(tools.client, &cluster.namespace, kind).delete(name, &parameters).await {
        // When it is gone, a watch tells.
        Ok(answer) => {
            if let Some(going) = answer.left() {
                tools.known.note_write(cluster, kind, going);
            }
        }
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(ReconcileError::kube(format!("delete {} {name}", kind.as_str()))(error)),
    }
    objects.remove(&(kind, name.to_owned()));
    Ok(())
}

/// Makes sure that the resource is not gone before what it has on the broker.
pub async fn add_finalizer(
    client: &Client,
    cluster: &BroadcastCluster,
) -> Result<WatchedCluster, ReconcileError> {
    let mut finalizers = cluster.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    patch_finalizers(client, &cluster.metadata, finalizers).await
}

/// Lets the resource go, if it is still there.
async fn remove_finalizer(client: &Client, valid: &ValidCluster) -> Result<(), ReconcileError> {
    let api: Api<BroadcastCluster> = Api::namespaced(client.clone(), &valid.namespace);
    let name = valid.names.cluster();
    let found = api.get_opt(name).await.map_err(ReconcileError::kube("get BroadcastCluster"))?;
    match found {
        Some(cluster) => release(client, &cluster.metadata).await,
        None => Ok(()),
    }
}

/// Lets the resource with this metadata go. Another's finalizers stay.
pub async fn release(client: &Client, metadata: &ObjectMeta) -> Result<(), ReconcileError> {
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    patch_finalizers(client, metadata, finalizers).await.map(drop)
}

/// Finalizers that were added in the meantime stay too: the patch is refused when the resource changed since it was
/// read.
async fn patch_finalizers(
    client: &Client,
    metadata: &ObjectMeta,
    finalizers: Vec<String>,
) -> Result<WatchedCluster, ReconcileError> {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    // Whatever else is in it: the resource may be one that cannot be read.
    let api: Api<WatchedCluster> = Api::namespaced(client.clone(), namespace);
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": metadata.resource_version}});
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(metadata.name.as_deref().unwrap_or_default(), &parameters, &Patch::Merge(&patch))
        .await
        .map_err(ReconcileError::kube("set the finalizers of the BroadcastCluster"))
}

#[cfg(test)]
mod tests;

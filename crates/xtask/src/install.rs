//! What is put into a cluster: RabbitMQ, the operator, a sample `BroadcastCluster`. Each is applied as a whole, so that doing it
//! again changes nothing.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::context::Context;
use crate::failure::{AtPath, Result, told};
use crate::images;
use crate::step::{Step, ask};

/// Names of the project's images as the cluster's nodes know them.
pub(crate) struct ImageNames {
    pub(crate) operator: String,
    pub(crate) heart: String,
    pub(crate) node: String,
}

/// The sample that `up` applies.
pub(crate) const SAMPLE: &str = "orders";
pub(crate) const SAMPLE_NAMESPACE: &str = "default";

const RELEASE: &str = "broadcast-operator";
pub(crate) const OPERATOR_NAMESPACE: &str = "broadcast-system";

/// The image that the manifest of RabbitMQ names: where it can be pulled, it is.
const RABBITMQ_IMAGE: &str = "rabbitmq:4.0";

/// Whose rights RabbitMQ has in its pod.
const RABBITMQ_USER: u32 = 999;

/// Builds the project's images and brings them to the cluster. `None`: the cluster is not a local one and no registry was named, so
/// its nodes pull what the chart names.
pub(crate) fn provide_images(
    context: &Context,
    cluster: &Cluster,
    registry: Option<&str>,
) -> Result<Option<ImageNames>> {
    if !cluster.is_local() && registry.is_none() {
        return Ok(None);
    }
    let own = images::build_own(context)?;
    let all = [&own.operator, &own.heart, &own.node];
    let [operator, heart, node] = images::deliver(context, cluster, registry, "the images", all)?;
    Ok(Some(ImageNames { operator, heart, node }))
}

/// Applies RabbitMQ and waits until it takes connections.
pub(crate) fn install_rabbitmq(context: &Context, cluster: &Cluster) -> Result<()> {
    let path = context.root.join("deploy/rabbitmq.yaml");
    let mut manifest = fs::read_to_string(&path).at("read", &path)?;
    if let Some(folder) = cluster.volume_folder("rabbitmq") {
        let image = images::build_rabbitmq(context)?;
        let [name] = images::deliver(context, cluster, None, "RabbitMQ's image", [&image])?;
        manifest = manifest.replace(&format!("image: {RABBITMQ_IMAGE}"), &format!("image: {name}"));
        fs::create_dir_all(&folder).at("create", &folder)?;
        chown(&folder, Some(RABBITMQ_USER), Some(RABBITMQ_USER)).at("give RabbitMQ", &folder)?;
        manifest = format!("{}\n---\n{manifest}", build_rabbitmq_volume(&folder));
    }
    context.step("starting RabbitMQ", |step| {
        step.feed(&mut cluster.kubectl(&["apply", "--filename", "-"]), &manifest)?;
        let rollout = ["rollout", "status", "statefulset/rabbitmq", "--namespace=rabbitmq", "--timeout=180s"];
        step.run(&mut cluster.kubectl(&rollout))
    })
}

/// The local cluster makes no volumes by itself: one is put there, and kept from anybody else's claims.
fn build_rabbitmq_volume(folder: &Path) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "rabbitmq"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": "rabbitmq", "name": "data-rabbitmq-0"},
            "hostPath": {"path": folder, "type": "Directory"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    })
}

/// Installs or upgrades the operator and waits until it is ready.
pub(crate) fn install_operator(
    context: &Context,
    cluster: &Cluster,
    images: Option<&ImageNames>,
) -> Result<()> {
    let mut helm = cluster.helm(&["upgrade", "--install", RELEASE]);
    helm.arg(context.root.join("charts/broadcast-operator"));
    helm.args(["--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout=180s"]);
    if let Some(images) = images {
        helm.args(build_chart_values(images));
    }
    context.step("installing the operator", |step| {
        step.feed(&mut cluster.kubectl(&["apply", "--server-side", "--filename", "-"]), &build_namespace())?;
        step.run(&mut helm)
    })
}

/// The operator's namespace lets in nothing that asks for more rights than it needs.
fn build_namespace() -> String {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE, "labels": labels}}).to_string()
}

/// The chart's settings for images that were built here.
pub(crate) fn build_chart_values(images: &ImageNames) -> Vec<String> {
    let (repository, tag) = images.operator.rsplit_once(':').unwrap_or((&images.operator, "latest"));
    [
        ("image.repository", repository),
        ("image.tag", tag),
        ("heartImage", &images.heart),
        ("nodeImage", &images.node),
    ]
    .into_iter()
    .map(|(name, value)| format!("--set-string={name}={value}"))
    .collect()
}

/// Applies the sample with as many nodes as asked for, and waits until it is ready.
pub(crate) fn apply_sample(context: &Context, cluster: &Cluster, nodes: u32) -> Result<()> {
    let sample = context.root.join("deploy/samples/orders.yaml");
    context.step(&format!("bringing up the BroadcastCluster {SAMPLE}"), |step| {
        let patch = format!(r#"{{"spec":{{"nodes":{{"replicas":{nodes}}}}}}}"#);
        let mut with_nodes =
            cluster.kubectl(&["patch", "--local", "--type=merge", "--output=yaml", "--patch", &patch]);
        let manifest = step.read(with_nodes.arg("--filename").arg(&sample))?;
        let namespace = format!("--namespace={SAMPLE_NAMESPACE}");
        step.feed(&mut cluster.kubectl(&["apply", &namespace, "--filename", "-"]), &manifest)?;
        let is_ready = step.wait("readiness of the BroadcastCluster", Duration::from_mins(5), || {
            let Some(resource) = fetch_sample(cluster)? else { return Ok(None) };
            step.say(describe_progress(&resource));
            Ok(is_settled(&resource).then_some(()))
        });
        if is_ready.is_err() {
            note_state(step, cluster)?;
        }
        is_ready
    })
}

fn fetch_sample(cluster: &Cluster) -> Result<Option<Value>> {
    let namespace = format!("--namespace={SAMPLE_NAMESPACE}");
    let output =
        ask(&mut cluster.kubectl(&["get", "broadcastclusters", SAMPLE, &namespace, "--output=json"]))?;
    Ok(serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success()))
}

/// Ready, and that is said of the spec as it is now.
fn is_settled(resource: &Value) -> bool {
    let current = resource["metadata"]["generation"].as_u64();
    let ready = condition(resource, "Ready");
    let seen = ready.and_then(|ready| ready["observedGeneration"].as_u64());
    let seen = seen.or(resource["status"]["observedGeneration"].as_u64());
    seen == current && ready.is_some_and(|ready| ready["status"] == "True")
}

fn describe_progress(resource: &Value) -> String {
    let ready = resource["status"]["readyReplicas"].as_u64().unwrap_or(0);
    let wanted = resource["spec"]["nodes"]["replicas"].as_u64().unwrap_or(0);
    let message =
        condition(resource, "Ready").and_then(|ready| ready["message"].as_str()).unwrap_or("no status yet");
    format!("{ready} of {wanted} nodes ready; {message}")
}

fn condition<'a>(resource: &'a Value, kind: &str) -> Option<&'a Value> {
    resource["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Writes to the log what somebody who looks for the cause would ask first.
fn note_state(step: &Step, cluster: &Cluster) -> Result<()> {
    let operator =
        format!("logs deployment/{RELEASE} --namespace={OPERATOR_NAMESPACE} --all-pods=true --tail=20");
    for question in [
        "describe broadcastclusters --all-namespaces",
        "get pods --all-namespaces --output=wide",
        "get events --all-namespaces --sort-by=.lastTimestamp",
        &operator,
    ] {
        let arguments: Vec<_> = question.split(' ').collect();
        step.note(&format!("kubectl {question}"))?;
        // Whatever cannot be answered says so in the log itself.
        let _answered = step.run(&mut cluster.kubectl(&arguments));
    }
    Ok(())
}

/// Lets the API server judge every manifest that the chart renders.
pub(crate) fn check_chart(context: &Context, cluster: &Cluster, images: &ImageNames) -> Result<()> {
    let chart = context.root.join("charts/broadcast-operator");
    context.step("checking the chart's manifests against the API server", |step| {
        let mut template = cluster.helm(&["template", RELEASE]);
        // What is off by itself and needs no other definitions is judged too.
        template.arg(&chart).args(["--namespace=default", "--no-hooks"]).args(build_chart_values(images));
        template.args(["--set=networkPolicy.enabled=true", "--set=metrics.dashboard.enabled=true"]);
        let manifests = step.read(&mut template)?;
        if manifests.trim().is_empty() {
            return told("the chart renders nothing");
        }
        step.feed(&mut cluster.kubectl(&["apply", "--dry-run=server", "--filename", "-"]), &manifests)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_counts_only_for_the_spec_as_it_is_now() {
        let resource = |generation: u64, status: &str| {
            json!({
                "metadata": {"generation": generation},
                "status": {"conditions": [{"type": "Ready", "status": status, "observedGeneration": 2}]},
            })
        };
        assert!(is_settled(&resource(2, "True")));
        assert!(!is_settled(&resource(3, "True")));
        assert!(!is_settled(&resource(2, "False")));
        assert!(!is_settled(&json!({"metadata": {"generation": 1}})));
    }

    #[test]
    fn the_operators_image_is_split_where_the_chart_splits_it() {
        let name = |image: &str| format!("registry:5000/x/{image}:12ab");
        let images = ImageNames { operator: name("operator"), heart: name("heart"), node: name("node") };
        let expected = [
            "--set-string=image.repository=registry:5000/x/operator",
            "--set-string=image.tag=12ab",
            "--set-string=heartImage=registry:5000/x/heart:12ab",
            "--set-string=nodeImage=registry:5000/x/node:12ab",
        ];
        assert_eq!(build_chart_values(&images), expected);
    }
}

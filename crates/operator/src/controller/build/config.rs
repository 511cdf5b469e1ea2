//! The files that hearts and nodes read, written from the same types that they are parsed into.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use broadcast_protocol::config::{
    AuthConfig, DEFAULT_LOG_BYTES, DEFAULT_MAX_LAG_SECONDS, DEFAULT_PENDING_BYTES, DEFAULT_RETAINED_BYTES,
    DEFAULT_SCRUB_INTERVAL_SECONDS, HeartConfig, HeartLimits, NodeConfig, NodesFile,
};
use broadcast_protocol::names::NodeId;
use k8s_openapi::api::core::v1::ConfigMap;

use crate::controller::build::{ADMIN_PORT, HTTP_PORT, build_metadata};
use crate::controller::objects::hash_text;
use crate::controller::validate::ValidCluster;

/// Where `heart.yaml` and `node.yaml` are mounted.
pub(super) const CONFIG_DIR: &str = "/etc/broadcast/config";

/// Where `nodes.yaml` is mounted.
pub(super) const NODES_DIR: &str = "/etc/broadcast/nodes";

/// Where the tokens are mounted.
pub(super) const TOKENS_DIR: &str = "/etc/broadcast/tokens";

/// Where a node's database is mounted.
pub(super) const DATA_DIR: &str = "/data";

/// `heart.yaml` and `node.yaml`.
pub(super) struct ConfigFiles {
    heart: String,
    node: String,
}

impl ConfigFiles {
    pub(super) fn build(cluster: &ValidCluster) -> Result<Self, serde_yaml::Error> {
        let names = cluster.topology.names();
        let auth = cluster.tokens.as_ref().map(|_| AuthConfig { tokens_dir: TOKENS_DIR.into() });
        let heart = HeartConfig {
            exchange: names.exchange().to_owned(),
            queue_name: names.queue_name().to_owned(),
            cluster: cluster.history.clone(),
            queue_type: cluster.queue_type,
            min_attached: 1,
            // The operator begins the history, once; a heart that did would begin it anew on a broker that lost it.
            genesis: false,
            nodes_file: Some(format!("{NODES_DIR}/nodes.yaml").into()),
            limits: HeartLimits {
                pending_bytes: DEFAULT_PENDING_BYTES,
                retained_bytes: DEFAULT_RETAINED_BYTES,
            },
            auth: auth.clone(),
            http: any_address(HTTP_PORT),
            admin: any_address(ADMIN_PORT),
        };
        let node = NodeConfig {
            // The environment says which: the file is the same for all.
            node_id: None,
            queue_name: names.queue_name().to_owned(),
            exchange: names.exchange().to_owned(),
            cluster: cluster.history.clone(),
            queue_type: cluster.queue_type,
            backlog_bytes: cluster.backlog_bytes,
            data_dir: DATA_DIR.into(),
            // Hearts last: they have only what some node still lacks.
            peers: [cluster.names.nodes(), cluster.names.hearts()]
                .map(|host| format!("http://{host}:{HTTP_PORT}"))
                .into(),
            log_bytes: DEFAULT_LOG_BYTES,
            max_lag_seconds: DEFAULT_MAX_LAG_SECONDS,
            scrub_interval_seconds: DEFAULT_SCRUB_INTERVAL_SECONDS,
            auth,
            http: any_address(HTTP_PORT),
            admin: any_address(ADMIN_PORT),
        };
        Ok(Self { heart: serde_yaml::to_string(&heart)?, node: serde_yaml::to_string(&node)? })
    }

    pub(super) fn heart_hash(&self) -> String {
        hash_text(&self.heart)
    }

    pub(super) fn node_hash(&self) -> String {
        hash_text(&self.node)
    }
}

pub(super) fn build_config(cluster: &ValidCluster, files: ConfigFiles) -> ConfigMap {
    let ConfigFiles { heart, node } = files;
    ConfigMap {
        metadata: build_metadata(cluster, cluster.names.config()),
        data: Some([("heart.yaml".to_owned(), heart), ("node.yaml".to_owned(), node)].into()),
        ..ConfigMap::default()
    }
}

/// What scaling changes is a file of its own, which hearts read again: scaling restarts nobody.
pub(super) fn build_node_list(
    cluster: &ValidCluster,
    ids: &BTreeSet<NodeId>,
) -> Result<ConfigMap, serde_yaml::Error> {
    let node_ids = ids.iter().copied().collect();
    let list =
        serde_yaml::to_string(&NodesFile { node_ids, accepted_loss: cluster.annotations.accepted_loss })?;
    Ok(ConfigMap {
        metadata: build_metadata(cluster, cluster.names.nodes()),
        data: Some([("nodes.yaml".to_owned(), list)].into()),
        ..ConfigMap::default()
    })
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

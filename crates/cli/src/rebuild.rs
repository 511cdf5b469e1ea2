//! Another node's rows in the place of a node's own.

use std::time::Duration;

use http::Request;
use serde::{Deserialize, Serialize};

use crate::arguments::Format;
use crate::cluster::{Cluster, read_json};
use crate::error::CliError;
use crate::output;

const PATH: &str = "/v1/rebuild";

/// What the node has now.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rebuilt {
    node: u32,
    position: u64,
    rows: u64,
    digest: String,
}

/// Asks a node to take another one's rows, and waits until it has them.
pub(crate) async fn run(
    cluster: &Cluster,
    format: Format,
    node: u32,
    timeout: Duration,
) -> Result<(), CliError> {
    let found = cluster.find("node").await?.into_iter().find(|asked| asked.node == Some(node));
    let asked = found.ok_or_else(|| CliError::NoSuchNode {
        namespace: cluster.namespace().to_owned(),
        name: cluster.name().to_owned(),
        node,
    })?;
    let what = format!("{}: POST {PATH}", asked.pod);
    let work = cluster.ask(&asked.pod, Request::post(PATH), "", timeout);
    let answer = output::with_progress(&format!("node {node} takes another node's rows"), work).await?;
    let rebuilt: Rebuilt = read_json(&what, &answer.body)?;
    output::print(format, &rebuilt, |rebuilt, _| {
        let Rebuilt { node, position, rows, .. } = rebuilt;
        format!("node {node} has been rebuilt: {rows} rows of position {position}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, expect, pod, refuse};

    const NODES: &str = "GET /api/v1/namespaces/shop/pods?&labelSelector=app.kubernetes.io%2Finstance%3Dorders%2C\
                         app.kubernetes.io%2Fcomponent%3Dnode";

    #[tokio::test]
    async fn only_the_node_that_is_meant_is_asked() {
        let ask = "POST /api/v1/namespaces/shop/pods/orders-node-2-a:8080/proxy/v1/rebuild";
        let rebuilt = json!({"node": 2, "position": 9, "rows": 3, "digest": "ab12"});
        for (node, exchange, problem) in [
            (2, Some(expect(ask, rebuilt)), None),
            (2, Some(refuse(ask, 409)), Some("orders-node-2-a: POST /v1/rebuild: no (409)")),
            (4, None, Some("node 4 of shop/orders does not run")),
        ] {
            let pods = [1, 2].map(|id| pod(&format!("orders-node-{id}-a"), Some(id), "Running", true));
            let pods = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods});
            let exchanges = [expect(NODES, pods)].into_iter().chain(exchange).collect();
            let (cluster, served) = cluster(exchanges);
            let result = run(&cluster, Format::Json, node, Duration::from_secs(5)).await;
            drop(cluster);
            served.await.unwrap();
            let told = result.err().map(|error| error.to_string());
            assert_eq!(told.is_some(), problem.is_some(), "{told:?}");
            assert!(problem.is_none_or(|problem| told.is_some_and(|told| told.starts_with(problem))));
        }
    }
}

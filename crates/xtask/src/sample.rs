//! The first look at a `BroadcastCluster`: real records go in through the heart, and every node shows that it holds the same.

use std::time::{Duration, Instant};

use broadcast_tests::records::{self, Record};
use serde::Deserialize;

use crate::apt;
use crate::cluster::Cluster;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::install::{SAMPLE, SAMPLE_NAMESPACE};
use crate::reach::{Reach, fetch};
use crate::step::Step;

/// How many writes are on their way at a time.
const CONCURRENCY: usize = 64;
const PATIENCE: Duration = Duration::from_mins(2);

/// What a node says of itself.
#[derive(Clone, Debug, Deserialize)]
struct NodeStatus {
    node: u32,
    state: String,
    applied: u64,
    rows: u64,
    digest: String,
}

/// Loads the records unless every node has them, waits until all nodes agree, and prints what they say.
pub(crate) fn load_and_show(context: &Context, cluster: &Cluster, nodes: u32) -> Result<()> {
    apt::install(context, apt::FOR_RECORDS)?;
    let records = records::iso_codes().map_err(|error| Failure::Told(error.to_string()))?;
    let reach = Reach::open(cluster)?;
    let visitor = Visitor::new(reach, cluster, nodes)?;
    let present = context.step("asking every node what it has", |step| {
        step.wait("an answer of every node", PATIENCE, || visitor.fetch_nodes())
    })?;
    let written = if present.iter().all(|status| status.rows >= records.len() as u64) {
        0
    } else {
        context.step(&format!("writing {} records", records.len()), |step| visitor.load(step, &records))?
    };
    let statuses = context.step("waiting until every node has applied everything", |step| {
        visitor.wait_for_agreement(step, written)
    })?;
    print!("{}", build_table(&statuses));
    let read = visitor.reach.to_service(SAMPLE_NAMESPACE, &format!("{SAMPLE}-read"))?;
    let urls = cluster.is_local().then_some((visitor.heart.as_str(), read.as_str()));
    print!("{}", build_hints(context, cluster, urls));
    Ok(())
}

/// Talks to the heart and the nodes.
struct Visitor<'a> {
    reach: Reach<'a>,
    cluster: &'a Cluster,
    nodes: usize,
    heart: String,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Visitor<'a> {
    fn new(reach: Reach<'a>, cluster: &'a Cluster, nodes: u32) -> Result<Self> {
        let heart = reach.to_service(SAMPLE_NAMESPACE, &format!("{SAMPLE}-heart"))?;
        let runtime = tokio::runtime::Runtime::new()
            .map_err(|source| Failure::Io { what: "cannot start threads for requests".to_owned(), source })?;
        Ok(Self { reach, cluster, nodes: nodes as usize, heart, client: reqwest::Client::new(), runtime })
    }

    /// Writes the records; the last one's sequence number.
    fn load(&self, step: &Step, records: &[Record]) -> Result<u64> {
        let started = Instant::now();
        let on_progress = |done: usize| {
            let rate = done as u128 * 1000 / started.elapsed().as_millis().max(1);
            step.say(format!("{done} of {}, {rate} a second", records.len()));
        };
        let loading = records::load(&self.client, &self.heart, records, CONCURRENCY, on_progress);
        self.runtime.block_on(loading).map_err(|error| Failure::Told(error.to_string()))
    }

    fn wait_for_agreement(&self, step: &Step, written: u64) -> Result<Vec<NodeStatus>> {
        step.wait("agreement of all nodes", PATIENCE, || {
            let Some(statuses) = self.fetch_nodes()? else {
                step.say("not every node answers yet");
                return Ok(None);
            };
            let behind = statuses.iter().filter(|status| status.applied < written).count();
            step.say(format!("{behind} of {} nodes are behind position {written}", statuses.len()));
            Ok(agree(&statuses, written).then_some(statuses))
        })
    }

    /// What every node says, by id; nothing while one is missing or does not answer.
    fn fetch_nodes(&self) -> Result<Option<Vec<NodeStatus>>> {
        let selector =
            format!("--selector=app.kubernetes.io/instance={SAMPLE},app.kubernetes.io/component=node");
        let pods = fetch(self.cluster, &["pods", "--namespace", SAMPLE_NAMESPACE, &selector])?;
        let pods = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let staying = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let urls = staying.filter_map(|pod| self.reach.to_pod(pod));
        let statuses = urls.map(|url| self.get(&format!("{url}/v1/status")));
        let Ok(mut statuses) = statuses.collect::<Result<Vec<NodeStatus>>>() else { return Ok(None) };
        statuses.sort_by_key(|status| status.node);
        Ok((statuses.len() == self.nodes).then_some(statuses))
    }

    fn get<T: for<'de> Deserialize<'de>>(&self, url: &str) -> Result<T> {
        let answer = self.runtime.block_on(async {
            let answer = self.client.get(url).timeout(Duration::from_secs(10)).send().await?;
            answer.error_for_status()?.json().await
        });
        answer.map_err(|error| Failure::Told(format!("GET {url}: {error}")))
    }
}

/// All at one position, which is at least the given one, with the same content.
fn agree(statuses: &[NodeStatus], position: u64) -> bool {
    let content = |status: &NodeStatus| (status.applied, status.rows, status.digest.clone());
    statuses.first().is_some_and(|first| {
        first.applied >= position && statuses.iter().all(|status| content(status) == content(first))
    })
}

fn build_table(statuses: &[NodeStatus]) -> String {
    let mut lines =
        vec![format!("\n{:<6}{:<15}{:>9}{:>9}  {}", "NODE", "STATE", "APPLIED", "ROWS", "DIGEST")];
    lines.extend(statuses.iter().map(|NodeStatus { node, state, applied, rows, digest }| {
        format!("{node:<6}{state:<15}{applied:>9}{rows:>9}  {digest:.16}…")
    }));
    lines.push(format!("all {} nodes hold the same rows: their digests are equal\n", statuses.len()));
    lines.join("\n")
}

/// Commands to paste. `heart` and `read` are base URLs that can be reached from here, where there are such.
fn build_hints(context: &Context, cluster: &Cluster, urls: Option<(&str, &str)>) -> String {
    let (kubeconfig, bin) = (cluster.kubeconfig.display(), context.cache.join("bin"));
    let forward = format!(
        "  kubectl port-forward service/{SAMPLE}-heart 8080 &\n  kubectl port-forward service/{SAMPLE}-read 8081:8080 &\n"
    );
    let (forward, (heart, read), end) = match urls {
        Some(urls) => ("", urls, "  cargo xtask down\n"),
        None => (forward.as_str(), ("http://127.0.0.1:8080", "http://127.0.0.1:8081"), ""),
    };
    format!(
        r#"
try next:
  export KUBECONFIG={kubeconfig} PATH={bin}:$PATH
  kubectl get bcast
{forward}  curl -X PUT {heart}/v1/collections/users/42 -H 'content-type: application/json' -d '{{"name": "Ada"}}'
  curl "{read}/v1/collections/users/42?at_least=SEQ"   # SEQ: what the write answered as `last`
  kubectl scale bcast/{SAMPLE} --replicas=5
{end}"#,
        bin = bin.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node: u32, applied: u64, digest: &str) -> NodeStatus {
        NodeStatus { node, state: "ready".to_owned(), applied, rows: 7, digest: digest.to_owned() }
    }

    #[test]
    fn nodes_agree_when_they_hold_the_same_at_the_same_position() {
        let cases = [
            (vec![status(1, 9, "a"), status(2, 9, "a")], true),
            (vec![status(1, 9, "a"), status(2, 9, "b")], false),
            (vec![status(1, 9, "a"), status(2, 8, "a")], false),
            (vec![status(1, 8, "a"), status(2, 8, "a")], false),
            (vec![], false),
        ];
        for (statuses, expected) in cases {
            assert_eq!(agree(&statuses, 9), expected, "{statuses:?}");
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let table = build_table(&[status(1, 13286, &"ab12".repeat(16))]);
        let expected = "
NODE  STATE            APPLIED     ROWS  DIGEST
1     ready              13286        7  ab12ab12ab12ab12…
all 1 nodes hold the same rows: their digests are equal
";
        assert_eq!(table, expected);
    }
}

//! Ours: `RabbitMQ`, one heart and the nodes, as processes of this machine with their default settings.
//!
//! An answer means that the broker has synced the message for every node (`ack=broker`, the default), or that most nodes have applied and
//! synced it, too (`ack=quorum`). A node syncs before it acknowledges.

use std::time::{Duration, Instant};

use broadcast_tests::broker::Broker;
use broadcast_tests::client::Refused;
use broadcast_tests::standalone::Cluster;
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;

use crate::data::{COLLECTION, Shape};
use crate::error::{BenchError, Result, told};
use crate::http::Connection;
use crate::load;
use crate::machine::processor_seconds;
use crate::subject::Subject;

/// How long nodes may take to apply what is queued for them.
const CATCH_UP: Duration = Duration::from_mins(20);

/// The broker, a heart and nodes. All end when this is dropped.
#[derive(Debug)]
pub struct Ours {
    // Goes before the broker does.
    /// Heart 0 and the nodes 1 to `nodes`.
    pub cluster: Cluster,
    /// The broker, which is theirs alone.
    pub broker: Broker,
    nodes: u32,
    /// What a write's path ends with.
    parameters: &'static str,
}

/// Where the writes of a request are.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Written {
    /// The number of the last.
    pub last: u64,
}

/// A client of the heart.
#[derive(Debug)]
pub struct OursClient {
    connection: Connection,
    shape: Shape,
    parameters: &'static str,
}

impl Ours {
    /// Starts everything and waits until it is ready.
    pub async fn start(nodes: u32) -> Self {
        let broker = Broker::start_for_measurement().await;
        let cluster = Cluster::start(&broker.url(), nodes).await;
        Self { cluster, broker, nodes, parameters: "" }
    }

    /// From now on clients are answered once most nodes have applied a write.
    #[must_use]
    pub fn answering_at_quorum(self) -> Self {
        Self { parameters: "?ack=quorum&timeout=60s", ..self }
    }

    /// The last write that the heart has had confirmed.
    pub async fn position(&self) -> Result<u64> {
        Ok(self.cluster.heart(0).heart_status().await.map_err(refused)?.position)
    }

    /// Waits until a node has applied a write, and says when it had.
    pub async fn wait_for_node(&self, id: u32, position: u64) -> Result<Instant> {
        let started = Instant::now();
        loop {
            // One that is being started does not answer yet.
            let status = self.cluster.node(id).node_status().await.map_err(refused);
            if status.as_ref().is_ok_and(|status| status.applied >= position) {
                return Ok(Instant::now());
            }
            if started.elapsed() > CATCH_UP {
                let what = format!("node {id} to apply {position}; it says {status:?}");
                return Err(BenchError::TimedOut(CATCH_UP.as_secs(), what));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The ports at which the nodes answer reads.
    pub fn node_ports(&self) -> Vec<u16> {
        (1..=self.nodes).filter_map(|id| self.cluster.node(id).base().port()).collect()
    }

    /// A connection to the heart.
    pub fn heart_connection(&self) -> Connection {
        Connection::new(self.cluster.heart(0).base().port().unwrap_or_default())
    }

    /// The messages that the heart published last, which the broker keeps for its successor. They are put back.
    pub async fn head(&self) -> Vec<Vec<u8>> {
        self.broker.by_hand().await.peek(&self.cluster.names().head_queue()).await
    }

    /// Fails when a node had to repair: what was measured is not what was meant to be.
    pub async fn check_no_repairs(&self) -> Result<()> {
        for id in 1..=self.nodes {
            for metric in ["broadcast_node_repairs_total", "broadcast_node_snapshots_installed_total"] {
                let count = self.cluster.node_metric(id, metric).await;
                if count > 0 {
                    return told(format!("node {id}: {metric} is {count} while nothing was to be repaired"));
                }
            }
        }
        Ok(())
    }
}

impl Subject for Ours {
    type Client = OursClient;

    fn client(&self, shape: Shape) -> OursClient {
        OursClient { parameters: self.parameters, ..OursClient::new(self.heart_connection(), shape) }
    }

    async fn wait_until_applied(&self) -> Result<()> {
        let position = self.position().await?;
        for id in 1..=self.nodes {
            self.wait_for_node(id, position).await?;
        }
        Ok(())
    }

    fn processor_seconds(&self) -> f64 {
        let nodes = (1..=self.nodes).map(|id| self.cluster.node_process(id).id());
        let others = [self.cluster.heart_process(0).id(), self.broker.process().id()];
        nodes.chain(others).filter_map(processor_seconds).sum()
    }
}

impl OursClient {
    /// Writes at the default level of acknowledgement.
    pub fn new(connection: Connection, shape: Shape) -> Self {
        Self { connection, shape, parameters: "" }
    }

    /// Sends the request of this number, and gives the place of its writes.
    pub async fn write(&mut self, number: u64) -> Result<Written> {
        let Self { connection, shape, parameters } = self;
        let answer = if shape.writes == 1 {
            let path = format!("/v1/collections/{COLLECTION}/{}{parameters}", shape.key(number));
            connection.send(Method::PUT, &path, Bytes::from(shape.value(number))).await?
        } else {
            let path = format!("/v1/writes{parameters}");
            connection.send(Method::POST, &path, Bytes::from(shape.writes_body(number))).await?
        };
        Ok(serde_json::from_slice(&answer)?)
    }
}

impl load::Client for OursClient {
    async fn call(&mut self, number: u64, _due: Instant) -> Result<()> {
        self.write(number).await.map(drop)
    }
}

/// What the harness's client was told.
#[expect(clippy::needless_pass_by_value, reason = "what map_err gives")]
pub fn refused(refused: Refused) -> BenchError {
    BenchError::Told(format!("{refused:?}"))
}

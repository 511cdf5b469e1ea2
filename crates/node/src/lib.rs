//! A node: consumes one queue and applies every write to its own database, in the one order that all nodes share.
//!
//! Guarantees of this crate:
//! - What is acknowledged to the broker is on disk, and what is on disk was proven by the chain (`store`; the
//!   decisions are the protocol's replica's).
//! - Nothing that the broker, a peer or a disk does ends the process: it says what is wrong in its state and its
//!   readiness, goes on answering reads, and mends itself when it can.
//! - Knows nothing of Kubernetes: a configuration file and a broker's address are all it needs.

pub mod command;
mod consumer;
mod divergence;
mod http;
#[doc(hidden)]
pub mod measure;
mod metrics;
mod opening;
mod outcomes;
mod rebuild;
mod repair;
mod reporting;
mod scrub;
mod session;
mod status;
mod store;
#[cfg(test)]
mod testing;
mod writer;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use broadcast_protocol::config::NodeConfig;
use broadcast_protocol::names::NodeId;
use broadcast_service::admin::{Readiness, admin_router};
use broadcast_service::amqp_url::AmqpUrlSource;
use broadcast_service::auth::{Gatekeeper, TokenError};
use broadcast_service::clock::unix_milliseconds;
use broadcast_service::http::{http_client, serve};
use broadcast_service::shutdown::{TaskError, Tasks};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::consumer::QueueConsumer;
use crate::http::{Api, api_router};
use crate::metrics::Metrics;
use crate::opening::open_store;
use crate::repair::Peers;
use crate::reporting::Reporter;
use crate::scrub::{Findings, Scrubber};
use crate::status::{Status, publish_readiness};
use crate::store::{Committed, StoreError};
use crate::writer::Writer;

/// How long open requests have after the shutdown.
const REQUEST_DRAIN: Duration = Duration::from_secs(5);

/// How long everything has; shorter than what Kubernetes gives by default (30 s).
const DRAIN: Duration = Duration::from_secs(15);

/// Why a node ended that was not told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The database is refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address cannot be listened on.
    #[error("cannot listen on {key} {address}: {error}")]
    Listen {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The tokens cannot be read.
    #[error("auth.tokens_dir: {0}")]
    Tokens(#[from] TokenError),
    /// The HTTP client cannot be made.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// The configuration has no id.
    #[error("node_id: missing")]
    NoId,
    /// A task ended.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Runs a node until the shutdown or an error that only a new process, or a human, can mend.
pub(crate) async fn run(
    config: NodeConfig,
    broker: AmqpUrlSource,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    let node: NodeId = config.node_id.ok_or(NodeError::NoId)?;
    let (gatekeeper, tokens) = Gatekeeper::open_if(config.auth.as_ref().map(|auth| &*auth.tokens_dir))?;
    let admin = listen("admin", config.admin).await?;
    let nothing = Committed::nothing(&config.cluster);
    let (status, watched) = watch::channel(Status::starting(nothing, unix_milliseconds()));
    let (readiness, ready) = watch::channel(Readiness::NotReady("starting".to_owned()));
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry, watched.clone(), ready.clone());
    gatekeeper.register(&mut registry);
    let max_lag = Duration::from_secs(config.max_lag_seconds);
    let readiness = publish_readiness(watched.clone(), readiness, max_lag, shutdown.clone());
    // Before the database: while that cannot be opened, these say why.
    let mut tasks = Tasks::new(shutdown.clone());
    tasks.spawn("readiness", infallible(readiness));
    tasks.spawn("admin", serve(admin, admin_router(ready, registry), shutdown.clone(), REQUEST_DRAIN));
    let peers = Peers::new(config.cluster.clone(), config.peers.clone(), http_client()?)
        .showing_tokens_of(gatekeeper.clone());
    if let Some(tokens) = tokens {
        tasks.spawn("tokens", tokens.run(shutdown.clone()));
    }
    let Some(store) = open_store(&config, &peers, &status, &metrics, &shutdown).await? else {
        return Ok(tasks.run(DRAIN).await?);
    };

    // After the database: to be refused is better than to wait for an answer that does not come.
    let http = listen("http", config.http).await?;
    let (found, findings) = Findings::channel();
    let api = Api { gatekeeper, ..Api::new(node, watched.clone(), store.readers(), found.clone()) };
    let reporter = Reporter {
        broker: broker.clone(),
        cluster: config.cluster.clone(),
        node,
        heart_queue: config.topology().names().heart_queue(),
        status: watched.clone(),
        readers: store.readers(),
    };
    let scrubber = Scrubber {
        interval: Duration::from_secs(config.scrub_interval_seconds),
        readers: store.readers(),
        recomputing: api.recomputing.clone(),
        status: watched,
        metrics: metrics.clone(),
        found,
    };
    tracing::info!(%node, http = %config.http, admin = %config.admin, data_dir = %config.data_dir.display(), "started");
    let waiting_reads = store.readers().waiting();
    let consumer = QueueConsumer {
        config,
        node,
        broker,
        writer: Writer::new(store),
        peers,
        status,
        metrics,
        waiting_reads,
    };

    tasks.spawn("consumer", consumer.run(findings, shutdown.clone()));
    tasks.spawn("reports", infallible(reporter.run(shutdown.clone())));
    tasks.spawn("scrubs", infallible(scrubber.run(shutdown.clone())));
    tasks.spawn("http", serve(http, api_router(api), shutdown, REQUEST_DRAIN));
    Ok(tasks.run(DRAIN).await?)
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|error| NodeError::Listen { key, address, error })
}

async fn infallible(task: impl Future<Output = ()>) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

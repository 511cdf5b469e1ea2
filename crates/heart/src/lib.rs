//! The heart: takes writes over HTTP and publishes them, in one order, to everyone.
//!
//! Guarantees of this crate:
//! - A write is acknowledged only when the broker has confirmed it for every queue, under the lock that one heart
//!   holds ([`session`], [`reign`]).
//! - A client always learns which of three it is: written, not written, or unknown. Nothing in between is ever
//!   reported as a failure ([`http`]).
//! - Memory is bounded whatever clients, nodes and broker do.
//!
//! Runs without Kubernetes, from a configuration file and the broker's address.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use broadcast_protocol::config::HeartConfig;
use broadcast_service::admin::{Readiness, admin_router};
use broadcast_service::amqp_url::AmqpUrlSource;
use broadcast_service::auth::{Gatekeeper, TokenError};
use broadcast_service::http::{http_client, serve};
use broadcast_service::shutdown::{TaskError, Tasks};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub mod batch;
pub mod census;
pub mod command;
pub mod dead_letters;
mod gathering;
pub mod http;
pub mod inbox;
pub mod memory;
pub mod metrics;
pub mod nodes_file;
pub mod reign;
pub mod role;
pub mod session;
pub mod take_over;
pub mod upkeep;

use crate::census::Census;
use crate::dead_letters::DeadLetters;
use crate::http::Api;
use crate::memory::SharedMemory;
use crate::metrics::Metrics;
use crate::nodes_file::NodesFileError;
use crate::role::Role;
use crate::session::Sessions;
use crate::upkeep::Upkeep;

/// How long open requests have to finish when the heart is told to stop, and how long everything has.
const REQUESTS_DRAIN: Duration = Duration::from_secs(12);
const DRAIN: Duration = Duration::from_secs(20);

/// Why a heart ended.
#[derive(Debug, thiserror::Error)]
pub enum HeartError {
    /// The list of nodes is unusable from the start.
    #[error(transparent)]
    NodesFile(#[from] NodesFileError),
    /// The tokens cannot be read.
    #[error("auth.tokens_dir: {0}")]
    Tokens(#[from] TokenError),
    /// An address cannot be listened on.
    #[error("{interface} {address}: {source}")]
    Listen {
        /// `http` or `admin`.
        interface: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The HTTP client cannot be built.
    #[error(transparent)]
    HttpClient(#[from] reqwest::Error),
    /// A task failed.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Runs a heart until `shutdown`, or until one of its tasks fails.
pub async fn run(
    config: HeartConfig,
    url_source: AmqpUrlSource,
    shutdown: CancellationToken,
) -> Result<(), HeartError> {
    let memory = SharedMemory::new(config.genesis, config.limits.retained_bytes);
    let (census, census_seen) = watch::channel(Census::default());
    if let Some(path) = &config.nodes_file {
        nodes_file::apply(nodes_file::read(path)?, &census, &memory);
    }
    let (gatekeeper, tokens) = Gatekeeper::open_if(config.auth.as_ref().map(|auth| &*auth.tokens_dir))?;
    let http_listener = listen("http", config.http).await?;
    let admin_listener = listen("admin", config.admin).await?;
    let http_address = http_listener.local_addr().unwrap_or(config.http);

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    gatekeeper.register(&mut registry);
    let (role, role_seen) = watch::channel(Role::Connecting { reason: "starting".to_owned() });
    let (progress, progress_seen) = watch::channel(None);
    let (readiness, readiness_seen) = watch::channel(Readiness::NotReady("starting".to_owned()));
    let memory_kib = u32::try_from(config.limits.pending_bytes >> 10).unwrap_or(u32::MAX);
    let api = Api {
        role: role_seen.clone(),
        progress: progress_seen,
        census: census_seen,
        min_attached: usize::try_from(config.min_attached).unwrap_or(usize::MAX),
        memory: Arc::new(Semaphore::new(usize::try_from(memory_kib).unwrap_or(usize::MAX))),
        memory_kib,
        history: memory.clone(),
        log_readers: Arc::new(Semaphore::new(http::MAX_LOG_READERS)),
        dead_letters: DeadLetters::new(config.cluster.clone(), config.topology(), url_source.clone()),
        client: http_client()?,
        gatekeeper,
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    };

    // One after the other: the requests are finished while the session lives, and the session ends while health and
    // metrics are still answered.
    let (requests_done, session_done) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = Tasks::new(shutdown.clone());
    let server = serve(http_listener, http::router(api), shutdown.clone(), REQUESTS_DRAIN);
    let done = requests_done.clone().drop_guard();
    tasks.spawn("http", async move {
        let _done = done;
        server.await
    });
    if let Some(tokens) = tokens {
        tasks.spawn("tokens", tokens.run(shutdown.clone()));
    }
    if let Some(path) = config.nodes_file.clone() {
        tasks.spawn("nodes_file", nodes_file::follow(path, census.clone(), memory.clone(), shutdown.clone()));
    }
    let upkeep = Upkeep::new(metrics.clone());
    let sessions =
        Sessions { config, url_source, http_address, role, progress, census, memory, metrics, upkeep };
    let done = session_done.clone().drop_guard();
    tasks.spawn("session", async move {
        let _done = done;
        sessions.run(requests_done).await;
        Ok::<(), Infallible>(())
    });
    tasks.spawn("readiness", follow_readiness(role_seen, readiness, shutdown));
    let admin = admin_router(readiness_seen, registry);
    tasks.spawn("admin", serve(admin_listener, admin, session_done, Duration::from_secs(1)));
    Ok(tasks.run(DRAIN).await?)
}

async fn listen(interface: &'static str, address: SocketAddr) -> Result<TcpListener, HeartError> {
    TcpListener::bind(address).await.map_err(|source| HeartError::Listen { interface, address, source })
}

/// Keeps readiness as the role says, until told to stop: then the heart is not ready, whatever its role.
async fn follow_readiness(
    mut role: watch::Receiver<Role>,
    readiness: watch::Sender<Readiness>,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        readiness.send_replace(role.borrow_and_update().readiness());
        if !matches!(shutdown.run_until_cancelled(role.changed()).await, Some(Ok(()))) {
            break;
        }
    }
    readiness.send_replace(Readiness::NotReady("stopping".to_owned()));
    Ok(())
}

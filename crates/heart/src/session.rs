//! Sessions with the broker, one after the other, for ever: connect, hold the lock or stand by, take over, reign.
//!
//! The lock is a queue that is exclusive to the connection which the messages are published on: a heart that lost the
//! lock has lost the means to publish. A session that ends in doubt is cut at the socket, so that nothing which this
//! side still buffers can follow.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use broadcast_protocol::config::HeartConfig;
use broadcast_protocol::report::{WHO_KIND, Who};
use broadcast_protocol::sequencer::Reign;
use broadcast_protocol::topology::Topology;
use broadcast_service::amqp::{AmqpError, Connection};
use broadcast_service::amqp_url::{AmqpUrl, AmqpUrlSource};
use broadcast_service::backoff::Backoff;
use broadcast_service::renewal::wait_for_renewal;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::census::Census;
use crate::gathering::Gathering;
use crate::memory::SharedMemory;
use crate::metrics::{Metrics, Reason};
use crate::reign::{Court, Doubt};
use crate::role::{Progress, Role, Submission};
use crate::take_over::{Heir, TakeOverError};
use crate::upkeep::Upkeep;

/// How many requests may wait for a reign; their size is bounded before they get here.
const MAX_WAITING_REQUESTS: usize = 8192;

/// How often a standby asks who is active, and how long it waits for the answer before it tries to get the lock.
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_DEADLINE: Duration = Duration::from_millis(500);

/// How many messages of the inbox may be unsettled.
const INBOX_PREFETCH: u16 = 100;

/// Everything that outlives a session.
pub struct Sessions {
    /// The configuration.
    pub config: HeartConfig,
    /// Where the broker is.
    pub url_source: AmqpUrlSource,
    /// Where this heart's HTTP interface listens.
    pub http_address: SocketAddr,
    /// What this heart is.
    pub role: watch::Sender<Role>,
    /// How far its history goes.
    pub progress: watch::Sender<Option<Progress>>,
    /// What the nodes say.
    pub census: watch::Sender<Census>,
    /// What outlives a session.
    pub memory: SharedMemory,
    /// Counters.
    pub metrics: Metrics,
    /// Exchange and head queue.
    pub upkeep: Upkeep,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Amqp(#[from] AmqpError),
    #[error(transparent)]
    TakeOver(TakeOverError),
    #[error(transparent)]
    Doubt(#[from] Doubt),
}

impl From<TakeOverError> for SessionError {
    fn from(error: TakeOverError) -> Self {
        match error {
            TakeOverError::Amqp(error) => Self::Amqp(error),
            error => Self::TakeOver(error),
        }
    }
}

impl SessionError {
    /// A metric's label, out of a fixed set.
    fn reason(&self) -> &'static str {
        match self {
            Self::Amqp(error)
            | Self::TakeOver(TakeOverError::Amqp(error))
            | Self::Doubt(Doubt::Amqp(error)) => error.reason(),
            Self::Doubt(Doubt::StaleHead(_)) => "StaleHead",
            Self::Doubt(Doubt::CutShort) => "CutShort",
            Self::TakeOver(TakeOverError::NewerVersion(_)) => "NewerVersion",
            Self::TakeOver(TakeOverError::HeadGrows) => "HeadGrows",
        }
    }
}

impl Sessions {
    /// Holds sessions until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::between_sessions();
        while !stop.is_cancelled() {
            let result = self.hold_session(&stop, &mut backoff).await;
            self.metrics.active.set(0);
            let Err(error) = result else {
                if !stop.is_cancelled() {
                    let reason = "renewing the session with the broker".to_owned();
                    self.role.send_replace(Role::Connecting { reason });
                }
                continue;
            };
            if let SessionError::Doubt(Doubt::StaleHead(seen)) = error {
                self.memory.with(|memory| memory.contradiction = Some(seen));
            }
            self.metrics.sessions_ended.get_or_create(&Reason { reason: error.reason() }).inc();
            tracing::warn!(reason = error.reason(), %error, "the session with the broker ended");
            self.role.send_replace(Role::Connecting { reason: error.to_string() });
            stop.run_until_cancelled(sleep(backoff.next_delay())).await;
        }
        self.role.send_replace(Role::Stopping);
    }

    /// Without an error it ends when it is told to, or when it is to be renewed.
    async fn hold_session(
        &mut self,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<(), SessionError> {
        let url = self.url_source.fetch().map_err(AmqpError::from)?;
        let connecting = connect(&self.config, &self.upkeep, &url);
        let Some(connection) = stop.run_until_cancelled(connecting).await else { return Ok(()) };
        let connection = connection?;
        let end = stop.child_token();
        let (source, config, upkeep) = (self.url_source.clone(), self.config.clone(), self.upkeep.clone());
        let renewal = async {
            wait_for_renewal(&source, &url, |url| try_to_connect(&config, &upkeep, url)).await;
            end.cancel();
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            ended = self.lock_and_reign(&connection, &end, backoff) => ended?,
            never = Box::pin(renewal) => match never {},
        }
        Ok(connection.close().await?)
    }

    async fn lock_and_reign(
        &mut self,
        connection: &Connection,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<(), SessionError> {
        let topology = self.config.topology();
        let Some(locked) = stop.run_until_cancelled(self.wait_for_lock(connection, &topology)).await else {
            return Ok(());
        };
        locked?;
        // It may have stood by for long. What it publishes to begin with has to get into the head queue.
        self.upkeep.declare(connection, &topology).await?;
        let (sender, submissions) = mpsc::channel(MAX_WAITING_REQUESTS);
        self.census.send_modify(Census::forget_reports);
        self.metrics.nodes_disagreeing.set(0);
        let mut court = self.hold_court(connection, &topology, submissions).await?;
        let Some(reign) =
            stop.run_until_cancelled(Box::pin(self.take_over(connection, &topology, &mut court))).await
        else {
            return Ok(());
        };
        let reign = reign?;
        backoff.reset();
        tracing::info!(epoch = reign.epoch(), position = reign.position().last, "active");
        self.metrics.active.set(1);
        self.metrics.epoch.set(i64::try_from(reign.epoch()).unwrap_or(i64::MAX));
        self.role.send_replace(Role::Active { epoch: reign.epoch(), submit: sender });
        let result = court.rule(reign, connection, &topology, stop).await;
        self.progress.send_replace(None);
        result?;
        Ok(court.close().await?)
    }

    /// Returns once this connection holds the lock; stands by until then.
    ///
    /// The broker logs each attempt that fails as an error. So there is one only when nobody has answered to be active.
    async fn wait_for_lock(&self, connection: &Connection, topology: &Topology) -> Result<(), AmqpError> {
        let (queue, arguments) = (topology.names().heart_queue(), topology.heart_queue_arguments());
        loop {
            match connection.lock_queue(&queue, &arguments).await {
                Err(AmqpError::Locked(_)) => {}
                result => return result,
            }
            self.stand_by(connection, &queue).await?;
        }
    }

    /// Keeps the role's knowledge of who is active up to date, until nobody answers.
    async fn stand_by(&self, connection: &Connection, queue: &str) -> Result<(), AmqpError> {
        loop {
            let active = match connection.ask(queue, WHO_KIND, &self.build_question(), ASK_DEADLINE).await {
                Ok(body) => serde_json::from_slice::<Who>(&body).ok().map(|who| who.url),
                Err(AmqpError::Timeout { .. }) => None,
                Err(error) => return Err(error),
            };
            let silence = active.is_none();
            self.show_standby(active);
            if silence {
                return Ok(());
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// The body of the question who is active: what this heart has confirmed in its time.
    fn build_question(&self) -> Vec<u8> {
        let claim = self.memory.with(|memory| memory.claim());
        // Numbers and a hash always encode.
        claim.map(|claim| serde_json::to_vec(&claim).unwrap_or_default()).unwrap_or_default()
    }

    fn show_standby(&self, active: Option<String>) {
        self.role.send_if_modified(|role| {
            let news = !matches!(role, Role::Standby { active: known } if *known == active);
            if news {
                tracing::info!(active, "standing by");
                *role = Role::Standby { active };
            }
            news
        });
    }

    async fn hold_court(
        &self,
        connection: &Connection,
        topology: &Topology,
        submissions: mpsc::Receiver<Submission>,
    ) -> Result<Court, AmqpError> {
        let channel = connection.open_channel().await?;
        let inbox = channel.consume(&topology.names().heart_queue(), INBOX_PREFETCH).await?;
        Ok(Court {
            cluster: self.config.cluster.clone(),
            exchange: topology.exchange().name,
            url: build_url(self.http_address, connection),
            publisher: connection.open_publisher().await?,
            channel,
            inbox,
            census: self.census.clone(),
            progress: self.progress.clone(),
            gathering: Gathering::new(submissions),
            memory: self.memory.clone(),
            metrics: self.metrics.clone(),
            upkeep: self.upkeep.clone(),
        })
    }

    async fn take_over(
        &self,
        connection: &Connection,
        topology: &Topology,
        court: &mut Court,
    ) -> Result<Reign, TakeOverError> {
        let channel = connection.open_channel().await?;
        let heir = Heir::new(court, &channel, topology.names().head_queue(), &self.role);
        let reign = heir.take_over().await?;
        channel.close().await?;
        Ok(reign)
    }
}

async fn connect(config: &HeartConfig, upkeep: &Upkeep, url: &AmqpUrl) -> Result<Connection, AmqpError> {
    let connection = Connection::connect(url, &format!("heart of {}", config.cluster)).await?;
    upkeep.declare(&connection, &config.topology()).await?;
    Ok(connection)
}

/// Whether the broker lets this heart in, and to what it needs.
async fn try_to_connect(config: &HeartConfig, upkeep: &Upkeep, url: AmqpUrl) -> Result<(), AmqpError> {
    connect(config, upkeep, &url).await?.close().await
}

/// The base URL by which others reach this heart: where it listens on every address, the one that it has in the
/// broker's network.
fn build_url(http_address: SocketAddr, connection: &Connection) -> String {
    let ip = match connection.local_ip() {
        Some(ip) if http_address.ip().is_unspecified() => ip,
        _ => http_address.ip(),
    };
    format!("http://{}", SocketAddr::new(ip, http_address.port()))
}

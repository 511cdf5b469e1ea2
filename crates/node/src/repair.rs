//! What was missed comes from peers: their logs, checked link by link before anything is applied, or a whole database.
//!
//! A peer is trusted with nothing but its answer's bytes: every message is decoded like one from the broker, and one
//! that does not continue what this node has applied ends that peer's help. A name that resolves to several
//! addresses stands for all of them, looked up at each use, because peers come and go. Asking oneself is harmless:
//! there is nothing newer there.

mod snapshot;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use broadcast_protocol::chain::Position;
use broadcast_protocol::cut::Cut;
use broadcast_protocol::envelope::{DecodeError, Link, Message, WriteMessage};
use broadcast_protocol::report::Claim;
use broadcast_protocol::snapshot::SnapshotError;
use broadcast_service::auth::{Gatekeeper, send_with_tokens};
use bytes::{Bytes, BytesMut};
use reqwest::{Response, StatusCode, Url};

pub(crate) use snapshot::{PeerSnapshot, RebuildError, Wanted};

/// How long a name has to resolve.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a peer has for one page.
const PAGE_DEADLINE: Duration = Duration::from_secs(30);

/// What is read of one answer, in bytes: a peer's page and its last message, which may exceed the page.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// How many failures a reason tells.
const MAX_TOLD_FAILURES: usize = 4;

/// The other nodes.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    cluster: String,
    urls: Vec<String>,
    client: reqwest::Client,
    /// How long a peer has to begin with a snapshot, and for each chunk of it.
    chunk_deadline: Duration,
    gatekeeper: Gatekeeper,
}

/// Nobody can help, now: what was tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no peer has {missing} ({})", tell(tried))]
pub(crate) struct NoHelp {
    /// The sequence number that is missing.
    pub(crate) missing: u64,
    /// Each peer and what it answered.
    pub(crate) tried: Vec<(String, PeerError)>,
}

/// Why a peer cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// Its address is none.
    #[error("not a base URL")]
    NotAUrl,
    /// Its name does not resolve.
    #[error("does not resolve: {0}")]
    Unresolved(String),
    /// It does not answer.
    #[error("does not answer: {0}")]
    Unreachable(String),
    /// It no longer has the messages.
    #[error("its log no longer reaches back that far")]
    Gone,
    /// It is not further on itself.
    #[error("has nothing newer")]
    NothingNewer,
    /// It wants another token.
    #[error("takes none of the peer tokens of this node, or this node has none")]
    Unauthorized,
    /// It answers something else.
    #[error("answers {0}")]
    Status(u16),
    /// What it sent is no message of this cluster.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// What it sent is not a batch of writes.
    #[error("sent what is no batch of writes")]
    NotAWrite,
    /// What it sent does not continue this node's history.
    #[error("has another history: its next message follows {} with hash {}", .0.last, .0.hash)]
    BrokenLink(Position),
    /// What it has was given up.
    #[error("has what the cluster has given up: everything after {0}")]
    GivenUp(u64),
    /// The snapshot that it sent is refused.
    #[error("sent a snapshot that is refused: {0}")]
    Snapshot(#[from] SnapshotError),
}

impl NoHelp {
    /// Whether no log helps any more: somebody has got further, and keeps only the end of the way.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        self.tried.iter().any(|(_, error)| *error == PeerError::Gone)
    }

    /// Whether somebody did not let this node in: then nobody knows yet what the peers have.
    pub(crate) fn is_refused(&self) -> bool {
        self.tried.iter().any(|(_, error)| *error == PeerError::Unauthorized)
    }

    /// Those whose messages come from elsewhere than where this node is.
    pub(crate) fn of_other_history(&self) -> Vec<(String, PeerError)> {
        let is_other = |(_, error): &&(String, PeerError)| matches!(error, PeerError::BrokenLink(_));
        self.tried.iter().filter(is_other).cloned().collect()
    }

    /// Whether a peer that has got further may have a snapshot another time. A heart, which keeps the end of the way too,
    /// never has one, nor has a node with what was given up.
    pub(crate) fn may_have_snapshot_later(&self, logs: &Self) -> bool {
        let is_further_on =
            |peer| logs.tried.iter().any(|(name, error)| name == peer && *error == PeerError::Gone);
        let never_has_one = |error: &PeerError| matches!(error, PeerError::Status(404) | PeerError::Gone);
        self.tried.iter().any(|(peer, error)| is_further_on(peer) && !never_has_one(error))
    }
}

impl PeerError {
    fn too_late(deadline: Duration) -> Self {
        Self::Unreachable(format!("not within {deadline:?}"))
    }
}

impl Peers {
    /// `urls` are base URLs as in the configuration.
    pub(crate) fn new(cluster: impl Into<String>, urls: Vec<String>, client: reqwest::Client) -> Self {
        Self {
            cluster: cluster.into(),
            urls,
            client,
            chunk_deadline: snapshot::CHUNK_DEADLINE,
            gatekeeper: Gatekeeper::default(),
        }
    }

    /// The same, showing them the tokens of this node, where there are any.
    pub(crate) fn showing_tokens_of(self, gatekeeper: Gatekeeper) -> Self {
        Self { gatekeeper, ..self }
    }

    /// The answer to a request, once it is known to be one of success.
    async fn get(&self, url: &str) -> Result<Response, PeerError> {
        let answer = send_with_tokens(&self.gatekeeper.peer_tokens(), || self.client.get(url)).await;
        let answer = answer.map_err(unreachable)?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::GONE => Err(PeerError::Gone),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PeerError::Unauthorized),
            status => Err(PeerError::Status(status.as_u16())),
        }
    }

    /// Fetches messages that continue a position, at least one, from the first peer that has them and whose history was not
    /// given up.
    pub(crate) async fn fetch_after(
        &self,
        position: Position,
        cut: Cut,
    ) -> Result<Vec<WriteMessage>, NoHelp> {
        let mut tried = Vec::new();
        for base in &self.urls {
            let addresses = match resolve(base).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    tried.push((base.clone(), error));
                    continue;
                }
            };
            for url in addresses {
                match self
                    .fetch_page(&url, position)
                    .await
                    .and_then(|messages| leave_out_given_up(messages, cut))
                {
                    Ok(messages) => return Ok(messages),
                    Err(error) => tried.push((name_of(&url), error)),
                }
            }
        }
        Err(NoHelp { missing: position.last + 1, tried })
    }

    /// Whether the history that leads to `shown`, which is certain, does not lead through `own`: some peer's messages come to
    /// `shown` link by link from at or before `own`, and not from there.
    pub(crate) async fn prove_bypass(&self, own: Position, shown: Position) -> bool {
        for base in &self.urls {
            for url in resolve(base).await.unwrap_or_default() {
                match self.bypasses(&url, own, shown).await {
                    Ok(true) => return true,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(peer = name_of(&url), %error, "no proof of another history");
                    }
                }
            }
        }
        false
    }

    async fn bypasses(&self, base: &Url, own: Position, shown: Position) -> Result<bool, PeerError> {
        let body = self.fetch_log(base, own.last).await?;
        let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut position = read_write(&self.cluster, &body.slice_ref(line))?.previous;
        if position == own || position.last > own.last {
            return Ok(false);
        }
        let mut messages = read_page(&self.cluster, position, &body)?;
        loop {
            for message in messages {
                position = message.position;
                if position.last >= shown.last {
                    return Ok(position == shown);
                }
            }
            messages = self.fetch_page(base, position).await?;
        }
    }

    async fn fetch_page(&self, base: &Url, position: Position) -> Result<Vec<WriteMessage>, PeerError> {
        read_page(&self.cluster, position, &self.fetch_log(base, position.last).await?)
    }

    async fn fetch_log(&self, base: &Url, after: u64) -> Result<Bytes, PeerError> {
        let url = format!("{}/v1/log?after={after}", base.as_str().trim_end_matches('/'));
        let answer = tokio::time::timeout(PAGE_DEADLINE, self.fetch_body(&url)).await;
        answer.map_err(|_| PeerError::too_late(PAGE_DEADLINE))?
    }

    /// The answer's body, or as much as came before it broke off: what is there is checked anyway.
    async fn fetch_body(&self, url: &str) -> Result<Bytes, PeerError> {
        let mut answer = self.get(url).await?;
        let mut body = BytesMut::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(error) if body.is_empty() => return Err(unreachable(error)),
                Ok(None) | Err(_) => break,
            }
            if body.len() > MAX_ANSWER_BYTES {
                break;
            }
        }
        Ok(body.freeze())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "to map errors with")]
fn unreachable(error: reqwest::Error) -> PeerError {
    PeerError::Unreachable(innermost(&error))
}

fn name_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Every base URL with a name replaced by each of its addresses.
async fn resolve(base: &str) -> Result<Vec<Url>, PeerError> {
    let url = Url::parse(base).map_err(|_| PeerError::NotAUrl)?;
    let host = url.host_str().ok_or(PeerError::NotAUrl)?.trim_matches(['[', ']']);
    let port = url.port_or_known_default().ok_or(PeerError::NotAUrl)?;
    let lookup = tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host, port))).await;
    let addresses = lookup
        .map_err(|_| PeerError::Unresolved(format!("not within {RESOLVE_DEADLINE:?}")))?
        .map_err(|error| PeerError::Unresolved(error.to_string()))?;
    Ok(addresses.filter_map(|address| with_address(&url, address)).collect())
}

fn with_address(url: &Url, address: SocketAddr) -> Option<Url> {
    let mut url = url.clone();
    url.set_ip_host(address.ip()).ok()?;
    Some(url)
}

/// The messages of a page up to the first line that is not the next link; an error when that is the first line.
fn read_page(cluster: &str, after: Position, body: &Bytes) -> Result<Vec<WriteMessage>, PeerError> {
    let mut position = after;
    let mut messages = Vec::new();
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match read_line(cluster, position, &body.slice_ref(line)) {
            Ok(message) => {
                position = message.position;
                messages.push(message);
            }
            Err(error) if messages.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    if messages.is_empty() { Err(PeerError::NothingNewer) } else { Ok(messages) }
}

/// The messages before the first that was given up; an error when that is the first.
fn leave_out_given_up(mut messages: Vec<WriteMessage>, cut: Cut) -> Result<Vec<WriteMessage>, PeerError> {
    let is_given_up = |message: &WriteMessage| cut.gives_up(Claim::new(message.term, message.position));
    messages.truncate(messages.iter().position(is_given_up).unwrap_or(messages.len()));
    if messages.is_empty() { Err(PeerError::GivenUp(cut.last)) } else { Ok(messages) }
}

fn read_line(cluster: &str, position: Position, line: &Bytes) -> Result<WriteMessage, PeerError> {
    let message = read_write(cluster, line)?;
    if message.previous == position { Ok(message) } else { Err(PeerError::BrokenLink(message.previous)) }
}

fn read_write(cluster: &str, line: &Bytes) -> Result<WriteMessage, PeerError> {
    match Message::decode(cluster, line)? {
        Message::Link(Link::Write(message)) => Ok(message),
        Message::Link(Link::Mark(_)) | Message::Seal(_) => Err(PeerError::NotAWrite),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn tell(tried: &[(String, PeerError)]) -> String {
    let mut text = String::new();
    for (peer, error) in tried.iter().take(MAX_TOLD_FAILURES) {
        let separator = if text.is_empty() { "" } else { "; " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{peer} {error}");
    }
    match tried.len() {
        0 => "no peers are configured".to_owned(),
        count if count > MAX_TOLD_FAILURES => format!("{text}; and {} more", count - MAX_TOLD_FAILURES),
        _ => text,
    }
}

#[cfg(test)]
mod tests;

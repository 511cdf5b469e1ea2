//! Who may use an HTTP interface: bearer tokens out of files, one file for each of writing, reading and being a peer.
//!
//! - A file has one token a line. Several are valid at the same time, which is how tokens are changed: add the new one, let
//!   everybody take it, take the old one away. The files are read again while the process runs; those that cannot be used
//!   change nothing.
//! - Tokens are compared as hashes, whose comparison takes as long whatever differs, and every one of them is compared.
//! - No error, no log line and no `Debug` output contains a token.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http::ApiError;

/// How often the files are looked at.
const READ_EVERY: Duration = Duration::from_secs(5);

/// How long a token may be, in characters: a short one can be guessed.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=512;

/// How many tokens a file may have: every request is compared with all of them.
const MAX_TOKENS: usize = 16;

/// What stands before the token in a header.
const SCHEME: &str = "Bearer ";

/// The header for those whose way leads through something that keeps `Authorization` to itself, as an API server that
/// proxies to pods does.
pub const OTHER_HEADER: HeaderName = HeaderName::from_static("broadcast-authorization");

/// What somebody who has a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Change something.
    Write,
    /// Read documents.
    Read,
    /// Take logs and snapshots, and pass on what clients write: be a heart or a node.
    Peer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Write, Self::Read, Self::Peer];

    /// The name of its file, and of its key in a Secret.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Peer => "peer",
        }
    }
}

/// What is wrong with the tokens of a file. Lines are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenProblem {
    /// Nobody would be let in.
    #[error("there is no token in it")]
    Empty,
    /// More than any change of tokens needs.
    #[error(
        "there are more than {MAX_TOKENS} tokens in it; two are enough while one takes the other's place"
    )]
    TooMany,
    /// Whoever copies it may copy that or not.
    #[error("line {0}: there is a space, a tab or a carriage return around the token")]
    Surrounded(usize),
    /// Too easy to guess, or too long for a header.
    #[error("line {0}: a token has {least} to {most} characters", least = LENGTHS.start(), most = LENGTHS.end())]
    Length(usize),
    /// It would not come through a header.
    #[error(
        "line {0}: a token consists of visible ASCII characters, and there is a space, a control character or another letter in \
         this one"
    )]
    Characters(usize),
}

/// Reads the tokens of a file, one a line, as the headers that show them. Empty lines do not count.
pub fn parse_tokens(text: &[u8]) -> Result<Vec<HeaderValue>, TokenProblem> {
    let lines = (1..).zip(text.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.is_empty());
    let tokens: Vec<_> = lines.map(|(line, token)| parse_token(line, token)).collect::<Result<_, _>>()?;
    match tokens.len() {
        0 => Err(TokenProblem::Empty),
        1..=MAX_TOKENS => Ok(tokens),
        _ => Err(TokenProblem::TooMany),
    }
}

fn parse_token(line: usize, token: &[u8]) -> Result<HeaderValue, TokenProblem> {
    if token.trim_ascii() != token {
        return Err(TokenProblem::Surrounded(line));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(TokenProblem::Characters(line));
    }
    if !LENGTHS.contains(&token.len()) {
        return Err(TokenProblem::Length(line));
    }
    let shown = [SCHEME.as_bytes(), token].concat();
    let mut header = HeaderValue::from_bytes(&shown).map_err(|_| TokenProblem::Characters(line))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Sends a request that shows one token after the other, until one is not refused: while tokens are changed, the other side
/// may still know, or know already, another one. Without tokens it is sent as it is.
pub async fn send_with_tokens(
    tokens: &[HeaderValue],
    request: impl Fn() -> reqwest::RequestBuilder,
) -> Result<reqwest::Response, reqwest::Error> {
    let Some((last, others)) = tokens.split_last() else { return request().send().await };
    for token in others {
        let answer = request().header(header::AUTHORIZATION, token).send().await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
    }
    request().header(header::AUTHORIZATION, last).send().await
}

/// Tokens cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file is not there, or the like.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file has something else in it.
    #[error("{}: {problem}", file.display())]
    Unusable {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        problem: TokenProblem,
    },
}

/// The tokens of one moment.
#[derive(Clone, PartialEq, Eq)]
struct Tokens {
    /// By role.
    hashes: [Vec<blake3::Hash>; 3],
    /// What this process shows its peers.
    own: Vec<HeaderValue>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    fn read(folder: &Path) -> Result<Self, TokenError> {
        let read = |role: Role| {
            let file = folder.join(role.as_str());
            match std::fs::read(&file) {
                Ok(text) => parse_tokens(&text).map_err(|problem| TokenError::Unusable { file, problem }),
                Err(source) => Err(TokenError::Unreadable { file, source }),
            }
        };
        let hash = |header: &HeaderValue| blake3::hash(&header.as_bytes()[SCHEME.len()..]);
        let [write, reading, own] = [read(Role::Write)?, read(Role::Read)?, read(Role::Peer)?];
        let hashes = [&write, &reading, &own].map(|tokens| tokens.iter().map(hash).collect());
        Ok(Self { hashes, own })
    }

    fn roles_of(&self, token: &str) -> Vec<Role> {
        let hash = blake3::hash(token.as_bytes());
        let knows = |role: &Role| {
            // Not `any`, which would stop at the first.
            self.hashes[*role as usize].iter().fold(false, |found, known| (*known == hash) | found)
        };
        Role::ALL.into_iter().filter(knows).collect()
    }
}

/// Lets in who has a token. Without a folder of tokens it lets everybody in.
#[derive(Debug, Clone, Default)]
pub struct Gatekeeper {
    tokens: Option<watch::Receiver<Arc<Tokens>>>,
    refused: Family<Refusal, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    /// The error's code.
    reason: &'static str,
}

/// Which roles a request with these headers needs, any of them.
pub type Needed = fn(&HeaderMap) -> &'static [Role];

/// Reads the files again and again.
#[derive(Debug)]
pub struct TokenReader {
    folder: PathBuf,
    tokens: watch::Sender<Arc<Tokens>>,
}

impl Gatekeeper {
    /// One that goes by the files in a folder, and what keeps it up to date.
    pub fn open(folder: &Path) -> Result<(Self, TokenReader), TokenError> {
        let (tokens, watched) = watch::channel(Arc::new(Tokens::read(folder)?));
        let keeper = Self { tokens: Some(watched), ..Self::default() };
        Ok((keeper, TokenReader { folder: folder.to_owned(), tokens }))
    }

    /// One that goes by the files in a folder, if there is one.
    pub fn open_if(folder: Option<&Path>) -> Result<(Self, Option<TokenReader>), TokenError> {
        let Some(folder) = folder else { return Ok((Self::default(), None)) };
        Self::open(folder).map(|(keeper, reader)| (keeper, Some(reader)))
    }

    /// Has the requests that are turned away counted in the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "broadcast_http_requests_refused",
            "Requests that were turned away for want of a token, by reason",
            self.refused.clone(),
        );
    }

    /// What requests to other hearts and nodes show, for [`send_with_tokens`].
    pub fn peer_tokens(&self) -> Vec<HeaderValue> {
        self.tokens.as_ref().map(|tokens| tokens.borrow().own.clone()).unwrap_or_default()
    }

    /// Routes that are open to these alone.
    pub fn guard<S: Clone + Send + Sync + 'static>(&self, needed: Needed, routes: Router<S>) -> Router<S> {
        match &self.tokens {
            Some(_) => routes.route_layer(from_fn_with_state((self.clone(), needed), let_in)),
            None => routes,
        }
    }

    fn check(&self, headers: &HeaderMap, needed: Needed) -> Result<(), ApiError> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let wanted = needed(headers);
        let shown = headers.get(OTHER_HEADER).or_else(|| headers.get(header::AUTHORIZATION));
        let Some(token) = shown.and_then(read_bearer) else {
            return Err(unauthorized("a token is needed, as the header Authorization: Bearer TOKEN", wanted));
        };
        let roles = tokens.borrow().roles_of(token);
        if roles.is_empty() {
            return Err(unauthorized("the token is not one of those that are valid now", wanted));
        }
        if roles.iter().any(|role| wanted.contains(role)) {
            return Ok(());
        }
        let message = format!("the token is one for {}; {}", join(&roles), describe_source(wanted));
        Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message))
    }
}

impl TokenReader {
    /// Reads until the shutdown. Files that cannot be used change nothing.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Infallible> {
        let mut complaint = String::new();
        while shutdown.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_some() {
            let folder = self.folder.clone();
            // A thread that panics or is cancelled read nothing.
            let Ok(read) = tokio::task::spawn_blocking(move || Tokens::read(&folder)).await else { continue };
            match read {
                Ok(tokens) => {
                    complaint.clear();
                    self.tokens.send_if_modified(|current| {
                        let changed = **current != tokens;
                        if changed {
                            tracing::info!("other tokens are valid now");
                            *current = Arc::new(tokens);
                        }
                        changed
                    });
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != complaint {
                        tracing::error!(%error, "the tokens of before stay valid");
                        complaint = text;
                    }
                }
            }
        }
        Ok(())
    }
}

async fn let_in(
    State((keeper, needed)): State<(Gatekeeper, Needed)>,
    request: Request,
    next: Next,
) -> Response {
    match keeper.check(request.headers(), needed) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            keeper.refused.get_or_create(&Refusal { reason: error.code }).inc();
            let mut response = error.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

/// The scheme's case does not matter (RFC 9110, section 11.1).
fn read_bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME.trim_end());
    Some(token.trim()).filter(|token| is_bearer && !token.is_empty())
}

fn unauthorized(problem: &str, wanted: &[Role]) -> ApiError {
    let message = format!("{problem}; {}", describe_source(wanted));
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

fn describe_source(wanted: &[Role]) -> String {
    format!(
        "the right ones are under the key {} of the cluster's Secret with tokens, CLUSTER-auth or the one of \
         spec.auth.secretRef (without Kubernetes: the file of that name in auth.tokens_dir)",
        join(wanted)
    )
}

fn join(roles: &[Role]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests;

//! Where the broker's address and credentials come from; neither logs nor errors ever contain the password.
//!
//! A file is read again at each connect, so that changed credentials need no restart. `amqps` addresses name the files
//! that TLS needs, so that all of it changes together.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};

use crate::tls::{Tls, TlsError, TlsMaterial};

mod tls_query;

pub use tls_query::TlsQuery;

/// The broker that is used where nothing is configured.
pub const DEFAULT_AMQP_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// A broker's address with user, password and virtual host, and what TLS to it needs.
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpUrl {
    uri: AMQPUri,
    /// For `amqps`.
    tls: Option<Tls>,
}

/// The address is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmqpUrlError {
    /// Not an AMQP URL.
    #[error("{from}: {problem}; expected amqp://user:password@host:port/virtual-host")]
    Invalid {
        /// Where it came from.
        from: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file cannot be read.
    #[error("{file}: {problem}")]
    UnreadableFile {
        /// The file, and who named it.
        file: String,
        /// What the system says.
        problem: String,
    },
    /// What TLS needs is unusable.
    #[error("{from}: {source}")]
    Tls {
        /// Where it came from.
        from: String,
        /// What is wrong with it.
        source: TlsError,
    },
}

/// Where to find the [`AmqpUrl`].
#[derive(Clone)]
pub enum AmqpUrlSource {
    /// In a file that holds nothing else (`AMQP_URL_FILE`).
    File(PathBuf),
    /// Given (`AMQP_URL`).
    Text(String),
}

impl AmqpUrlSource {
    /// `AMQP_URL_FILE`, else `AMQP_URL`, else [`DEFAULT_AMQP_URL`]; `variable` looks one up.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        if let Some(path) = variable("AMQP_URL_FILE") {
            return Self::File(path.into());
        }
        Self::Text(variable("AMQP_URL").unwrap_or_else(|| DEFAULT_AMQP_URL.to_owned()))
    }

    /// The address as it is now.
    pub fn fetch(&self) -> Result<AmqpUrl, AmqpUrlError> {
        match self {
            Self::File(path) => {
                let file = format!("AMQP_URL_FILE {}", path.display());
                let text = std::fs::read_to_string(path).map_err(|error| AmqpUrlError::UnreadableFile {
                    file: file.clone(),
                    problem: error.to_string(),
                })?;
                parse_with_files(&file, text.trim(), path.parent().unwrap_or(Path::new("")))
            }
            Self::Text(text) => parse_with_files("AMQP_URL", text, Path::new("")),
        }
    }
}

impl fmt::Debug for AmqpUrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(…)"),
        }
    }
}

impl AmqpUrl {
    /// An address that says nothing of TLS but its scheme: what `amqps` needs is here already.
    pub fn new(address: &str, tls: TlsMaterial) -> Result<Self, AmqpUrlError> {
        let from = "AMQP URL";
        let uri = parse_uri(from, address)?;
        secure(uri, tls).map_err(|source| AmqpUrlError::Tls { from: from.to_owned(), source })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    /// The broker's TCP port.
    pub fn port(&self) -> u16 {
        self.uri.authority.port
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    /// The virtual host.
    pub fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    pub(crate) fn uri(&self) -> AMQPUri {
        self.uri.clone()
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }
}

impl FromStr for AmqpUrl {
    type Err = AmqpUrlError;

    fn from_str(text: &str) -> Result<Self, AmqpUrlError> {
        Self::new(text, TlsMaterial::default())
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, user, address) = (&self.uri.scheme, self.user(), self.address());
        write!(f, "{scheme}://{user}@{address} (virtual host {:?})", self.vhost())
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address that may name files. A relative path counts from `folder`.
fn parse_with_files(from: &str, text: &str, folder: &Path) -> Result<AmqpUrl, AmqpUrlError> {
    let invalid = |problem: String| AmqpUrlError::Invalid { from: from.to_owned(), problem };
    let (address, query) = TlsQuery::split_off(text).map_err(invalid)?;
    let uri = parse_uri(from, &address)?;
    if uri.scheme == AMQPScheme::AMQP && query != TlsQuery::default() {
        return Err(invalid("what it says of TLS needs amqps://".to_owned()));
    }
    let material = query.read(folder)?;
    secure(uri, material)
        .map_err(|source| AmqpUrlError::Tls { from: query.describe(source.part, folder), source })
}

fn secure(uri: AMQPUri, material: TlsMaterial) -> Result<AmqpUrl, TlsError> {
    let tls = match uri.scheme {
        AMQPScheme::AMQP => None,
        AMQPScheme::AMQPS => Some(Tls::new(material, &uri.authority.host)?),
    };
    Ok(AmqpUrl { uri, tls })
}

fn parse_uri(from: &str, text: &str) -> Result<AMQPUri, AmqpUrlError> {
    let invalid = |problem: String| AmqpUrlError::Invalid { from: from.to_owned(), problem };
    let mut uri: AMQPUri = text.parse().map_err(|problem: String| {
        // Some of the parser's messages repeat the text, which holds the password.
        let repeats = problem.contains(text);
        invalid(if repeats { "not a URL".to_owned() } else { problem })
    })?;
    // The parser takes an IPv6 address for no host at all, which means localhost.
    if let Some((_, (host, _))) =
        text.split_once('[').and_then(|(head, rest)| Some((head, rest.split_once(']')?)))
    {
        host.clone_into(&mut uri.authority.host);
    }
    Ok(uri)
}

#[cfg(test)]
mod tests;

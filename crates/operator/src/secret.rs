//! The referenced Secrets: whatever form they have, one address comes out of them, or an error that names Secret and key.
//!
//! Hearts and nodes get that address, and the files that it names, in one Secret: they need not know the forms, and all
//! of it changes at once. No error and no `Debug` output contains a value of a Secret.

mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;

use broadcast_service::amqp_url::{AmqpUrl, AmqpUrlError, TlsQuery};
use broadcast_service::tls::TlsMaterial;
use k8s_openapi::api::core::v1::Secret;

pub use tls::TlsSecrets;

/// The key of the address in the Secret that is made for hearts and nodes.
pub const OWN_KEY: &str = "url";

/// The keys of CA certificates, client certificate and private key: in the Secret that is made as in those that users make.
const CA_KEY: &str = "ca.crt";
const CERTIFICATE_KEY: &str = "tls.crt";
const PRIVATE_KEY: &str = "tls.key";

/// The keys that hold a whole address.
const URI_KEYS: [&str; 3] = ["uri", "connection_string", OWN_KEY];

/// The broker's address with everything that is needed to get in.
#[derive(Clone)]
pub struct BrokerAccess {
    secret: String,
    /// With no word of TLS but its scheme.
    address: String,
    tls: TlsMaterial,
    url: AmqpUrl,
}

/// Why a Secret gives no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is no such Secret.
    #[error("Secret {0:?} does not exist")]
    Missing(String),
    /// It lacks keys.
    #[error("Secret {secret:?} lacks {}: either uri, or host, username and password are needed", keys.join(", "))]
    LacksKeys {
        /// The Secret.
        secret: String,
        /// What it would need.
        keys: Vec<&'static str>,
    },
    /// It lacks keys with tokens.
    #[error("Secret {secret:?} lacks {}: each of the keys write, read and peer needs tokens, one a line", keys.join(", "))]
    LacksTokens {
        /// The Secret.
        secret: String,
        /// The keys that are not there.
        keys: Vec<&'static str>,
    },
    /// A value is unusable.
    #[error("Secret {secret:?}, key {key:?}: {problem}")]
    Invalid {
        /// The Secret.
        secret: String,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl SecretError {
    /// The kind of error, out of a fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => "SecretMissing",
            Self::LacksKeys { .. } | Self::LacksTokens { .. } => "SecretLacksKeys",
            Self::Invalid { .. } => "SecretInvalid",
        }
    }
}

impl BrokerAccess {
    /// The Secret that it came from.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The address for connecting.
    pub fn url(&self) -> &AmqpUrl {
        &self.url
    }

    /// What hearts and nodes get, by key: the address with the password in it, and the files that it names.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let key_of = |key: &str, file: &Option<Vec<u8>>| file.as_ref().map(|_| key.to_owned());
        let query = TlsQuery {
            ca: key_of(CA_KEY, &self.tls.ca),
            certificate: key_of(CERTIFICATE_KEY, &self.tls.certificate),
            key: key_of(PRIVATE_KEY, &self.tls.key),
            server_name: self.tls.server_name.clone(),
        };
        let files = [
            (OWN_KEY, Some(query.join(&self.address).into_bytes())),
            (CA_KEY, self.tls.ca.clone()),
            (CERTIFICATE_KEY, self.tls.certificate.clone()),
            (PRIVATE_KEY, self.tls.key.clone()),
        ];
        files.into_iter().filter_map(|(key, file)| Some((key.to_owned(), file?))).collect()
    }

    /// What tells one broker from another, as far as names can: with TLS and without it is the same one.
    pub fn identity(&self) -> (String, String) {
        let address = self.url.address().to_lowercase();
        let address = address.strip_suffix(":5671").map_or(address.clone(), |host| format!("{host}:5672"));
        (address, self.url.vhost().to_owned())
    }
}

impl fmt::Debug for BrokerAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Reads the address out of a Secret; `vhost` is the resource's own, which wins. `wants_tls` makes `amqps` of `amqp`. A
/// file that the address names is a key of the same Secret.
pub fn parse_secret(
    name: &str,
    secret: &Secret,
    vhost: Option<&str>,
    wants_tls: bool,
) -> Result<BrokerAccess, SecretError> {
    let values = Values { name, secret };
    let (key, text) = match values.find_uri()? {
        Some((key, uri)) => {
            (key, rewrite_uri(&uri, vhost, wants_tls).map_err(|problem| values.invalid(key, problem))?)
        }
        None => ("host", values.assemble(vhost, wants_tls)?),
    };
    let (address, query) = TlsQuery::split_off(&text).map_err(|problem| values.invalid(key, problem))?;
    if query != TlsQuery::default() && address.starts_with("amqp:") {
        return Err(values.invalid(key, "what it says of TLS needs amqps://"));
    }
    let file = |file: Option<String>| match file {
        None => Ok(None),
        Some(file) => values
            .bytes(&file)
            .map(Some)
            .ok_or_else(|| values.invalid(key, "it names a file for TLS that is no key of this Secret")),
    };
    let tls = TlsMaterial {
        ca: file(query.ca)?,
        certificate: file(query.certificate)?,
        key: file(query.key)?,
        server_name: query.server_name,
    };
    let url = AmqpUrl::new(&address, tls.clone())
        .map_err(|error: AmqpUrlError| values.invalid(key, error.to_string()))?;
    Ok(BrokerAccess { secret: name.to_owned(), address, tls, url })
}

struct Values<'a> {
    name: &'a str,
    secret: &'a Secret,
}

impl Values<'_> {
    /// As it is; none when it is empty.
    fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        let value = &self.secret.data.as_ref()?.get(key)?.0;
        (!value.is_empty()).then(|| value.clone())
    }

    fn get(&self, key: &'static str) -> Result<Option<String>, SecretError> {
        let Some(value) = self.bytes(key) else { return Ok(None) };
        match std::str::from_utf8(&value) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(_) => Err(self.invalid(key, "not UTF-8".to_owned())),
        }
    }

    fn find_uri(&self) -> Result<Option<(&'static str, String)>, SecretError> {
        for key in URI_KEYS {
            if let Some(uri) = self.get(key)? {
                return Ok(Some((key, uri)));
            }
        }
        Ok(None)
    }

    fn assemble(&self, vhost: Option<&str>, wants_tls: bool) -> Result<String, SecretError> {
        let keys = ["host", "username", "password"];
        let mut found = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for key in keys {
            match self.get(key)? {
                Some(value) => found.push(value),
                None => missing.push(key),
            }
        }
        let [host, username, password] = found.as_slice() else {
            return Err(SecretError::LacksKeys { secret: self.name.to_owned(), keys: missing });
        };
        let (scheme, usual_port) = if wants_tls { ("amqps", "5671") } else { ("amqp", "5672") };
        let port = self.get("port")?.unwrap_or_else(|| usual_port.to_owned());
        if port.parse::<u16>().is_err() {
            return Err(self.invalid("port", "not a port number (1 to 65535)".to_owned()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if !host.chars().all(allowed) {
            return Err(self.invalid("host", "neither a host name nor an address".to_owned()));
        }
        let host =
            if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.clone() };
        let own_vhost = self.get("vhost")?;
        let vhost = vhost.or(own_vhost.as_deref()).unwrap_or("/");
        let (username, password, vhost) =
            (percent_encode(username), percent_encode(password), percent_encode(vhost));
        Ok(format!("{scheme}://{username}:{password}@{host}:{port}/{vhost}"))
    }

    fn invalid(&self, key: &'static str, problem: impl Into<String>) -> SecretError {
        let problem = problem.into();
        SecretError::Invalid { secret: self.name.to_owned(), key, problem }
    }
}

/// Puts the virtual host into a URI. None there means `/`: a bare slash at the end is how many write it.
fn rewrite_uri(uri: &str, vhost: Option<&str>, wants_tls: bool) -> Result<String, String> {
    let not_amqp = || "expected amqp://user:password@host:port/virtual-host, or amqps://".to_owned();
    let (scheme, rest) = uri.split_once("://").ok_or_else(not_amqp)?;
    let scheme = match scheme {
        "amqp" if wants_tls => "amqps",
        "amqp" | "amqps" => scheme,
        _ => return Err(not_amqp()),
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = tail.split_at(tail.find('?').unwrap_or(tail.len()));
    let vhost = match (vhost, path.strip_prefix('/').unwrap_or_default()) {
        (Some(vhost), _) => percent_encode(vhost),
        (None, "") => "%2f".to_owned(),
        (None, own) => own.to_owned(),
    };
    Ok(format!("{scheme}://{authority}/{vhost}{query}"))
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02x}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests;

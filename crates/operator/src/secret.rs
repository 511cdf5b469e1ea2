//! The referenced Secret: whatever form it has, one address comes out of it, or an error that names Secret and key.
//!
//! Hearts and nodes get that address and nothing else, so that they need not know the forms. No error and no `Debug`
//! output contains a value of the Secret.

use std::fmt;
use std::fmt::Write;

use broadcast_service::amqp_url::AmqpUrl;
use k8s_openapi::api::core::v1::Secret;

/// The key of the address in the Secret that is made for hearts and nodes.
pub const OWN_KEY: &str = "url";

/// The keys that hold a whole address.
const URI_KEYS: [&str; 3] = ["uri", "connection_string", OWN_KEY];

/// The broker's address with everything that is needed to get in.
#[derive(Clone)]
pub struct BrokerAccess {
    secret: String,
    text: String,
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
            Self::LacksKeys { .. } => "SecretLacksKeys",
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

    /// The address as text, with the password in it.
    pub fn secret_text(&self) -> &str {
        &self.text
    }

    /// What tells one broker from another, as far as names can.
    pub fn identity(&self) -> (String, String) {
        (self.url.address().to_lowercase(), self.url.vhost().to_owned())
    }
}

impl fmt::Debug for BrokerAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Reads the address out of a Secret; `vhost` is the resource's own, which wins.
pub fn parse_secret(name: &str, secret: &Secret, vhost: Option<&str>) -> Result<BrokerAccess, SecretError> {
    let values = Values { name, secret };
    let (key, text) = match values.find_uri()? {
        Some((key, uri)) => (key, rewrite_uri(&uri, vhost).map_err(|problem| values.invalid(key, problem))?),
        None => ("host", values.assemble(vhost)?),
    };
    let url = text
        .parse()
        .map_err(|error: broadcast_service::amqp_url::AmqpUrlError| values.invalid(key, error.to_string()))?;
    Ok(BrokerAccess { secret: name.to_owned(), text, url })
}

struct Values<'a> {
    name: &'a str,
    secret: &'a Secret,
}

impl Values<'_> {
    fn get(&self, key: &'static str) -> Result<Option<String>, SecretError> {
        let Some(value) = self.secret.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
        match std::str::from_utf8(&value.0) {
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

    fn assemble(&self, vhost: Option<&str>) -> Result<String, SecretError> {
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
        let port = self.get("port")?.unwrap_or_else(|| "5672".to_owned());
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
        Ok(format!("amqp://{username}:{password}@{host}:{port}/{vhost}"))
    }

    fn invalid(&self, key: &'static str, problem: String) -> SecretError {
        SecretError::Invalid { secret: self.name.to_owned(), key, problem }
    }
}

/// Puts the virtual host into a URI. None there means `/`: a bare slash at the end is how many write it.
fn rewrite_uri(uri: &str, vhost: Option<&str>) -> Result<String, String> {
    let not_amqp = || "expected amqp://user:password@host:port/virtual-host".to_owned();
    let (scheme, rest) = uri.split_once("://").ok_or_else(not_amqp)?;
    if scheme == "amqps" {
        // The images have no certificates to check the broker's against.
        return Err("amqps is not supported yet: amqp:// is needed".to_owned());
    }
    if scheme != "amqp" {
        return Err(not_amqp());
    }
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
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn secret(pairs: Pairs<'_>) -> Secret {
        let data =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn every_form_gives_one_address() {
        let parts: Pairs<'_> = &[("host", "mq"), ("port", "5673"), ("username", "a"), ("password", "p/@:ü")];
        let with_vhost = [parts, &[("vhost", "own")]].concat();
        let cases: &[(Pairs<'_>, Option<&str>, &str)] = &[
            (&[("uri", "amqp://a:b@mq:5673/%2f")], None, "amqp://a:b@mq:5673/%2f"),
            (&[("uri", "amqp://a:b@mq\n")], None, "amqp://a:b@mq/%2f"),
            (&[("uri", "amqp://a:b@mq/own")], Some("x y"), "amqp://a:b@mq/x%20y"),
            (&[("uri", "amqp://a:b@mq/own?heartbeat=9")], None, "amqp://a:b@mq/own?heartbeat=9"),
            (&[("connection_string", "amqp://a:b@mq:5672/")], None, "amqp://a:b@mq:5672/%2f"),
            (parts, None, "amqp://a:p%2f%40%3a%c3%bc@mq:5673/%2f"),
            (&with_vhost, None, "amqp://a:p%2f%40%3a%c3%bc@mq:5673/own"),
            (&with_vhost, Some("/"), "amqp://a:p%2f%40%3a%c3%bc@mq:5673/%2f"),
            (&[("host", "::1"), ("username", "a"), ("password", "b")], None, "amqp://a:b@[::1]:5672/%2f"),
        ];
        for (pairs, vhost, expected) in cases {
            let access = parse_secret("mq", &secret(pairs), *vhost).unwrap();
            assert_eq!(access.secret_text(), *expected);
            assert!(!format!("{access:?}").contains("p%2f"));
        }
        let access = parse_secret("mq", &secret(&with_vhost), None).unwrap();
        assert_eq!(access.identity(), ("mq:5673".to_owned(), "own".to_owned()));
    }

    #[test]
    fn an_unusable_secret_is_told_apart_and_its_values_are_not_repeated() {
        let cases: &[(Pairs<'_>, &str, &str)] = &[
            (&[], "SecretLacksKeys", "lacks host, username, password"),
            (&[("host", "mq"), ("username", "s3cret")], "SecretLacksKeys", "\"mq\" lacks password:"),
            (&[("uri", " ")], "SecretLacksKeys", "either uri, or host"),
            (&[("uri", "s3cret")], "SecretInvalid", "key \"uri\": expected amqp://"),
            (
                &[("uri", "amqps://a:s3cret@b")],
                "SecretInvalid",
                "amqps is not supported yet: amqp:// is needed",
            ),
            (&[("uri", "http://a:s3cret@b")], "SecretInvalid", "key \"uri\": expected amqp://"),
            (&[("uri", "amqp://a:s3cret@b:port/")], "SecretInvalid", "key \"uri\""),
            (&[("host", "a b"), ("username", "a"), ("password", "s3cret")], "SecretInvalid", "key \"host\""),
            (
                &[("host", "a"), ("port", "s3cret"), ("username", "a"), ("password", "b")],
                "SecretInvalid",
                "key \"port\"",
            ),
        ];
        for (pairs, reason, expected) in cases {
            let error = parse_secret("mq", &secret(pairs), None).unwrap_err();
            assert_eq!(error.reason(), *reason, "{pairs:?}");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}

//! Where the broker's address and credentials come from; neither logs nor errors ever contain the password.
//!
//! A file is read again at each connect, so that changed credentials need no restart.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use lapin::uri::AMQPUri;

/// The broker that is used where nothing is configured.
pub const DEFAULT_AMQP_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// A broker's address with user, password and virtual host.
#[derive(Clone)]
pub struct AmqpUrl(AMQPUri);

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
    /// The file cannot be read.
    #[error("AMQP_URL_FILE {path}: {problem}")]
    UnreadableFile {
        /// The file.
        path: String,
        /// What the system says.
        problem: String,
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
                let text = std::fs::read_to_string(path).map_err(|error| AmqpUrlError::UnreadableFile {
                    path: path.display().to_string(),
                    problem: error.to_string(),
                })?;
                parse(&format!("AMQP_URL_FILE {}", path.display()), text.trim())
            }
            Self::Text(text) => parse("AMQP_URL", text),
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
    /// `host:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.0.authority.host, self.0.authority.port)
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        &self.0.authority.userinfo.username
    }

    /// The virtual host.
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }

    pub(crate) fn uri(&self) -> AMQPUri {
        self.0.clone()
    }
}

impl FromStr for AmqpUrl {
    type Err = AmqpUrlError;

    fn from_str(text: &str) -> Result<Self, AmqpUrlError> {
        parse("AMQP URL", text)
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "amqp://{}@{} (virtual host {:?})", self.user(), self.address(), self.vhost())
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse(from: &str, text: &str) -> Result<AmqpUrl, AmqpUrlError> {
    let invalid = |problem: String| AmqpUrlError::Invalid { from: from.to_owned(), problem };
    if text.is_empty() {
        return Err(invalid("empty".to_owned()));
    }
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
    Ok(AmqpUrl(uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(pairs: &[(&str, &str)]) -> AmqpUrlSource {
        AmqpUrlSource::from_environment(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_file_goes_before_a_text_and_a_text_before_the_default() {
        let url = source(&[]).fetch().unwrap();
        assert_eq!((url.address().as_str(), url.user(), url.vhost()), ("127.0.0.1:5672", "guest", "/"));
        let url = source(&[("AMQP_URL", "amqp://ada:secret@broker:1/orders")]).fetch().unwrap();
        assert_eq!((url.address().as_str(), url.user(), url.vhost()), ("broker:1", "ada", "orders"));
        let url = source(&[("AMQP_URL", "amqp://[::1]:5/%2f")]).fetch().unwrap();
        assert_eq!(url.address(), "::1:5");
        let both = source(&[("AMQP_URL", "amqp://broker"), ("AMQP_URL_FILE", "/does/not/exist")]);
        assert!(both.fetch().unwrap_err().to_string().starts_with("AMQP_URL_FILE /does/not/exist: "));
    }

    #[test]
    fn no_text_contains_the_password() {
        let url: AmqpUrl = "amqp://ada:s3cret@broker/%2f".parse().unwrap();
        assert_eq!(url.to_string(), "amqp://ada@broker:5672 (virtual host \"/\")");
        assert!(!format!("{url:?} {:?}", source(&[("AMQP_URL", "s3cret")])).contains("s3cret"));
        for text in [
            "",
            "s3cret",
            "amqp:s3cret",
            "http://a:s3cret@b",
            "amqp://a:s3cret@b:port",
            "amqp://a:s3cret@b:1/%ff",
        ] {
            let error = text.parse::<AmqpUrl>().unwrap_err().to_string();
            assert!(error.contains("expected amqp://") && !error.contains("s3cret"), "{text}: {error}");
        }
    }
}

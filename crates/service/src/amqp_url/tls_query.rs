//! What an `amqps` address says of TLS in its query, under the names that RabbitMQ's own clients know.

use std::path::{Path, PathBuf};

use reqwest::Url;

use super::AmqpUrlError;
use crate::tls::{TlsMaterial, TlsPart};

/// Where the parts of a [`TlsMaterial`] are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsQuery {
    /// `cacertfile`.
    pub ca: Option<String>,
    /// `certfile`.
    pub certificate: Option<String>,
    /// `keyfile`.
    pub key: Option<String>,
    /// `server_name_indication`: the name itself.
    pub server_name: Option<String>,
}

impl TlsQuery {
    /// Takes it out of an address. The error does not repeat the address.
    pub fn split_off(address: &str) -> Result<(String, Self), String> {
        if address.is_empty() {
            return Err("empty".to_owned());
        }
        let mut url = Url::parse(address).map_err(|error| error.to_string())?;
        let (mut query, mut others) = (Self::default(), Vec::new());
        for (name, value) in url.query_pairs() {
            let place = match &*name {
                "cacertfile" => &mut query.ca,
                "certfile" => &mut query.certificate,
                "keyfile" => &mut query.key,
                "server_name_indication" => &mut query.server_name,
                "verify" if value == "verify_peer" => continue,
                "verify" => return Err("verify: only verify_peer is supported".to_owned()),
                _ => {
                    others.push((name.into_owned(), value.into_owned()));
                    continue;
                }
            };
            *place = Some(value.into_owned());
        }
        url.set_query(None);
        if !others.is_empty() {
            url.query_pairs_mut().extend_pairs(others);
        }
        Ok((url.into(), query))
    }

    /// Puts it into an address that has none. One that is no URL stays as it is.
    pub fn join(&self, address: &str) -> String {
        let Ok(mut url) = Url::parse(address) else { return address.to_owned() };
        let named = [
            ("cacertfile", &self.ca),
            ("certfile", &self.certificate),
            ("keyfile", &self.key),
            ("server_name_indication", &self.server_name),
        ];
        let pairs = named.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        if *self != Self::default() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        url.into()
    }

    /// Reads the files. A relative path counts from `folder`.
    pub(super) fn read(&self, folder: &Path) -> Result<TlsMaterial, AmqpUrlError> {
        let read = |part, path: &Option<String>| {
            let Some(path) = path else { return Ok(None) };
            std::fs::read(folder.join(path)).map(Some).map_err(|error| AmqpUrlError::UnreadableFile {
                file: self.describe(part, folder),
                problem: error.to_string(),
            })
        };
        Ok(TlsMaterial {
            ca: read(TlsPart::Ca, &self.ca)?,
            certificate: read(TlsPart::Certificate, &self.certificate)?,
            key: read(TlsPart::Key, &self.key)?,
            server_name: self.server_name.clone(),
        })
    }

    /// The parameter of a part, and its file.
    pub(super) fn describe(&self, part: TlsPart, folder: &Path) -> String {
        let (name, path) = match part {
            TlsPart::Ca => ("cacertfile", &self.ca),
            TlsPart::Certificate => ("certfile", &self.certificate),
            TlsPart::Key => ("keyfile", &self.key),
            TlsPart::ServerName => return "server_name_indication, or the host".to_owned(),
        };
        let path: Option<PathBuf> = path.as_ref().map(|path| folder.join(path));
        path.map_or_else(|| name.to_owned(), |path| format!("{name} {}", path.display()))
    }
}

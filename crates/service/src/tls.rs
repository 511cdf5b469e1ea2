//! TLS to the broker: whom to trust, who this process is, and for which name the broker's certificate has to be.
//!
//! Everything is checked where it is read, so that what is wrong is named before anybody connects. Neither errors nor
//! `Debug` output contain anything of the texts: one of them is a private key.

use std::fmt;
use std::sync::Arc;

use lapin::tcp::RustlsConnector;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore};

/// What TLS to a broker needs beside its address.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsMaterial {
    /// The certificates of the CAs that are trusted, in PEM. None means those that browsers trust.
    pub ca: Option<Vec<u8>>,
    /// This side's certificate, and those between it and its CA, in PEM.
    pub certificate: Option<Vec<u8>>,
    /// Its private key, in PEM.
    pub key: Option<Vec<u8>>,
    /// The name that the broker's certificate has to be for, where it is not the host's.
    pub server_name: Option<String>,
}

/// What of a [`TlsMaterial`] an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsPart {
    /// The CAs.
    Ca,
    /// The certificate.
    Certificate,
    /// The private key.
    Key,
    /// The broker's name.
    ServerName,
}

/// A [`TlsMaterial`] is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct TlsError {
    /// What of it.
    pub part: TlsPart,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// What was checked, ready for connecting.
#[derive(Clone)]
pub struct Tls {
    material: TlsMaterial,
    connector: RustlsConnector,
    server_name: String,
}

impl Tls {
    /// Checks the material for a broker at `host`.
    pub fn new(material: TlsMaterial, host: &str) -> Result<Self, TlsError> {
        let server_name = material.server_name.clone().unwrap_or_else(|| host.to_owned());
        if !is_server_name(&server_name) {
            return Err(wrong(TlsPart::ServerName, "neither a DNS name nor an IP address"));
        }
        let connector = Arc::new(build_config(&material)?).into();
        Ok(Self { material, connector, server_name })
    }

    /// The library's form.
    pub(crate) fn connector(&self) -> &RustlsConnector {
        &self.connector
    }

    /// The name that the broker's certificate has to be for.
    pub(crate) fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Whether this side has a certificate to show.
    pub(crate) fn has_certificate(&self) -> bool {
        self.material.certificate.is_some()
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        (&self.material, &self.server_name) == (&other.material, &other.server_name)
    }
}

impl Eq for Tls {}

impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMaterial").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Whether a certificate can be for such a name.
pub fn is_server_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// What a failed handshake, or the alert that the broker answered with, means to somebody who can mend it.
pub(crate) fn describe_failure(error: &rustls::Error, has_certificate: bool) -> String {
    match error {
        // The second is what another CA of the same name gives.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "its certificate is not signed by a CA that is trusted here".to_owned(),
        rustls::Error::InvalidCertificate(problem) => format!("its certificate is refused: {problem}"),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS at this port (the usual one for TLS is 5671)".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a client certificate".to_owned()
        }
        rustls::Error::AlertReceived(alert) if has_certificate => {
            format!("it refuses the client certificate, or the way it is offered: {alert:?}")
        }
        rustls::Error::AlertReceived(alert) => format!("it may want a client certificate: {alert:?}"),
        other => other.to_string(),
    }
}

fn build_config(material: &TlsMaterial) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        // The provider supports them.
        .map_err(|_| wrong(TlsPart::Ca, "no TLS version is supported"))?
        .with_root_certificates(build_roots(material.ca.as_deref())?);
    let (certificate, key) = match (&material.certificate, &material.key) {
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return Err(wrong(TlsPart::Key, "missing: the client certificate needs its key")),
        (None, Some(_)) => {
            return Err(wrong(TlsPart::Certificate, "missing: the key is of no use without its certificate"));
        }
    };
    let chain = read_certificates(certificate, TlsPart::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| wrong(TlsPart::Key, "no private key in PEM (one with a passphrase is not supported)"))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => wrong(TlsPart::Key, "not the key of the client certificate"),
        rustls::Error::InvalidCertificate(_) => wrong(TlsPart::Certificate, "not an X.509 certificate"),
        _ => wrong(TlsPart::Key, "no RSA, ECDSA or Ed25519 private key"),
    })
}

fn build_roots(ca: Option<&[u8]>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = ca else {
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        return Ok(roots);
    };
    for certificate in read_certificates(ca, TlsPart::Ca)? {
        roots.add(certificate).map_err(|_| wrong(TlsPart::Ca, "not an X.509 certificate"))?;
    }
    Ok(roots)
}

fn read_certificates(pem: &[u8], part: TlsPart) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(wrong(part, "no certificate in PEM (-----BEGIN CERTIFICATE-----)")),
    }
}

fn wrong(part: TlsPart, problem: &'static str) -> TlsError {
    TlsError { part, problem }
}

#[cfg(test)]
mod tests;

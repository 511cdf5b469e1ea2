//! The Secrets that a resource names for TLS. What they hold goes before what an address says of TLS.

use broadcast_api::TlsSpec;
use broadcast_service::amqp_url::{AmqpUrl, AmqpUrlError};
use broadcast_service::tls::{TlsError, TlsPart};
use k8s_openapi::api::core::v1::Secret;

use super::{BrokerAccess, CA_KEY, CERTIFICATE_KEY, PRIVATE_KEY, SecretError, Values};

/// What is named, and found.
#[derive(Clone, Default)]
pub struct TlsSecrets {
    ca: Option<Named>,
    client: Option<Named>,
    server_name: Option<String>,
}

#[derive(Clone)]
struct Named {
    name: String,
    secret: Secret,
}

impl TlsSecrets {
    /// Takes the Secrets that a resource names; `ca` and `client` are those of these names, where it names any.
    pub fn new(spec: &TlsSpec, ca: Option<Secret>, client: Option<Secret>) -> Self {
        let ca = spec.ca_secret_ref.as_ref().zip(ca);
        let client = spec.client_cert_secret_ref.as_ref().zip(client);
        let named = |(reference, secret): (&broadcast_api::SecretReference, Secret)| Named {
            name: reference.name.clone(),
            secret,
        };
        Self { ca: ca.map(named), client: client.map(named), server_name: spec.server_name.clone() }
    }
}

impl BrokerAccess {
    /// The same broker, with what the resource says of TLS.
    pub fn secured(self, tls: &TlsSecrets) -> Result<Self, SecretError> {
        let Self { secret, address, tls: own, .. } = self;
        let mut material = own;
        if let Some(ca) = &tls.ca {
            material.ca =
                Some(ca.require(CA_KEY, "the certificate of the CA that signed the broker's, in PEM")?);
        }
        if let Some(client) = &tls.client {
            material.certificate =
                Some(client.require(CERTIFICATE_KEY, "the certificate to show to the broker, in PEM")?);
            material.key = Some(client.require(PRIVATE_KEY, "the private key of tls.crt, in PEM")?);
        }
        if let Some(name) = &tls.server_name {
            material.server_name = Some(name.clone());
        }
        match AmqpUrl::new(&address, material.clone()) {
            Ok(url) => Ok(Self { secret, address, tls: material, url }),
            Err(AmqpUrlError::Tls { source, .. }) => Err(tls.blame(&secret, &source)),
            // It was an address before.
            Err(error) => Err(invalid(&secret, "host", error.to_string())),
        }
    }
}

impl Named {
    fn require(&self, key: &'static str, expected: &str) -> Result<Vec<u8>, SecretError> {
        let values = Values { name: &self.name, secret: &self.secret };
        values.bytes(key).ok_or_else(|| values.invalid(key, format!("missing; expected {expected}")))
    }
}

impl TlsSecrets {
    /// Says which Secret and key an error is about. `address` is the Secret that the address came from.
    fn blame(&self, address: &str, error: &TlsError) -> SecretError {
        let (named, key) = match error.part {
            TlsPart::Ca => (&self.ca, CA_KEY),
            TlsPart::Certificate => (&self.client, CERTIFICATE_KEY),
            TlsPart::Key => (&self.client, PRIVATE_KEY),
            TlsPart::ServerName => (&None, "host"),
        };
        let name = named.as_ref().map_or(address, |named| &named.name);
        invalid(name, key, error.problem.to_owned())
    }
}

fn invalid(secret: &str, key: &'static str, problem: String) -> SecretError {
    SecretError::Invalid { secret: secret.to_owned(), key, problem }
}

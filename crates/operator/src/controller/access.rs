//! The broker's address and what TLS to it needs, out of the Secrets that a resource refers to.
//!
//! Each is read by its name in every pass, so that a changed one is noticed within a probe: that needs no right to list
//! or watch Secrets, and no copy of any is kept but of the address.

use broadcast_api::{BroadcastCluster, SecretReference, TlsSpec};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;

use crate::controller::error::ReconcileError;
use crate::controller::observe::Sources;
use crate::controller::validate::ValidCluster;
use crate::secret::{BrokerAccess, SecretError, TlsSecrets, parse_secret};

/// The address in the referenced Secret. When a namespace is deleted, its Secrets may go before what needs them: then
/// the copy that was made for the pods, or what is remembered, still says where the broker objects are.
pub async fn fetch_access(
    cluster: &BroadcastCluster,
    valid: &ValidCluster,
    sources: &Sources<'_>,
) -> Result<Result<BrokerAccess, SecretError>, ReconcileError> {
    let fetch =
        |name, vhost, wants_tls| fetch_access_of(sources.client, &valid.namespace, name, vhost, wants_tls);
    let mut access = fetch(&valid.secret, valid.vhost.as_deref(), valid.tls.is_some()).await?;
    if let (Ok(address), Some(spec)) = (&access, &valid.tls) {
        let address = address.clone();
        let secrets = fetch_tls(sources.client, &valid.namespace, spec).await?;
        access = secrets.and_then(|secrets| address.secured(&secrets));
    }
    if cluster.metadata.deletion_timestamp.is_none() || access.is_ok() {
        return Ok(access);
    }
    let copy = fetch(&valid.names.amqp(), None, false).await?;
    Ok(copy.ok().or_else(|| sources.last_access.clone()).map_or(access, Ok))
}

/// The address in a Secret.
pub async fn fetch_access_of(
    client: &Client,
    namespace: &str,
    name: &str,
    vhost: Option<&str>,
    wants_tls: bool,
) -> Result<Result<BrokerAccess, SecretError>, ReconcileError> {
    let secret = fetch_secret(client, namespace, name).await?;
    Ok(secret.and_then(|secret| parse_secret(name, &secret, vhost, wants_tls)))
}

async fn fetch_tls(
    client: &Client,
    namespace: &str,
    spec: &TlsSpec,
) -> Result<Result<TlsSecrets, SecretError>, ReconcileError> {
    let fetch = async |reference: &Option<SecretReference>| match reference {
        Some(reference) => {
            fetch_secret(client, namespace, &reference.name).await.map(|found| found.map(Some))
        }
        None => Ok(Ok(None)),
    };
    let (ca, client) = (fetch(&spec.ca_secret_ref).await?, fetch(&spec.client_cert_secret_ref).await?);
    Ok(ca.and_then(|ca| Ok(TlsSecrets::new(spec, ca, client?))))
}

/// A Secret, if there is one of this name.
pub async fn fetch_secret(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Result<Secret, SecretError>, ReconcileError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = secrets.get_opt(name).await.map_err(ReconcileError::kube(format!("get Secret {name}")))?;
    Ok(secret.ok_or_else(|| SecretError::Missing(name.to_owned())))
}

#[cfg(test)]
mod tests;

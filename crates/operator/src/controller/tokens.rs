//! The tokens of a cluster's HTTP interfaces: a Secret of the user's, or one that is made once and is the user's from then on.
//!
//! It is never overwritten: its tokens are changed by whoever uses them, with two valid at a time in between. While something is
//! wrong with it no pod is made or replaced: those that are there go on with the tokens that they have.

use broadcast_service::auth::{Role, parse_tokens};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use reqwest::header::HeaderValue;

use crate::controller::access::fetch_secret;
use crate::controller::build::build_metadata;
use crate::controller::error::ReconcileError;
use crate::controller::objects::Kind;
use crate::controller::validate::ValidCluster;
use crate::secret::SecretError;

/// Which Secret has the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSecret {
    /// Its name.
    pub name: String,
    /// Whether it is made when it is not there.
    pub is_generated: bool,
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedTokens {
    /// None are wanted.
    Unwanted,
    /// They are to be made.
    Missing,
    /// They are there; these are those for reading, with which the operator asks the hearts. `Debug` does not show them.
    Present(Vec<HeaderValue>),
}

/// Looks for the Secret.
pub async fn fetch_tokens(
    client: &Client,
    cluster: &ValidCluster,
) -> Result<Result<ObservedTokens, SecretError>, ReconcileError> {
    let Some(TokenSecret { name, is_generated }) = &cluster.tokens else {
        return Ok(Ok(ObservedTokens::Unwanted));
    };
    match fetch_secret(client, &cluster.namespace, name).await? {
        Err(_) if *is_generated => Ok(Ok(ObservedTokens::Missing)),
        Err(missing) => Ok(Err(missing)),
        // Perhaps of a resource that was deleted lately, and on its way out.
        Ok(secret) if *is_generated && !is_own(&secret, cluster) => {
            Err(ReconcileError::NameTaken { kind: Kind::Secret, name: name.clone() })
        }
        Ok(secret) => Ok(read_tokens(name, &secret).map(ObservedTokens::Present)),
    }
}

fn is_own(secret: &Secret, cluster: &ValidCluster) -> bool {
    secret.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == cluster.uid)
}

/// The tokens for reading, if there are good ones of each kind.
fn read_tokens(name: &str, secret: &Secret) -> Result<Vec<HeaderValue>, SecretError> {
    let find = |role: Role| secret.data.as_ref().and_then(|data| data.get(role.as_str()));
    let missing: Vec<_> = Role::ALL.into_iter().filter(|role| find(*role).is_none()).collect();
    if !missing.is_empty() {
        let keys = missing.into_iter().map(Role::as_str).collect();
        return Err(SecretError::LacksTokens { secret: name.to_owned(), keys });
    }
    let mut for_reading = Vec::new();
    for role in Role::ALL {
        let text = find(role).map(|value| value.0.as_slice()).unwrap_or_default();
        let tokens = parse_tokens(text).map_err(|problem| SecretError::Invalid {
            secret: name.to_owned(),
            key: role.as_str(),
            problem: problem.to_string(),
        })?;
        if role == Role::Read {
            for_reading = tokens;
        }
    }
    Ok(for_reading)
}

/// Makes the Secret, unless somebody was faster.
pub async fn create_tokens(
    client: &Client,
    cluster: &ValidCluster,
    name: &str,
) -> Result<(), ReconcileError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    match secrets.create(&PostParams::default(), &build_tokens(cluster, name, rand::random)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(ReconcileError::kube(format!("create Secret {name}"))(error)),
    }
}

/// Each token is of 256 random bits.
fn build_tokens(cluster: &ValidCluster, name: &str, mut random: impl FnMut() -> [u128; 2]) -> Secret {
    let token = |role: Role| {
        let [high, low] = random();
        (role.as_str().to_owned(), ByteString(format!("{high:032x}{low:032x}").into_bytes()))
    };
    Secret {
        metadata: build_metadata(cluster, name.to_owned()),
        data: Some(Role::ALL.map(token).into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests;

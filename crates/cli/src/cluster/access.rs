//! Tokens for clusters that ask for some: out of the Secret that the resource names, once a pod has asked.
//!
//! They go in a header of their own: `Authorization` is for the API server, which keeps it to itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::{Cluster, DEADLINE, within};
use crate::error::CliError;

/// The header with the token.
pub(super) const TOKEN_HEADER: HeaderName = HeaderName::from_static("broadcast-authorization");

/// The tokens that were taken last, by the key that they stand under.
#[derive(Default)]
pub(super) struct Tokens(Mutex<BTreeMap<&'static str, HeaderValue>>);

impl Tokens {
    pub(super) fn last(&self, key: &'static str) -> Option<HeaderValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn remember(&self, key: &'static str, token: HeaderValue) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, token);
    }
}

/// The key of the tokens for a request.
pub(super) fn key_of(method: &Method) -> &'static str {
    if *method == Method::GET { "read" } else { "write" }
}

/// Whether a pod wants another token. The API server has a 401 of its own.
pub(super) fn asks_for_token((status, body): &(StatusCode, String)) -> bool {
    let code = || serde_json::from_str::<Value>(body).unwrap_or_default()["error"]["code"].clone();
    *status == StatusCode::UNAUTHORIZED && code() == "unauthorized"
}

impl Cluster {
    /// All tokens under a key, as the header has them.
    pub(super) async fn fetch_tokens(&self, key: &'static str) -> Result<Vec<HeaderValue>, CliError> {
        // Without it, it is about to be: the pod's own words say what is wrong.
        let Some(auth) = self.fetch().await?.spec.auth else { return Ok(Vec::new()) };
        let name = auth.secret_name(&self.name);
        let what = format!("Secret {}/{name} with the tokens", self.namespace);
        let secret = within(what.clone(), DEADLINE, self.api::<Secret>().get(&name)).await?;
        let text = secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
        let lines = text.unwrap_or_default().split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let tokens: Option<Vec<_>> = lines.map(build_header).collect();
        tokens
            .filter(|tokens| !tokens.is_empty())
            .ok_or(CliError::Unreadable { what, problem: format!("there is no token under the key {key}") })
    }
}

fn build_header(token: &[u8]) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    header.set_sensitive(true);
    Some(header)
}

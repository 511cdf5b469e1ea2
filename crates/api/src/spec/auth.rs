//! Who may use the HTTP interfaces.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::SecretReference;

/// Who may use the HTTP interfaces: whoever shows a token out of a Secret with the keys `write`, `read` and `peer`. Health and
/// metrics stay open.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "has(self.secretRef) == has(oldSelf.secretRef) && (!has(self.secretRef) || self.secretRef == oldSelf.secretRef)"
    ).message("secretRef is immutable: change the tokens in the Secret")
)]
pub struct AuthSpec {
    /// A Secret of yours. Each of its keys `write`, `read` and `peer` holds the tokens that are valid, one a line, each of 16 to
    /// 512 visible ASCII characters. Without it one with random tokens is made, `{name}-auth`, once; from then on its tokens
    /// are yours to change. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
}

impl AuthSpec {
    /// The Secret with the tokens of the cluster of this name.
    pub fn secret_name(&self, cluster: &str) -> String {
        self.secret_ref.as_ref().map_or_else(|| format!("{cluster}-auth"), |reference| reference.name.clone())
    }
}

//! Tokens for the HTTP interfaces: what clients show, and the files that processes are given.

use reqwest::Method;

/// A token for each role, the one that this side shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// For changes.
    pub write: String,
    /// For documents.
    pub read: String,
    /// For logs and snapshots.
    pub peer: String,
}

impl Tokens {
    /// Good ones that have this name in them.
    pub fn named(name: &str) -> Self {
        let token = |role: &str| format!("{role}-token-0123456789-{name}");
        Self { write: token("write"), read: token("read"), peer: token("peer") }
    }

    /// What a Secret holds, or a folder, by key.
    pub fn files(&self) -> [(&str, &str); 3] {
        [("write", &self.write), ("read", &self.read), ("peer", &self.peer)]
    }

    /// What a Secret holds while both these and the others are valid; these come first.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        let both = |one: &str, other: &str| format!("{one}\n{other}\n");
        Self {
            write: both(&self.write, &others.write),
            read: both(&self.read, &others.read),
            peer: both(&self.peer, &others.peer),
        }
    }

    /// The right one for a request to this path.
    pub(crate) fn choose(&self, method: &Method, path: &str) -> &str {
        match *method {
            Method::GET if ["/v1/log", "/v1/snapshot"].contains(&path) => &self.peer,
            Method::GET => &self.read,
            _ => &self.write,
        }
    }
}

//! A process of a cluster without Kubernetes.

use reqwest::Method;

use crate::client::Client;
use crate::processes::{Process, free_port};
use crate::proxy::Proxy;

/// A heart or a node: its addresses, and its process while it runs.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) process: Option<Process>,
    pub(super) name: String,
    pub(super) http: u16,
    pub(super) admin: u16,
    pub(super) client: Client,
    /// Between it and the broker.
    pub(super) proxy: Option<Proxy>,
}

impl Member {
    pub(super) fn new(name: String) -> Self {
        let (http, admin) = (free_port(), free_port());
        Self { process: None, name, http, admin, client: Client::new(http), proxy: None }
    }

    pub(super) async fn readiness(&self) -> Result<(), String> {
        let answer = Client::new(self.admin).request(Method::GET, "readyz").send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        let is_ready = answer.status().is_success();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if is_ready { Ok(()) } else { Err(text) }
    }

    pub(super) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().unwrap_or_else(|| panic!("{} has no proxy", self.name))
    }

    pub(super) fn process(&self) -> &Process {
        self.process.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name))
    }
}

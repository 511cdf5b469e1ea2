//! The operator's own program, on this machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::processes::{Process, free_port, program};

/// What an operator is started with.
#[derive(Clone, Debug)]
pub struct OperatorSettings {
    /// The way to the API server.
    pub kubeconfig: PathBuf,
    /// The namespaces that it watches, separated by commas; none means all.
    pub namespaces: String,
    /// The image of nodes whose resource names none.
    pub node_image: String,
    /// Where what it prints is added.
    pub log: PathBuf,
    /// The namespace of the Lease, if it takes part in an election.
    pub lease: Option<String>,
}

/// A running operator. It is killed when this is dropped.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    admin_port: u16,
}

impl OperatorSettings {
    /// For the namespaces that are named.
    pub fn new(kubeconfig: &Path, namespaces: &str, log: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            namespaces: namespaces.to_owned(),
            node_image: "node:test".to_owned(),
            log: log.to_owned(),
            lease: None,
        }
    }

    /// Starts one: the program that `BROADCAST_OPERATOR` names, else the one that was built with the test.
    pub fn start(&self) -> Operator {
        let named = env::var_os("BROADCAST_OPERATOR").map(PathBuf::from);
        let admin_port = free_port();
        let mut command = Command::new(named.unwrap_or_else(|| program("operator")));
        command
            .env_remove("LOG")
            .env("KUBECONFIG", &self.kubeconfig)
            .env("ADMIN_ADDRESS", format!("127.0.0.1:{admin_port}"))
            .env("HEART_IMAGE", "heart:test")
            .env("NODE_IMAGE", &self.node_image)
            .env("WATCH_NAMESPACE", &self.namespaces);
        if let Some(namespace) = &self.lease {
            command.env("LEADER_ELECTION", "true").env("POD_NAMESPACE", namespace);
        }
        Operator { process: Process::start("operator", &mut command, &self.log), admin_port }
    }
}

impl Operator {
    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(self) {
        self.process.kill();
    }

    /// What it exports, as text.
    pub async fn metrics(&self) -> reqwest::Result<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin_port);
        reqwest::get(url).await?.error_for_status()?.text().await
    }
}

//! How the process is started: arguments, each also an environment variable.

use std::net::SocketAddr;

use clap::{Parser, Subcommand};

use crate::controller::validate::Installation;
use crate::lease::LeaseNames;
use crate::names::MANAGER;

/// Keeps databases identical by broadcasting every write: the operator.
#[derive(Debug, Clone, Parser)]
#[command(name = "operator", version, about)]
pub struct Settings {
    /// The namespaces to watch, separated by commas; none means all.
    #[arg(long, env = "WATCH_NAMESPACE", value_delimiter = ',', value_name = "NAMESPACES")]
    pub watch_namespace: Vec<String>,

    /// The image of hearts where a resource names none.
    #[arg(long, env = "HEART_IMAGE", value_name = "IMAGE")]
    pub heart_image: String,

    /// The image of nodes where a resource names none.
    #[arg(long, env = "NODE_IMAGE", value_name = "IMAGE")]
    pub node_image: String,

    /// For how long, in seconds, a broker that cannot be reached delays the deletion of a resource.
    #[arg(long, env = "DELETION_PATIENCE_SECONDS", value_name = "SECONDS", default_value = "300",
        value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub deletion_patience: u32,

    /// Where health, readiness and metrics are served.
    #[arg(long, env = "ADMIN_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub admin: SocketAddr,

    /// Whether replicas share a Lease: one of them works, the others stand by.
    #[arg(long, env = "LEADER_ELECTION")]
    pub leader_election: bool,

    /// The Lease's name.
    #[arg(long, env = "LEASE_NAME", value_name = "NAME", default_value = MANAGER)]
    pub lease_name: String,

    /// The pod's namespace: the Lease is there, and hearts and nodes let the operator in from there.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", required_if_eq("leader_election", "true"))]
    pub pod_namespace: Option<String>,

    /// What this process calls itself in Lease and events; with a random part behind it, in the Lease.
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value = MANAGER)]
    pub pod_name: String,

    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does besides being the operator.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Checks an installation from inside: that the resources can be listed where the operator watches, and that one is ready.
    Check {
        /// The readiness of a running operator, as http://HOST:PORT/readyz.
        #[arg(long, value_name = "URL")]
        ready: Option<String>,
    },
}

impl Settings {
    /// The namespaces to watch, `None` being all of them.
    pub fn namespaces(&self) -> Vec<Option<String>> {
        let mut names: Vec<_> = self
            .watch_namespace
            .iter()
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        names.sort();
        names.dedup();
        if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() }
    }

    /// The Lease that decides whether this process may work; `None` when it is the only one.
    pub fn lease(&self) -> Option<LeaseNames> {
        let namespace = self.pod_namespace.clone().filter(|_| self.leader_election)?;
        // A container that starts again has the pod's name again, but not the Lease.
        let identity = format!("{}_{:016x}", self.pod_name, rand::random::<u64>());
        Some(LeaseNames { namespace, name: self.lease_name.clone(), identity })
    }

    /// What it says of all resources.
    pub fn installation(&self) -> Installation {
        Installation {
            heart_image: self.heart_image.clone(),
            node_image: self.node_image.clone(),
            namespace: self.pod_namespace.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Settings {
        let required = ["operator", "--heart-image=h", "--node-image=n"];
        Settings::try_parse_from(required.iter().chain(arguments)).unwrap()
    }

    #[test]
    fn namespaces_are_all_or_the_named_ones() {
        assert_eq!(parse(&[]).namespaces(), [None]);
        assert_eq!(parse(&["--watch-namespace="]).namespaces(), [None]);
        let named = parse(&["--watch-namespace=b, a,b"]).namespaces();
        assert_eq!(named, [Some("a".to_owned()), Some("b".to_owned())]);
    }

    #[test]
    fn a_deletion_waits_for_five_minutes_or_as_long_as_is_said() {
        assert_eq!(parse(&[]).deletion_patience, 300);
        assert_eq!(parse(&["--deletion-patience=30"]).deletion_patience, 30);
        let error = Settings::try_parse_from(["operator", "--deletion-patience=0"]).unwrap_err().to_string();
        assert!(error.contains("1..=86400"), "{error}");
    }

    #[test]
    fn a_check_takes_the_settings_of_the_operator_that_it_checks() {
        let settings = parse(&["--watch-namespace=a", "check", "--ready=http://o:9090/readyz"]);
        assert_eq!(settings.namespaces(), [Some("a".to_owned())]);
        let ready = Some("http://o:9090/readyz".to_owned());
        assert_eq!(settings.command, Some(Command::Check { ready }));
    }

    #[test]
    fn a_lease_is_asked_for_by_name_and_with_an_identity_that_no_other_process_has() {
        assert_eq!(parse(&["--pod-namespace=here"]).lease(), None);
        let elected = parse(&["--leader-election", "--pod-namespace=here", "--pod-name=operator-1"]);
        let (lease, other) = (elected.lease().unwrap(), elected.lease().unwrap());
        assert_eq!((lease.namespace.as_str(), lease.name.as_str()), ("here", "broadcast-operator"));
        assert!(lease.identity.starts_with("operator-1_") && lease.identity != other.identity, "{lease:?}");
        let without = ["operator", "--heart-image=h", "--node-image=n", "--leader-election"];
        let error = Settings::try_parse_from(without).unwrap_err().to_string();
        assert!(error.contains("--pod-namespace"), "{error}");
    }

    #[test]
    fn images_are_required() {
        let error = Settings::try_parse_from(["operator"]).unwrap_err().to_string();
        assert!(error.contains("--heart-image") && error.contains("--node-image"), "{error}");
    }
}

//! How this machine talks HTTP to what runs in a cluster: straight to it where the cluster is on this machine, through the API server
//! everywhere else.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::failure::{Failure, Result, told};
use crate::step::ask;

/// A way into a cluster, open as long as it lives.
pub(crate) struct Reach<'a> {
    cluster: &'a Cluster,
    proxy: Option<Proxy>,
}

impl<'a> Reach<'a> {
    pub(crate) fn open(cluster: &'a Cluster) -> Result<Self> {
        let proxy = if cluster.is_local() { None } else { Some(Proxy::start(cluster)?) };
        Ok(Self { cluster, proxy })
    }

    /// The base URL of a Service's API port.
    pub(crate) fn to_service(&self, namespace: &str, name: &str) -> Result<String> {
        if let Some(proxy) = &self.proxy {
            return Ok(format!("{}/api/v1/namespaces/{namespace}/services/{name}:8080/proxy", proxy.url));
        }
        let service = fetch(self.cluster, &["services", name, "--namespace", namespace])?;
        match service["spec"]["clusterIP"].as_str() {
            Some(address) => Ok(format!("http://{address}:8080")),
            None => told(format!("the Service {namespace}/{name} has no address")),
        }
    }

    /// The base URL of the API port of a pod, as the API server describes it; nothing while it has no address.
    pub(crate) fn to_pod(&self, pod: &Value) -> Option<String> {
        let (namespace, name) = (pod["metadata"]["namespace"].as_str()?, pod["metadata"]["name"].as_str()?);
        match &self.proxy {
            Some(proxy) => {
                Some(format!("{}/api/v1/namespaces/{namespace}/pods/{name}:8080/proxy", proxy.url))
            }
            None => Some(format!("http://{}:8080", pod["status"]["podIP"].as_str()?)),
        }
    }
}

/// What `kubectl get` says, as JSON.
pub(crate) fn fetch(cluster: &Cluster, what: &[&str]) -> Result<Value> {
    let output = ask(cluster.kubectl(&["get", "--output=json"]).args(what))?;
    if !output.status.success() {
        return told(format!(
            "kubectl get {}: {}",
            what.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| {
        Failure::Told(format!("kubectl get {}: its answer is no JSON: {error}", what.join(" ")))
    })
}

/// A `kubectl proxy` on a free port of loopback.
struct Proxy {
    child: Child,
    url: String,
}

impl Proxy {
    fn start(cluster: &Cluster) -> Result<Self> {
        let failed = |source| Failure::Io { what: "cannot start kubectl proxy".to_owned(), source };
        let mut command = cluster.kubectl(&["proxy", "--port=0"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(failed)?;
        }
        let address = line.trim().rsplit(' ').next().unwrap_or_default();
        let proxy = Self { child, url: format!("http://{address}") };
        if address.is_empty() {
            told("kubectl proxy ended at once; its reason stands above")
        } else {
            Ok(proxy)
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

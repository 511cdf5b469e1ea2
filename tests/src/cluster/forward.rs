//! Ports of pods as ports of loopback, through the API server as `kubectl port-forward` does it.
//!
//! A forward stands for a Deployment or `StatefulSet`, not for a pod: every new connection goes to a pod that is ready
//! then, so that it outlives any pod. While there is none, connections are closed at once.

use std::io;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long finding a pod and getting through to it may take.
const OPENING_DEADLINE: Duration = Duration::from_secs(15);

/// A port of loopback that ends with this.
pub struct Forward {
    port: u16,
    _carriers: JoinSet<()>,
}

impl Forward {
    /// To `port` of a pod whose name begins with `prefix` (`orders-heart-`).
    pub async fn open(pods: Api<Pod>, prefix: &str, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let prefix = prefix.to_owned();
        let mut carriers = JoinSet::new();
        carriers.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((near, _)) = listener.accept() => {
                        let (pods, prefix) = (pods.clone(), prefix.clone());
                        // What goes wrong shows on the near side: its connection is closed.
                        connections.spawn(async move { carry(pods, &prefix, port, near).await.ok() });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { port: own_port, _carriers: carriers }
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

async fn carry(pods: Api<Pod>, prefix: &str, port: u16, mut near: TcpStream) -> io::Result<()> {
    let opening = async {
        let list = pods.list(&ListParams::default()).await?;
        let is_usable = |pod: &&Pod| pod.name_any().starts_with(prefix) && is_running(pod);
        let best = list.iter().filter(is_usable).max_by_key(|pod| is_ready(pod));
        match best {
            Some(pod) => pods.portforward(&pod.name_any(), &[port]).await.map(Some),
            None => Ok(None),
        }
    };
    let opened = timeout(OPENING_DEADLINE, opening).await.map_err(io::Error::other)?;
    let Some(mut forwarder) = opened.map_err(io::Error::other)? else { return Ok(()) };
    let Some(mut far) = forwarder.take_stream(port) else { return Ok(()) };
    let carried = copy_bidirectional(&mut near, &mut far).await;
    forwarder.abort();
    carried.map(drop)
}

/// Whether a pod runs and is not on its way out.
pub fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

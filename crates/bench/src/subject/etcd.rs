//! etcd: a leader and its followers with their default settings, on this machine, asked as JSON through their gateway.
//!
//! An answer means that a majority has synced the write to its log and the leader has applied it.

use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broadcast_tests::processes::{Folder, Process, free_port};
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;

use crate::data::{COLLECTION, Shape};
use crate::error::{BenchError, Result};
use crate::http::Connection;
use crate::load;
use crate::machine::processor_seconds;
use crate::settings::Settings;
use crate::subject::Subject;

/// How long members may take to elect a leader, and followers to apply what the leader has.
const PATIENCE: Duration = Duration::from_mins(5);

/// It keeps every version of a value; what it takes by default is 2 GB.
const ROOM_BYTES: u64 = 8 << 30;

/// The members. All end when this is dropped.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    /// Where the leader answers.
    leader: u16,
    // The last to go: the processes write into it.
    _folder: Folder,
}

#[derive(Debug)]
struct Member {
    process: Process,
    client: u16,
}

/// A client of the leader, for single writes.
#[derive(Debug)]
pub struct EtcdClient {
    connection: Connection,
    shape: Shape,
}

/// Numbers are strings, as they are wherever a 64-bit one is written as JSON.
#[derive(Debug, Deserialize)]
struct Status {
    header: Header,
    leader: String,
}

#[derive(Debug, Deserialize)]
struct Header {
    member_id: String,
    /// What the member itself has applied.
    revision: String,
}

impl Etcd {
    /// Starts so many members and waits until they have a leader.
    pub async fn start(settings: &Settings, members: u32) -> Result<Self> {
        let folder = Folder::new();
        let ports: Vec<(u16, u16)> = (0..members).map(|_| (free_port(), free_port())).collect();
        let cluster: Vec<String> =
            (1..).zip(&ports).map(|(id, (_, peer))| format!("etcd-{id}=http://127.0.0.1:{peer}")).collect();
        let cluster = cluster.join(",");
        let start = |(id, (client, peer)): (u32, &(u16, u16))| {
            let name = format!("etcd-{id}");
            let (client_url, peer_url) =
                (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut command = Command::new(&settings.etcd);
            command.arg("--data-dir").arg(folder.join(&name)).args(["--name", &name, "--log-level=warn"]);
            command.args([
                format!("--listen-client-urls={client_url}"),
                format!("--advertise-client-urls={client_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster={cluster}"),
                format!("--quota-backend-bytes={ROOM_BYTES}"),
            ]);
            let process = Process::start(&name, &mut command, &folder.join(format!("{name}.log")));
            Member { process, client: *client }
        };
        let members: Vec<Member> = (1..).zip(&ports).map(start).collect();
        let leader = find_leader(&members).await?;
        Ok(Self { members, leader, _folder: folder })
    }
}

/// The port of the member that all of them say is the leader.
async fn find_leader(members: &[Member]) -> Result<u16> {
    let started = Instant::now();
    loop {
        let mut said = Vec::new();
        for member in members {
            // One that is being started does not answer yet.
            if let Ok(status) = status(member.client).await {
                said.push((member.client, status));
            }
        }
        if said.len() == members.len()
            && let Some((port, leader)) = said.iter().find(|(_, one)| one.header.member_id == one.leader)
            && said.iter().all(|(_, one)| one.leader == leader.leader)
        {
            return Ok(*port);
        }
        if started.elapsed() > PATIENCE {
            let what = format!("etcd to have a leader; its members say {said:?}");
            return Err(BenchError::TimedOut(PATIENCE.as_secs(), what));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn status(port: u16) -> Result<Status> {
    let body = Bytes::from_static(b"{}");
    let answer = Connection::new(port).send(Method::POST, "/v3/maintenance/status", body).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// How far a member is.
async fn revision(port: u16) -> Result<u64> {
    let text = status(port).await?.header.revision;
    text.parse().map_err(|_| BenchError::Told(format!("etcd has no revision but {text:?}")))
}

impl Subject for Etcd {
    type Client = EtcdClient;

    fn client(&self, shape: Shape) -> EtcdClient {
        EtcdClient { connection: Connection::new(self.leader), shape }
    }

    async fn wait_until_applied(&self) -> Result<()> {
        let started = Instant::now();
        // The leader has applied what it answered.
        let wanted = revision(self.leader).await?;
        for member in &self.members {
            while revision(member.client).await? < wanted {
                if started.elapsed() > PATIENCE {
                    let what = format!("a member of etcd to apply {wanted}");
                    return Err(BenchError::TimedOut(PATIENCE.as_secs(), what));
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Ok(())
    }

    fn processor_seconds(&self) -> f64 {
        self.members.iter().filter_map(|member| processor_seconds(member.process.id())).sum()
    }
}

impl load::Client for EtcdClient {
    async fn call(&mut self, number: u64, _due: Instant) -> Result<()> {
        let key = STANDARD.encode(format!("{COLLECTION}/{}", self.shape.key(number)));
        let value = STANDARD.encode(self.shape.value(number));
        let body = Bytes::from(format!(r#"{{"key":"{key}","value":"{value}"}}"#));
        self.connection.send(Method::POST, "/v3/kv/put", body).await.map(drop)
    }
}

//! rqlite: a leader and its followers with their default settings, on this machine.
//!
//! An answer means that a majority has synced the write to its log and the leader has applied it. Writes go to the leader, which is the
//! fastest way: a follower would forward them.

use std::process::Command;
use std::time::{Duration, Instant};

use broadcast_tests::processes::{Folder, Process, free_port};
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;

use crate::data::{COLLECTION, Shape, TABLE};
use crate::error::{BenchError, Result, told};
use crate::http::Connection;
use crate::load;
use crate::machine::processor_seconds;
use crate::settings::Settings;
use crate::subject::Subject;

/// How long a node may take to be ready, and followers to apply what the leader has.
const PATIENCE: Duration = Duration::from_mins(5);

/// The nodes; the first is the leader. All end when this is dropped.
#[derive(Debug)]
pub struct Rqlite {
    nodes: Vec<Node>,
    /// What a request's path ends with.
    parameters: &'static str,
    /// The last to go: the processes write into it.
    folder: Folder,
}

#[derive(Debug)]
struct Node {
    process: Process,
    http: u16,
}

/// A client of the leader.
#[derive(Debug)]
pub struct RqliteClient {
    connection: Connection,
    shape: Shape,
    path: String,
}

#[derive(Deserialize)]
struct Status {
    store: Store,
}

#[derive(Deserialize)]
struct Store {
    /// What the database itself has applied; `raft.applied_index` is what was handed to it.
    fsm_index: u64,
    raft: Raft,
}

#[derive(Deserialize)]
struct Raft {
    state: String,
}

/// What it answers to statements: an error of one is no error of the request.
#[derive(Deserialize)]
struct Answer {
    results: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    error: Option<String>,
}

impl Rqlite {
    /// Starts so many nodes, waits until they are ready, and makes the table. With `transaction`, a request is all or nothing, as ours are.
    pub async fn start(settings: &Settings, nodes: u32, transaction: bool) -> Result<Self> {
        let parameters = if transaction { "?transaction" } else { "" };
        let mut rqlite = Self { nodes: Vec::new(), parameters, folder: Folder::new() };
        let leader_raft = free_port();
        for id in 1..=nodes {
            let (http, raft) = (free_port(), if id == 1 { leader_raft } else { free_port() });
            let mut command = Command::new(&settings.rqlited);
            command.args(["-node-id", &id.to_string()]);
            command.args(["-http-addr", &format!("127.0.0.1:{http}")]);
            command.args(["-raft-addr", &format!("127.0.0.1:{raft}")]);
            if id > 1 {
                command.args(["-join", &format!("127.0.0.1:{leader_raft}")]);
            }
            let name = format!("rqlite-{id}");
            command.arg(rqlite.folder.join(&name));
            let process = Process::start(&name, &mut command, &rqlite.folder.join(format!("{name}.log")));
            rqlite.nodes.push(Node { process, http });
            rqlite.wait_until_ready(http).await?;
        }
        let leader = rqlite.status(rqlite.leader().http).await?.store.raft.state;
        if leader != "Leader" {
            return told(format!("the first node of rqlite is {leader}, not the leader"));
        }
        let mut connection = Connection::new(rqlite.leader().http);
        execute(&mut connection, "/db/execute", format!(r#"["{TABLE}"]"#)).await?;
        rqlite.wait_until_applied().await?;
        Ok(rqlite)
    }

    fn leader(&self) -> &Node {
        &self.nodes[0]
    }

    /// The ports at which the nodes answer.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.http).collect()
    }

    async fn wait_until_ready(&self, port: u16) -> Result<()> {
        let started = Instant::now();
        loop {
            let answer = Connection::new(port).send(Method::GET, "/readyz", Bytes::new()).await;
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > PATIENCE => {
                    return Err(BenchError::TimedOut(
                        PATIENCE.as_secs(),
                        format!("rqlite to be ready: {error}"),
                    ));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn status(&self, port: u16) -> Result<Status> {
        Connection::new(port).get("/status").await
    }
}

impl Subject for Rqlite {
    type Client = RqliteClient;

    fn client(&self, shape: Shape) -> RqliteClient {
        let connection = Connection::new(self.leader().http);
        RqliteClient { connection, shape, path: format!("/db/execute{}", self.parameters) }
    }

    async fn wait_until_applied(&self) -> Result<()> {
        let started = Instant::now();
        // The leader has applied what it answered.
        let wanted = self.status(self.leader().http).await?.store.fsm_index;
        for node in &self.nodes {
            let mut connection = Connection::new(node.http);
            while connection.get::<Status>("/status").await?.store.fsm_index < wanted {
                if started.elapsed() > PATIENCE {
                    let what = format!("a node of rqlite to apply {wanted}");
                    return Err(BenchError::TimedOut(PATIENCE.as_secs(), what));
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Ok(())
    }

    fn processor_seconds(&self) -> f64 {
        self.nodes.iter().filter_map(|node| processor_seconds(node.process.id())).sum()
    }
}

impl load::Client for RqliteClient {
    async fn call(&mut self, number: u64, _due: Instant) -> Result<()> {
        let body = self.shape.statements_body(number);
        execute(&mut self.connection, &self.path, body).await
    }
}

async fn execute(connection: &mut Connection, path: &str, body: String) -> Result<()> {
    let answer = connection.send(Method::POST, path, Bytes::from(body)).await?;
    let Answer { results } = serde_json::from_slice(&answer)?;
    match results.into_iter().find_map(|outcome| outcome.error) {
        Some(error) => told(format!("rqlite: {error}")),
        None => Ok(()),
    }
}

/// Reads a row with the strongest consistency, through the log; it has to be this one.
pub async fn read_strong(connection: &mut Connection, key: &str, value: &str) -> Result<()> {
    let query = "SELECT value FROM documents WHERE collection = ? AND key = ?";
    let body = format!(r#"[["{query}","{COLLECTION}","{key}"]]"#);
    let answer = connection.send(Method::POST, "/db/query?level=strong", Bytes::from(body)).await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer)?;
    match &answer["results"][0]["values"][0][0] {
        serde_json::Value::String(found) if found == value => Ok(()),
        _ => told(format!("rqlite has something else under {key}: {answer}")),
    }
}

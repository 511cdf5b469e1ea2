//! What answers like hearts at the addresses that pods of hearts are said to have: an active one whose nodes are all current, and one that
//! stands by.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Where the operator asks.
const HTTP_PORT: u16 = 8080;

/// More nodes than any test has.
const NODES: u32 = 9;

/// It ends when this is dropped.
pub struct HeartStandIn {
    active: Ipv4Addr,
    _servers: JoinSet<()>,
}

impl HeartStandIn {
    /// Starts it at addresses of loopback where nobody listens.
    pub async fn start() -> Self {
        for block in 70..120 {
            let active = Ipv4Addr::new(127, block, 0, 1);
            let bound = TcpListener::bind((active, HTTP_PORT)).await;
            let (Ok(one), Ok(other)) = (bound, TcpListener::bind((standby(active), HTTP_PORT)).await) else {
                continue;
            };
            let nodes: Vec<_> = (1..=NODES)
                .map(|id| json!({"id": id, "state": "ready", "applied": 0, "lag_writes": 0, "lag_seconds": 0.0}))
                .collect();
            let mut servers = JoinSet::new();
            servers.spawn(serve(one, json!({"role": "active", "epoch": 1, "position": 0, "nodes": nodes})));
            servers.spawn(serve(other, json!({"role": "standby", "nodes": []})));
            return Self { active, _servers: servers };
        }
        panic!("port {HTTP_PORT} is taken at every address that was tried");
    }

    /// The address of a heart by its number: 0 is active, all others stand by.
    pub fn address(&self, number: i32) -> Ipv4Addr {
        if number == 0 { self.active } else { standby(self.active) }
    }

    /// An address where nobody answers.
    pub fn nobody(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.active.to_bits() + 2)
    }
}

fn standby(active: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(active.to_bits() + 1)
}

async fn serve(listener: TcpListener, answer: Value) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.to_string();
        connections.spawn(async move { drop(answer_all(stream, &answer).await) });
        while connections.try_join_next().is_some() {}
    }
}

/// Gives every request on a connection the same answer.
async fn answer_all(stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        if line == "\r\n" {
            let length = answer.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            stream.write_all((head + answer).as_bytes()).await?;
        }
        line.clear();
    }
    Ok(())
}

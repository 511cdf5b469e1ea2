//! A connection that costs the generator as little as possible: one request at a time, no pool, nothing retried.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{BenchError, Result, told};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// A connection to a port of loopback, made when it is needed.
#[derive(Debug)]
pub struct Connection {
    port: u16,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// Not connected yet.
    pub fn new(port: u16) -> Self {
        Self { port, sender: None }
    }

    /// Sends a request with a JSON body, and gives the body of the answer, which has to be 200: a heart answers 202 when what was asked
    /// for was not reached in time, or a condition did not hold.
    pub async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "127.0.0.1")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        match timeout(DEADLINE, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(BenchError::TimedOut(DEADLINE.as_secs(), format!("the answer to {path}"))),
        }
    }

    /// What is at a path.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        Ok(serde_json::from_slice(&self.send(Method::GET, path, Bytes::new()).await?)?)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes> {
        let uri = request.uri().clone();
        let answer = self.connected().await?.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        told(format!("port {}, {uri}: {status}: {}", self.port, String::from_utf8_lossy(&body)))
    }

    /// The server hangs up on a connection that is idle for long.
    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>> {
        let usable = match self.sender.take() {
            Some(mut sender) => sender.ready().await.ok().map(|()| sender),
            None => None,
        };
        let sender = match usable {
            Some(sender) => sender,
            None => connect(self.port).await?,
        };
        Ok(self.sender.insert(sender))
    }
}

async fn connect(port: u16) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with the sender; what goes wrong on it is the answer to a request.
    tokio::spawn(connection);
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection's first request with this, and hangs up.
    async fn serve(status_line: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4_096];
                let _length = stream.read(&mut request).await.unwrap();
                let answer =
                    format!("HTTP/1.1 {status_line}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n42");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn a_connection_that_the_server_closed_is_made_anew() {
        let mut connection = Connection::new(serve("200 OK").await);
        for _ in 0..3 {
            assert_eq!(connection.get::<u64>("/x").await.unwrap(), 42);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_no_success_is_an_error_that_says_so() {
        for status in ["503 Service Unavailable", "202 Accepted"] {
            let mut connection = Connection::new(serve(status).await);
            let error = connection.send(Method::POST, "/x", Bytes::new()).await.unwrap_err().to_string();
            assert!(error.contains(&format!("/x: {status}: 42")), "{error}");
        }
    }
}

//! Connecting, with a hold on the socket: an attempt that takes too long, or a connection that is dropped, is cut for good.
//!
//! The library runs each connection on a thread of its own, which a broker that accepts and then says nothing would
//! keep for ever; and what it has buffered it would still send after a time-out, long after the caller gave up.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::ConnectionProperties;
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};

use super::{AmqpError, CALL_DEADLINE, HEARTBEAT_SECONDS};
use crate::amqp_url::AmqpUrl;

/// The socket under a connection, or under an attempt. Dropping it ends the connection without a word.
#[derive(Debug, Default)]
pub(super) struct Socket(Held);

type Held = Arc<Mutex<Option<TcpStream>>>;

impl Socket {
    /// This side's address: where others that reach the broker by the same network find this process.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.as_ref()?.local_addr().ok().map(|address| address.ip())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(stream) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Not connected any more is what is wanted.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn hold(held: &Held, stream: &impl AsFd) -> io::Result<()> {
    let stream = TcpStream::from(stream.as_fd().try_clone_to_owned()?);
    *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    Ok(())
}

/// Connects within [`CALL_DEADLINE`].
pub(super) async fn connect(url: &AmqpUrl, name: &str) -> Result<(lapin::Connection, Socket), AmqpError> {
    let socket = Socket::default();
    match tokio::time::timeout(CALL_DEADLINE, open(url, name, Arc::clone(&socket.0))).await {
        Ok(Ok(connection)) => Ok((connection, socket)),
        Ok(Err(error)) => Err(AmqpError::of_connect(url, &error)),
        Err(_) => {
            let text = format!("no answer within {}s", CALL_DEADLINE.as_secs());
            Err(AmqpError::Unreachable { address: url.address(), text })
        }
    }
}

async fn open(url: &AmqpUrl, name: &str, held: Held) -> lapin::Result<lapin::Connection> {
    let mut uri = url.uri();
    uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
    let host = (uri.authority.host.as_str(), uri.authority.port);
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(host).await?.collect();
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    let reactor = runtime.clone();
    let connect = async move |uri: AMQPUri, _| {
        let stream = AsyncTcpStream::connect(&reactor, addresses.clone()).await?;
        if let AsyncTcpStream::Plain(stream) = &stream {
            hold(&held, stream.get_ref())?;
        }
        match uri.scheme {
            AMQPScheme::AMQP => Ok(stream),
            AMQPScheme::AMQPS => {
                let tls = OwnedTLSConfig::default();
                Ok(stream.into_tls(&uri.authority.host, tls.as_ref()).await?)
            }
        }
    };
    lapin::Connection::connector(uri, runtime, connect, properties).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_attempt_that_is_given_up_leaves_no_connection_to_a_broker_that_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: AmqpUrl = format!("amqp://{}/%2f", listener.local_addr().unwrap()).parse().unwrap();
        let attempt = tokio::spawn(async move { connect(&url, "test").await.map(|_| ()) });
        let (mut broker, _) = listener.accept().await.unwrap();
        let mut header = [0; 8];
        broker.read_exact(&mut header).await.unwrap();
        assert_eq!(&header, b"AMQP\0\0\x09\x01");
        attempt.abort();
        let end = tokio::time::timeout(Duration::from_secs(10), broker.read(&mut header)).await.unwrap();
        assert_eq!(end.unwrap(), 0, "the socket is closed");
    }
}

//! Connecting, with a hold on the socket: an attempt that takes too long, or a connection that is dropped, is cut for good.
//!
//! The library runs each connection on a thread of its own, which a broker that accepts and then says nothing would
//! keep for ever; and what it has buffered it would still send after a time-out, long after the caller gave up.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::ConnectionProperties;
use lapin::tcp::AsyncTcpStream;

use super::{AmqpError, CALL_DEADLINE, HEARTBEAT_SECONDS};
use crate::amqp_url::AmqpUrl;

/// The socket under a connection, or under an attempt. Dropping it ends the connection without a word, whatever it
/// carries: TLS or none, established or half of a handshake.
#[derive(Debug, Default)]
pub(super) struct Socket(Arc<Held>);

#[derive(Debug, Default)]
struct Held(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    Open(TcpStream),
    /// Nobody waits for it any more.
    GivenUp,
}

impl Socket {
    /// This side's address: where others that reach the broker by the same network find this process.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        match &*self.0.state() {
            State::Open(stream) => stream.local_addr().ok().map(|address| address.ip()),
            State::None | State::GivenUp => None,
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let State::Open(stream) = std::mem::replace(&mut *self.0.state(), State::GivenUp) {
            // Not connected any more is what is wanted.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Held {
    /// Takes hold of a socket. An error when it comes too late: its connection must not go on.
    fn hold(&self, stream: &impl AsFd) -> io::Result<()> {
        let mut state = self.state();
        if matches!(*state, State::GivenUp) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        *state = State::Open(TcpStream::from(stream.as_fd().try_clone_to_owned()?));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

async fn open(url: &AmqpUrl, name: &str, held: Arc<Held>) -> lapin::Result<lapin::Connection> {
    let mut uri = url.uri();
    uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
    let host = (uri.authority.host.as_str(), uri.authority.port);
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(host).await?.collect();
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    let reactor = runtime.clone();
    let tls = url.tls().cloned();
    let connect = async move |_, _| {
        let stream = AsyncTcpStream::connect(&reactor, addresses.clone()).await?;
        if let AsyncTcpStream::Plain(stream) = &stream {
            held.hold(stream.get_ref())?;
        }
        match &tls {
            None => Ok(stream),
            Some(tls) => Ok(stream.into_rustls(tls.connector(), tls.server_name()).await?),
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
        // A protocol header, and the beginning of a TLS handshake.
        for (scheme, first) in [("amqp", b"AMQP\0\0\x09\x01".as_slice()), ("amqps", b"\x16\x03\x01")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("{scheme}://{}/%2f", listener.local_addr().unwrap());
            let url: AmqpUrl = url.parse().unwrap();
            let attempt = tokio::spawn(async move { connect(&url, "test").await.map(|_| ()) });
            let (mut broker, _) = listener.accept().await.unwrap();
            let mut sent = vec![0; first.len()];
            broker.read_exact(&mut sent).await.unwrap();
            assert_eq!(sent, first);
            attempt.abort();
            let rest = tokio::time::timeout(Duration::from_secs(10), broker.read_to_end(&mut sent));
            assert!(rest.await.unwrap().is_ok(), "the socket is closed");
        }
    }

    #[test]
    fn a_socket_that_comes_after_its_attempt_was_given_up_is_not_used() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Socket::default();
        let held = Arc::clone(&socket.0);
        assert!(held.hold(&stream).is_ok());
        drop(socket);
        assert_eq!(held.hold(&stream).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}

//! A TCP proxy that does on purpose what networks do: it stands between one process and its broker, and loses nothing but what it was
//! told to lose. As with TCP itself, a stream never has a hole: a connection that lost bytes carries nothing afterwards.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::processes::free_port;
use crate::report::{Counted, count};

/// How much is read at a time.
const PIECE: usize = 16 << 10;

/// A throttled direction forwards a share of its bytes a second this often.
const SHARES_PER_SECOND: u32 = 20;

/// What happens to connections and to what they carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing does.
    #[default]
    None,
    /// None is there, and none is accepted.
    Refuse,
    /// Every piece arrives this much later.
    Delay(Duration),
    /// Each direction carries at most this many bytes a second.
    Throttle(u32),
    /// Connections are accepted and stay, but nothing gets through until this ends; then everything does.
    Hold,
    /// Connections that have carried these bytes to the broker stay, but nothing comes back any more until this ends; then everything does.
    Mute(&'static [u8]),
    /// What goes in this direction is lost. A connection that lost something ends when this ends.
    Lose(Direction),
}

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the process to the broker.
    ToBroker,
    /// From the broker to the process.
    FromBroker,
}

/// A proxy. Its connections end when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    server: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    fault: Fault,
    cuts: usize,
}

impl Proxy {
    /// A proxy on a port of its own for the server at this port of loopback.
    pub fn start(server: u16) -> Self {
        let port = free_port();
        let (state, follower) = watch::channel(State::default());
        Self { port, state, server: tokio::spawn(serve(port, server, follower)) }
    }

    /// Where it listens on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on this happens, to the connections that are there as well.
    pub fn set(&self, fault: Fault) {
        count(Counted::Faults, usize::from(fault != Fault::None));
        self.state.send_modify(|state| state.fault = fault);
    }

    /// Ends every connection that is there now.
    pub fn cut(&self) {
        count(Counted::Faults, 1);
        self.state.send_modify(|state| state.cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(port: u16, server: u16, mut state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    while until(&mut state, |state| state.fault != Fault::Refuse).await {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.unwrap_or_else(|error| panic!("the proxy cannot listen at {port}: {error}"));
        loop {
            tokio::select! {
                _ = until(&mut state, |state| state.fault == Fault::Refuse) => break,
                Ok((client, _)) = listener.accept() => drop(connections.spawn(carry(client, server, state.clone()))),
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// Waits until the state is so; false when nobody changes it any more.
async fn until(state: &mut watch::Receiver<State>, is_so: impl FnMut(&State) -> bool) -> bool {
    state.wait_for(is_so).await.is_ok()
}

async fn carry(client: TcpStream, server: u16, mut state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    // A server that is not there closes the client's connection, as it would without a proxy.
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
    for stream in [&client, &server] {
        let _only_slower = stream.set_nodelay(true);
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let is_mute = Arc::new(AtomicBool::new(false));
    let (direction, asked) = (Direction::ToBroker, Arc::clone(&is_mute));
    let there = Pump { direction, from: from_client, to: to_server, is_mute: asked };
    let back = Pump { direction: Direction::FromBroker, from: from_server, to: to_client, is_mute };
    let (state_there, state_back) = (state.clone(), state.clone());
    tokio::select! {
        _ = there.run(state_there) => {}
        _ = back.run(state_back) => {}
        _ = until(&mut state, |state| state.cuts != cuts || state.fault == Fault::Refuse) => {}
    }
}

struct Pump {
    direction: Direction,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    /// Whether this connection has carried what makes it mute.
    is_mute: Arc<AtomicBool>,
}

impl Pump {
    /// Forwards until the connection has to end.
    async fn run(mut self, mut state: watch::Receiver<State>) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            // The end of the stream does not get through either while nothing does.
            let length = self.from.read(&mut buffer).await.unwrap_or(0);
            until(&mut state, |state| !self.is_held(state.fault)).await;
            let fault = state.borrow().fault;
            if fault == Fault::Lose(self.direction) {
                return self.lose(buffer, state).await;
            }
            if length == 0 {
                return Ok(());
            }
            if let (Direction::ToBroker, Fault::Mute(question)) = (self.direction, fault)
                && buffer[..length].windows(question.len()).any(|bytes| bytes == question)
            {
                self.is_mute.store(true, Ordering::Relaxed);
            }
            self.forward(&buffer[..length], fault).await?;
        }
    }

    fn is_held(&self, fault: Fault) -> bool {
        match fault {
            Fault::Hold => true,
            Fault::Mute(_) => self.direction == Direction::FromBroker && self.is_mute.load(Ordering::Relaxed),
            _ => false,
        }
    }

    async fn forward(&mut self, piece: &[u8], fault: Fault) -> io::Result<()> {
        match fault {
            Fault::Throttle(bytes) => {
                let share = usize::try_from(bytes / SHARES_PER_SECOND).unwrap_or(usize::MAX).max(1);
                for share in piece.chunks(share) {
                    sleep(Duration::from_secs(1) / SHARES_PER_SECOND).await;
                    self.to.write_all(share).await?;
                }
                Ok(())
            }
            Fault::Delay(delay) => {
                sleep(delay).await;
                self.to.write_all(piece).await
            }
            _ => self.to.write_all(piece).await,
        }
    }

    /// Reads and forgets for as long as this is the fault.
    async fn lose(mut self, mut buffer: Vec<u8>, mut state: watch::Receiver<State>) -> io::Result<()> {
        let direction = self.direction;
        let mut is_over = std::pin::pin!(until(&mut state, |state| state.fault != Fault::Lose(direction)));
        loop {
            tokio::select! {
                _ = &mut is_over => return Ok(()),
                length = self.from.read(&mut buffer) => if length.unwrap_or(0) == 0 {
                    is_over.await;
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

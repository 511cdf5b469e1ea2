//! Connections between clients and the broker: each direction keeps its order, and loses its end when it is cut.

use crate::agenda::{Actor, Event, Time};
use crate::broker::{Reply, Request};
use crate::context::Context;

/// A connection; no number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Conn(pub(crate) usize);

/// How long a peer that says nothing is believed to live: two heartbeats and a bit.
pub(crate) const HEARTBEAT: Time = 10_000;

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) owner: Actor,
    to_broker: Direction,
    to_client: Direction,
    /// As the broker sees it.
    is_open: bool,
}

#[derive(Debug, Default)]
struct Direction {
    /// When the last thing sent arrives.
    last: Time,
    is_cut: bool,
}

impl Context {
    /// A new connection; the broker knows nothing of it yet.
    pub(crate) fn connect(&mut self, owner: Actor) -> Conn {
        let [to_broker, to_client] = [Direction::default(), Direction::default()];
        self.links.push(Link { owner, to_broker, to_client, is_open: false });
        Conn(self.links.len() - 1)
    }

    pub(crate) fn send(&mut self, conn: Conn, request: Request) {
        let at = self.now + self.latency();
        let link = &mut self.links[conn.0].to_broker;
        link.last = link.last.max(at);
        let at = link.last;
        self.plan_at(at, Event::ToBroker(conn, request));
    }

    pub(crate) fn reply(&mut self, conn: Conn, reply: Reply) {
        let at = self.now + self.latency();
        let link = &mut self.links[conn.0].to_client;
        link.last = link.last.max(at);
        let at = link.last;
        self.plan_at(at, Event::ToClient(conn, reply));
    }

    pub(crate) fn set_open(&mut self, conn: Conn, is_open: bool) {
        self.links[conn.0].is_open = is_open;
    }

    /// Whether the broker still listens.
    pub(crate) fn is_open(&self, conn: Conn) -> bool {
        self.links[conn.0].is_open
    }

    /// Whether what was sent to the broker arrives there.
    pub(crate) fn reaches_broker(&self, conn: Conn) -> bool {
        !self.links[conn.0].to_broker.is_cut
    }

    pub(crate) fn reaches_client(&self, conn: Conn) -> bool {
        !self.links[conn.0].to_client.is_cut
    }

    pub(crate) fn owner(&self, conn: Conn) -> Actor {
        self.links[conn.0].owner
    }

    /// The client is gone. What it had sent may still arrive, or not; the broker may notice at once, or when heartbeats
    /// are missing.
    pub(crate) fn abandon(&mut self, conn: Conn) {
        let (loses, is_silent) = (self.rng.chance(500), self.rng.chance(150));
        let until = self.links[conn.0].to_broker.last.max(self.now);
        let link = &mut self.links[conn.0];
        link.to_client.is_cut = true;
        link.to_broker.is_cut |= loses;
        let noticed = if is_silent { self.rng.within(1_000, HEARTBEAT) } else { self.rng.within(0, 5) };
        self.plan_at(until + noticed, Event::Close(conn));
    }

    /// The network between the two is gone: both learn of it, sooner or later.
    pub(crate) fn cut(&mut self, conn: Conn) {
        let loses = [self.rng.chance(700), self.rng.chance(700)];
        let until = self.links[conn.0].to_broker.last.max(self.now);
        let back = self.links[conn.0].to_client.last.max(self.now);
        let link = &mut self.links[conn.0];
        link.to_broker.is_cut |= loses[0];
        link.to_client.is_cut |= loses[1];
        let longest = if self.rng.chance(700) { 50 } else { HEARTBEAT };
        let (broker, client) = (self.rng.within(0, longest), self.rng.within(0, longest));
        self.plan_at(until + broker, Event::Close(conn));
        self.plan_at(back + client, Event::Lost(conn));
    }

    /// The broker is gone: its clients learn of it.
    pub(crate) fn cut_by_broker(&mut self, conn: Conn) {
        let loses = self.rng.chance(500);
        let link = &mut self.links[conn.0];
        link.to_broker.is_cut = true;
        link.to_client.is_cut |= loses;
        let back = link.to_client.last.max(self.now);
        let later = self.rng.within(0, 50);
        self.plan_at(back + later, Event::Lost(conn));
    }
}

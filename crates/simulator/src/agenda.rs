//! What happens when: events in the order of their times, those of one time in the order in which they were planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use broadcast_protocol::envelope::WriteMessage;

use crate::broker::{Letter, Reply, Request};
use crate::client::Submission;
use crate::database::Snapshot;
use crate::network::Conn;

/// Simulated time, in milliseconds.
pub(crate) type Time = u64;

/// Something that happens at its time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request arrives at the broker.
    ToBroker(Conn, Request),
    /// A reply arrives at a client.
    ToClient(Conn, Reply),
    /// A client learns that its connection is gone.
    Lost(Conn),
    /// The broker learns that a connection is gone.
    Close(Conn),
    /// A published message arrives at one of its queues.
    Route(u64),
    /// The broker removes the lock of a connection that is gone.
    Unlock(Conn),
    /// The broker is up again.
    BrokerUp,
    /// A node's report or tip arrives at the broker.
    Letter(Letter),
    /// A heart's process starts.
    HeartUp(usize),
    /// A heart looks at the time, if its session is still this one.
    HeartTimer(usize, u64),
    /// Requests of clients arrive at a heart.
    Submit(usize, Submission),
    /// A pod's process starts.
    PodUp(usize),
    /// Something of a pod's own, if its session is still this one.
    Pod(usize, u64, PodEvent),
    /// A node's reporter looks at the status, if the process is still this one.
    Report(usize, u64),
    /// A stopped process goes on.
    Resume(Actor),
    /// A client does something.
    Client(usize),
    /// The next fault.
    Fault,
    /// The operator, or a human, looks at the cluster.
    Operate,
    /// A drifted object is put right again by whoever made it drift.
    Mend(Mend),
}

/// What happens inside of a pod.
#[derive(Debug)]
pub(crate) enum PodEvent {
    /// A delay is over.
    Wake,
    /// Peers are asked now.
    Ask,
    /// Peers have answered: their log, or nobody has it, or only as a snapshot.
    Fetched(Fetched),
    /// The snapshot is here.
    Snapshot(Option<Box<Snapshot>>),
    /// The transaction is committed, or fails.
    Commit,
    /// What was committed is acknowledged.
    Settle,
    /// Nothing came for a while.
    Silence,
}

/// What peers answered to the question for their log.
#[derive(Debug)]
pub(crate) enum Fetched {
    Messages(Vec<WriteMessage>),
    /// `has_node` says that a node said so, and not only a heart.
    OutOfReach {
        has_node: bool,
    },
    Nobody,
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    Heart(usize),
    Pod(usize),
}

/// What ends by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mend {
    /// Peers reach each other again.
    Peers,
    /// The database of a node works again.
    Disk(u32),
    /// The second pod of a node ends.
    SecondPod(usize),
}

#[derive(Debug)]
struct Planned {
    at: Time,
    number: u64,
    event: Event,
}

impl Ord for Planned {
    /// The earliest is the greatest: that is what a heap gives first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Planned {}

/// All that is to happen.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    planned: BinaryHeap<Planned>,
    number: u64,
}

impl Agenda {
    pub(crate) fn plan(&mut self, at: Time, event: Event) {
        self.number += 1;
        self.planned.push(Planned { at, number: self.number, event });
    }

    pub(crate) fn next(&mut self) -> Option<(Time, Event)> {
        self.planned.pop().map(|planned| (planned.at, planned.event))
    }
}

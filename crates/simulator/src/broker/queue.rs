//! One queue.

use std::collections::{BTreeMap, VecDeque};

use super::Payload;
use crate::network::Conn;

#[derive(Debug)]
pub(crate) struct Entry {
    /// Its place in the queue.
    order: u64,
    pub(crate) payload: Payload,
    /// What it was published as.
    pub(crate) publish: Option<u64>,
    pub(crate) deliveries: u32,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) ready: VecDeque<Entry>,
    pub(crate) unsettled: BTreeMap<(Conn, u64), Entry>,
    /// The first one is active.
    pub(crate) consumers: Vec<Conn>,
    pub(crate) is_bound: bool,
    /// The oldest is dropped when there are more.
    length: usize,
    next: u64,
}

impl Queue {
    pub(super) fn new(length: usize) -> Self {
        Self {
            ready: VecDeque::new(),
            unsettled: BTreeMap::new(),
            consumers: Vec::new(),
            is_bound: false,
            length,
            // Room for what goes back to the front.
            next: 1 << 32,
        }
    }

    /// Appends a message, and gives the one that is dropped for it.
    pub(crate) fn push(&mut self, payload: Payload, publish: Option<u64>) -> Option<Entry> {
        self.next += 1;
        self.ready.push_back(Entry { order: self.next, payload, publish, deliveries: 0 });
        if self.ready.len() > self.length { self.ready.pop_front() } else { None }
    }

    /// Takes back what was not settled, and gives those that are dropped for it.
    pub(super) fn give_back(&mut self, entries: Vec<Entry>, at_tail: bool) -> Vec<Entry> {
        for mut entry in entries {
            if at_tail {
                self.next += 1;
                entry.order = self.next;
            }
            let place = self.ready.partition_point(|other| other.order < entry.order);
            self.ready.insert(place, entry);
        }
        // What was out does not count for the length.
        let too_many = self.ready.len().saturating_sub(self.length);
        self.ready.drain(..too_many).collect()
    }

    pub(super) fn unsettled_of(&self, conn: Conn) -> Vec<(Conn, u64)> {
        self.unsettled.range((conn, 0)..=(conn, u64::MAX)).map(|(key, _)| *key).collect()
    }

    pub(crate) fn payloads(&self) -> impl Iterator<Item = &Payload> {
        self.ready.iter().chain(self.unsettled.values()).map(|entry| &entry.payload)
    }

    pub(super) fn entries_mut(&mut self) -> &mut VecDeque<Entry> {
        &mut self.ready
    }
}

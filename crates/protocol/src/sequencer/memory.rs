//! What a heart remembers from one session with the broker to the next.
//!
//! A heart that lives through the loss of every queue still has what it confirmed, up to a bound: it serves that to
//! nodes as any peer does, and it claims the position in the next take-over.

use std::collections::{BTreeSet, VecDeque};

use super::StaleHead;
use crate::envelope::{Link, WriteMessage};
use crate::names::NodeId;
use crate::report::Claim;

/// What outlives a session.
#[derive(Debug)]
pub struct Memory {
    /// Whether an empty head queue is the beginning of the history. Not after a reign: then it was lost.
    pub genesis: bool,
    /// The cluster's nodes; without a list, those that report are the cluster.
    pub members: Option<BTreeSet<NodeId>>,
    /// A human's word that everything from this sequence number on may be lost.
    pub(super) accepted_loss: Option<u64>,
    /// What a node said that contradicted a head. The next take-over would find the same head.
    pub contradiction: Option<StaleHead>,
    /// Whether the next take-over has to go back to what nodes have applied: the loss of the rest was accepted.
    pub is_cut_short: bool,
    /// What this heart confirmed.
    pub retained: Retained,
    /// Whether this heart has begun a reign with the accepted loss: a human's word is for one time.
    pub(super) is_spent: bool,
}

/// The newest messages that this heart confirmed, each continuing the one before.
#[derive(Debug)]
pub struct Retained {
    messages: VecDeque<WriteMessage>,
    bytes: usize,
    limit: usize,
    confirmed: Option<Claim>,
}

/// What follows a position.
#[derive(Debug, PartialEq, Eq)]
pub enum RetainedAfter<T> {
    /// These messages: none at the end.
    Messages(T),
    /// The next message is not kept any more, or was never this heart's.
    Gone {
        /// The first sequence number that is kept.
        oldest: Option<u64>,
    },
}

impl Memory {
    /// What a new process knows. `retained_bytes` bounds what is kept of confirmed messages.
    pub fn new(genesis: bool, retained_bytes: usize) -> Self {
        Self {
            genesis,
            members: None,
            accepted_loss: None,
            contradiction: None,
            is_cut_short: false,
            is_spent: false,
            retained: Retained {
                messages: VecDeque::new(),
                bytes: 0,
                limit: retained_bytes,
                confirmed: None,
            },
        }
    }

    /// What a heart that stands by tells the active one.
    pub fn claim(&self) -> Option<Claim> {
        self.retained.confirmed
    }

    /// A reign begins with this link, confirmed: whatever was in question before is settled. `before` leads to it.
    pub fn begin_reign(&mut self, link: Link, before: Vec<WriteMessage>) {
        (self.genesis, self.contradiction, self.is_cut_short) = (false, None, false);
        let (term, end) = (link.term(), Claim::new(link.term(), link.position()));
        if term.cut.epoch == term.epoch && self.accepted_loss == Some(term.cut.last + 1) {
            self.is_spent = true;
        }
        let mut messages = before;
        if let Link::Write(message) = link {
            messages.push(message);
        }
        let known = self.retained.confirmed.map(|end| end.position);
        let first_new =
            messages.iter().position(|message| Some(message.position) == known).map_or(0, |at| at + 1);
        for message in messages.drain(first_new..) {
            self.retained.push(message);
        }
        self.retained.confirm(end);
    }

    /// A human accepts the loss of everything from a sequence number on, or no loss.
    pub fn accept_loss(&mut self, from: Option<u64>) {
        if from != self.accepted_loss {
            (self.accepted_loss, self.is_spent) = (from, false);
        }
    }

    /// The sequence number from which on everything may be lost, unless that word has been used.
    pub(super) fn accepted(&self) -> Option<u64> {
        self.accepted_loss.filter(|_| !self.is_spent)
    }

    /// Whether a human accepts this very loss, and has not done so before.
    pub fn accepts(&self, lost: u64) -> bool {
        self.accepted() == Some(lost)
    }
}

impl Retained {
    /// The last position that this heart confirmed, and the epoch that it did so in.
    pub fn confirmed(&self) -> Option<Claim> {
        self.confirmed
    }

    /// The last message, when it is the one that ended at the confirmed position.
    pub fn last(&self) -> Option<&WriteMessage> {
        self.messages.back().filter(|last| self.confirmed.is_some_and(|end| end.position == last.position))
    }

    /// Takes a message that the broker has confirmed. One that does not continue what is kept begins anew.
    pub fn push(&mut self, message: WriteMessage) {
        let claim = Claim::new(message.term, message.position);
        match self.confirmed.replace(claim).map(|end| end.position) {
            Some(end) if end == message.position => return,
            Some(end) if end != message.previous => self.forget_through(u64::MAX),
            _ => {}
        }
        self.bytes += message.body().len();
        self.messages.push_back(message.without_decoded());
        while self.bytes > self.limit {
            self.pop();
        }
    }

    /// Takes note of a position that the broker has confirmed without its content.
    pub fn confirm(&mut self, end: Claim) {
        if self.messages.back().is_some_and(|last| last.position != end.position) {
            self.forget_through(u64::MAX);
        }
        self.confirmed = Some(end);
    }

    /// Forgets what every node has applied.
    pub fn forget_through(&mut self, last: u64) {
        while self.messages.front().is_some_and(|first| first.position.last <= last) {
            self.pop();
        }
    }

    /// The messages after a position, oldest first.
    pub fn after(&self, last: u64) -> RetainedAfter<impl Iterator<Item = &WriteMessage>> {
        let end = self.confirmed.map_or(0, |end| end.position.last);
        let start = self.messages.partition_point(|message| message.position.last <= last);
        match self.messages.get(start) {
            Some(next) if next.previous.last <= last => {
                RetainedAfter::Messages(self.messages.iter().skip(start))
            }
            None if last >= end => RetainedAfter::Messages(self.messages.iter().skip(start)),
            _ => RetainedAfter::Gone { oldest: self.messages.front().map(|message| message.first) },
        }
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.messages.pop_front() {
            self.bytes -= oldest.body().len();
        }
    }
}

#[cfg(test)]
mod tests;

//! From holding the lock to reigning: find where the history ends, publish that end again under a new epoch, and only
//! then begin.
//!
//! The end is what the head queue says, unless that is empty, contradicted by what a node or this heart knows, or of an
//! unfinished sealing: then the nodes say it ([`Testimony`]). Nothing that the head queue gave is acknowledged before the new
//! end is confirmed, so a heart that dies anywhere in here leaves the next one able to find the same.
//!
//! The caller does what [`TakeOver::next`] needs and tells what came of it; while it waits, it passes on what
//! the inbox brings. Times are in milliseconds on any clock that never goes back.

use std::collections::VecDeque;

use super::memory::Memory;
use super::seal::{Testimony, Unsealed};
use super::{Reign, StaleHead, later};
use crate::cut::Cut;
use crate::envelope::{Link, Mark, Message, Seal, Term, WriteMessage};
use crate::names::NodeId;
use crate::report::{Claim, Report};

/// How long an empty head queue may be about to get back what a dead heart had taken from it, in milliseconds.
const EMPTY_MAY_PASS_WITHIN: u64 = 2_000;

/// How long to wait before an empty head queue is looked at again.
const LOOK_AGAIN_AFTER: u64 = 100;

/// How long a heart listens for nodes that know better before it begins a history; they report every second.
const LISTEN_BEFORE_GENESIS: u64 = 2_000;

/// How long a heart listens for nodes and other hearts before it believes that no more will come. They pause for up to 5 s
/// between two sessions with the broker.
const LISTEN_BEFORE_SEALED: u64 = 6_000;

/// How often a seal is published.
const SEAL_EVERY: u64 = 500;

/// What is kept of the messages that the head queue gives, in bytes.
const MAX_TAKEN_BYTES: usize = 64 << 20;

/// What has to be done next. `T` names a delivery of the head queue.
#[derive(Debug)]
pub enum Need<T> {
    /// Take one message from the head queue, without acknowledging it, and tell [`TakeOver::took`].
    Take,
    /// Put this mark into the head queue alone, wait for the confirm and tell [`TakeOver::confirmed`].
    Begin(Mark),
    /// Publish this through the exchange, wait for the confirm and tell [`TakeOver::confirmed`].
    Publish(Message),
    /// Wait until this time, or for something from the inbox.
    Wait(u64),
    /// Reign.
    Reign {
        /// The reign.
        reign: Reign,
        /// What it begins with, for [`Memory::begin_reign`].
        link: Link,
        /// The messages before it that are at hand, each continuing the one before, for [`Memory::begin_reign`].
        before: Vec<WriteMessage>,
        /// What was taken from the head queue, up to this delivery, may be acknowledged.
        ack: Option<T>,
    },
}

/// A heart that holds the lock and does not reign yet.
#[derive(Debug)]
pub struct TakeOver<T> {
    cluster: String,
    nonce: u64,
    phase: Phase,
    testimony: Testimony,
    taken: Option<T>,
    latest: Option<Link>,
    /// The newest messages that the head queue gave. They may be in no node's queue any more.
    writes: VecDeque<WriteMessage>,
    /// The highest epoch that a seal in the head queue names.
    sealing: u64,
}

#[derive(Debug)]
enum Phase {
    Reading { since: u64, again: u64 },
    Listening { until: u64 },
    Beginning { mark: Mark },
    Sealing { since: u64, number: u64, again: u64, open: Unsealed },
    Publishing { link: Link, confirmed: bool },
}

impl<T: Copy> TakeOver<T> {
    /// `nonce` is a random number, `now` the time at which the lock was got.
    pub fn new(cluster: &str, nonce: u64, now: u64) -> Self {
        Self {
            cluster: cluster.to_owned(),
            nonce,
            phase: Phase::Reading { since: now, again: now },
            testimony: Testimony::new(nonce),
            taken: None,
            latest: None,
            writes: VecDeque::new(),
            sealing: 0,
        }
    }

    /// What to do next. `at` is in milliseconds since the Unix epoch.
    pub fn next(&mut self, memory: &Memory, now: u64, at: u64) -> Need<T> {
        match &mut self.phase {
            Phase::Reading { again, .. } if *again > now => Need::Wait(*again),
            Phase::Reading { .. } => Need::Take,
            Phase::Listening { until } if *until > now && self.testimony.is_blank() => Need::Wait(*until),
            // Nobody may be away where it is known who there is.
            Phase::Listening { until }
                if !self.testimony.is_blank() || !self.testimony.has_heard_all(memory) =>
            {
                let since = *until - LISTEN_BEFORE_GENESIS;
                self.seal(since);
                self.next(memory, now, at)
            }
            Phase::Listening { .. } => {
                let mark = Mark::genesis(&self.cluster, at);
                self.phase = Phase::Beginning { mark: mark.clone() };
                Need::Begin(mark)
            }
            Phase::Beginning { mark } => Need::Begin(mark.clone()),
            Phase::Sealing { .. } => self.next_of_sealing(memory, now, at),
            Phase::Publishing { link, confirmed: false } => Need::Publish(Message::Link(link.clone())),
            Phase::Publishing { link, confirmed: true } => {
                let link = link.clone();
                let reign = Reign::new(&self.cluster, link.term(), link.position());
                Need::Reign { reign, before: self.find_before(&link), link, ack: self.taken }
            }
        }
    }

    /// The head queue gave a message of the chain.
    pub fn took(&mut self, delivery: T, message: Option<Message>) {
        self.taken = Some(delivery);
        match message {
            Some(Message::Link(link)) => {
                self.testimony.meet(link.term().epoch, link.term().cut);
                if let Link::Write(message) = &link {
                    self.keep(message.clone());
                }
                self.latest = Some(match self.latest.take() {
                    Some(other) => later(other, link),
                    None => link,
                });
            }
            Some(Message::Seal(seal)) => self.sealing = self.sealing.max(seal.epoch),
            None => {}
        }
    }

    /// The head queue had nothing more to give.
    pub fn took_nothing(&mut self, memory: &Memory, now: u64, at: u64) {
        let Phase::Reading { since, .. } = self.phase else { return };
        if self.taken.is_none() && now < since + EMPTY_MAY_PASS_WITHIN {
            self.phase = Phase::Reading { since, again: now + LOOK_AGAIN_AFTER };
            return;
        }
        let known = memory.retained.confirmed();
        // What this heart knows is not always in the head queue, nor with any node: its log may give it to them yet.
        if let Some(own) = known {
            self.testimony.meet(own.epoch, own.cut);
        }
        let contradicting = memory.contradiction.map_or(0, |seen| seen.epoch);
        self.testimony.meet(self.sealing.max(contradicting), Cut::default());
        match self.latest.take() {
            Some(link) if self.is_the_end(&link, memory) => {
                let link = refreshed(link, at).with_term(self.testimony.next_term());
                self.phase = Phase::Publishing { link, confirmed: false };
            }
            None if memory.genesis && known.is_none() && self.sealing == 0 => {
                self.phase = Phase::Listening { until: now + LISTEN_BEFORE_GENESIS };
            }
            _ => self.seal(now),
        }
    }

    /// The broker confirmed what was published.
    pub fn confirmed(&mut self, at: u64) {
        match &mut self.phase {
            Phase::Beginning { mark } => {
                let link = refreshed(Link::Mark(mark.clone()), at).with_term(Term::new(1, self.nonce));
                self.phase = Phase::Publishing { link, confirmed: false };
            }
            Phase::Publishing { confirmed, .. } => *confirmed = true,
            // A seal's confirm says nothing of who has met it.
            Phase::Reading { .. } | Phase::Listening { .. } | Phase::Sealing { .. } => {}
        }
    }

    /// A node's report.
    pub fn hear(&mut self, report: &Report) {
        let number = if let Phase::Sealing { number, .. } = self.phase { number } else { 0 };
        self.testimony.hear(report, number);
    }

    /// A node's tip.
    pub fn hear_tip(&mut self, node: NodeId, tip: WriteMessage) {
        self.testimony.hear_tip(node, tip);
    }

    /// What a heart that stands by has confirmed in its time.
    pub fn hear_claim(&mut self, claim: Claim) {
        self.testimony.hear_claim(claim);
    }

    /// Why the end of the history is not known, while that is so.
    pub fn open(&self) -> Option<&Unsealed> {
        if let Phase::Sealing { open, .. } = &self.phase { Some(open) } else { None }
    }

    /// Whether the head queue's end is the history's.
    fn is_the_end(&self, link: &Link, memory: &Memory) -> bool {
        let (epoch, last) = (link.term().epoch, link.position().last);
        let fits = |other_epoch: u64, other_last: u64| other_epoch <= epoch && other_last <= last;
        // A seal that nothing was published after belongs to a sealing which did not end.
        self.sealing <= epoch
            && !memory.is_cut_short
            && memory
                .retained
                .confirmed()
                .is_none_or(|own| fits(own.epoch, own.position.last) || link.term().cut.gives_up(own))
            && memory.contradiction.is_none_or(|StaleHead { epoch, last, .. }| fits(epoch, last))
    }

    fn keep(&mut self, message: WriteMessage) {
        self.writes.push_back(message.without_decoded());
        let mut bytes: usize = self.writes.iter().map(|message| message.body().len()).sum();
        while bytes > MAX_TAKEN_BYTES {
            let Some(oldest) = self.writes.pop_front() else { break };
            bytes -= oldest.body().len();
        }
    }

    /// The messages that lead to the link, oldest first.
    fn find_before(&self, link: &Link) -> Vec<WriteMessage> {
        let mut before = VecDeque::new();
        let mut reached = match link {
            Link::Write(message) => message.previous,
            Link::Mark(mark) => mark.position,
        };
        while let Some(message) = self.writes.iter().find(|message| message.position == reached) {
            reached = message.previous;
            before.push_front(message.clone());
        }
        before.into()
    }

    fn seal(&mut self, since: u64) {
        let open = Unsealed { unanswered: Vec::new(), best: 0 };
        self.phase = Phase::Sealing { since, number: 0, again: since, open };
    }

    fn next_of_sealing(&mut self, memory: &Memory, now: u64, at: u64) -> Need<T> {
        let Phase::Sealing { since, number, again, open } = &mut self.phase else { return Need::Wait(now) };
        let heard_out = *since + LISTEN_BEFORE_SEALED;
        let decided = self.testimony.decide(&self.cluster, memory, at);
        match decided {
            Ok(link) if now >= heard_out => {
                self.phase = Phase::Publishing { link: link.clone(), confirmed: false };
                return Need::Publish(Message::Link(link));
            }
            Ok(_) if memory.is_cut_short => return Need::Wait(heard_out),
            Ok(_) => {}
            Err(unsealed) => *open = unsealed,
        }
        if *again > now {
            return Need::Wait(*again);
        }
        *number += 1;
        *again = now + SEAL_EVERY;
        let (number, epoch) = (*number, self.testimony.next_epoch());
        let cluster = self.cluster.clone();
        Need::Publish(Message::Seal(Seal { cluster, epoch, nonce: self.nonce, number, at }))
    }
}

/// A mark is of the time at which it is published.
fn refreshed(link: Link, at: u64) -> Link {
    match link {
        Link::Mark(mark) => Link::Mark(Mark { at, digest: None, ..mark }),
        write @ Link::Write(_) => write,
    }
}

#[cfg(test)]
mod tests;

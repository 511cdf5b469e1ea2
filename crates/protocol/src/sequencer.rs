//! The heart's decisions: which history a new heart continues, and what may be published when.
//!
//! Guarantees, by the types: nothing is published before the history's end was published again and confirmed
//! ([`TakeOver`] gives a [`Reign`] only then), and at most one message of writes is unconfirmed ([`Reign::publish`]
//! consumes the reign; [`InFlight::confirmed`] gives it back). Any doubt (a nack, a return, a time-out, a lost
//! connection) is dropping the value: the only way on is a new take-over, with what [`Memory`] holds.

use crate::chain::Position;
use crate::cut::Cut;
use crate::digest::Digest;
use crate::envelope::{Link, Mark, Term, WriteMessage};
use crate::names::NodeId;
use crate::report::{Claim, Report};
use crate::write::WriteBatch;

mod memory;
mod seal;
mod take_over;

pub use memory::{Memory, Retained, RetainedAfter};
pub use seal::Unsealed;
pub use take_over::{Need, TakeOver};

/// Somebody has seen a later history than this heart continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} is at {last} of epoch {epoch}, later than the head this heart took over", witness(*node))]
pub struct StaleHead {
    /// The node that reported it; another heart, if none.
    pub node: Option<NodeId>,
    /// The position that it has.
    pub last: u64,
    /// The epoch that it has met.
    pub epoch: u64,
}

/// The active heart, with nothing in flight.
#[derive(Debug)]
pub struct Reign {
    cluster: String,
    term: Term,
    /// The last sequence number before it.
    began_after: u64,
    position: Position,
}

/// The active heart while one message of writes waits for its confirm.
#[derive(Debug)]
pub struct InFlight {
    reign: Reign,
    message: WriteMessage,
}

impl Reign {
    fn new(cluster: &str, term: Term, position: Position) -> Self {
        Self { cluster: cluster.to_owned(), term, began_after: position.last, position }
    }

    /// The epoch of this reign.
    pub fn epoch(&self) -> u64 {
        self.term.epoch
    }

    /// The position after the last confirmed write.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next message: these writes, of which there is at least one. `at` is in milliseconds since the Unix epoch.
    pub fn publish(self, batch: WriteBatch, at: u64) -> InFlight {
        let message = WriteMessage::new(&self.cluster, self.term, self.position, at, batch);
        InFlight { reign: self, message }
    }

    /// The word that everything confirmed is held for everyone. It proves nothing by itself being confirmed, so the
    /// next message need not wait for it. `digest` is what most nodes have here. `at` is in milliseconds since the Unix epoch.
    pub fn mark(&self, digest: Option<Digest>, at: u64) -> Mark {
        Mark { cluster: self.cluster.clone(), term: self.term, position: self.position, at, digest }
    }

    /// Whether a node's report fits the history that this heart continues. One that is ahead shows that the head was
    /// stale (a restored broker, say): going on would fork the history.
    ///
    /// Once a node has applied something of this reign, the history has gone on from where it began: whoever has something
    /// else there does not contradict it any more, and can be rebuilt.
    pub fn hear(&mut self, report: &Report) -> Result<(), StaleHead> {
        let epoch = self.term.epoch;
        if report.applied_epoch == epoch
            && report.applied.last > self.began_after
            && self.term.cut.epoch < epoch
        {
            self.term.cut = Cut { epoch, last: self.began_after };
        }
        let seen = StaleHead { node: Some(report.node), last: report.applied.last, epoch: report.epoch };
        self.compare(seen, report.claim())
    }

    /// The same of what another heart has confirmed in its time.
    pub fn judge_claim(&self, claim: Claim) -> Result<(), StaleHead> {
        let seen = StaleHead { node: None, last: claim.position.last, epoch: claim.epoch };
        self.compare(seen, claim)
    }

    fn compare(&self, seen: StaleHead, claim: Claim) -> Result<(), StaleHead> {
        let is_ahead = claim.position.last > self.position.last && !self.term.cut.gives_up(claim);
        if seen.epoch > self.term.epoch || is_ahead { Err(seen) } else { Ok(()) }
    }

    /// Whether what a node has applied was given up: then it has applied nothing of this history beyond that.
    pub fn gives_up(&self, report: &Report) -> bool {
        self.term.cut.gives_up(report.claim())
    }

    /// Whether nobody has the message that the nodes wait for, and a human has accepted that it is lost with all that
    /// follows. The next take-over then has to go back to what is applied ([`Memory::cut`]).
    pub fn is_cut_short(&self, memory: &Memory, reports: &[&Report]) -> bool {
        // Who has not met this reign may miss what an earlier one gave up and this one has published anew.
        memory.accepted_loss.is_some_and(|lost| lost <= self.position.last)
            && is_given_up(memory, self.term.cut, reports, |report| report.epoch >= self.term.epoch)
    }
}

impl InFlight {
    /// The message that waits for its confirm.
    pub fn message(&self) -> &WriteMessage {
        &self.message
    }

    /// The reign as it was before the message: no node may have applied what is not confirmed.
    pub fn reign(&mut self) -> &mut Reign {
        &mut self.reign
    }

    /// The broker confirmed the message: its writes are durable for everyone.
    pub fn confirmed(self) -> Reign {
        Reign { position: self.message.position, ..self.reign }
    }
}

fn witness(node: Option<NodeId>) -> String {
    node.map_or_else(|| "another heart".to_owned(), |node| format!("node {node}"))
}

/// Which of two links is nearer to the history's end: the one with the higher `(epoch, last)`. A mark is preferred
/// to the write that it vouches for, because it needs no second proof.
fn later(one: Link, other: Link) -> Link {
    let rank = |link: &Link| (link.term().epoch, link.position().last, matches!(link, Link::Mark(_)));
    if rank(&one) > rank(&other) { one } else { other }
}

/// Whether everything from the accepted sequence number on is lost: every node has reported, none has applied so much,
/// and one whose word is of today misses exactly that and found nobody who has it.
fn is_given_up(
    memory: &Memory,
    cut: Cut,
    reports: &[&Report],
    is_of_today: impl Fn(&Report) -> bool,
) -> bool {
    let Some(lost) = memory.accepted() else { return false };
    let has_reported = |node: &NodeId| reports.iter().any(|report| report.node == *node);
    memory.members.as_ref().is_none_or(|members| members.iter().all(has_reported))
        && reports.iter().any(|report| report.missing == Some(lost) && is_of_today(report))
        && reports.iter().all(|report| report.applied.last < lost || cut.gives_up(report.claim()))
}

#[cfg(test)]
mod tests;

//! Where the history ends when the head queue cannot tell: every node says what it has, and the best of it is the end.
//!
//! A queue may hold acknowledged writes that no node has applied, so positions alone prove nothing. A node's answer
//! counts once its own queue gave it a seal that was published after this heart first heard of the node's session:
//! then everything that was in the queue has been delivered to that session, also what an earlier session of it had
//! given back to the end of the queue.
//!
//! Guarantees:
//! - The end is never before what a node has applied, nor before what somebody has proof of.
//! - A node that does not answer is waited for, unless a human accepts the loss of everything from the sequence number
//!   after the best known position.
//! - Where the nodes miss what nobody has, and a human accepts the loss of that, the end is what they have applied. All of
//!   them have to say what that is.

use std::collections::BTreeMap;

use super::is_given_up;
use super::memory::Memory;
use crate::chain::Position;
use crate::envelope::{Link, Mark, Term, WriteMessage};
use crate::names::NodeId;
use crate::report::{Claim, Report};

/// What the nodes and the other hearts have said since a sealing began.
#[derive(Debug, Default)]
pub(super) struct Testimony {
    reports: BTreeMap<NodeId, Heard>,
    tips: BTreeMap<NodeId, WriteMessage>,
    /// The best that another heart has confirmed.
    claim: Option<Claim>,
    /// The highest epoch that anybody has named.
    epoch: u64,
}

#[derive(Debug)]
struct Heard {
    report: Report,
    /// The newest seal that was published when the report's session was first heard of.
    since: u64,
}

/// Why the end is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", tell(unanswered, *best))]
pub struct Unsealed {
    /// The nodes that have not answered.
    pub unanswered: Vec<NodeId>,
    /// The highest sequence number that anybody is known to have.
    pub best: u64,
}

impl Testimony {
    /// Takes a report; `number` is that of the newest seal published so far.
    pub(super) fn hear(&mut self, report: &Report, number: u64) {
        self.meet_epoch(report.epoch);
        let known = self.reports.get(&report.node);
        let known = known.filter(|known| report.session.is_some() && known.report.session == report.session);
        let since = known.map_or(number, |known| known.since);
        self.reports.insert(report.node, Heard { report: report.clone(), since });
    }

    /// Takes the message that a node has and cannot prove.
    pub(super) fn hear_tip(&mut self, node: NodeId, tip: WriteMessage) {
        self.meet_epoch(tip.term.epoch);
        self.tips.insert(node, tip);
    }

    /// Takes what another heart has confirmed.
    pub(super) fn hear_claim(&mut self, claim: Claim) {
        self.meet_epoch(claim.epoch);
        let rank = |claim: &Claim| (claim.epoch, claim.position.last);
        if self.claim.is_none_or(|known| rank(&known) < rank(&claim)) {
            self.claim = Some(claim);
        }
    }

    /// Takes note of an epoch that was in use.
    pub(super) fn meet_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// An epoch that nothing heard of was published under.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epoch + 1
    }

    /// A reign under that epoch.
    pub(super) fn next_term(&self, reign: u64) -> Term {
        Term { epoch: self.next_epoch(), reign }
    }

    /// Whether nobody has a history.
    pub(super) fn is_blank(&self) -> bool {
        self.epoch == 0
            && self.claim.is_none()
            && self.reports.values().all(|heard| heard.report.applied.last == 0)
    }

    /// The end of the history, once all have answered the sealing with this nonce.
    pub(super) fn decide(
        &self,
        cluster: &str,
        memory: &Memory,
        nonce: u64,
        at: u64,
    ) -> Result<Link, Unsealed> {
        let is_cut = memory.cut || self.is_given_up(memory, nonce);
        let end = if is_cut { self.find_applied(cluster) } else { self.find_end(cluster, memory) };
        let best = end.claim.position.last;
        let accepted = !is_cut && memory.accepted_loss == Some(best + 1);
        let is_waited_for = |heard: &Heard| !is_cut && !self.has_answered(heard, nonce);
        let unanswered = self.waited_for(memory, is_waited_for);
        if !accepted && (!unanswered.is_empty() || self.reports.is_empty()) {
            return Err(Unsealed { unanswered, best });
        }
        let term = self.next_term(nonce);
        let link = if let Some(message) = end.content {
            Link::Write(message.clone())
        } else {
            let position = end.claim.position;
            Link::Mark(Mark { cluster: cluster.to_owned(), term, position, at, digest: None })
        };
        Ok(link.with_term(term))
    }

    fn is_given_up(&self, memory: &Memory, nonce: u64) -> bool {
        let reports: Vec<&Report> = self.reports.values().map(|heard| &heard.report).collect();
        // What a node missed before it met the seal may be further on in its queue.
        is_given_up(memory, &reports, |report| {
            self.reports.get(&report.node).is_some_and(|heard| heard.has_met_seal(nonce))
        })
    }

    fn find_applied(&self, cluster: &str) -> End<'_> {
        let reports = self.reports.values().map(|heard| &heard.report);
        reports.max_by_key(|report| report.applied.last).map_or_else(
            || End::at(Claim { epoch: 0, position: Position::genesis(cluster) }),
            |report| End::at(Claim { epoch: report.epoch, position: report.applied }),
        )
    }

    fn find_end<'a>(&'a self, cluster: &str, memory: &'a Memory) -> End<'a> {
        let reports = || self.reports.values().map(|heard| &heard.report);
        let applied = self.find_applied(cluster);
        let shown = reports().filter_map(|report| {
            report.shown.map(|position| End::at(Claim { epoch: report.epoch, position }))
        });
        let tips = reports().filter_map(|report| self.tip(report)).map(|tip| End {
            claim: Claim { epoch: tip.term.epoch, position: tip.position },
            content: Some(tip),
        });
        let own = memory.retained.confirmed().map(|claim| End { claim, content: memory.retained.last() });
        let claimed = self.claim.map(End::at);
        // What was applied is never undone, whatever epoch something earlier is of.
        let later = |end: &End<'_>| end.claim.position.last > applied.claim.position.last;
        shown.chain(tips).chain(own).chain(claimed).filter(later).max_by_key(End::rank).unwrap_or(applied)
    }

    /// The message that a report names as the node's tip, when that has arrived too.
    fn tip(&self, report: &Report) -> Option<&WriteMessage> {
        let named = report.tip?;
        self.tips
            .get(&report.node)
            .filter(|tip| tip.position == named.position && tip.term.epoch == named.epoch)
    }

    fn has_answered(&self, heard: &Heard, nonce: u64) -> bool {
        heard.has_met_seal(nonce) && (heard.report.tip.is_none() || self.tip(&heard.report).is_some())
    }

    /// The nodes that have not reported, or whose report is waited for.
    fn waited_for(&self, memory: &Memory, is_waited_for: impl Fn(&Heard) -> bool) -> Vec<NodeId> {
        let reported = self.reports.keys().copied().collect();
        let nodes = memory.members.as_ref().unwrap_or(&reported);
        nodes.iter().filter(|node| self.reports.get(node).is_none_or(&is_waited_for)).copied().collect()
    }
}

impl Heard {
    /// Everything that was in the node's queue has been delivered to this session.
    fn has_met_seal(&self, nonce: u64) -> bool {
        self.report.sealed.is_some_and(|seal| seal.nonce == nonce && seal.number > self.since)
    }
}

/// A point that may be the end.
#[derive(Clone, Copy)]
struct End<'a> {
    claim: Claim,
    /// The message that ends there, if it is at hand.
    content: Option<&'a WriteMessage>,
}

impl End<'_> {
    fn at(claim: Claim) -> Self {
        Self { claim, content: None }
    }

    /// A later reign knew everything that an earlier one had confirmed. Of two at one point the one with content.
    fn rank(&self) -> (u64, u64, bool) {
        (self.claim.epoch, self.claim.position.last, self.content.is_some())
    }
}

fn tell(unanswered: &[NodeId], best: u64) -> String {
    let nodes: Vec<String> = unanswered.iter().map(ToString::to_string).collect();
    let who = if nodes.is_empty() { "any node".to_owned() } else { format!("node {}", nodes.join(", ")) };
    format!(
        "the head queue does not say where the history ends; waits for {who} to say what it has. The highest known \
         position is {best}; to go on from there without, accept the loss of everything from {} on",
        best + 1
    )
}

#[cfg(test)]
mod tests;

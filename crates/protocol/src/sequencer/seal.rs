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

use std::collections::{BTreeMap, VecDeque};

use super::is_given_up;
use super::memory::Memory;
use crate::chain::Position;
use crate::cut::Cut;
use crate::envelope::{Link, Mark, Term, WriteMessage};
use crate::names::NodeId;
use crate::report::{Claim, Report};

/// How many sessions of one node are told apart. A report of an older one looks like one of a new session, which only
/// has to meet one more seal.
const MAX_SESSIONS: usize = 16;

/// What the nodes and the other hearts have said since a sealing began.
#[derive(Debug)]
pub(super) struct Testimony {
    /// Which sealing it is.
    nonce: u64,
    nodes: BTreeMap<NodeId, Heard>,
    /// The last tip of each node. It may come before the report that names it, or after.
    tips: BTreeMap<NodeId, WriteMessage>,
    /// The best that another heart has confirmed.
    claim: Option<Claim>,
    /// The highest epoch that anybody has named.
    epoch: u64,
    /// The newest cut that anybody has named.
    cut: Cut,
}

/// What one node has said. Reports may overtake each other: what an answer said stays said.
#[derive(Debug)]
struct Heard {
    /// The report that came last.
    latest: Report,
    /// Its sessions, in the order in which they were first heard of.
    sessions: VecDeque<Session>,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Session {
    number: u64,
    /// The newest seal that was published when the session was first heard of.
    since: u64,
}

/// The word of a session that everything in the node's queue has been delivered to.
#[derive(Debug)]
struct Answer {
    report: Report,
    /// The message that the report names as the node's tip.
    tip: Option<WriteMessage>,
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
    /// Nothing has been said yet; `nonce` is that of the seals.
    pub(super) fn new(nonce: u64) -> Self {
        Self {
            nonce,
            nodes: BTreeMap::new(),
            tips: BTreeMap::new(),
            claim: None,
            epoch: 0,
            cut: Cut::default(),
        }
    }

    /// Takes a report; `number` is that of the newest seal published so far.
    pub(super) fn hear(&mut self, report: &Report, number: u64) {
        self.meet(report.epoch, report.cut);
        let heard = self.nodes.entry(report.node).or_insert_with(|| Heard {
            latest: report.clone(),
            sessions: VecDeque::new(),
            answer: None,
        });
        heard.latest = report.clone();
        heard.meet_session(number);
        heard.take_answer(self.nonce, self.tips.get(&report.node));
    }

    /// Takes the message that a node has and cannot prove.
    pub(super) fn hear_tip(&mut self, node: NodeId, tip: WriteMessage) {
        self.meet(tip.term.epoch, tip.term.cut);
        if let Some(heard) = self.nodes.get_mut(&node) {
            heard.take_answer(self.nonce, Some(&tip));
        }
        self.tips.insert(node, tip);
    }

    /// Takes what another heart has confirmed.
    pub(super) fn hear_claim(&mut self, claim: Claim) {
        self.meet(claim.epoch, claim.cut);
        let rank = |claim: &Claim| (claim.epoch, claim.position.last);
        if self.claim.is_none_or(|known| rank(&known) < rank(&claim)) {
            self.claim = Some(claim);
        }
    }

    /// Takes note of an epoch that was in use, and of what was cut by then.
    pub(super) fn meet(&mut self, epoch: u64, cut: Cut) {
        self.epoch = self.epoch.max(epoch);
        self.cut = self.cut.max(cut);
    }

    /// An epoch that nothing heard of was published under.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epoch + 1
    }

    /// A reign under that epoch.
    pub(super) fn next_term(&self) -> Term {
        Term { epoch: self.next_epoch(), reign: self.nonce, cut: self.cut }
    }

    /// Whether nobody has a history.
    pub(super) fn is_blank(&self) -> bool {
        self.epoch == 0 && self.claim.is_none() && self.reports().all(|(report, _)| report.applied.last == 0)
    }

    /// Whether every node that is known to exist has reported.
    pub(super) fn has_heard_all(&self, memory: &Memory) -> bool {
        self.waited_for(memory, |_| false).is_empty()
    }

    /// The end of the history, once all have answered.
    pub(super) fn decide(&self, cluster: &str, memory: &Memory, at: u64) -> Result<Link, Unsealed> {
        let is_cut = memory.is_cut_short || self.is_given_up(memory);
        let end = if is_cut { self.find_applied(cluster) } else { self.find_end(cluster, memory) };
        let best = end.claim.position.last;
        let accepted = !is_cut && memory.accepts(best + 1);
        let unanswered = self.waited_for(memory, |heard| !is_cut && heard.answer.is_none());
        let is_incomplete = !unanswered.is_empty() || self.nodes.is_empty();
        if is_incomplete && !accepted {
            return Err(Unsealed { unanswered, best });
        }
        let mut term = self.next_term();
        if is_cut || is_incomplete {
            // Whoever is not heard may have met any epoch by now, but hardly one for each millisecond.
            term.epoch = term.epoch.max(at);
            term.cut = Cut { epoch: term.epoch, last: best };
        }
        let link = if let Some(message) = end.content {
            Link::Write(message.clone())
        } else {
            let position = end.claim.position;
            Link::Mark(Mark { cluster: cluster.to_owned(), term, position, at, digest: None })
        };
        Ok(link.with_term(term))
    }

    fn is_given_up(&self, memory: &Memory) -> bool {
        let reports: Vec<&Report> = self.reports().map(|(report, _)| report).collect();
        // What a node missed before it met the seal may be further on in its queue.
        is_given_up(memory, self.cut, &reports, |report| {
            self.nodes.get(&report.node).is_some_and(|heard| heard.is_answer(report))
        })
    }

    fn find_applied(&self, cluster: &str) -> End<'_> {
        let nothing = Claim::new(Term::new(0, 0), Position::genesis(cluster));
        let applied = self.reports().map(|(report, _)| report.claim()).filter(|claim| self.counts(*claim));
        End::at(applied.max_by_key(|claim| claim.position.last).unwrap_or(nothing))
    }

    fn find_end<'a>(&'a self, cluster: &str, memory: &'a Memory) -> End<'a> {
        let applied = self.find_applied(cluster);
        let shown = self.reports().filter_map(|(report, _)| {
            report.shown.map(|position| End::at(Claim { epoch: report.epoch, cut: report.cut, position }))
        });
        let tips = self.reports().filter_map(|(_, tip)| tip).map(End::with);
        let own = memory.retained.confirmed().map(|claim| End { claim, content: memory.retained.last() });
        let claimed = self.claim.map(End::at);
        // What was applied is never undone, whatever epoch something earlier is of.
        let later =
            |end: &End<'_>| end.claim.position.last > applied.claim.position.last && self.counts(end.claim);
        shown.chain(tips).chain(own).chain(claimed).filter(later).max_by_key(End::rank).unwrap_or(applied)
    }

    /// Whether a position may be the end: not one of what was given up.
    fn counts(&self, claim: Claim) -> bool {
        !self.cut.gives_up(claim)
    }

    /// All that counts of what the nodes have said, each with the tip that it names when that is here too.
    fn reports(&self) -> impl Iterator<Item = (&Report, Option<&WriteMessage>)> {
        self.nodes.iter().flat_map(|(node, Heard { latest, answer, .. })| {
            let answer = answer.iter().map(|answer| (&answer.report, answer.tip.as_ref()));
            answer.chain([(latest, self.tips.get(node).filter(|tip| is_named(tip, latest)))])
        })
    }

    /// The nodes that have not reported, and those that are waited for.
    fn waited_for(&self, memory: &Memory, is_waited_for: impl Fn(&Heard) -> bool) -> Vec<NodeId> {
        let reported = self.nodes.keys().copied().collect();
        let nodes = memory.members.as_ref().unwrap_or(&reported);
        nodes.iter().filter(|node| self.nodes.get(node).is_none_or(&is_waited_for)).copied().collect()
    }
}

impl Heard {
    /// Takes note of the latest report's session.
    fn meet_session(&mut self, since: u64) {
        let Some(number) = self.latest.session else { return };
        if self.age(&self.latest).is_some() {
            return;
        }
        self.sessions.push_back(Session { number, since });
        if self.sessions.len() > MAX_SESSIONS {
            self.sessions.pop_front();
        }
    }

    /// The place of a report's session among those heard of.
    fn age(&self, report: &Report) -> Option<usize> {
        self.sessions.iter().position(|session| Some(session.number) == report.session)
    }

    /// The latest report is the answer when its session has met the seal, unless a later session has answered.
    fn take_answer(&mut self, nonce: u64, tip: Option<&WriteMessage>) {
        let Some(age) = self.age(&self.latest) else { return };
        let since = self.sessions[age].since;
        let has_met_seal = self.latest.sealed.is_some_and(|seal| seal.nonce == nonce && seal.number > since);
        let tip = tip.filter(|tip| is_named(tip, &self.latest));
        let is_complete = self.latest.tip.is_none() || tip.is_some();
        let is_newest = self.answer.as_ref().is_none_or(|answer| self.age(&answer.report) <= Some(age));
        if has_met_seal && is_complete && is_newest {
            self.answer = Some(Answer { report: self.latest.clone(), tip: tip.cloned() });
        }
    }

    fn is_answer(&self, report: &Report) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.report == *report)
    }
}

/// Whether a report names this message as the node's tip.
fn is_named(tip: &WriteMessage, report: &Report) -> bool {
    report.tip == Some(Claim::new(tip.term, tip.position))
}

/// A point that may be the end.
#[derive(Clone, Copy)]
struct End<'a> {
    claim: Claim,
    /// The message that ends there, if it is at hand.
    content: Option<&'a WriteMessage>,
}

impl<'a> End<'a> {
    fn with(message: &'a WriteMessage) -> Self {
        Self { claim: Claim::new(message.term, message.position), content: Some(message) }
    }

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

//! A node's database: what the programs' own one does with a transaction, in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use broadcast_protocol::chain::Position;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::outcome::{REQUEST_ID_WINDOW, Rejection};
use broadcast_protocol::replica::{Applied, Change, Kept};
use broadcast_protocol::write::{Fingerprint, Operation, Write};

use crate::context::{CLUSTER, Context};
use crate::mutations::Mutation;
use crate::report::Seen;

/// A row: its value as JSON, and the write that stored it.
type Row = (String, u64);

#[derive(Debug, Clone)]
struct Request {
    seq: u64,
    content: Fingerprint,
    rejection: Option<Rejection>,
}

/// What a snapshot carries.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) applied: Applied,
    pub(crate) digest: Digest,
    rows: BTreeMap<String, Row>,
    requests: BTreeMap<String, Request>,
    /// The requests that changed something here, each once.
    done: BTreeSet<String>,
    /// Its rows are wrong on purpose.
    pub(crate) is_corrupt: bool,
}

/// A node's disk.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) content: Snapshot,
    pub(crate) log: VecDeque<WriteMessage>,
    /// The waiting room: messages that are not proven.
    pub(crate) kept: Vec<WriteMessage>,
    /// The process that opened it last.
    pub(crate) incarnation: u64,
    /// It can be written to.
    pub(crate) works: bool,
}

/// What a log has after a position.
pub(crate) enum LogPage<'a> {
    Messages(Vec<&'a WriteMessage>),
    Gone,
}

impl Database {
    pub(crate) fn new() -> Self {
        let content = Snapshot {
            applied: Applied::nothing(CLUSTER),
            digest: Digest::default(),
            rows: BTreeMap::new(),
            requests: BTreeMap::new(),
            done: BTreeSet::new(),
            is_corrupt: false,
        };
        Self { content, log: VecDeque::new(), kept: Vec::new(), incarnation: 0, works: true }
    }

    pub(crate) fn applied(&self) -> Applied {
        self.content.applied
    }

    pub(crate) fn kept_headers(&self) -> Vec<Kept> {
        let header = |message: &WriteMessage| Kept {
            term: message.term,
            previous: message.previous,
            position: message.position,
            bytes: message.body().len() as u64,
        };
        self.kept.iter().map(header).collect()
    }

    /// Does changes in one transaction.
    pub(crate) fn commit(&mut self, ctx: &mut Context, node: u32, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Apply(message) => self.apply(ctx, node, message),
                Change::ApplyKept(position) => {
                    ctx.count(Seen::AppliedKept);
                    match self.take_kept(position) {
                        Some(message) => self.apply(ctx, node, message),
                        None => ctx.oracle.violate(
                            "transactions follow the replica",
                            format!(
                                "node {node} does not have the kept message that ends at {}",
                                position.last
                            ),
                        ),
                    }
                }
                Change::Keep(message) => {
                    ctx.count(Seen::Kept);
                    let known = self.kept.iter().position(|kept| kept.position == message.position);
                    match known {
                        Some(index) => self.kept[index] = message,
                        None => self.kept.push(message),
                    }
                }
                Change::Discard(position) => {
                    ctx.count(Seen::Discarded);
                    drop(self.take_kept(position));
                }
            }
        }
        while self.log.len() > ctx.settings.log_length {
            self.log.pop_front();
        }
        ctx.oracle.holders_changed();
    }

    fn take_kept(&mut self, position: Position) -> Option<WriteMessage> {
        let index = self.kept.iter().position(|kept| kept.position == position)?;
        Some(self.kept.remove(index))
    }

    fn apply(&mut self, ctx: &mut Context, node: u32, message: WriteMessage) {
        if message.previous != self.content.applied.position {
            let (own, first) = (self.content.applied.position.last, message.first);
            let text = format!("node {node} is at {own} and was told to apply {first}");
            return ctx.oracle.violate("transactions follow the replica", text);
        }
        for (seq, write) in (message.first..).zip(message.writes().unwrap_or_default().iter()) {
            self.decide(ctx, node, seq, write);
        }
        self.content.applied = self.content.applied.after(message.term, message.position);
        ctx.oracle.applied(node, message.position, (!self.content.is_corrupt).then_some(self.content.digest));
        self.log.push_back(message);
    }

    /// One that repeats a request has the first one's outcome.
    fn decide(&mut self, ctx: &mut Context, node: u32, seq: u64, write: &Write) -> Option<Rejection> {
        let Some(id) = &write.id else { return self.apply_write(ctx, seq, write) };
        let content = write.fingerprint();
        let first = self.content.requests.get(id).filter(|first| first.seq + REQUEST_ID_WINDOW > seq);
        if let Some(first) = first.filter(|_| !ctx.is_mutated(Mutation::RequestIdsIgnored)) {
            ctx.count(Seen::RequestRepeated);
            return if first.content == content { first.rejection } else { Some(Rejection::IdReused) };
        }
        let rejection = self.apply_write(ctx, seq, write);
        if !self.content.done.insert(id.clone()) {
            ctx.oracle.violate("1: exactly once", format!("node {node} made request {id} again at {seq}"));
        }
        self.content.requests.insert(id.clone(), Request { seq, content, rejection });
        rejection
    }

    fn apply_write(&mut self, ctx: &mut Context, seq: u64, write: &Write) -> Option<Rejection> {
        let Snapshot { rows, digest, .. } = &mut self.content;
        let old = rows.get(&write.key);
        if write.condition.is_some_and(|condition| !condition.holds(old.map(|(_, seq)| *seq))) {
            ctx.count(Seen::PreconditionFailed);
            return Some(Rejection::PreconditionFailed);
        }
        if let Some((value, seq)) = old {
            digest.remove(&write.collection, &write.key, value, *seq);
        }
        match &write.operation {
            Operation::Put(value) => {
                digest.add(&write.collection, &write.key, value.get(), seq);
                rows.insert(write.key.clone(), (value.get().to_owned(), seq));
            }
            Operation::Delete => drop(rows.remove(&write.key)),
        }
        None
    }

    pub(crate) fn log_after(&self, last: u64) -> LogPage<'_> {
        const PAGE: usize = 20;
        let after = self.log.iter().skip_while(|message| message.position.last <= last);
        let messages: Vec<&WriteMessage> = after.take(PAGE).collect();
        let is_gone = match messages.first() {
            Some(first) => first.first > last + 1,
            None => last < self.content.applied.position.last,
        };
        if is_gone { LogPage::Gone } else { LogPage::Messages(messages) }
    }

    /// Replaces everything but the waiting room with a snapshot that is further on. False when it is not.
    pub(crate) fn install(&mut self, ctx: &mut Context, snapshot: Snapshot) -> bool {
        if snapshot.applied.position.last <= self.content.applied.position.last {
            return false;
        }
        let Applied { epoch, cut, .. } = self.content.applied;
        self.content = snapshot;
        let applied = &mut self.content.applied;
        (applied.epoch, applied.cut) = (applied.epoch.max(epoch), applied.cut.max(cut));
        self.log.clear();
        if ctx.is_mutated(Mutation::SnapshotWithoutRequests) {
            self.content.requests.clear();
        }
        ctx.oracle.holders_changed();
        true
    }

    /// Rows that no write explains.
    pub(crate) fn corrupt(&mut self) {
        self.content.digest.add("corrupt", "row", "0", 0);
        self.content.is_corrupt = true;
    }

    /// Puts everything aside and begins with nothing.
    pub(crate) fn quarantine(&mut self) {
        *self = Self { incarnation: self.incarnation, works: self.works, ..Self::new() };
    }
}

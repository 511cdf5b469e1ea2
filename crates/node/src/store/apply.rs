//! The transaction: what a batch of messages does to the database.

use std::collections::BTreeMap;
use std::sync::Arc;

use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::outcome::Rejected;
use broadcast_protocol::replica::Change;
use broadcast_protocol::write::Write;
use rusqlite::{Connection, TransactionBehavior, params};

use super::requests::{self, Requests};
use super::rows::{Numbered, RowChange, Rows};
use super::{Committed, Store, StoreError, schema, waiting};

/// The most that is applied at once, in bytes of messages, which are in memory meanwhile; one message is always whole.
const MAX_TAKEN_BYTES: usize = 16 << 20;

/// What a transaction did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AppliedBatch {
    /// Where it left the database.
    pub(crate) committed: Committed,
    /// The writes that changed nothing because they were not allowed to, in order.
    pub(crate) rejected: Vec<Rejected>,
}

impl Store {
    /// Makes changes in one transaction: messages that are applied continue the database's position. An error leaves it
    /// as it was, unless it is one of the sync: then the changes may be there, and are not synced.
    pub(crate) fn change(&mut self, changes: &[Change]) -> Result<AppliedBatch, StoreError> {
        self.synced_after(|store| store.commit(changes), |applied| applied.committed.applied.position.last)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<AppliedBatch, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = schema::load(&transaction)?;
        before.check_owner(self.incarnation, &self.path)?;
        let committed = before.committed()?;
        let mut batch = Batch {
            connection: &transaction,
            committed,
            log_bytes: before.log_bytes,
            collections: BTreeMap::new(),
            rejected: Vec::new(),
            taken: Vec::new(),
            taken_bytes: 0,
        };
        for change in changes {
            match change {
                Change::Apply(message) => batch.take(message)?,
                Change::ApplyKept(position) => {
                    batch.take(&waiting::take(&transaction, &self.cluster, *position)?)?;
                }
                Change::Keep(message) => waiting::keep(&transaction, message)?,
                Change::Discard(position) => waiting::discard(&transaction, *position)?,
            }
        }
        batch.apply_taken()?;
        requests::forget_old(&transaction, batch.committed.applied.position.last)?;
        batch.prune_log(self.log_bytes)?;
        let applied = batch.save()?;
        transaction.commit()?;
        Ok(applied)
    }
}

/// A transaction under way.
struct Batch<'a> {
    connection: &'a Connection,
    committed: Committed,
    log_bytes: u64,
    /// By how many rows each collection grew.
    collections: BTreeMap<String, i64>,
    rejected: Vec<Rejected>,
    /// Messages whose writes are not applied yet: each one's first sequence number and its writes.
    taken: Vec<(u64, Arc<[Write]>)>,
    taken_bytes: usize,
}

impl Batch<'_> {
    /// Takes the next message: its writes are applied with those of others.
    fn take(&mut self, message: &WriteMessage) -> Result<(), StoreError> {
        let applied = self.committed.applied.position;
        if message.previous != applied {
            return Err(StoreError::BrokenLink { applied: applied.last, found: message.previous.last });
        }
        self.taken.push((message.first, message.writes()?));
        self.taken_bytes += message.body().len();
        self.append_to_log(message)?;
        self.committed.applied = self.committed.applied.after(message.term, message.position);
        self.committed.at = message.at;
        if self.taken_bytes >= MAX_TAKEN_BYTES {
            self.apply_taken()?;
        }
        Ok(())
    }

    /// Applies the writes that were taken, row by row in the order of the keys: a page of the database is visited once, and
    /// a row stored once, however many of the writes change it. A write's outcome depends on the earlier ones to its row and
    /// with its request id, and on no others.
    fn apply_taken(&mut self) -> Result<(), StoreError> {
        let taken = std::mem::take(&mut self.taken);
        self.taken_bytes = 0;
        let mut writes: Vec<Numbered<'_>> =
            taken.iter().flat_map(|(first, writes)| (*first..).zip(writes.iter())).collect();
        let mut requests = Requests::find(self.connection, writes.iter().copied())?;
        // Stable: writes to one row stay in their order.
        writes.sort_by(|(_, one), (_, other)| row_of(one).cmp(&row_of(other)));
        let mut rows = Rows::new(self.connection)?;
        let known = self.rejected.len();
        for to_row in writes.chunk_by(|(_, one), (_, other)| row_of(one) == row_of(other)) {
            let rejected = &mut self.rejected;
            let reject = |seq, reason| rejected.push(Rejected { seq, reason });
            let Some(change) = rows.apply(to_row, &mut requests, reject)? else { continue };
            let RowChange { removed, added, growth } = change;
            self.committed.digest.subtract(removed);
            self.committed.digest.merge(added);
            self.committed.rows = self.committed.rows.saturating_add_signed(growth);
            self.count(&to_row[0].1.collection, growth);
        }
        self.rejected[known..].sort_unstable_by_key(|rejected| rejected.seq);
        Ok(requests.save(self.connection)?)
    }

    fn count(&mut self, collection: &str, by: i64) {
        if by == 0 {
            return;
        }
        match self.collections.get_mut(collection) {
            Some(growth) => *growth += by,
            None => drop(self.collections.insert(collection.to_owned(), by)),
        }
    }

    fn append_to_log(&mut self, message: &WriteMessage) -> Result<(), rusqlite::Error> {
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO _broadcast_log(last, first, hash, epoch, at, body) VALUES (?, ?, ?, ?, ?, ?)",
        )?;
        let position = message.position;
        let body = message.body().as_ref();
        insert.execute(params![
            position.last,
            message.first,
            position.hash.to_string(),
            message.term.epoch,
            message.at,
            body
        ])?;
        self.log_bytes += body.len() as u64;
        Ok(())
    }

    /// Removes the oldest messages until the rest fits.
    fn prune_log(&mut self, limit: u64) -> Result<(), rusqlite::Error> {
        if self.log_bytes <= limit {
            return Ok(());
        }
        let mut oldest =
            self.connection.prepare_cached("SELECT last, length(body) FROM _broadcast_log ORDER BY last")?;
        let mut rows = oldest.query([])?;
        let mut pruned_to = 0_u64;
        while self.log_bytes > limit
            && let Some(row) = rows.next()?
        {
            pruned_to = row.get(0)?;
            self.log_bytes = self.log_bytes.saturating_sub(row.get(1)?);
        }
        let mut delete = self.connection.prepare_cached("DELETE FROM _broadcast_log WHERE last <= ?")?;
        delete.execute([pruned_to]).map(drop)
    }

    fn save(self) -> Result<AppliedBatch, rusqlite::Error> {
        let mut count = self.connection.prepare_cached(
            "INSERT INTO _broadcast_collections(name, rows) VALUES (?, ?)
             ON CONFLICT (name) DO UPDATE SET rows = rows + excluded.rows",
        )?;
        let mut forget = self
            .connection
            .prepare_cached("DELETE FROM _broadcast_collections WHERE name = ? AND rows = 0")?;
        for (name, growth) in self.collections.iter().filter(|(_, growth)| **growth != 0) {
            count.execute(params![name, growth])?;
            if *growth < 0 {
                forget.execute([name])?;
            }
        }
        schema::save(self.connection, self.committed, self.log_bytes)?;
        Ok(AppliedBatch { committed: self.committed, rejected: self.rejected })
    }
}

fn row_of(write: &Write) -> (&str, &str) {
    (&write.collection, &write.key)
}

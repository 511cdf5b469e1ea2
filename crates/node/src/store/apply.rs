//! The transaction: what a batch of messages does to the database.

use std::collections::BTreeMap;

use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::outcome::{REQUEST_ID_WINDOW, Rejected, Rejection};
use broadcast_protocol::replica::Change;
use broadcast_protocol::write::{Fingerprint, Operation, Write};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{Committed, Store, StoreError, schema, waiting};

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
    /// as it was.
    pub(crate) fn change(&mut self, changes: &[Change]) -> Result<AppliedBatch, StoreError> {
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
        };
        for change in changes {
            match change {
                Change::Apply(message) => batch.apply_message(message)?,
                Change::ApplyKept(position) => {
                    batch.apply_message(&waiting::take(&transaction, &self.cluster, *position)?)?;
                }
                Change::Keep(message) => waiting::keep(&transaction, message)?,
                Change::Discard(position) => waiting::discard(&transaction, *position)?,
            }
        }
        batch.forget_old_requests()?;
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
}

/// What is known of the write that a request id came with first.
struct SeenRequest {
    content: Fingerprint,
    rejection: Option<Rejection>,
}

impl Batch<'_> {
    fn apply_message(&mut self, message: &WriteMessage) -> Result<(), StoreError> {
        let applied = self.committed.applied.position;
        if message.previous != applied {
            return Err(StoreError::BrokenLink { applied: applied.last, found: message.previous.last });
        }
        for (seq, write) in (message.first..).zip(message.writes()?.iter()) {
            if let Some(reason) = self.decide_write(seq, write)? {
                self.rejected.push(Rejected { seq, reason });
            }
        }
        self.append_to_log(message)?;
        self.committed.applied = self.committed.applied.after(message.term, message.position);
        self.committed.at = message.at;
        Ok(())
    }

    /// Applies a write, or says why it changes nothing. One that repeats a request has the first one's outcome.
    fn decide_write(&mut self, seq: u64, write: &Write) -> Result<Option<Rejection>, StoreError> {
        let Some(id) = &write.id else { return Ok(self.apply_write(seq, write)?) };
        let (id, content) = (Fingerprint::of_id(id), write.fingerprint());
        if let Some(first) = self.find_request(seq, id)? {
            return Ok(if first.content == content { first.rejection } else { Some(Rejection::IdReused) });
        }
        let rejection = self.apply_write(seq, write)?;
        let mut insert = self.connection.prepare_cached(
            "INSERT OR REPLACE INTO _broadcast_requests(seq, id, content, rejection) VALUES (?, ?, ?, ?)",
        )?;
        insert.execute(params![seq, id.bytes(), content.bytes(), rejection.map(Rejection::as_str)])?;
        Ok(rejection)
    }

    /// By distance in the history alone: old ids may still be there or not, the answer is the same.
    fn find_request(&self, seq: u64, id: Fingerprint) -> Result<Option<SeenRequest>, StoreError> {
        let mut find = self
            .connection
            .prepare_cached("SELECT content, rejection FROM _broadcast_requests WHERE id = ? AND seq > ?")?;
        let mut rows = find.query(params![id.bytes(), seq.saturating_sub(REQUEST_ID_WINDOW)])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let content = Fingerprint::from_bytes(row.get(0)?);
        Ok(Some(SeenRequest { content, rejection: schema::rejection(row, 1)? }))
    }

    /// Applies a write as far as its condition allows.
    fn apply_write(&mut self, seq: u64, write: &Write) -> Result<Option<Rejection>, rusqlite::Error> {
        let Write { collection, key, .. } = write;
        let mut find = self
            .connection
            .prepare_cached("SELECT value, seq FROM documents WHERE collection = ? AND key = ?")?;
        let old: Option<(String, u64)> =
            find.query_row([collection, key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let old_seq = old.as_ref().map(|(_, seq)| *seq);
        if write.condition.is_some_and(|condition| !condition.holds(old_seq)) {
            return Ok(Some(Rejection::PreconditionFailed));
        }
        if let Some((value, seq)) = &old {
            self.committed.digest.remove(collection, key, value, *seq);
        }
        match &write.operation {
            Operation::Put(value) => {
                let mut put = self.connection.prepare_cached(
                    "INSERT INTO documents(collection, key, value, seq) VALUES (?, ?, ?, ?)
                     ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value, seq = excluded.seq",
                )?;
                put.execute(params![collection, key, value.get(), seq])?;
                self.committed.digest.add(collection, key, value.get(), seq);
                if old.is_none() {
                    self.committed.rows += 1;
                    self.count(collection, 1);
                }
            }
            Operation::Delete if old.is_some() => {
                let mut delete = self
                    .connection
                    .prepare_cached("DELETE FROM documents WHERE collection = ? AND key = ?")?;
                delete.execute([collection, key])?;
                self.committed.rows -= 1;
                self.count(collection, -1);
            }
            Operation::Delete => {}
        }
        Ok(None)
    }

    fn count(&mut self, collection: &str, by: i64) {
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

    fn forget_old_requests(&self) -> Result<(), rusqlite::Error> {
        let oldest_kept = (self.committed.applied.position.last + 1).saturating_sub(REQUEST_ID_WINDOW);
        let mut delete = self.connection.prepare_cached("DELETE FROM _broadcast_requests WHERE seq < ?")?;
        delete.execute([oldest_kept]).map(drop)
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

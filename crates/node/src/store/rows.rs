//! The rows: what the writes to one of them leave of it.

use broadcast_protocol::digest::Digest;
use broadcast_protocol::outcome::Rejection;
use broadcast_protocol::write::{Operation, Write};
use rusqlite::{CachedStatement, Connection, params};

use super::requests::{Outcome, Requests};

/// A write and its sequence number.
pub(super) type Numbered<'a> = (u64, &'a Write);

/// Reads and writes rows.
pub(super) struct Rows<'a> {
    find: CachedStatement<'a>,
    put: CachedStatement<'a>,
    delete: CachedStatement<'a>,
}

/// How a row changed.
pub(super) struct RowChange {
    /// The digest of the row that was there, of nothing if there was none.
    pub(super) removed: Digest,
    /// The digest of the row that is there now.
    pub(super) added: Digest,
    /// By how many rows there are more.
    pub(super) growth: i64,
}

/// A row as it is before some writes.
struct Old {
    seq: u64,
    digest: Digest,
}

impl<'a> Rows<'a> {
    pub(super) fn new(connection: &'a Connection) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            find: connection
                .prepare_cached("SELECT value, seq FROM documents WHERE collection = ? AND key = ?")?,
            // Not an upsert: this looks for the place once, and all columns are new.
            put: connection
                .prepare_cached("REPLACE INTO documents(collection, key, value, seq) VALUES (?, ?, ?, ?)")?,
            delete: connection.prepare_cached("DELETE FROM documents WHERE collection = ? AND key = ?")?,
        })
    }

    /// Decides writes to one row, which are in order, and does what the last one of those that are allowed to does: nobody
    /// sees the others.
    pub(super) fn apply(
        &mut self,
        writes: &[Numbered<'_>],
        requests: &mut Requests,
        mut reject: impl FnMut(u64, Rejection),
    ) -> Result<Option<RowChange>, rusqlite::Error> {
        let Some((_, Write { collection, key, .. })) = writes.first() else { return Ok(None) };
        let old = self.find(collection, key)?;
        let mut seq_now = old.as_ref().map(|old| old.seq);
        let mut last = None;
        for &(seq, write) in writes {
            let repeated = write.id.as_ref().and_then(|_| requests.outcome_of_repeated(seq));
            let outcome = repeated.unwrap_or_else(|| decide(write, seq_now));
            if let Err(reason) = outcome {
                reject(seq, reason);
            }
            if repeated.is_some() {
                continue;
            }
            if write.id.is_some() {
                requests.decide(seq, outcome);
            }
            if outcome.is_ok() {
                seq_now = matches!(write.operation, Operation::Put(_)).then_some(seq);
                last = Some((seq, write));
            }
        }
        let Some((seq, write)) = last else { return Ok(None) };
        let mut added = Digest::default();
        match &write.operation {
            Operation::Put(value) => {
                self.put.execute(params![collection, key, value.get(), seq])?;
                added.add(collection, key, value.get(), seq);
            }
            Operation::Delete if old.is_some() => {
                self.delete.execute([collection, key])?;
            }
            Operation::Delete => {}
        }
        let growth = i64::from(seq_now.is_some()) - i64::from(old.is_some());
        let removed = old.map_or_else(Digest::default, |old| old.digest);
        Ok(Some(RowChange { removed, added, growth }))
    }

    fn find(&mut self, collection: &str, key: &str) -> Result<Option<Old>, rusqlite::Error> {
        let mut rows = self.find.query([collection, key])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let seq = row.get(1)?;
        let mut digest = Digest::default();
        digest.add(collection, key, row.get_ref(0)?.as_str()?, seq);
        Ok(Some(Old { seq, digest }))
    }
}

/// Whether a write may be done to a row that `seq` has stored, if there is one.
fn decide(write: &Write, seq: Option<u64>) -> Outcome {
    let is_allowed = write.condition.is_none_or(|condition| condition.holds(seq));
    is_allowed.then_some(()).ok_or(Rejection::PreconditionFailed)
}

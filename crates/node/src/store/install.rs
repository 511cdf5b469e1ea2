//! Taking a whole database over from a peer: all of it, proven, or nothing.
//!
//! Everything happens in one transaction, which is committed after the snapshot's end was read and every check passed.
//! Readers see the old rows until then; a crash, a cut connection or a bad snapshot leaves the database as it was.

use std::io::Read;

use broadcast_protocol::outcome::Rejection;
use broadcast_protocol::replica::Applied;
use broadcast_protocol::snapshot::{
    SnapshotEntry, SnapshotError, SnapshotReader, SnapshotRequest, SnapshotRow,
};
use rusqlite::{ErrorCode, Statement, Transaction, TransactionBehavior, params};

use super::{Committed, Store, StoreError, schema};

/// Why a snapshot was not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// It is refused.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It has nothing that the database does not have.
    #[error("a snapshot of position {found} is not further on than this database, at {applied}")]
    NotFurtherOn {
        /// What the database has applied.
        applied: u64,
        /// What the snapshot is of.
        found: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for InstallError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Replaces everything in the database with a snapshot that is further on. Blocks. An error leaves it as it was.
    pub(crate) fn install(&mut self, snapshot: impl Read) -> Result<Committed, InstallError> {
        let mut snapshot = SnapshotReader::open(&self.cluster, snapshot)?;
        self.finish_sync()?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = schema::load(&transaction)?;
        before.check_owner(self.incarnation, &self.path)?;
        let header = snapshot.header().clone();
        if header.last <= before.last {
            return Err(InstallError::NotFurtherOn { applied: before.last, found: header.last });
        }
        transaction.execute_batch(
            "DELETE FROM documents; DELETE FROM _broadcast_requests;
             DELETE FROM _broadcast_collections; DELETE FROM _broadcast_log",
        )?;
        insert_all(&transaction, &mut snapshot)?;
        let Applied { position, epoch, cut } = header.applied();
        let applied = Applied { position, epoch: epoch.max(before.epoch), cut: cut.max(before.cut) };
        let committed = Committed { applied, digest: header.digest, rows: header.rows, at: header.at };
        schema::save(&transaction, committed, 0)?;
        transaction.commit()?;
        Ok(committed)
    }
}

fn insert_all<R: Read>(
    transaction: &Transaction<'_>,
    snapshot: &mut SnapshotReader<R>,
) -> Result<(), InstallError> {
    let mut row =
        transaction.prepare("INSERT INTO documents(collection, key, value, seq) VALUES (?, ?, ?, ?)")?;
    let mut request = transaction
        .prepare("INSERT INTO _broadcast_requests(seq, id, content, rejection) VALUES (?, ?, ?, ?)")?;
    let mut collection =
        transaction.prepare("INSERT INTO _broadcast_collections(name, rows) VALUES (?, ?)")?;
    // The rows of one collection stand together.
    let (mut name, mut count) = (String::new(), 0_u64);
    while let Some(entry) = snapshot.next_entry()? {
        match entry {
            SnapshotEntry::Row(SnapshotRow { collection: of, key, seq, value }) => {
                row.execute(params![of, key, value.get(), seq])?;
                if of != name {
                    insert_count(&mut collection, &name, count)?;
                    (name, count) = (of, 0);
                }
                count += 1;
            }
            SnapshotEntry::Request(entry) => {
                if !insert_request(&mut request, &entry)? {
                    return Err(snapshot.malformed("a request before it has the same id").into());
                }
            }
        }
    }
    insert_count(&mut collection, &name, count)?;
    Ok(())
}

fn insert_count(insert: &mut Statement<'_>, name: &str, count: u64) -> Result<(), rusqlite::Error> {
    if count > 0 {
        insert.execute(params![name, count])?;
    }
    Ok(())
}

/// Whether it was possible: no two have one id.
fn insert_request(insert: &mut Statement<'_>, request: &SnapshotRequest) -> Result<bool, rusqlite::Error> {
    let SnapshotRequest { seq, id, content, rejection } = request;
    match insert.execute(params![seq, id.bytes(), content.bytes(), rejection.map(Rejection::as_str)]) {
        Ok(_) => Ok(true),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;

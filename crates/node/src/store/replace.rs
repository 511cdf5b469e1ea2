//! Another database in the place of this one, without a moment in which there is none.
//!
//! The new one is built beside the old one, whole and checked, before anything happens to that; then the old one is put
//! aside. A crash, a cut connection or a bad snapshot leaves the one or the other.

use std::io::Read;
use std::path::{Path, PathBuf};

use broadcast_protocol::chain::Position;
use broadcast_protocol::replica::Applied;
use rusqlite::{Connection, params};

use super::quarantine::{COMPANIONS, remove, remove_with_companions, rename, sync_directory, with_suffix};
use super::{Committed, InstallError, Readers, Store, StoreError, open_for_writing, schema, sync};

/// What a database is called until it is in use.
const NEW_NAME: &str = "node.db.new";

impl Store {
    /// Replaces the database with a snapshot that is at least as far, and puts it aside. Blocks. After an error it is as it
    /// was, or [`Store::probe`] does the rest.
    pub(crate) fn replace(&mut self, snapshot: impl Read) -> Result<Committed, InstallError> {
        let own = self.committed()?;
        let path = new_path(&self.path);
        remove_with_companions(&path)?;
        if let Err(error) = self.build(&path, snapshot, own) {
            // What is left costs room until the next start, nothing else.
            let _ = remove_with_companions(&path);
            return Err(error);
        }
        // Building takes long: the file may be another process's by now.
        self.committed()?;
        self.put_aside()?;
        finish_replacement(&self.path)?;
        self.reopen()?;
        Ok(self.committed()?)
    }

    /// Builds a whole database in one file.
    fn build(&self, path: &Path, snapshot: impl Read, own: Committed) -> Result<(), InstallError> {
        let (mut connection, incarnation) = open_for_writing(path, &self.cluster)?;
        self.inherit(&mut connection, own.applied)?;
        let (readers, cluster) = (Readers::new(path.to_owned()), self.cluster.clone());
        let mut new = Self {
            connection,
            readers,
            path: path.to_owned(),
            cluster,
            log_bytes: self.log_bytes,
            incarnation,
            log: sync::Log::default(),
        };
        let found = new.install(snapshot)?.applied.position;
        if found.last < own.applied.position.last {
            return Err(InstallError::NotFurtherOn { applied: own.applied.position.last, found: found.last });
        }
        sync::checkpoint_all(&new.connection)?;
        Ok(new.connection.close().map_err(|(_, error)| error)?)
    }

    /// What no snapshot has and this node must not forget: what it has met, and the messages that wait here alone.
    fn inherit(&self, new: &mut Connection, own: Applied) -> Result<(), StoreError> {
        new.execute("ATTACH ? AS old", params![self.path.to_string_lossy()])?;
        let transaction = new.transaction()?;
        transaction.execute("INSERT INTO _broadcast_waiting SELECT * FROM old._broadcast_waiting", [])?;
        let applied = Applied { position: Position::genesis(&self.cluster), ..own };
        schema::save(&transaction, Committed { applied, ..Committed::nothing(&self.cluster) }, 0)?;
        transaction.commit()?;
        Ok(new.execute_batch("DETACH old")?)
    }
}

/// Does what is left to do of a replacement that a crash has interrupted, and removes what did not come to that.
pub(super) fn finish_replacement(path: &Path) -> Result<(), StoreError> {
    let new = new_path(path);
    if !path.exists() && is_whole(&new) {
        for suffix in COMPANIONS {
            remove(&with_suffix(path, suffix))?;
        }
        rename(&new, path)?;
        sync_directory(path)?;
    }
    remove_with_companions(&new)
}

/// A database that nobody has closed may be in two files.
fn is_whole(path: &Path) -> bool {
    let in_log = std::fs::metadata(with_suffix(path, "-wal")).map_or(0, |log| log.len());
    path.exists() && in_log == 0
}

fn new_path(path: &Path) -> PathBuf {
    path.with_file_name(NEW_NAME)
}

#[cfg(test)]
mod tests;

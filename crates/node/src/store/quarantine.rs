//! Putting a database aside whose rows are not to be trusted, and beginning with an empty one.
//!
//! What was put aside is kept for whoever wants to know what happened, one database, until the next. A crash in the
//! middle leaves the old database, or none; a write-ahead log is never applied to another file than its own.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{FILE_NAME, Store, StoreError, open_for_writing, schema, sync};

/// What a database that was put aside is called.
const QUARANTINED_NAME: &str = "node.db.quarantined";

/// What stands beside a database in use.
pub(super) const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

impl Store {
    /// Puts the database aside and begins with an empty one. When it fails half way, [`Store::probe`] does the rest.
    pub(crate) fn quarantine(&mut self) -> Result<(), StoreError> {
        // What is damaged may not say whose it is; then nobody else can have opened it either.
        if let Ok(state) = schema::load(&self.connection) {
            state.check_owner(self.incarnation, &self.path)?;
        }
        self.put_aside()?;
        self.reopen()
    }

    /// Leaves no database in its place.
    pub(super) fn put_aside(&self) -> Result<(), StoreError> {
        // So that the file is whole without its log. It goes with its log if that is not possible.
        let checkpointed = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = checkpointed {
            tracing::debug!(%error, "the database is put aside with its write-ahead log");
        }
        put_aside(&self.path)
    }

    /// Puts the database in a directory aside that cannot be opened.
    pub(crate) fn quarantine_unopened(directory: &Path) -> Result<(), StoreError> {
        put_aside(&directory.join(FILE_NAME))
    }

    /// Opens what is at the path now.
    pub(super) fn reopen(&mut self) -> Result<(), StoreError> {
        (self.connection, self.incarnation) = open_for_writing(&self.path, &self.cluster)?;
        self.readers.forget_file();
        self.log = sync::Log::default();
        Ok(())
    }
}

/// Removes what stands beside a database that is not there.
pub(super) fn remove_orphans(path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    COMPANIONS.iter().try_for_each(|suffix| remove(&with_suffix(path, suffix)))
}

fn put_aside(path: &Path) -> Result<(), StoreError> {
    let aside = path.with_file_name(QUARANTINED_NAME);
    for suffix in COMPANIONS {
        remove(&with_suffix(&aside, suffix))?;
    }
    // The database first: what is left of it after a crash is removed by whoever opens the next.
    rename(path, &aside)?;
    for suffix in COMPANIONS {
        rename(&with_suffix(path, suffix), &with_suffix(&aside, suffix))?;
    }
    sync_directory(path)
}

/// So that a power cut does not undo what was renamed beside a file.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed(directory))
}

/// Removes a database that may be there, first the file without which the others are nothing.
pub(super) fn remove_with_companions(path: &Path) -> Result<(), StoreError> {
    remove(path)?;
    COMPANIONS.iter().try_for_each(|suffix| remove(&with_suffix(path, suffix)))
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    unless_missing(std::fs::rename(from, to)).map_err(failed(from))
}

pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    unless_missing(std::fs::remove_file(path)).map_err(failed(path))
}

fn unless_missing(done: std::io::Result<()>) -> std::io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    |error| StoreError::File { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests;

//! A node's database: rows and the position that they stand for change in one transaction or not at all.
//!
//! Guarantees:
//! - After any crash the file holds exactly the rows of the position that it names: rows, position, digest, counts,
//!   request ids and the log that peers repair from are written together, and synced before [`Store::change`] returns.
//! - Two databases at one position are equal. Whatever decides what a write does (request ids too) is a function of
//!   the history alone, never of a clock or of how much an administrator lets a node keep.
//! - One process writes. Opening a file ends the writing of whoever had it open, at its next transaction.
//! - The file of another cluster, of a newer version or of another program is refused, not touched.
//! - A peer's snapshot replaces everything or nothing ([`Store::install`]); a database that is not to be trusted is put
//!   aside, not overwritten ([`Store::quarantine`]), and one that somebody wants replaced is so only once another is there
//!   ([`Store::replace`]).
//!
//! `documents` is an interface that people query; everything internal is in tables that start with `_broadcast_`.

mod apply;
mod install;
mod quarantine;
mod read;
mod replace;
mod requests;
mod rows;
mod schema;
mod snapshot;
mod sync;
mod waiting;

use std::path::{Path, PathBuf};
use std::time::Duration;

use broadcast_protocol::digest::Digest;
use broadcast_protocol::replica::Applied;
use broadcast_protocol::write::InvalidWrite;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

pub(crate) use apply::AppliedBatch;
pub(crate) use install::InstallError;
pub(crate) use read::{CollectionCount, ListPage, ReadError, Readers, Scrub};
pub(crate) use snapshot::SendSnapshotError;

/// The database's name in the data directory.
pub(crate) const FILE_NAME: &str = "node.db";

/// How long a statement waits for a lock that another program holds before it counts as a failure.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a database is: what every transaction leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Committed {
    /// What it has applied.
    pub(crate) applied: Applied,
    /// The digest of its rows.
    pub(crate) digest: Digest,
    /// The number of its rows.
    pub(crate) rows: u64,
    /// When the last message of writes was made, in milliseconds since the Unix epoch; 0 before the first.
    pub(crate) at: u64,
}

impl Committed {
    /// Where an empty database is.
    pub(crate) fn nothing(cluster: &str) -> Self {
        Self { applied: Applied::nothing(cluster), digest: Digest::default(), rows: 0, at: 0 }
    }
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The file belongs to another cluster.
    #[error(
        "{path} is the database of cluster {found:?}, this node is configured for {expected:?}; \
             point data_dir at another directory or move the file away"
    )]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// The configured cluster.
        expected: String,
        /// The file's.
        found: String,
    },
    /// The file was written by a newer version.
    #[error("{path} has schema version {found}, this node knows versions up to {known}; upgrade the node")]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The file's version.
        found: u64,
        /// The newest version that this node knows.
        known: u64,
    },
    /// The file is a database of another program.
    #[error(
        "{path} is a database, but not of a node; point data_dir at another directory or move the file away"
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The data directory cannot be made.
    #[error("cannot make the directory {path}: {error}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file cannot be moved or removed.
    #[error("cannot move or remove {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another process has opened the file since.
    #[error("another process has opened {path}: this one stops, so that only one writes")]
    TakenOver {
        /// The file.
        path: PathBuf,
    },
    /// The messages do not continue what is applied.
    #[error("a message after {found} cannot follow position {applied}")]
    BrokenLink {
        /// What the database has applied.
        applied: u64,
        /// What the message follows.
        found: u64,
    },
    /// A message holds an invalid write although it was decoded before.
    #[error(transparent)]
    InvalidWrite(#[from] InvalidWrite),
    /// The write-ahead log cannot be synced.
    #[error("cannot sync {path}: {error}")]
    Sync {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The database failed: locked, full, read-only, gone.
    #[error("database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The process is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The state row holds what this version never writes.
    #[error("the database's state is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    /// Whether the configuration or the file is at fault, so that only a human can help.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::OtherCluster { .. } | Self::NewerSchema { .. } | Self::NotOurs { .. })
            || self.is_damage()
    }

    /// Whether the file was a node's database once and is none now, or holds what no node writes: another copy of the
    /// rows helps.
    pub(crate) fn is_damage(&self) -> bool {
        use rusqlite::Error;
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(code) => matches!(code, ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt),
                None => matches!(
                    error,
                    Error::InvalidColumnType(..)
                        | Error::FromSqlConversionFailure(..)
                        | Error::IntegralValueOutOfRange(..)
                        | Error::QueryReturnedNoRows
                ),
            },
            _ => false,
        }
    }
}

/// The one writing connection to a node's database.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    readers: Readers,
    path: PathBuf,
    cluster: String,
    log_bytes: u64,
    incarnation: u64,
    log: sync::Log,
}

impl Store {
    /// Opens the database in a directory, makes both if they do not exist, and ends the writing of any process that
    /// has it open. `log_bytes` is how much of the history is kept for peers.
    pub(crate) fn open(directory: &Path, cluster: &str, log_bytes: u64) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory)
            .map_err(|error| StoreError::Directory { path: directory.to_owned(), error })?;
        let path = directory.join(FILE_NAME);
        replace::finish_replacement(&path)?;
        let (connection, incarnation) = open_for_writing(&path, cluster)?;
        let (readers, cluster) = (Readers::new(path.clone()), cluster.to_owned());
        Ok(Self { connection, readers, path, cluster, log_bytes, incarnation, log: sync::Log::default() })
    }

    /// Where the database is, as long as it is this process's.
    pub(crate) fn committed(&self) -> Result<Committed, StoreError> {
        let state = schema::load(&self.connection)?;
        state.check_owner(self.incarnation, &self.path)?;
        state.committed()
    }

    /// Proves that the database can be written to, by writing to it. Changes nothing that anybody reads. A file that is
    /// gone is made anew, empty.
    pub(crate) fn probe(&mut self) -> Result<(), StoreError> {
        if !self.path.exists() {
            replace::finish_replacement(&self.path)?;
            self.reopen()?;
        }
        self.finish_sync()?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let state = schema::load(&transaction)?;
        state.check_owner(self.incarnation, &self.path)?;
        schema::set_incarnation(&transaction, self.incarnation + 1)?;
        transaction.commit()?;
        self.incarnation += 1;
        Ok(())
    }

    /// Connections that read beside this one.
    pub(crate) fn readers(&self) -> Readers {
        self.readers.clone()
    }
}

fn open_for_writing(path: &Path, cluster: &str) -> Result<(Connection, u64), StoreError> {
    quarantine::remove_orphans(path)?;
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    schema::check_owner(&connection, path, cluster)?;
    configure(&connection)?;
    let incarnation = schema::claim(&mut connection, path, cluster)?;
    Ok((connection, incarnation))
}

fn configure(connection: &Connection) -> Result<(), rusqlite::Error> {
    // For a new file only. A row that is larger than a quarter of a page takes pages of its own, and documents of a
    // kilobyte are common.
    connection.pragma_update(None, "page_size", 8192)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a commit has to survive a power cut. Only that of messages is synced apart.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -32_000)?;
    // In pages: together as large as the write-ahead log may stay. A page that a backlog changes again and again is copied
    // into the database, which is synced then, that much less often.
    connection.pragma_update(None, "wal_autocheckpoint", 8192)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn open_for_reading(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

#[cfg(test)]
mod tests;

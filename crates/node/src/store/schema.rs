//! The tables, and the one row that says whose they are and where they stand.

use std::path::Path;

use broadcast_protocol::chain::Position;
use broadcast_protocol::cut::Cut;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::outcome::Rejection;
use broadcast_protocol::replica::Applied;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::{Committed, StoreError};

/// The version of the tables that this code reads and writes.
pub(super) const SCHEMA_VERSION: u64 = 1;

const TABLES: &str = "
CREATE TABLE documents(collection TEXT, key TEXT, value TEXT, seq INTEGER, PRIMARY KEY (collection, key)) WITHOUT ROWID;
CREATE TABLE _broadcast_state(
    one INTEGER PRIMARY KEY CHECK (one = 1), schema INTEGER NOT NULL, incarnation INTEGER NOT NULL,
    cluster TEXT NOT NULL, last INTEGER NOT NULL, hash TEXT NOT NULL, epoch INTEGER NOT NULL,
    cut_epoch INTEGER NOT NULL, cut_last INTEGER NOT NULL, at INTEGER NOT NULL,
    digest TEXT NOT NULL, rows INTEGER NOT NULL, log_bytes INTEGER NOT NULL);
CREATE TABLE _broadcast_log(
    last INTEGER PRIMARY KEY, first INTEGER NOT NULL, hash TEXT NOT NULL, epoch INTEGER NOT NULL,
    at INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE _broadcast_waiting(
    last INTEGER NOT NULL, hash TEXT NOT NULL, first INTEGER NOT NULL, previous TEXT NOT NULL,
    epoch INTEGER NOT NULL, reign INTEGER NOT NULL, cut_epoch INTEGER NOT NULL, cut_last INTEGER NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (last, hash));
CREATE TABLE _broadcast_requests(
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, content BLOB NOT NULL, rejection TEXT);
CREATE TABLE _broadcast_collections(name TEXT PRIMARY KEY, rows INTEGER NOT NULL) WITHOUT ROWID;
";

/// The state row.
pub(super) struct State {
    pub(super) cluster: String,
    pub(super) incarnation: u64,
    pub(super) last: u64,
    pub(super) hash: String,
    pub(super) epoch: u64,
    pub(super) cut: Cut,
    pub(super) at: u64,
    pub(super) digest: String,
    pub(super) rows: u64,
    pub(super) log_bytes: u64,
}

impl State {
    /// Refuses a database that another process has taken over since.
    pub(super) fn check_owner(&self, incarnation: u64, path: &Path) -> Result<(), StoreError> {
        if self.incarnation == incarnation {
            return Ok(());
        }
        Err(StoreError::TakenOver { path: path.to_owned() })
    }

    /// The state in the types of the protocol.
    pub(super) fn committed(&self) -> Result<Committed, StoreError> {
        let hash = self.hash.parse().map_err(|error| StoreError::Damaged(format!("hash: {error}")))?;
        let digest = self.digest.parse().map_err(|error| StoreError::Damaged(format!("digest: {error}")))?;
        let position = Position { last: self.last, hash };
        let applied = Applied { position, epoch: self.epoch, cut: self.cut };
        Ok(Committed { applied, digest, rows: self.rows, at: self.at })
    }
}

/// Makes the tables if there are none, and takes them over: returns the new incarnation.
pub(super) fn claim(connection: &mut Connection, path: &Path, cluster: &str) -> Result<u64, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if is_empty(&transaction)? {
        create(&transaction, cluster)?;
    }
    // Again, now that nobody else writes.
    check_owner(&transaction, path, cluster)?;
    let incarnation = load(&transaction)?.incarnation + 1;
    set_incarnation(&transaction, incarnation)?;
    transaction.commit()?;
    Ok(incarnation)
}

fn is_empty(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

fn create(connection: &Connection, cluster: &str) -> Result<(), StoreError> {
    connection.execute_batch(TABLES)?;
    connection.execute(
        "INSERT INTO _broadcast_state VALUES (1, ?, 0, ?, 0, ?, 0, 0, 0, 0, ?, 0, 0)",
        params![
            SCHEMA_VERSION,
            cluster,
            Position::genesis(cluster).hash.to_string(),
            Digest::default().to_string()
        ],
    )?;
    Ok(())
}

/// Refuses a database, unless it is empty, that is not this cluster's or not this version's. Changes nothing.
pub(super) fn check_owner(connection: &Connection, path: &Path, cluster: &str) -> Result<(), StoreError> {
    if is_empty(connection)? {
        return Ok(());
    }
    let ours = "SELECT 1 FROM sqlite_schema WHERE name = '_broadcast_state'";
    if connection.query_row(ours, [], |_| Ok(())).optional()?.is_none() {
        return Err(StoreError::NotOurs { path: path.to_owned() });
    }
    let (version, found): (u64, String) =
        connection.query_row("SELECT schema, cluster FROM _broadcast_state", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if version > SCHEMA_VERSION {
        let path = path.to_owned();
        return Err(StoreError::NewerSchema { path, found: version, known: SCHEMA_VERSION });
    }
    if found != cluster {
        let (path, expected) = (path.to_owned(), cluster.to_owned());
        return Err(StoreError::OtherCluster { path, expected, found });
    }
    Ok(())
}

/// Reads the state row.
pub(super) fn load(connection: &Connection) -> Result<State, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT incarnation, last, hash, epoch, cut_epoch, cut_last, at, digest, rows, log_bytes, cluster
         FROM _broadcast_state",
    )?;
    statement.query_row([], |row| {
        Ok(State {
            incarnation: row.get(0)?,
            last: row.get(1)?,
            hash: row.get(2)?,
            epoch: row.get(3)?,
            cut: Cut { epoch: row.get(4)?, last: row.get(5)? },
            at: row.get(6)?,
            digest: row.get(7)?,
            rows: row.get(8)?,
            log_bytes: row.get(9)?,
            cluster: row.get(10)?,
        })
    })
}

/// Says where the rows stand.
pub(super) fn save(
    connection: &Connection,
    committed: Committed,
    log_bytes: u64,
) -> Result<(), rusqlite::Error> {
    let Committed { applied: Applied { position, epoch, cut }, digest, rows, at } = committed;
    let mut save = connection.prepare_cached(
        "UPDATE _broadcast_state SET last = ?, hash = ?, epoch = ?, cut_epoch = ?, cut_last = ?, at = ?,
         digest = ?, rows = ?, log_bytes = ?",
    )?;
    let (hash, digest) = (position.hash.to_string(), digest.to_string());
    let columns = params![position.last, hash, epoch, cut.epoch, cut.last, at, digest, rows, log_bytes];
    save.execute(columns).map(drop)
}

/// Why a request was rejected, if it was.
pub(super) fn rejection(row: &Row<'_>, column: usize) -> Result<Option<Rejection>, StoreError> {
    match row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from)? {
        None => Ok(None),
        Some(name) if name == Rejection::PreconditionFailed.as_str() => {
            Ok(Some(Rejection::PreconditionFailed))
        }
        Some(other) => Err(StoreError::Damaged(format!("a request was rejected for {other:?}"))),
    }
}

/// Says who may write from now on.
pub(super) fn set_incarnation(connection: &Connection, incarnation: u64) -> Result<(), rusqlite::Error> {
    connection.execute("UPDATE _broadcast_state SET incarnation = ?", [incarnation]).map(drop)
}

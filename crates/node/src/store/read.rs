//! Reading beside the writer: every answer is of one position, and no reader makes the writer wait.
//!
//! Connections are read-only and few; a question waits for one of them, off the async threads, with a deadline.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broadcast_protocol::digest::Digest;
use broadcast_service::log::{LogPage, MAX_LOG_PAGE_BYTES};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{Committed, StoreError, open_for_reading, schema};

/// How many questions are answered at once.
const CONNECTIONS: usize = 4;

/// How long a question waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// The most that one answer carries, in bytes; one row is always sent whole.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// All connections are in use.
    #[error("all {CONNECTIONS} reading connections were in use for {TURN_TIMEOUT:?}")]
    Busy,
    /// The process is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A few read-only connections to a node's database.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    path: PathBuf,
    pool: Arc<Mutex<Pool>>,
    turns: Arc<Semaphore>,
    unsynced: watch::Sender<u64>,
    waiting: watch::Sender<usize>,
}

/// A read that waits until something is applied; dropped, it waits no longer.
#[derive(Debug)]
pub(crate) struct Waiting(watch::Sender<usize>);

/// Connections that nobody uses, all of one file.
#[derive(Debug, Default)]
struct Pool {
    /// How many files there were before at this path.
    file: u64,
    idle: Vec<Connection>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        Self {
            path,
            pool: Arc::default(),
            turns,
            unsynced: watch::Sender::new(0),
            waiting: watch::Sender::new(0),
        }
    }

    /// The last write of a transaction that readers see already while it is being synced; 0 when there is none.
    pub(crate) fn unsynced(&self) -> watch::Receiver<u64> {
        self.unsynced.subscribe()
    }

    /// How many reads wait until something is applied.
    pub(crate) fn waiting(&self) -> watch::Receiver<usize> {
        self.waiting.subscribe()
    }

    /// One more waits, until this is dropped.
    pub(crate) fn wait(&self) -> Waiting {
        self.waiting.send_modify(|waiting| *waiting += 1);
        Waiting(self.waiting.clone())
    }

    pub(super) fn show_unsynced(&self, last: u64) {
        self.unsynced.send_replace(last);
    }

    /// Answers a question from one consistent state of the database.
    pub(crate) async fn read<T, F>(&self, question: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Reader<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned());
        let turn = turn.await.map_err(|_| ReadError::Busy)?.map_err(|_| ReadError::Stopping)?;
        let readers = self.clone();
        let answer = tokio::task::spawn_blocking(move || {
            // The turn ends when the connection is free, not when the asker loses patience.
            let _turn = turn;
            readers.answer(question)
        });
        Ok(answer.await.map_err(|_| ReadError::Stopping)??)
    }

    fn answer<T>(
        &self,
        question: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Before the file is opened: it may be replaced at any time.
        let (file, pooled) = {
            let mut pool = self.pool();
            (pool.file, pool.idle.pop())
        };
        let mut connection = pooled.map_or_else(|| self.connect(), Ok)?;
        let answer = Reader::of(&mut connection).and_then(|reader| question(&reader));
        let mut pool = self.pool();
        // A connection that failed is not used again, nor one to a file that has been replaced.
        if answer.is_ok() && pool.file == file {
            pool.idle.push(connection);
        }
        answer
    }

    /// A connection that is not one of the few.
    pub(super) fn connect(&self) -> Result<Connection, StoreError> {
        Ok(open_for_reading(&self.path)?)
    }

    /// Forgets all connections: there is another file now.
    pub(super) fn forget_file(&self) {
        let mut pool = self.pool();
        pool.file += 1;
        pool.idle.clear();
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

/// One consistent state of the database.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(super) transaction: Transaction<'a>,
}

/// A row.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// Its value: JSON text, byte for byte as it was stored.
    pub(crate) value: String,
    /// The write that stored it.
    pub(crate) seq: u64,
}

/// Some rows of a collection, in the order of their keys.
#[derive(Debug, Serialize)]
pub(crate) struct ListPage {
    /// The rows.
    pub(crate) items: Vec<ListItem>,
    /// The position that they are of.
    pub(crate) position: u64,
    /// The key to go on after, if there are more.
    pub(crate) next: Option<String>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub(crate) struct ListItem {
    /// Its key.
    pub(crate) key: String,
    /// Its value.
    pub(crate) value: Box<RawValue>,
    /// The write that stored it.
    pub(crate) seq: u64,
}

/// A collection and its size.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CollectionCount {
    /// Its name.
    pub(crate) name: String,
    /// The number of its rows.
    pub(crate) rows: u64,
}

/// What the rows of one position are, beside what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scrub {
    /// What is maintained row by row.
    pub(crate) committed: Committed,
    /// The digest of the rows as they were read.
    pub(crate) digest: Digest,
    /// How many were read.
    pub(crate) rows: u64,
}

impl Scrub {
    /// Whether nothing but this node's writes has changed the rows.
    pub(crate) fn is_sound(&self) -> bool {
        (self.digest, self.rows) == (self.committed.digest, self.committed.rows)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn of(connection: &'a mut Connection) -> Result<Self, StoreError> {
        Ok(Self { transaction: connection.transaction()? })
    }

    /// Where the database is.
    pub(crate) fn committed(&self) -> Result<Committed, StoreError> {
        schema::load(&self.transaction)?.committed()
    }

    /// The last sequence number that is applied.
    pub(crate) fn last(&self) -> Result<u64, StoreError> {
        Ok(schema::load(&self.transaction)?.last)
    }

    /// A row.
    pub(crate) fn document(&self, collection: &str, key: &str) -> Result<Option<Document>, StoreError> {
        let mut find = self
            .transaction
            .prepare_cached("SELECT value, seq FROM documents WHERE collection = ? AND key = ?")?;
        let document =
            find.query_row([collection, key], |row| Ok(Document { value: row.get(0)?, seq: row.get(1)? }));
        Ok(document.optional()?)
    }

    /// Up to `limit` rows, and [`MAX_PAGE_BYTES`], whose keys begin with `prefix` and come after `after`.
    pub(crate) fn list(
        &self,
        collection: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        // Keys are in byte order, so those with one prefix stand together.
        let mut find = self.transaction.prepare_cached(
            "SELECT key, value, seq FROM documents
             WHERE collection = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3) ORDER BY key",
        )?;
        let from = after.map_or(prefix, |after| after.max(prefix));
        let mut rows = find.query(params![collection, from, after])?;
        let mut page = ListPage { items: Vec::new(), position: self.last()?, next: None };
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let key: String = row.get(0)?;
            if !key.starts_with(prefix) {
                break;
            }
            if page.items.len() == limit || bytes >= MAX_PAGE_BYTES {
                page.next = page.items.last().map(|item| item.key.clone());
                break;
            }
            let value = RawValue::from_string(row.get(1)?)
                .map_err(|error| StoreError::Damaged(format!("{collection}/{key} is not JSON: {error}")))?;
            bytes += key.len() + value.get().len();
            page.items.push(ListItem { key, value, seq: row.get(2)? });
        }
        Ok(page)
    }

    /// All collections that have rows, by name.
    pub(crate) fn collections(&self) -> Result<Vec<CollectionCount>, StoreError> {
        let mut find =
            self.transaction.prepare_cached("SELECT name, rows FROM _broadcast_collections ORDER BY name")?;
        let counts =
            find.query_map([], |row| Ok(CollectionCount { name: row.get(0)?, rows: row.get(1)? }))?;
        Ok(counts.collect::<Result<_, _>>()?)
    }

    /// The messages that follow a position, up to [`MAX_LOG_PAGE_BYTES`].
    pub(crate) fn log(&self, after: u64) -> Result<LogPage, StoreError> {
        let mut find = self
            .transaction
            .prepare_cached("SELECT first, body FROM _broadcast_log WHERE last > ? ORDER BY last")?;
        let mut rows = find.query([after])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            let first: u64 = row.get(0)?;
            if lines.is_empty() && first > after + 1 {
                return Ok(LogPage::Gone { after, oldest: Some(first) });
            }
            let body = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            if !lines.is_empty() && lines.len() + body.len() > MAX_LOG_PAGE_BYTES {
                break;
            }
            lines.extend_from_slice(body);
            lines.push(b'\n');
        }
        if lines.is_empty() && after < self.last()? {
            return Ok(LogPage::Gone { after, oldest: None });
        }
        Ok(LogPage::Messages(lines.into()))
    }

    /// Reads all rows and says whether they are what the database says of itself, unless it is told to stop.
    pub(crate) fn scrub(&self, stop: &CancellationToken) -> Result<Scrub, StoreError> {
        let committed = self.committed()?;
        let mut all = self.transaction.prepare_cached("SELECT collection, key, value, seq FROM documents")?;
        let mut rows = all.query([])?;
        let (mut digest, mut count) = (Digest::default(), 0);
        while let Some(row) = rows.next()? {
            let text = |index| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
            digest.add(text(0)?, text(1)?, text(2)?, row.get(3)?);
            count += 1;
            if stop.is_cancelled() {
                return Err(StoreError::Stopping);
            }
        }
        Ok(Scrub { committed, digest, rows: count })
    }
}

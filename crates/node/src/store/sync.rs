//! The sync of the write-ahead log, apart from the commit: readers see a transaction at once, and what is said of it to the
//! broker and to the heart is said after the sync.
//!
//! A power cut in between takes the transaction back; the broker still has its messages. Whoever opens the database commits, and
//! syncs with that, before it reads where it stands.

use std::fs::File;
use std::path::Path;

use rusqlite::Connection;

use super::quarantine::with_suffix;
use super::{Store, StoreError};

/// How much of what is committed is on the disk.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Open from the first sync on. The log is there as long as a connection is.
    file: Option<File>,
    /// Whether a transaction was committed that no sync has followed.
    is_behind: bool,
}

impl Store {
    /// Does something that commits without a sync, shows it to the readers, and syncs.
    pub(super) fn synced_after<T>(
        &mut self,
        commit: impl FnOnce(&mut Self) -> Result<T, StoreError>,
        last: impl FnOnce(&T) -> u64,
    ) -> Result<T, StoreError> {
        self.finish_sync()?;
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        let committed = commit(self);
        self.log.is_behind = committed.is_ok();
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let committed = committed?;
        self.readers.show_unsynced(last(&committed));
        let synced = self.log.sync(&self.path);
        self.readers.show_unsynced(0);
        synced.map(|()| committed)
    }

    /// Makes up for a sync that failed. Another one could say yes to what the system has given up: the log is copied into the
    /// database instead, and begun anew.
    pub(crate) fn finish_sync(&mut self) -> Result<(), StoreError> {
        if self.log.is_behind {
            checkpoint_all(&self.connection)?;
            self.log.is_behind = false;
        }
        Ok(())
    }
}

impl Log {
    fn sync(&mut self, database: &Path) -> Result<(), StoreError> {
        let path = with_suffix(database, "-wal");
        let mut sync = || {
            let file = match self.file.take() {
                Some(file) => file,
                None => File::open(&path)?,
            };
            file.sync_data()?;
            Ok(file)
        };
        let file = sync().map_err(|error| StoreError::Sync { path, error })?;
        (self.file, self.is_behind) = (Some(file), false);
        Ok(())
    }
}

/// Copies the whole write-ahead log into the database, and syncs that.
pub(super) fn checkpoint_all(connection: &Connection) -> Result<(), rusqlite::Error> {
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    if connection.query_row(checkpoint, [], |row| row.get::<_, bool>("busy"))? {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(busy, None));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::testing::{CLUSTER, History};

    #[test]
    fn a_sync_that_fails_is_an_error_and_the_next_transaction_makes_up_for_it() {
        let directory = TempDir::new().unwrap();
        let mut store = Store::open(directory.path(), CLUSTER, 0).unwrap();
        let wal = with_suffix(&store.path, "-wal");
        let log_length = || std::fs::metadata(&wal).unwrap().len();
        let mut history = History::default();
        store.apply(&history.puts(1)).unwrap();
        let before = log_length();
        // Syncing it is refused.
        store.log.file = Some(File::open("/dev/null").unwrap());
        let error = store.apply(&history.puts(1)).unwrap_err();
        assert!(matches!(error, StoreError::Sync { .. }) && log_length() > before, "{error}");

        let reader = super::super::open_for_reading(&store.path).unwrap();
        reader.execute_batch("BEGIN; SELECT 1 FROM _broadcast_state").unwrap();
        let next = history.puts(1);
        assert!(store.apply(&next).is_err(), "somebody still reads the log");
        drop(reader);
        store.finish_sync().unwrap();
        assert_eq!(log_length(), 0);
        store.apply(&next).unwrap();
        assert_eq!(store.committed().unwrap().applied.position.last, 3);
        assert!(!store.log.is_behind && log_length() > 0);
    }

    #[test]
    fn readers_see_what_is_not_synced_yet_and_only_until_it_is() {
        let directory = TempDir::new().unwrap();
        let mut store = Store::open(directory.path(), CLUSTER, 0).unwrap();
        let mut seen = store.readers().unsynced();
        store.apply(&History::default().puts(2)).unwrap();
        assert!(seen.has_changed().unwrap());
        assert_eq!(*seen.borrow_and_update(), 0);
    }
}

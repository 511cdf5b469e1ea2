//! The writing side of the database, off the async threads. What has begun goes on even when nobody waits for it any
//! more: a transaction is committed or not, never abandoned.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use broadcast_protocol::replica::{Change, Kept};

use crate::store::{AppliedBatch, Committed, InstallError, Store, StoreError};

/// The database, for one piece of work at a time.
#[derive(Debug, Clone)]
pub(crate) struct Writer(Arc<Mutex<Store>>);

impl Writer {
    pub(crate) fn new(store: Store) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// Makes changes in one transaction.
    pub(crate) async fn change(&self, changes: Vec<Change>) -> Result<AppliedBatch, StoreError> {
        self.run(move |store| store.change(&changes)).await
    }

    /// Proves that the database can be written to.
    pub(crate) async fn probe(&self) -> Result<(), StoreError> {
        self.run(Store::probe).await
    }

    /// Where the database is, and what waits in it.
    pub(crate) async fn load(&self) -> Result<(Committed, Vec<Kept>), StoreError> {
        self.run(|store| {
            store.finish_sync()?;
            Ok((store.committed()?, store.kept()?))
        })
        .await
    }

    /// Replaces everything with a snapshot that is further on, or nothing.
    pub(crate) async fn install(
        &self,
        snapshot: impl Read + Send + 'static,
    ) -> Result<Committed, InstallError> {
        self.run(move |store| store.install(snapshot)).await
    }

    /// Puts the database aside, once a snapshot that is at least as far has become another.
    pub(crate) async fn replace(
        &self,
        snapshot: impl Read + Send + 'static,
    ) -> Result<Committed, InstallError> {
        self.run(move |store| store.replace(snapshot)).await
    }

    /// Puts the database aside and begins with an empty one.
    pub(crate) async fn quarantine(&self) -> Result<Committed, StoreError> {
        self.run(|store| {
            store.quarantine()?;
            store.committed()
        })
        .await
    }

    async fn run<T, E>(&self, work: impl FnOnce(&mut Store) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let store = Arc::clone(&self.0);
        let work = tokio::task::spawn_blocking(move || {
            work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
        });
        work.await.unwrap_or_else(|_| Err(StoreError::Stopping.into()))
    }
}

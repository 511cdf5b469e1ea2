//! Opens the database, however long it takes: a disk that is full, locked or not there yet is waited for, with the
//! reason in the node's readiness. Only a file that is not this node's, or is damaged, ends the process: waiting does
//! not help there.

use broadcast_protocol::config::NodeConfig;
use broadcast_protocol::report::NodeState;
use broadcast_service::backoff::Backoff;
use broadcast_service::clock::unix_milliseconds;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::status::Status;
use crate::store::{Committed, Store, StoreError};

/// The open database, or nothing when the shutdown came first.
pub(crate) async fn open_store(
    config: &NodeConfig,
    status: &watch::Sender<Status>,
    shutdown: &CancellationToken,
) -> Result<Option<Store>, StoreError> {
    let mut backoff = Backoff::between_sessions();
    loop {
        let Some(opened) = shutdown.run_until_cancelled(try_open(config)).await else { return Ok(None) };
        match opened {
            Ok((store, committed)) => {
                status.send_replace(Status::starting(committed, unix_milliseconds()));
                return Ok(Some(store));
            }
            Err(error) if error.is_refusal() => return Err(error),
            Err(error) => {
                tracing::error!(%error, "cannot open the database; trying again");
                status.send_modify(|status| {
                    status.state = NodeState::Failing;
                    status.reason = Some(error.to_string());
                });
            }
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(backoff.next_delay())).await.is_none() {
            return Ok(None);
        }
    }
}

async fn try_open(config: &NodeConfig) -> Result<(Store, Committed), StoreError> {
    let (data_dir, cluster, log_bytes) = (config.data_dir.clone(), config.cluster.clone(), config.log_bytes);
    let opened = tokio::task::spawn_blocking(move || {
        let store = Store::open(&data_dir, &cluster, log_bytes)?;
        let committed = store.committed()?;
        Ok((store, committed))
    });
    opened.await.unwrap_or(Err(StoreError::Stopping))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::testing::CLUSTER;

    const DEADLINE: Duration = Duration::from_secs(20);

    type Opening = tokio::task::JoinHandle<Result<Option<Store>, StoreError>>;

    fn start(data_dir: &Path) -> (Opening, watch::Receiver<Status>, CancellationToken) {
        let text =
            format!("queue_name: q\ncluster: {CLUSTER}\nnode_id: 1\ndata_dir: {}\n", data_dir.display());
        let config = NodeConfig::parse("node.yaml", &text, None).unwrap();
        let (status, watched) = watch::channel(Status::starting(Committed::nothing(CLUSTER), 0));
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let opening = tokio::spawn(async move { open_store(&config, &status, &token).await });
        (opening, watched, shutdown)
    }

    async fn wait_until_failing(status: &mut watch::Receiver<Status>) -> Status {
        let failing = status.wait_for(|status| status.state == NodeState::Failing);
        tokio::time::timeout(DEADLINE, failing).await.unwrap().unwrap().clone()
    }

    async fn end(opening: Opening) -> Result<Option<Store>, StoreError> {
        tokio::time::timeout(DEADLINE, opening).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_locked_database_is_waited_for_and_the_status_says_so() {
        let directory = TempDir::new().unwrap();
        drop(Store::open(directory.path(), CLUSTER, 0).unwrap());
        let other = rusqlite::Connection::open(directory.path().join(crate::store::FILE_NAME)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (opening, mut status, _shutdown) = start(directory.path());
        let failing = wait_until_failing(&mut status).await;
        assert!(failing.reason.as_ref().unwrap().contains("locked"), "{failing:?}");
        other.execute_batch("ROLLBACK").unwrap();
        assert!(end(opening).await.unwrap().is_some());
        assert_eq!(status.borrow().state, NodeState::Bootstrapping);
    }

    #[tokio::test]
    async fn a_shutdown_ends_the_waiting_and_a_refusal_does_not_wait() {
        let directory = TempDir::new().unwrap();
        let blocked = directory.path().join("file");
        std::fs::write(&blocked, "").unwrap();
        let (opening, mut status, shutdown) = start(&blocked.join("data"));
        wait_until_failing(&mut status).await;
        shutdown.cancel();
        assert!(end(opening).await.unwrap().is_none());

        drop(Store::open(directory.path(), "another", 0).unwrap());
        let (opening, ..) = start(directory.path());
        assert!(end(opening).await.unwrap_err().is_refusal());
    }
}

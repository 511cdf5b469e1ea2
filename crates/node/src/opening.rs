//! Opens the database, however long it takes: a disk that is full, locked or not there yet is waited for, with the
//! reason in the node's readiness. A file that is damaged is put aside once a peer has another copy of the rows, which
//! the node then asks for as if it was new. Only a file that is not this node's ends the process: waiting does not help
//! there.

use broadcast_protocol::config::NodeConfig;
use broadcast_protocol::report::NodeState;
use broadcast_service::backoff::Backoff;
use broadcast_service::clock::unix_milliseconds;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::divergence::Divergence;
use crate::metrics::Metrics;
use crate::repair::{Peers, Wanted};
use crate::status::Status;
use crate::store::{Committed, Store, StoreError};

/// The open database, or nothing when the shutdown came first.
pub(crate) async fn open_store(
    config: &NodeConfig,
    peers: &Peers,
    status: &watch::Sender<Status>,
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> Result<Option<Store>, StoreError> {
    let mut backoff = Backoff::between_sessions();
    loop {
        let opening = async {
            match try_open(config).await {
                Err(error) if error.is_damage() => {
                    put_aside(config, peers, status, metrics, error).await?;
                    try_open(config).await
                }
                opened => opened,
            }
        };
        let Some(opened) = shutdown.run_until_cancelled(opening).await else { return Ok(None) };
        match opened {
            Ok((store, committed)) => {
                status.send_modify(|status| {
                    let rebuilds = status.rebuilds;
                    *status = Status { rebuilds, ..Status::starting(committed, unix_milliseconds()) };
                });
                return Ok(Some(store));
            }
            Err(error) if error.is_damage() => {}
            Err(error) if error.is_refusal() => return Err(error),
            Err(error) => {
                tracing::error!(%error, "cannot open the database; trying again");
                show(status, NodeState::Failing, error.to_string());
            }
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(backoff.next_delay())).await.is_none() {
            return Ok(None);
        }
    }
}

/// Moves a damaged database out of the way, once a peer has another copy; gives the damage back when none has.
async fn put_aside(
    config: &NodeConfig,
    peers: &Peers,
    status: &watch::Sender<Status>,
    metrics: &Metrics,
    error: StoreError,
) -> Result<(), StoreError> {
    let damage = Divergence::of_damage(&error);
    tracing::error!(%damage, "cannot open the database; asking peers for theirs");
    show(status, NodeState::Diverged, damage.to_string());
    if let Err(no_help) = peers.fetch_snapshot(Wanted::default(), &mut Vec::new()).await {
        tracing::warn!(%no_help, "cannot rebuild the database");
        show(status, NodeState::Diverged, format!("{damage}; {no_help}"));
        return Err(error);
    }
    let data_dir = config.data_dir.clone();
    let moving = tokio::task::spawn_blocking(move || Store::quarantine_unopened(&data_dir));
    moving.await.unwrap_or(Err(StoreError::Stopping))?;
    metrics.count_rebuild(damage.as_str(), 1);
    status.send_modify(|status| status.rebuilds += 1);
    Ok(())
}

fn show(status: &watch::Sender<Status>, state: NodeState, reason: String) {
    status.send_modify(|status| {
        status.state = state;
        status.reason = Some(reason);
    });
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
    use crate::testing::{CLUSTER, Peer, metrics};

    const DEADLINE: Duration = Duration::from_secs(20);

    type Opening = tokio::task::JoinHandle<Result<Option<Store>, StoreError>>;

    fn start(data_dir: &Path, peers: &[&str]) -> (Opening, watch::Receiver<Status>, CancellationToken) {
        let text =
            format!("queue_name: q\ncluster: {CLUSTER}\nnode_id: 1\ndata_dir: {}\n", data_dir.display());
        let config = NodeConfig::parse("node.yaml", &text, None).unwrap();
        let (status, watched) = watch::channel(Status::starting(Committed::nothing(CLUSTER), 0));
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let peers = crate::testing::peers(peers);
        let opening =
            tokio::spawn(async move { open_store(&config, &peers, &status, &metrics(), &token).await });
        (opening, watched, shutdown)
    }

    async fn wait_until(status: &mut watch::Receiver<Status>, state: NodeState, reason: &str) -> Status {
        let failing = status.wait_for(|status| {
            status.state == state && status.reason.as_ref().is_some_and(|text| text.contains(reason))
        });
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
        let (opening, mut status, _shutdown) = start(directory.path(), &[]);
        wait_until(&mut status, NodeState::Failing, "locked").await;
        other.execute_batch("ROLLBACK").unwrap();
        assert!(end(opening).await.unwrap().is_some());
        assert_eq!(status.borrow().state, NodeState::Bootstrapping);
    }

    #[tokio::test]
    async fn a_shutdown_ends_the_waiting_and_a_refusal_does_not_wait() {
        let directory = TempDir::new().unwrap();
        let blocked = directory.path().join("file");
        std::fs::write(&blocked, "").unwrap();
        let (opening, mut status, shutdown) = start(&blocked.join("data"), &[]);
        wait_until(&mut status, NodeState::Failing, "").await;
        shutdown.cancel();
        assert!(end(opening).await.unwrap().is_none());

        drop(Store::open(directory.path(), "another", 0).unwrap());
        let (opening, ..) = start(directory.path(), &[]);
        assert!(end(opening).await.unwrap_err().is_refusal());
    }

    #[tokio::test]
    async fn a_damaged_database_is_put_aside_once_a_peer_has_another_copy() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join(crate::store::FILE_NAME);
        std::fs::write(&file, "no database").unwrap();
        let (opening, mut status, shutdown) = start(directory.path(), &[]);
        wait_until(&mut status, NodeState::Diverged, "damaged: database: file is not a database; no peer")
            .await;
        shutdown.cancel();
        assert!(end(opening).await.unwrap().is_none());
        assert_eq!(std::fs::read(&file).unwrap(), b"no database", "nobody has another copy");

        let peer = Peer::start(3).await;
        let (opening, status, _shutdown) = start(directory.path(), &[&peer.url]);
        let store = end(opening).await.unwrap().unwrap();
        assert_eq!(store.committed().unwrap(), Committed::nothing(CLUSTER));
        assert_eq!((status.borrow().state, status.borrow().rebuilds), (NodeState::Bootstrapping, 1));
        let aside = std::fs::read(directory.path().join("node.db.quarantined")).unwrap();
        assert_eq!(aside, b"no database");
    }
}

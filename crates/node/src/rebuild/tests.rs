use std::path::Path;

use broadcast_protocol::chain::ChainHash;
use broadcast_protocol::config::NodeConfig;
use broadcast_protocol::replica::Halt;
use broadcast_service::amqp_url::AmqpUrlSource;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::status::Status;
use crate::store::{FILE_NAME, Store};
use crate::testing::{CLUSTER, History, Peer, metrics, peers};
use crate::writer::Writer;

pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// A node that has applied three writes of this history.
pub(super) struct Node {
    directory: TempDir,
    pub(super) consumer: QueueConsumer,
    pub(super) status: watch::Receiver<Status>,
    pub(super) shutdown: CancellationToken,
}

impl Node {
    pub(super) fn new(history: &mut History, urls: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let mut store = Store::open(directory.path(), CLUSTER, 0).unwrap();
        let committed = store.apply(&history.puts(3)).unwrap().committed;
        let (status, watched) = watch::channel(Status::starting(committed, 0));
        let config =
            NodeConfig::parse("node.yaml", &format!("queue_name: q\ncluster: {CLUSTER}\n"), Some("1"));
        let config = config.unwrap();
        let consumer = QueueConsumer {
            node: config.node_id.unwrap(),
            config,
            broker: AmqpUrlSource::from_environment(|_| None),
            waiting_reads: store.readers().waiting(),
            writer: Writer::new(store),
            peers: peers(urls),
            status,
            metrics: metrics(),
        };
        Self { directory, consumer, status: watched, shutdown: CancellationToken::new() }
    }

    pub(super) fn aside(&self) -> std::path::PathBuf {
        self.directory.path().join("node.db.quarantined")
    }

    /// Rebuilds it, in the background.
    fn rebuild(self, divergence: Divergence) -> (JoinHandle<(Self, bool)>, watch::Receiver<Status>) {
        let status = self.status.clone();
        let rebuilding = tokio::spawn(async move {
            let mut pace = RebuildPace::default();
            let rebuilt = self.consumer.rebuild(&divergence, &mut pace, &self.shutdown).await.unwrap();
            (self, rebuilt)
        });
        (rebuilding, status)
    }
}

async fn end(rebuilding: JoinHandle<(Node, bool)>) -> (Node, bool) {
    tokio::time::timeout(DEADLINE, rebuilding).await.unwrap().unwrap()
}

async fn wait_for_reason(status: &mut watch::Receiver<Status>, reason: &str) {
    let says_so = status.wait_for(|status| status.reason.as_ref().is_some_and(|text| text.contains(reason)));
    let says_so = tokio::time::timeout(DEADLINE, says_so).await.map(drop);
    says_so.unwrap_or_else(|_| panic!("{:?} instead of {reason}", status.borrow().reason));
}

fn damage() -> Divergence {
    Divergence::Damaged("for a test".to_owned())
}

fn damage_file(path: &Path) {
    let other = rusqlite::Connection::open(path).unwrap();
    other.execute("UPDATE documents SET value = '7'", []).unwrap();
}

#[tokio::test]
async fn a_database_is_put_aside_once_a_peer_is_as_far_and_the_peers_rows_take_its_place() {
    let mut peer = Peer::start(2).await;
    let node = Node::new(&mut History::default(), &[&peer.url]);
    damage_file(&node.directory.path().join(FILE_NAME));
    let aside = node.aside();
    let (rebuilding, mut status) = node.rebuild(damage());
    wait_for_reason(&mut status, "no peer has 3").await;
    assert!(!aside.exists(), "what it has is kept until a peer has as much");
    assert_eq!((status.borrow().state, status.borrow().applied()), (NodeState::Diverged, 3));
    peer.apply(2);
    let (node, rebuilt) = end(rebuilding).await;
    assert!(rebuilt && aside.exists());
    assert_eq!(node.consumer.writer.load().await.unwrap().0, peer.committed);
    let status = status.borrow();
    assert_eq!((status.committed, status.rebuilds, &status.divergence), (peer.committed, 1, &None));
    assert_eq!(status.state, NodeState::Bootstrapping);
    assert_eq!(status.outcomes, RecentOutcomes::known_after(4));
}

#[tokio::test]
async fn a_peer_with_the_same_wrong_history_is_no_help() {
    let mut history = History::default();
    let peer = Peer::start(3).await;
    let node = Node::new(&mut history, &[&peer.url]);
    let own = node.status.borrow().committed.applied.position;
    assert_eq!(own, peer.committed.applied.position);
    let other = ChainHash::genesis("another");
    let aside = node.aside();
    let shutdown = node.shutdown.clone();
    let (rebuilding, mut status) = node.rebuild(Divergence::Contradicted(Halt::Diverged { own, other }));
    wait_for_reason(&mut status, "has nothing newer").await;
    shutdown.cancel();
    assert!(!end(rebuilding).await.1 && !aside.exists());
}

#[tokio::test]
async fn what_was_given_up_is_put_aside_for_what_the_cluster_has_kept() {
    let (given_up, kept) = (Peer::start(3).await, Peer::start(2).await);
    let cut = Cut { epoch: 2, last: 2 };
    for (urls, kept_by) in [(vec![&given_up.url], None), (vec![&given_up.url, &kept.url], Some(&kept))] {
        let urls: Vec<&str> = urls.into_iter().map(String::as_str).collect();
        let node = Node::new(&mut History::default(), &urls);
        let own = node.status.borrow().committed.applied.position;
        let shutdown = node.shutdown.clone();
        let (rebuilding, mut status) = node.rebuild(Divergence::Contradicted(Halt::GivenUp { own, cut }));
        if kept_by.is_none() {
            wait_for_reason(&mut status, "has what the cluster has given up: everything after 2").await;
            shutdown.cancel();
        }
        let (node, rebuilt) = end(rebuilding).await;
        assert_eq!((rebuilt, node.aside().exists()), (kept_by.is_some(), kept_by.is_some()));
        let committed = kept_by.map(|kept| kept.committed);
        assert!(committed.is_none_or(|kept| status.borrow().committed == kept));
    }
}

#[tokio::test]
async fn a_cluster_of_one_stays_diverged_and_says_so_until_it_is_stopped() {
    let node = Node::new(&mut History::default(), &[]);
    let shutdown = node.shutdown.clone();
    let (rebuilding, mut status) = node.rebuild(damage());
    wait_for_reason(&mut status, "damaged: for a test; no peer has 3 (no peers are configured)").await;
    assert_eq!(status.borrow().state, NodeState::Diverged);
    shutdown.cancel();
    assert!(!end(rebuilding).await.1);
}

#[tokio::test]
async fn a_database_that_was_rebuilt_just_now_is_not_rebuilt_again_at_once() {
    let mut pace = RebuildPace::default();
    assert_eq!(pace.first_delay(), Duration::ZERO);
    pace.rebuilt = Some(Instant::now());
    assert!(pace.first_delay() > Duration::ZERO);
}

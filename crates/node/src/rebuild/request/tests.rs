use tokio::sync::oneshot::Receiver;

use super::*;
use crate::rebuild::tests::{DEADLINE, Node};
use crate::testing::{History, Peer, put};

type Answer = Result<Rebuilt, String>;

/// What a node that has applied three writes answers.
async fn ask(node: &Node) -> Answer {
    let (request, answer): (_, Receiver<Answer>) = RebuildRequest::new();
    let rebuilt =
        tokio::time::timeout(DEADLINE, node.consumer.rebuild_as_asked(request, &node.shutdown)).await;
    assert!(rebuilt.unwrap().unwrap(), "it goes on");
    answer.await.unwrap()
}

#[tokio::test]
async fn a_peer_that_is_as_far_gives_its_rows_and_the_old_ones_are_put_aside() {
    for writes in [3, 4] {
        let peer = Peer::start(writes).await;
        let node = Node::new(&mut History::default(), &[&peer.url]);
        let rebuilt = ask(&node).await.unwrap();
        let committed = peer.committed;
        assert_eq!(rebuilt, Rebuilt { position: writes, rows: committed.rows, digest: committed.digest });
        assert_eq!(node.consumer.writer.load().await.unwrap().0, committed);
        assert!(node.aside().exists());
        let status = node.status.borrow();
        assert_eq!((status.committed, status.rebuilds, status.rebuilding), (committed, 1, false));
    }
}

#[tokio::test]
async fn without_a_peer_that_is_as_far_nothing_happens_and_the_answer_says_what_each_said() {
    let (behind, mut other) = (Peer::start(2).await, Peer::start(0).await);
    let message = other.history.message(&["1", "2", "3"].map(|key| put("other", key, "1")));
    other.apply_messages(&[message]);
    for (urls, problem) in [
        (vec![], "no peer has 3 (no peers are configured)"),
        (vec![behind.url.as_str()], "has nothing newer"),
        (vec![other.url.as_str()], "has nothing newer"),
        (vec!["http://127.0.0.1:1"], "does not answer"),
    ] {
        let node = Node::new(&mut History::default(), &urls);
        let before = node.status.borrow().committed;
        let answer = ask(&node).await.unwrap_err();
        assert!(answer.contains(problem), "{answer}\n{problem}");
        assert_eq!(node.consumer.writer.load().await.unwrap().0, before);
        assert!(!node.aside().exists());
        let status = node.status.borrow();
        assert_eq!((status.committed, status.rebuilds, status.rebuilding), (before, 0, false));
    }
}

#[tokio::test]
async fn a_shutdown_ends_it_and_the_database_stays() {
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let node = Node::new(&mut History::default(), &[&format!("http://{}", silent.local_addr().unwrap())]);
    let (request, answer) = RebuildRequest::new();
    node.shutdown.cancel();
    assert!(!node.consumer.rebuild_as_asked(request, &node.shutdown).await.unwrap());
    assert!(answer.await.is_err());
    assert_eq!(node.consumer.writer.load().await.unwrap().0, node.status.borrow().committed);
}

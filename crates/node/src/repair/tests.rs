use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode as Status;
use axum::routing::get;
use tokio::net::TcpListener;

use super::*;
use crate::testing::{CLUSTER, History};

/// What a peer answers to each query.
type Answers = Arc<HashMap<String, (u16, Vec<u8>)>>;

/// A peer on loopback that answers with what stands beside the query, or 404.
async fn peer(answers: &[(&str, u16, Vec<u8>)]) -> String {
    let answers: Answers = Arc::new(
        answers.iter().map(|(query, status, body)| ((*query).to_owned(), (*status, body.clone()))).collect(),
    );
    let answer = async |State(answers): State<Answers>, RawQuery(query): RawQuery| {
        let missing = (404, Vec::new());
        let (status, body) = answers.get(&query.unwrap_or_default()).unwrap_or(&missing);
        (Status::from_u16(*status).unwrap(), body.clone())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/log", get(answer)).with_state(answers);
    tokio::spawn(async { axum::serve(listener, router).await });
    url
}

fn peers(urls: &[&str]) -> Peers {
    let urls = urls.iter().map(|url| (*url).to_owned()).collect();
    Peers::new(CLUSTER, urls, broadcast_service::http::http_client().unwrap())
}

fn lines(messages: &[WriteMessage]) -> Vec<u8> {
    messages.iter().flat_map(|message| [message.body().as_ref(), b"\n"].concat()).collect()
}

/// The last sequence numbers of what was fetched after a position.
async fn fetched(peers: &Peers, position: Position) -> Result<Vec<u64>, String> {
    let messages = peers.fetch_after(position, Cut::default()).await.map_err(|error| error.to_string())?;
    Ok(messages.iter().map(|message| message.position.last).collect())
}

#[tokio::test]
async fn the_first_peer_that_can_help_helps() {
    let mut history = History::default();
    let messages = history.puts(4);
    let position = messages[1].position;
    let gone = peer(&[("after=2", 410, Vec::new())]).await;
    let behind = peer(&[("after=2", 200, Vec::new())]).await;
    let helpful = peer(&[("after=2", 200, lines(&messages[2..]))]).await;
    let peers = peers(&[&gone, &behind, "http://127.0.0.1:1", &helpful]);
    assert_eq!(fetched(&peers, position).await, Ok(vec![3, 4]));
    let error = fetched(&peers, history.position).await.unwrap_err();
    assert!(error.starts_with("no peer has 5 ("), "{error}");
}

#[tokio::test]
async fn nobody_can_help_says_what_was_tried() {
    let mut history = History::default();
    let messages = history.puts(3);
    let mut other = History::default();
    other.message(&[crate::testing::put("c", "other", "1")]);
    let url = |status, body: Vec<u8>| async move { peer(&[("after=1", status, body)]).await };
    let mark = broadcast_protocol::envelope::Mark::genesis(CLUSTER, 0).body().to_vec();
    for (url, problem) in [
        (url(410, Vec::new()).await, "its log no longer reaches back"),
        (url(200, Vec::new()).await, "has nothing newer"),
        (url(500, Vec::new()).await, "answers 500"),
        (url(401, Vec::new()).await, "takes none of the peer tokens of this node, or this node has none"),
        (url(403, Vec::new()).await, "takes none of the peer tokens"),
        (url(200, lines(&messages[2..])).await, "has another history: its next message follows 2"),
        (url(200, lines(&other.puts(1))).await, "has another history: its next message follows 1"),
        (url(200, lines(&messages[1..2])[..50].to_vec()).await, "not a message: EOF"),
        (url(200, mark).await, "sent what is no batch of writes"),
        ("http://127.0.0.1:1".to_owned(), "does not answer"),
        ("http://no..host".to_owned(), "does not resolve"),
    ] {
        let error = fetched(&peers(&[&url]), messages[0].position).await.unwrap_err();
        assert!(error.starts_with(&format!("no peer has 2 ({url} {problem}")), "{error}\n{problem}");
    }
    let error = fetched(&peers(&[]), messages[0].position).await.unwrap_err();
    assert_eq!(error, "no peer has 2 (no peers are configured)");
}

#[tokio::test]
async fn what_was_given_up_is_refused_and_the_next_peer_is_asked() {
    let mut history = History::default();
    let first = history.puts(1).remove(0);
    let given_up = history.puts(2);
    let mut other = History { epoch: 3, position: first.position };
    other.message(&[crate::testing::put("c", "other", "1")]);
    let others = other.puts(1);
    let one = peer(&[("after=1", 200, lines(&given_up))]).await;
    let two = peer(&[("after=2", 200, lines(&others))]).await;
    let cut = Cut { epoch: 3, last: 1 };
    let error = peers(&[&one]).fetch_after(first.position, cut).await.unwrap_err().to_string();
    assert!(error.contains("has what the cluster has given up: everything after 1"), "{error}");
    let fetched = peers(&[&one, &two]).fetch_after(others[0].previous, cut).await.unwrap();
    assert_eq!(fetched[0].position, others[0].position);
    let kept = peers(&[&one]).fetch_after(first.position, Cut { last: 2, epoch: 1 }).await.unwrap();
    assert_eq!(kept.len(), 2, "all of this epoch");
    let three = peer(&[("after=0", 200, lines(&[vec![first], given_up].concat()))]).await;
    let fetched =
        peers(&[&three]).fetch_after(Position::genesis(CLUSTER), Cut { last: 1, ..cut }).await.unwrap();
    assert_eq!(fetched.len(), 1, "what was kept");
}

#[tokio::test]
async fn what_comes_before_a_broken_line_is_taken() {
    let mut history = History::default();
    let messages = history.puts(3);
    let whole = lines(&messages);
    let truncated = whole[..whole.len() - 20].to_vec();
    let mut skipping = lines(&messages[..1]);
    skipping.extend(lines(&messages[2..]));
    for (body, taken) in [(truncated, vec![1, 2]), (skipping, vec![1]), (whole, vec![1, 2, 3])] {
        let url = peer(&[("after=0", 200, body)]).await;
        assert_eq!(fetched(&peers(&[&url]), Position::genesis(CLUSTER)).await, Ok(taken));
    }
}

#[tokio::test]
async fn a_name_stands_for_all_its_addresses() {
    let addresses = resolve("http://localhost:8081").await.unwrap();
    let origins: Vec<_> = addresses.iter().map(|url| url.origin().ascii_serialization()).collect();
    assert!(origins.contains(&"http://127.0.0.1:8081".to_owned()), "{origins:?}");
    let addresses = resolve("http://[::1]:8081").await.unwrap();
    assert_eq!(addresses[0].as_str(), "http://[::1]:8081/");
}

#[test]
fn a_log_that_no_longer_reaches_back_gives_hope_unless_it_is_a_hearts() {
    let no_help = |tried: &[(&str, PeerError)]| NoHelp {
        missing: 2,
        tried: tried.iter().map(|(peer, error)| ((*peer).to_owned(), error.clone())).collect(),
    };
    let logs = no_help(&[("node", PeerError::NothingNewer), ("further", PeerError::Gone)]);
    let unreachable = PeerError::Unreachable(String::new());
    for (of_further, has_hope) in [
        (PeerError::Status(404), false),
        (PeerError::Status(503), true),
        (unreachable.clone(), true),
        (PeerError::NothingNewer, true),
    ] {
        let snapshots = no_help(&[("node", unreachable.clone()), ("further", of_further)]);
        assert_eq!(snapshots.may_have_snapshot_later(&logs), has_hope, "{snapshots}");
    }
}

#[tokio::test]
async fn a_history_that_does_not_lead_through_where_this_node_is_is_proven_link_by_link() {
    let mut given_up = History::default();
    let own = given_up.puts(4)[3].position;
    let mut history = History::default();
    let put = |key: &str| crate::testing::put("c", key, "2");
    let start = history.puts(1).remove(0);
    let across = history.message(&["a", "b", "c", "d"].map(put));
    let rest = [history.message(&[put("e")]), history.message(&[put("f")])];
    assert!(start.position.last < own.last && own.last < across.position.last);
    let (shown, log) = (rest[1].position, [across, rest[0].clone(), rest[1].clone()]);
    let mut same = History::default();
    same.puts(4);
    let continued = same.puts(3);
    for (body, more, proves) in [
        (lines(&log), Vec::new(), true),
        (lines(&log[..2]), lines(&log[2..]), true),
        (lines(&log[..2]), Vec::new(), false),
        (lines(&[log[0].clone(), log[2].clone()]), Vec::new(), false),
        (lines(&log[1..]), Vec::new(), false),
        (lines(&continued), Vec::new(), false),
        (Vec::new(), Vec::new(), false),
    ] {
        let url = peer(&[("after=4", 200, body), ("after=6", 200, more)]).await;
        assert_eq!(peers(&["http://127.0.0.1:1", &url]).prove_bypass(own, shown).await, proves);
    }
    let url = peer(&[("after=4", 200, lines(&log))]).await;
    let elsewhere = Position { last: shown.last, ..own };
    assert!(!peers(&[&url]).prove_bypass(own, elsewhere).await, "it leads to somewhere else");
}

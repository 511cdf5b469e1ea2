//! TLS with client certificates, and credentials that change while hearts and nodes work.

use std::time::Duration;

use broadcast_tests::authority::{Authority, Identity};
use broadcast_tests::broker::Broker;
use broadcast_tests::client::wait_for;
use broadcast_tests::mount::Mount;
use broadcast_tests::standalone::{Cluster, RECOVERY};

const NODES: u32 = 2;

/// What a process says when it has met changed credentials: once for each of its sessions.
const RENEWED: &str = "renewing the session with changed credentials";
const REFUSED: &str = "the changed credentials do not work";

/// How long it may take until every session has met changed credentials: they look every 10 s.
const RENEWAL: Duration = Duration::from_mins(1);

/// What a Secret would have: where to connect to, whom to trust, and who to be.
fn mount_access(mount: &Mount, url: &str, authority: &Authority, identity: Option<&Identity>) {
    let mut query = "cacertfile=ca.crt".to_owned();
    let mut files = vec![("ca.crt", authority.certificate.as_str())];
    if let Some(Identity { certificate, key }) = identity {
        query += "&certfile=tls.crt&keyfile=tls.key";
        files.extend([("tls.crt", certificate.as_str()), ("tls.key", key.as_str())]);
    }
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}{query}");
    files.push(("url", &url));
    mount.replace(&files);
}

/// Waits until a node says why it is not connected.
async fn wait_for_reason(cluster: &Cluster, expected: &str) {
    wait_for(&format!("the node to say: {expected}"), RECOVERY, async || {
        let status = cluster.node(1).node_status().await.map_err(|refused| format!("{refused:?}"))?;
        match status.reason {
            Some(reason) if reason.contains(expected) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn each_side_that_is_not_who_it_should_be_is_refused_with_the_reason() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.issue_for_server(&["127.0.0.1", "broker.example"]);
    let broker = Broker::start_with_tls(&authority, &server).await;
    let client = authority.issue_for_client("node");
    let url = format!("amqps://guest:guest@{}/%2f", broker.tls_address());
    let other_name = format!("{url}?server_name_indication=other.example");
    let right_name = format!("{url}?server_name_indication=broker.example");
    let no_tls_there = format!("amqps://guest:guest@{}/%2f", broker.plain_address());

    let mount = Mount::new();
    let mut cluster = Cluster::prepare(&broker.url(), 1);
    cluster.url_file = Some(mount.join("url"));
    mount_access(&mount, &url, &stranger, Some(&client));
    cluster.start_node(1);
    wait_for_reason(&cluster, "its certificate is not signed by a CA that is trusted here").await;
    mount_access(&mount, &other_name, &authority, Some(&client));
    wait_for_reason(&cluster, "not valid for name \"other.example\"; certificate is only valid for").await;
    mount_access(&mount, &url, &authority, None);
    wait_for_reason(&cluster, "a client certificate").await;
    mount_access(&mount, &url, &authority, Some(&stranger.issue_for_client("node")));
    wait_for_reason(&cluster, "refuses the client certificate, or the way it is offered: UnknownCA").await;
    mount_access(&mount, &url, &authority, Some(&authority.issue_expired_for_client("node")));
    wait_for_reason(&cluster, "offered: CertificateExpired").await;
    mount_access(&mount, &no_tls_there, &authority, Some(&client));
    wait_for_reason(&cluster, "does not speak TLS at this port").await;
    mount.replace(&[("url", &format!("amqp://guest:guest@{}/%2f", broker.tls_address()))]);
    wait_for_reason(&cluster, "is TLS wanted at this port?").await;
    mount.replace(&[("url", &format!("{url}?cacertfile=ca.crt"))]);
    wait_for_reason(&cluster, "ca.crt: No such file").await;

    mount_access(&mount, &right_name, &authority, Some(&client));
    cluster.start_heart(0);
    cluster.wait_until_ready().await;
    let load = cluster.start_load(2);
    load.progress(20).await;
    load.finish().await;
    cluster.converge().await;
}

#[tokio::test]
async fn credentials_and_certificates_that_change_under_writes_cost_no_write() {
    let authority = Authority::new();
    let server = authority.issue_for_server(&["127.0.0.1"]);
    let broker = Broker::start_with_tls(&authority, &server).await;
    let mount = Mount::new();
    let mount_user = async |name: &str| {
        broker.control(&["add_user", name, "secret"]).await;
        broker.control(&["set_permissions", "-p", "/", name, ".*", ".*", ".*"]).await;
        let url = format!("amqps://{name}:secret@{}/%2f", broker.tls_address());
        mount_access(&mount, &url, &authority, Some(&authority.issue_for_client(name)));
    };
    mount_user("ada").await;
    let mut cluster = Cluster::prepare(&broker.url(), NODES);
    cluster.url_file = Some(mount.join("url"));
    cluster.start_all(2).await;
    let load = cluster.start_load(4);
    load.progress(100).await;

    let wrong = format!("amqps://ada:wrong@{}/%2f", broker.tls_address());
    mount_access(&mount, &wrong, &authority, Some(&authority.issue_for_client("ada")));
    wait_for_every_session(&cluster, REFUSED, 1).await;
    load.progress(100).await;
    assert_eq!(count_in_logs(&cluster, RENEWED), 0, "what works is kept");

    for (round, (old, new)) in (1..).zip([("ada", "bob"), ("bob", "cyd")]) {
        mount_user(new).await;
        wait_for_every_session(&cluster, RENEWED, round).await;
        load.progress(100).await;
        broker.control(&["delete_user", old]).await;
        load.progress(100).await;
    }
    load.finish().await;
    cluster.converge().await;
}

/// Hearts have one session, nodes have two: one for their queue and one for reports.
async fn wait_for_every_session(cluster: &Cluster, said: &str, times: usize) {
    wait_for(&format!("every session to say {times} times: {said}"), RENEWAL, async || {
        let hearts = cluster.running_hearts().map(|index| (cluster.heart_process(index), 1));
        let nodes = cluster.running_nodes().map(|id| (cluster.node_process(id), 2));
        let counts: Vec<_> = hearts
            .chain(nodes)
            .map(|(process, sessions)| (process.output().matches(said).count(), sessions * times))
            .collect();
        if counts.iter().all(|(found, expected)| found >= expected) {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    })
    .await;
}

fn count_in_logs(cluster: &Cluster, said: &str) -> usize {
    let hearts = cluster.running_hearts().map(|index| cluster.heart_process(index));
    let nodes = cluster.running_nodes().map(|id| cluster.node_process(id));
    hearts.chain(nodes).map(|process| process.output().matches(said).count()).sum()
}

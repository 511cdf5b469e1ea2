use super::*;

const SEED_HEART: &str = "exchange: \"write_requests_fanout\"\nqueue_name: \"write_requests\"\n";
const SEED_NODE: &str = "node_id: 1\nqueue_name: \"write_requests\"\n";

#[test]
fn the_two_names_are_all_a_heart_needs() {
    let config = HeartConfig::parse("heart.yaml", SEED_HEART).unwrap();
    assert_eq!(config.topology().names().exchange(), "write_requests_fanout");
    assert_eq!(config.cluster, "write_requests_fanout/write_requests");
    assert_eq!((config.min_attached, config.genesis, config.queue_type), (1, true, QueueType::Classic));
    assert_eq!(
        (config.http.to_string(), config.admin.to_string()),
        ("127.0.0.1:8080".into(), "127.0.0.1:9090".into())
    );
}

#[test]
fn an_id_and_a_name_are_all_a_node_needs_and_two_nodes_fit_on_one_machine() {
    let config = NodeConfig::parse("node.yaml", SEED_NODE, None).unwrap();
    let heart = HeartConfig::parse("heart.yaml", SEED_HEART).unwrap();
    assert_eq!(
        (config.exchange.as_str(), config.cluster.as_str()),
        (DEFAULT_EXCHANGE, heart.cluster.as_str())
    );
    assert_eq!(config.topology().names().node_queue(config.node_id.unwrap()), "write_requests_node_1");
    let other = NodeConfig::parse("node.yaml", SEED_NODE, Some("2")).unwrap();
    assert_eq!(other.node_id, NodeId::new(2));
    assert_eq!((config.http.port(), other.http.port(), other.admin.port()), (8081, 8082, 9092));
    assert_ne!(config.data_dir, other.data_dir);
}

#[test]
fn everything_wrong_is_said_at_once_with_file_key_and_what_is_allowed() {
    let text = "exchange: 'a b'\nqueue_nam: q\nmin_attached: -1\nqueue_type: stream\nhttp: here\ngenesis: maybe\n\
                limits: {pending_bytes: 1, retained_bytes: 0, size: 2}\n";
    let error = HeartConfig::parse("heart.yaml", text).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("heart.yaml:\n"), "{text}");
    for problem in [
        "exchange: \"a b\" does not match ^[A-Za-z0-9_][A-Za-z0-9_.:-]*$",
        "queue_name: missing",
        "limits.pending_bytes: a whole number from 1048576 to 4294967296 is needed",
        "limits.retained_bytes: a whole number from 1048576 to 4294967296 is needed",
        "limits.size: unknown key; allowed are pending_bytes, retained_bytes",
        "queue_type: allowed are classic and quorum",
        "min_attached: a whole number from 0 to 100 is needed",
        "genesis: allowed are true and false",
        "http: \"here\" is no address and port such as \"127.0.0.1:8080\"",
        "queue_nam: unknown key; allowed are exchange, queue_name,",
    ] {
        assert!(error.problems().iter().any(|found| found.starts_with(problem)), "{problem}\n{text}");
    }
    assert_eq!(error.problems().len(), 10, "{text}");
}

#[test]
fn a_wrong_node_file_is_refused() {
    for (text, id, problem) in [
        ("queue_name: q", None, "node_id: missing"),
        ("queue_name: q", Some("0"), "NODE_ID (environment): a whole number from 1 to 9999"),
        ("queue_name: q", Some("x"), "NODE_ID (environment)"),
        ("queue_name: q\nnode_id: 0", None, "node_id: a whole number from 1 to 9999 is needed"),
        ("queue_name: q\nnode_id: '1'", None, "node_id: a whole number"),
        ("queue_name: 7\nnode_id: 1", None, "queue_name: a string is needed"),
        ("queue_name: q\nnode_id: 1\npeers: [ftp://x]", None, "peers: ftp://x is no URL"),
        ("queue_name: q\nnode_id: 1\npeers: http://x", None, "peers: a list"),
        ("queue_name: q\nqueue_name: q", None, "duplicate entry"),
        (
            "queue_name: q\nnode_id: 1\nscrub_interval_seconds: 0",
            None,
            "scrub_interval_seconds: a whole number from 1 to 604800 is needed",
        ),
        ("queue_name: q\nnode_id: 1\nauth: {}", None, "auth.tokens_dir: missing"),
        ("queue_name: q\nnode_id: 1\nauth:", None, "auth.tokens_dir: missing"),
        ("queue_name: q\nnode_id: 1\nauth: {tokens_dir: ''}", None, "auth.tokens_dir: an empty path"),
        ("queue_name: q\nnode_id: 1\nauth: {tokens_dir: 7}", None, "auth.tokens_dir: a string is needed"),
        ("queue_name: q\nnode_id: 1\nauth: tokens", None, "auth: "),
        (
            "queue_name: q\nnode_id: 1\nauth: {tokens_dir: t, token: x}",
            None,
            "auth.token: unknown key; allowed are tokens_dir",
        ),
        ("- 1", None, "not a mapping"),
        ("{", None, "did not find expected"),
    ] {
        let error = NodeConfig::parse("node.yaml", text, id).unwrap_err();
        assert!(error.problems().iter().any(|found| found.contains(problem)), "{text}\n{error}");
    }
}

#[test]
fn what_is_written_reads_back() {
    let mut node = NodeConfig::parse("node.yaml", SEED_NODE, None).unwrap();
    node.peers = vec!["http://orders-nodes:8080".to_owned()];
    node.auth = Some(AuthConfig { tokens_dir: "/etc/broadcast/tokens".into() });
    let text = serde_yaml::to_string(&node).unwrap();
    assert_eq!(NodeConfig::parse("node.yaml", &text, None).unwrap(), node);
    let mut heart = HeartConfig::parse("heart.yaml", SEED_HEART).unwrap();
    heart.nodes_file = Some("/etc/broadcast/nodes/nodes.yaml".into());
    heart.auth.clone_from(&node.auth);
    let text = serde_yaml::to_string(&heart).unwrap();
    assert_eq!(HeartConfig::parse("heart.yaml", &text).unwrap(), heart);
    for accepted_loss in [None, Some(1041)] {
        let nodes =
            NodesFile { node_ids: vec![NodeId::new(1).unwrap(), NodeId::new(3).unwrap()], accepted_loss };
        let text = serde_yaml::to_string(&nodes).unwrap();
        assert_eq!(NodesFile::parse("nodes.yaml", &text).unwrap(), nodes);
        assert_eq!(text.contains("accepted_loss"), accepted_loss.is_some(), "{text}");
    }
    for (text, problem) in [
        ("node_ids: [0]", "1 to 9999"),
        ("node_ids: [1]\naccepted_loss: all", "accepted_loss: invalid type"),
        ("node_ids: [1]\naccepted: 1", "unknown field `accepted`, expected `node_ids` or `accepted_loss`"),
    ] {
        let error = NodesFile::parse("nodes.yaml", text).unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

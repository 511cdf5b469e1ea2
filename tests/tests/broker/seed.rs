//! Without Kubernetes: the smallest configuration files do the whole job, and a wrong one says what is wrong with it.

use std::net::TcpListener;
use std::process::Command;

use broadcast_tests::broker::Broker;
use broadcast_tests::client::{Client, wait_for};
use broadcast_tests::oracle::read_rows;
use broadcast_tests::processes::{Folder, Process, program};
use broadcast_tests::standalone::{RECOVERY, STOP};
use serde_json::json;

const HEART: &str = "exchange: \"write_requests_fanout\"\nqueue_name: \"write_requests\"\n";
const NODE: &str = "node_id: 1\nqueue_name: \"write_requests\"\n";
const SECOND_NODE: &str = "node_id: 2\nqueue_name: \"write_requests\"\n";

#[tokio::test]
async fn two_lines_of_configuration_each_make_a_heart_and_two_nodes_that_agree() {
    for port in [8080, 8081, 8082, 9090, 9091, 9092] {
        wait_for("the ports that are used where nothing else is configured", RECOVERY, async || {
            TcpListener::bind(("127.0.0.1", port)).map(drop).map_err(|error| format!("{port}: {error}"))
        })
        .await;
    }
    let broker = Broker::shared().await;
    let folder = Folder::new();
    let start = |name: &str, kind: &str, config: &str| {
        let config = folder.write(&format!("{name}.yaml"), config);
        let mut command = Command::new(program(kind));
        command.arg("--config").arg(config).current_dir(folder.path()).env("AMQP_URL", broker.url());
        Process::start(name, &mut command, &folder.join(format!("{name}.log")))
    };
    let heart_process = start("heart", "heart", HEART);
    let node_processes = [start("node-1", "node", NODE), start("node-2", "node", SECOND_NODE)];
    let (heart, nodes) = (Client::new(8080), [Client::new(8081), Client::new(8082)]);
    wait_for("both nodes to be ready", RECOVERY, async || {
        let status = heart.heart_status().await.map_err(|error| format!("{error:?}"))?;
        let ready = status.nodes.iter().filter(|node| node.state == "ready").count();
        if ready == 2 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;

    let value = json!({"name": "Ada"});
    let written = heart.put("users", "42", &value, None).await.unwrap();
    assert_eq!((written.status, written.first, written.last, written.ack.as_str()), (200, 1, 1, "broker"));
    for node in &nodes {
        let document = node.read("users", "42", written.last, "5s").await.unwrap();
        assert_eq!((document.value, document.seq), (value.clone(), 1));
    }

    heart_process.stop(STOP).await;
    for (process, id) in node_processes.into_iter().zip(1..) {
        process.stop(STOP).await;
        assert_eq!(read_rows(&folder.join(format!("data/node-{id}/node.db"))).len(), 1);
    }
}

#[tokio::test]
async fn a_wrong_configuration_file_ends_the_process_with_2_and_all_its_errors() {
    let cases: [(&str, &str, &[&str]); 7] = [
        (
            "heart",
            "exchange: a\nqueue_name: b\nexchnage: c\n",
            &["exchnage: unknown key; allowed are exchange"],
        ),
        (
            "heart",
            "queue_name: b\nmin_attached: many\n",
            &["exchange: missing", "min_attached: a whole number"],
        ),
        ("heart", "exchange: a\nqueue_name: b\nlimits: {pending: 1}\n", &["limits.pending: unknown key"]),
        ("heart", "- exchange\n", &["not a mapping"]),
        ("node", "node_id: 0\nqueue_name: b\n", &["node_id: a whole number from 1"]),
        (
            "node",
            "queue_name: amq.b\n",
            &["node_id: missing", "queue_name: \"amq.b\": names that begin with"],
        ),
        (
            "node",
            "node_id: 1\nqueue_name: b\nhttp: here\nqueue_type: lazy\npeers: [ftp://x]\n",
            &[
                "http: \"here\" is no address",
                "queue_type: allowed are classic and quorum",
                "peers: ftp://x is no URL",
            ],
        ),
    ];
    let folder = Folder::new();
    for (index, (kind, config, expected)) in cases.into_iter().enumerate() {
        let file = folder.write(&format!("wrong-{index}.yaml"), config);
        let mut command = Command::new(program(kind));
        command.arg("--config").arg(&file);
        let mut process = Process::start(kind, &mut command, &folder.join(format!("{index}.log")));
        let status = process.wait(STOP).await;
        let output = process.output();
        assert_eq!(status.code(), Some(2), "{config}{output}");
        for part in expected.iter().copied().chain([file.to_str().unwrap()]) {
            assert!(output.contains(part), "{part:?} is not in: {output}");
        }
    }
}

#[tokio::test]
async fn a_configuration_file_that_is_not_there_is_named() {
    let folder = Folder::new();
    for kind in ["heart", "node"] {
        let mut command = Command::new(program(kind));
        command.args(["--config", "/nowhere/config.yaml"]);
        let mut process = Process::start(kind, &mut command, &folder.join(kind));
        assert_eq!(process.wait(STOP).await.code(), Some(2));
        assert!(process.output().contains("/nowhere/config.yaml"), "{}", process.output());
    }
}

//! `kubectl broadcast` against a real cluster: what it shows, what it does, and its exit codes.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use broadcast_tests::client::wait_for;
use broadcast_tests::cluster::{self, Scenario};
use broadcast_tests::processes::program;
use kube::ResourceExt;
use rusqlite::Connection;
use serde_json::{Value, json};

const NODES: u32 = 3;

/// How long anything may take that needs no new pods.
const PATIENCE: Duration = Duration::from_mins(1);

/// The plugin in a scenario's namespace, as `kubectl` would start it.
struct Plugin<'a>(&'a Scenario);

/// What came of it.
#[derive(Debug)]
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Plugin<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("kubectl-broadcast"));
        command.args(arguments).args(["--namespace", &self.0.namespace]).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        read(&mut self.command(arguments), "")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ended = read(self.command(arguments).args(["--output", "json"]), "");
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }

    /// Something that comes about a moment later.
    async fn wait_for(&self, what: &str, arguments: &[&str], expected: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE, async || {
            let answer = self.json(arguments);
            if expected(&answer) { Ok(answer) } else { Err(answer.to_string()) }
        })
        .await
    }
}

fn read(command: &mut Command, input: &str) -> Ended {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_cluster_is_looked_at_and_worked_with_through_the_api_server_alone() {
    cluster::run("plugin", async |stage| {
        stage.apply(&stage.sample("orders", NODES)).await;
        stage.wait_until_ready("orders", NODES).await;
        let plugin = Plugin(stage);
        show_status(&plugin);
        write_and_read(&plugin);
        watch(&plugin);
        compare_and_rebuild(&plugin).await;
        find_a_changed_row(&plugin).await;
        give_dead_letters_back(&plugin).await;
        pause_and_resume(&plugin).await;
        refuse_with_advice(&plugin).await;
    });
}

fn show_status(plugin: &Plugin<'_>) {
    let shown = plugin.run(&["status"]);
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""), "{shown:?}");
    for text in ["/orders   orders-heart-", "3/3", "every condition is as it should be"] {
        assert!(shown.stdout.contains(text), "{text}: {shown:?}");
    }
    assert!(!shown.stdout.contains('\u{1b}'), "no colours where no terminal is");
    let status = plugin.json(&["status", "orders"]);
    let all: Vec<&Value> = status["nodes"].as_array().unwrap().iter().map(|node| &node["state"]).collect();
    assert_eq!(all, ["ready"; NODES as usize], "{status}");
}

fn write_and_read(plugin: &Plugin<'_>) {
    let written = plugin.json(&["put", "users", "a/b ü?", r#"{"name": "Ada"}"#, "--ack", "all"]);
    assert_eq!(written["ack"], "all", "{written}");
    let seq = written["last"].to_string();
    assert_eq!(plugin.json(&["get", "users", "a/b ü?", "--at-least", &seq]), json!({"name": "Ada"}));
    let missing = plugin.run(&["get", "users", "a/b"]);
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.starts_with("error: users/a/b does not exist at position"), "{missing:?}");

    let lines =
        (0..20).map(|key| format!(r#"{{"op":"put","collection":"many","key":"{key}","value":{key}}}"#));
    let lines = lines.collect::<Vec<_>>().join("\n");
    let many = read(&mut plugin.command(&["write", "--ack", "quorum"]), &lines);
    assert!(many.code == 0 && many.stdout.starts_with("writes "), "{many:?}");
    let wrong = read(&mut plugin.command(&["write"]), r#"{"op":"put","collection":"many"}"#);
    assert!(wrong.code == 1 && wrong.stderr.contains("(400)"), "{wrong:?}");

    let id = ["put", "users", "1", "1", "--id", "r1", "--ack", "one"];
    plugin.json(&id);
    let reused = plugin.run(&["put", "users", "1", "2", "--id", "r1", "--ack", "one"]);
    assert!(reused.code == 1 && reused.stderr.contains("id_reused"), "{reused:?}");
    let deleted = plugin.json(&["delete", "users", "1", "--ack", "all"]);
    assert_eq!(plugin.run(&["get", "users", "1", "--at-least", &deleted["last"].to_string()]).code, 1);
}

fn watch(plugin: &Plugin<'_>) {
    let mut watching = plugin.command(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let (sent, lines) = mpsc::channel();
    let stdout = BufReader::new(watching.stdout.take().unwrap());
    thread::spawn(move || stdout.lines().map(Result::unwrap).try_for_each(|line| sent.send(line)));
    let wait_for_line = |expected: &str| {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|line: &String| !line.ends_with(expected)) {
            seen.push(lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {expected}: {seen:?}")));
        }
    };
    wait_for_line("every condition is as it should be");
    let written = plugin.json(&["put", "users", "1", "1"]);
    wait_for_line(&format!(" position: {}", written["last"]));
    watching.kill().unwrap();
    watching.wait().unwrap();
}

async fn compare_and_rebuild(plugin: &Plugin<'_>) {
    let verified = plugin.run(&["verify", "orders"]);
    assert!(verified.code == 0 && verified.stdout.contains("all nodes have the same rows"), "{verified:?}");
    let rebuilt = plugin.json(&["rebuild", "2", "--name", "orders"]);
    assert_eq!(rebuilt["node"], 2, "{rebuilt}");
    plugin
        .wait_for("node 2 to be ready again", &["status"], |status| {
            status["nodes"].as_array().unwrap().iter().all(|node| node["state"] == "ready")
        })
        .await;
    assert_eq!(plugin.run(&["verify"]).code, 0);
    plugin
        .wait_for("an event that says so", &["events"], |events| {
            events.as_array().unwrap().iter().any(|event| event["reason"] == "NodeRebuilt")
        })
        .await;
    let events = plugin.json(&["events", "orders"]);
    let times: Vec<&str> =
        events.as_array().unwrap().iter().map(|event| event["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "the newest last: {times:?}");
}

/// Where the node's file is on this machine.
async fn find_a_changed_row(plugin: &Plugin<'_>) {
    let Some(file) = plugin.0.find_node_file("orders", 3).await else { return };
    let file = Connection::open(file).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    assert_eq!(file.execute("UPDATE documents SET value = '7' WHERE key = '11'", []).unwrap(), 1);
    drop(file);
    let verified = plugin.run(&["verify"]);
    let is_named =
        verified.code == 1 && verified.stdout.contains("the rows of node 3 are not what was written");
    assert!(is_named || verified.code == 0, "named, or healed in the meantime: {verified:?}");
    wait_for("node 3 to be rebuilt", PATIENCE, async || {
        // Refused while it does so by itself.
        let rebuilt = plugin.run(&["rebuild", "3"]);
        let verified = plugin.run(&["verify"]);
        if verified.code == 0 { Ok(()) } else { Err(format!("{rebuilt:?} {verified:?}")) }
    })
    .await;
    assert_eq!(plugin.json(&["get", "many", "11"]), 11);
}

async fn give_dead_letters_back(plugin: &Plugin<'_>) {
    let list = ["dead-letters", "list"];
    assert_eq!(plugin.run(&list).stdout, "no dead letters\n");
    let broker = plugin.0.connect_to_broker().await;
    broker.publish(&plugin.0.broker_name("orders"), b"this is no JSON").await;
    let all = |listing: &Value| listing["total"] == NODES;
    let listing = plugin.wait_for("a letter from every node", &list, all).await;
    let shown = plugin.run(&list);
    assert!(shown.stdout.contains("node 1") && shown.stdout.contains("this is no JSON"), "{shown:?}");
    let first = listing["letters"][0]["id"].as_str().unwrap();
    assert_eq!(plugin.json(&["dead-letters", "replay", first])["replayed"], 1);
    // Rejected again.
    plugin.wait_for("all letters", &list, all).await;
    assert_eq!(plugin.json(&["dead-letters", "replay", "--all"])["replayed"], NODES);
    plugin.wait_for("all letters", &list, all).await;
    let unknown = plugin.run(&["dead-letters", "replay", "nobody"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("there is no letter nobody"), "{unknown:?}");
}

async fn pause_and_resume(plugin: &Plugin<'_>) {
    const ANNOTATION: &str = "broadcast.dev/paused";
    let is_paused = |status: &Value| {
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().any(|condition| condition["type"] == "Paused" && condition["status"] == "True")
    };
    for changed in [true, false] {
        assert_eq!(plugin.json(&["pause", "orders"])["changed"], changed);
        let resource = plugin.0.fetch("orders").await;
        assert_eq!(resource.annotations().get(ANNOTATION).map(String::as_str), Some("true"));
    }
    plugin.wait_for("the condition Paused", &["status"], is_paused).await;
    for changed in [true, false] {
        assert_eq!(plugin.json(&["resume"])["changed"], changed);
        assert_eq!(plugin.0.fetch("orders").await.annotations().get(ANNOTATION), None);
    }
    plugin.wait_for("the end of the pause", &["status"], |status| !is_paused(status)).await;
}

async fn refuse_with_advice(plugin: &Plugin<'_>) {
    for (arguments, code, advice) in [
        (&["status", "nobody"][..], 1, "kubectl get broadcastclusters --all-namespaces"),
        (&["rebuild", "9"], 1, "node 9 of "),
        (&["put", "users", "1", "Ada"], 1, "a text needs quotes"),
        (&["verify", "nobody"], 2, "nobody"),
        (&["rebuild", "nine"], 2, "invalid value"),
        (&["status", "--context", "nobody"], 1, "--kubeconfig"),
    ] {
        let refused = plugin.run(arguments);
        assert_eq!(refused.code, code, "{arguments:?}: {refused:?}");
        assert!(refused.stderr.contains(advice), "{arguments:?}: {refused:?}");
    }
    plugin.0.apply(&plugin.0.sample("users", 1)).await;
    let refused = plugin.run(&["status"]);
    assert!(refused.code == 1 && refused.stderr.contains("name one of"), "{refused:?}");
}

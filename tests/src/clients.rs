//! Clients that compete for a few keys and record what they were told: puts, deletes, conditional writes and reads, at any heart and any
//! node. Some try a write again until they know its outcome, others give up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{Client, Written};
use crate::dice::Dice;
use crate::history::{Condition, History, Outcome, Read, Time, Write};
use crate::oracle::Oracle;

/// Where they write.
pub const COLLECTION: &str = "shared";

/// How many keys they compete for.
const KEYS: usize = 16;

/// How long a client waits for an answer.
const ANSWER: Duration = Duration::from_secs(4);

/// A client pauses after each request: the tests are about faults, not about throughput.
const PAUSE: Duration = Duration::from_millis(15);

/// Clients at work. They stop when this is dropped.
#[derive(Debug)]
pub struct Clients {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

/// What all clients of a group have in common.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Goes into their keys and request ids.
    pub name: String,
    /// Who takes writes.
    pub hearts: Vec<Client>,
    /// Who answers reads.
    pub nodes: Vec<Client>,
    /// What they record.
    pub history: History,
    /// What has to be in the files.
    pub oracle: Oracle,
}

struct OneClient {
    surroundings: Surroundings,
    number: usize,
    dice: Dice,
    stop: Arc<AtomicBool>,
    /// The highest number that it was told of.
    last: u64,
    /// The number of the row that it saw last under a key.
    seen: HashMap<String, u64>,
}

/// How a try to write ended.
enum Tried {
    Written(Written),
    NotWritten,
    InDoubt,
}

impl Clients {
    /// Starts so many.
    pub fn start(surroundings: &Surroundings, dice: &mut Dice, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..count {
            let mut client = OneClient {
                surroundings: surroundings.clone(),
                number,
                dice: dice.split(),
                stop: Arc::clone(&stop),
                last: 0,
                seen: HashMap::new(),
            };
            clients.spawn(async move {
                for index in 0.. {
                    if client.is_over() {
                        break;
                    }
                    client.ask(index).await;
                    sleep(PAUSE).await;
                }
            });
        }
        Self { clients, stop }
    }

    /// Lets every client end its request.
    pub async fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap_or_else(|error| panic!("a client failed: {error}"));
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl OneClient {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn ask(&mut self, index: usize) {
        let key = format!("{}/{}", self.surroundings.name, self.dice.roll(KEYS));
        if self.dice.roll(4) == 0 {
            self.read(key).await;
            return;
        }
        let value = json!({"client": self.number, "write": index});
        let known = self.seen.get(&key).copied().unwrap_or(1);
        let (value, condition) = match self.dice.roll(10) {
            0 => (None, None),
            1 => (None, Some(Condition::Seq(known))),
            2 | 3 => (Some(value), Some(Condition::Absent)),
            4 | 5 => (Some(value), Some(Condition::Seq(known))),
            _ => (Some(value), None),
        };
        self.write(index, key, value, condition).await;
    }

    async fn write(&mut self, index: usize, key: String, value: Option<Value>, condition: Option<Condition>) {
        // Without an id a write in doubt cannot be tried again.
        let id =
            (self.dice.roll(8) != 0).then(|| format!("{}/{}/{index}", self.surroundings.name, self.number));
        let floor = self.surroundings.history.highest();
        let start = self.surroundings.history.now();
        let body = build_body(&key, value.as_ref(), condition, id.as_deref());
        let outcome = self.try_until_known(&body, id.is_some()).await;
        if let Outcome::Acknowledged { seq, held, .. } = outcome {
            self.last = self.last.max(seq);
            if held != Some(false) {
                self.seen.insert(key.clone(), seq);
            }
        }
        let numbers = match outcome {
            Outcome::Acknowledged { seq, is_exact: true, .. } => Some(seq..=seq),
            Outcome::Acknowledged { seq, is_exact: false, .. } => Some(floor + 1..=seq),
            Outcome::Unknown | Outcome::Refused => None,
        };
        if outcome != Outcome::Refused {
            self.surroundings.oracle.wrote_shared(COLLECTION, &key, value.as_ref(), numbers);
        }
        let end = self.surroundings.history.now();
        self.surroundings.history.wrote(Write { key, value, condition, start, end, outcome });
    }

    async fn try_until_known(&mut self, body: &Value, may_repeat: bool) -> Outcome {
        let mut in_doubt = false;
        loop {
            match self.try_once(body).await {
                Tried::Written(written) => {
                    return Outcome::Acknowledged {
                        seq: written.last,
                        is_exact: !in_doubt,
                        held: written.held(),
                    };
                }
                Tried::NotWritten => {}
                Tried::InDoubt => in_doubt = true,
            }
            let gives_up = self.is_over() || self.dice.roll(30) == 0;
            if in_doubt && (gives_up || !may_repeat) {
                return Outcome::Unknown;
            }
            if gives_up {
                return Outcome::Refused;
            }
            sleep(self.dice.pause(20, 200)).await;
        }
    }

    async fn try_once(&mut self, body: &Value) -> Tried {
        let heart = self.dice.pick(&self.surroundings.hearts).clone();
        let level = *self.dice.pick(&["broker", "broker", "one", "quorum"]);
        let writes = [body.clone()];
        match timeout(ANSWER, heart.write_at_level(&writes, level, "2s")).await {
            Ok(Ok(written)) => Tried::Written(written),
            Ok(Err(refused)) if refused.status == 503 && refused.code != "outcome_unknown" => {
                Tried::NotWritten
            }
            Ok(Err(refused)) if [0, 503].contains(&refused.status) => Tried::InDoubt,
            Ok(Err(refused)) => panic!("{body}: {refused:?}"),
            Err(_) => Tried::InDoubt,
        }
    }

    async fn read(&mut self, key: String) {
        let node = self.dice.pick(&self.surroundings.nodes).clone();
        let at_least = if self.dice.roll(3) == 0 { 0 } else { self.last };
        let start = self.surroundings.history.now();
        // A node that is away or behind says nothing of the row.
        let Ok(Ok(view)) = timeout(ANSWER, node.look(COLLECTION, &key, at_least, "1s")).await else { return };
        let end: Time = self.surroundings.history.now();
        if let Some((_, seq)) = view.row {
            self.seen.insert(key.clone(), seq);
        }
        let node = node.base().to_string();
        let (position, row) = (view.position, view.row);
        self.surroundings.history.read(Read { key, node, at_least, position, row, start, end });
    }
}

fn build_body(key: &str, value: Option<&Value>, condition: Option<Condition>, id: Option<&str>) -> Value {
    let mut body = match value {
        Some(value) => json!({"op": "put", "collection": COLLECTION, "key": key, "value": value}),
        None => json!({"op": "delete", "collection": COLLECTION, "key": key}),
    };
    if let Some(id) = id {
        body["id"] = json!(id);
    }
    match condition {
        Some(Condition::Absent) => body["if"] = json!({"absent": true}),
        Some(Condition::Seq(seq)) => body["if"] = json!({"seq": seq}),
        None => {}
    }
    body
}

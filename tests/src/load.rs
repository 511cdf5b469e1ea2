//! Writers that go on whatever happens: several at a time, each write under an id, tried again under it until its outcome is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Refused, Written, wait_for};
use crate::oracle::Oracle;

/// For how long one write is tried again: a broker that starts on a busy machine takes a part of it.
const PATIENCE: Duration = Duration::from_mins(5);

/// How many keys a writer has: small, so that each is written many times.
const KEYS: usize = 40;

/// A write is followed by a pause: the tests are about faults, not about throughput.
const PAUSE: Duration = Duration::from_millis(15);

/// Writers at work. They stop when this is dropped.
#[derive(Debug)]
pub struct Load {
    writers: JoinSet<usize>,
    stop: Arc<AtomicBool>,
    oracle: Oracle,
}

struct Writer {
    name: String,
    hearts: Vec<Client>,
    oracle: Oracle,
    /// Which heart it talks to; the next one after a failure.
    turn: usize,
}

impl Load {
    /// Starts `count` writers, which end by themselves after `limit` writes each.
    pub fn start(name: &str, hearts: &[Client], oracle: &Oracle, count: usize, limit: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for number in 0..count {
            let name = format!("{name}-{number}");
            let mut writer = Writer { name, hearts: hearts.to_vec(), oracle: oracle.clone(), turn: number };
            let stop = Arc::clone(&stop);
            writers.spawn(async move {
                let mut retried = 0;
                for index in 0..limit {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    retried += usize::from(writer.write(index).await > 1);
                    sleep(PAUSE).await;
                }
                retried
            });
        }
        Self { writers, stop, oracle: oracle.clone() }
    }

    /// Waits until this many more writes are acknowledged than now.
    pub async fn progress(&self, more: usize) {
        let goal = self.oracle.count() + more;
        wait_for("more writes to be acknowledged", PATIENCE, async || {
            let count = self.oracle.count();
            if count >= goal { Ok(()) } else { Err(format!("{count} of {goal}")) }
        })
        .await;
    }

    /// Lets every writer finish its write, and gives the number of writes that needed more than one try.
    pub async fn finish(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut retried = 0;
        while let Some(writer) = self.writers.join_next().await {
            retried += writer.unwrap_or_else(|error| panic!("a writer failed: {error}"));
        }
        retried
    }
}

impl Writer {
    /// Puts, deletes and batches in turn; returns the number of tries.
    async fn write(&mut self, index: usize) -> usize {
        let writes: Vec<(String, Option<Value>)> = match index % 10 {
            3 => vec![(self.key(index), None)],
            6 => (0..5).map(|part| (self.key(index + part * 7), Some(json!([index, part])))).collect(),
            _ => vec![(
                self.key(index),
                Some(json!({"writer": self.name, "index": index, "text": "Ünï\"çødé"})),
            )],
        };
        let end = Instant::now() + PATIENCE;
        for tries in 1.. {
            match self.try_once(index, &writes).await {
                Ok(written) => {
                    assert_eq!(written.last - written.first + 1, writes.len() as u64);
                    for (seq, (key, value)) in (written.first..).zip(&writes) {
                        self.oracle.acknowledged("load", key, value.as_ref(), seq, tries);
                    }
                    return tries;
                }
                // Not an answer, or one that says to try again.
                Err(Refused { status: 0 | 503, .. }) if Instant::now() < end => {
                    self.turn += 1;
                    sleep(Duration::from_millis(50)).await;
                }
                Err(refused) => panic!("write {index} of {} after {tries} tries: {refused:?}", self.name),
            }
        }
        unreachable!()
    }

    async fn try_once(&self, index: usize, writes: &[(String, Option<Value>)]) -> Result<Written, Refused> {
        let heart = &self.hearts[self.turn % self.hearts.len()];
        let id = format!("{}-{index}", self.name);
        match writes {
            [(key, Some(value))] => heart.put("load", key, value, Some(&id)).await,
            [(key, None)] => heart.delete("load", key, Some(&id)).await,
            batch => {
                let write = |(part, (key, value)): (usize, &(String, Option<Value>))| json!({"op": "put", "collection": "load", "key": key, "value": value, "id": format!("{id}-{part}")});
                heart.write(&batch.iter().enumerate().map(write).collect::<Vec<_>>()).await
            }
        }
    }

    fn key(&self, index: usize) -> String {
        format!("{}/{}", self.name, index % KEYS)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

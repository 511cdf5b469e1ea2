//! Reads all rows from time to time and compares them with what this node has written, in one transaction: what was
//! changed by hand, or by a disk, is found although nobody asks for it.
//!
//! One at a time with whoever recomputes the digest: a long reading keeps the write-ahead log from being cut.

use std::sync::Arc;
use std::time::{Duration, Instant};

use broadcast_protocol::report::NodeState;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::divergence::Divergence;
use crate::metrics::Metrics;
use crate::rebuild::RebuildRequest;
use crate::status::Status;
use crate::store::{ReadError, Readers, Scrub};

/// Scrubs until the shutdown.
#[derive(Debug)]
pub(crate) struct Scrubber {
    pub(crate) interval: Duration,
    pub(crate) readers: Readers,
    /// Who may read all rows.
    pub(crate) recomputing: Arc<Semaphore>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) metrics: Metrics,
    /// From [`Findings::channel`].
    pub(crate) found: mpsc::Sender<Finding>,
}

/// Something that ends consuming until the database is another.
#[derive(Debug)]
pub(crate) struct Finding {
    what: Found,
    /// How often the database had been rebuilt: a finding is of one database only.
    rebuilds: u64,
}

/// What is to be done about the database.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its rows are not to be trusted.
    Diverged(Divergence),
    /// Somebody wants a peer's.
    Asked(RebuildRequest),
}

impl Finding {
    /// Of the database that was rebuilt so often.
    pub(crate) fn new(what: Found, rebuilds: u64) -> Self {
        Self { what, rebuilds }
    }

    fn is_of(&self, rebuilds: u64) -> bool {
        let is_wanted = match &self.what {
            Found::Diverged(_) => true,
            Found::Asked(request) => request.is_wanted(),
        };
        is_wanted && self.rebuilds == rebuilds
    }
}

/// Where the consumer gets the findings.
#[derive(Debug)]
pub(crate) struct Findings(mpsc::Receiver<Finding>);

impl Findings {
    /// Both ends; one finding waits at most.
    pub(crate) fn channel() -> (mpsc::Sender<Finding>, Self) {
        let (found, findings) = mpsc::channel(1);
        (found, Self(findings))
    }

    /// The next finding of the database that was rebuilt so often. Cancel safe.
    pub(crate) async fn next(&mut self, rebuilds: u64) -> Found {
        loop {
            match self.0.recv().await {
                Some(finding) if finding.is_of(rebuilds) => return finding.what,
                Some(_) => {}
                // Scrubber and interface have ended, so the process is about to.
                None => std::future::pending().await,
            }
        }
    }
}

impl Scrubber {
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        // Nodes that were started together do not scrub together.
        let mut delay = self.interval.mul_f64(rand::random_range(0.0..1.0));
        loop {
            let scrub = async {
                tokio::time::sleep(delay).await;
                self.scrub(&shutdown).await;
            };
            if shutdown.run_until_cancelled(scrub).await.is_none() {
                return;
            }
            delay = self.interval;
        }
    }

    async fn scrub(&self, shutdown: &CancellationToken) {
        let rebuilds = {
            let status = self.status.borrow();
            if status.state == NodeState::Diverged {
                return;
            }
            status.rebuilds
        };
        let Ok(permit) = Arc::clone(&self.recomputing).acquire_owned().await else { return };
        let (started, stop) = (Instant::now(), shutdown.clone());
        let read = self.readers.read(move |reader| {
            let _permit = permit;
            reader.scrub(&stop)
        });
        if let Some(divergence) = self.judge(read.await, started) {
            // An error is a consumer that has ended, and so has the process.
            let _ = self.found.send(Finding::new(Found::Diverged(divergence), rebuilds)).await;
        }
    }

    fn judge(&self, scrub: Result<Scrub, ReadError>, started: Instant) -> Option<Divergence> {
        match scrub {
            Ok(scrub) => {
                self.metrics.scrubs.inc();
                self.metrics.scrub_seconds.set(started.elapsed().as_secs_f64());
                tracing::debug!(rows = scrub.rows, sound = scrub.is_sound(), "scrubbed");
                (!scrub.is_sound()).then(|| Divergence::of_scrub(&scrub))
            }
            Err(ReadError::Store(error)) if error.is_damage() => Some(Divergence::of_damage(&error)),
            Err(error) => {
                tracing::warn!(%error, "cannot scrub now");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;
    use crate::store::{Committed, FILE_NAME, Store};
    use crate::testing::{CLUSTER, History, metrics};

    const DEADLINE: Duration = Duration::from_secs(20);

    struct Scrubbed {
        directory: TempDir,
        _store: Store,
        metrics: Metrics,
        findings: Findings,
        shutdown: CancellationToken,
    }

    impl Scrubbed {
        /// A database of three rows that is scrubbed without a pause.
        fn start() -> Self {
            let directory = TempDir::new().unwrap();
            let mut store = Store::open(directory.path(), CLUSTER, 0).unwrap();
            store.apply(&History::default().puts(3)).unwrap();
            let readers = store.readers();
            let (found, findings) = Findings::channel();
            let (_, status) = watch::channel(Status::starting(Committed::nothing(CLUSTER), 0));
            let metrics = metrics();
            let scrubber = Scrubber {
                interval: Duration::from_millis(1),
                readers,
                recomputing: Arc::new(Semaphore::new(1)),
                status,
                metrics: metrics.clone(),
                found,
            };
            let shutdown = CancellationToken::new();
            tokio::spawn(scrubber.run(shutdown.clone()));
            Self { directory, _store: store, metrics, findings, shutdown }
        }

        fn change_a_row(&self) {
            let other = Connection::open(self.directory.path().join(FILE_NAME)).unwrap();
            assert_eq!(other.execute("UPDATE documents SET value = '7' WHERE key = '0002'", []).unwrap(), 1);
        }

        async fn wait_for_scrubs(&self, count: u64) {
            let goal = self.metrics.scrubs.get() + count;
            let done = async {
                while self.metrics.scrubs.get() < goal {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(DEADLINE, done).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_row_that_was_changed_by_hand_is_found_and_the_writes_of_the_node_itself_are_not() {
        let mut scrubbed = Scrubbed::start();
        scrubbed.wait_for_scrubs(2).await;
        assert!(scrubbed.findings.0.try_recv().is_err(), "nothing is wrong");
        scrubbed.change_a_row();
        let found = tokio::time::timeout(DEADLINE, scrubbed.findings.next(0)).await.unwrap();
        let Found::Diverged(divergence) = found else { panic!("{found:?}") };
        assert_eq!(divergence.as_str(), "changed", "{divergence}");
        assert!(divergence.to_string().contains("at 3 there are 3 with digest"), "{divergence}");
        scrubbed.shutdown.cancel();
    }

    #[tokio::test]
    async fn what_was_found_in_a_database_that_was_put_aside_since_is_forgotten() {
        let (found, mut findings) = Findings::channel();
        let damaged = |text: &str| Found::Diverged(Divergence::Damaged(text.to_owned()));
        let (asked, _answer) = RebuildRequest::new();
        let (given_up, answer) = RebuildRequest::new();
        drop(answer);
        let sent =
            [(damaged("old"), 0), (Found::Asked(asked), 0), (Found::Asked(given_up), 1), (damaged("new"), 1)];
        tokio::spawn(async move {
            for (what, rebuilds) in sent {
                found.send(Finding::new(what, rebuilds)).await.unwrap();
            }
        });
        let next = tokio::time::timeout(DEADLINE, findings.next(1)).await.unwrap();
        assert!(matches!(&next, Found::Diverged(Divergence::Damaged(text)) if text == "new"), "{next:?}");
    }
}

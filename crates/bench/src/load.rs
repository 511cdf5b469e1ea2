//! The load: closed loops (each client sends when it has been answered) and open ones (requests are due at fixed times, whatever
//! became of those before).
//!
//! In an open loop a latency counts from the time at which the request was due. A thread of its own keeps the time, because the
//! runtime's timers are as coarse as what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::{BenchError, Result, told};
use crate::latency::Latencies;

/// Who sends one request at a time.
pub trait Client: Send + 'static {
    /// Sends the request of this number, which was due at that time, and waits for its answer; anything but success is an error.
    fn call(&mut self, number: u64, due: Instant) -> impl Future<Output = Result<()>> + Send;
}

/// When a closed loop ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so long; requests under way are waited for.
    Elapsed(Duration),
    /// After so many requests.
    Count(u64),
}

/// What came of a load.
#[derive(Debug)]
pub struct Outcome {
    /// When it began.
    pub started: Instant,
    /// How long it took until the last request was answered.
    pub took: Duration,
    /// How many requests were answered.
    pub completed: u64,
    /// How long each took.
    pub latencies: Latencies,
}

/// What the clients of one load share.
#[derive(Debug)]
struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
}

/// Ends a load whose future is dropped.
struct StopWhenDropped(Arc<Shared>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Lets every client send its next request as soon as it is answered. Requests are numbered from `first` on, without holes.
pub async fn closed_loop<C: Client>(clients: Vec<C>, first: u64, until: Until) -> Result<Outcome> {
    let started = Instant::now();
    let (deadline, end) = match until {
        Until::Elapsed(time) => (started.checked_add(time), u64::MAX),
        Until::Count(count) => (None, first + count),
    };
    let shared = Arc::new(Shared { next: AtomicU64::new(first), stop: AtomicBool::new(false) });
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut latencies = Latencies::new();
            while !shared.stop.load(Ordering::Relaxed) && deadline.is_none_or(|end| Instant::now() < end) {
                let number = shared.next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    break;
                }
                let sent = Instant::now();
                client
                    .call(number, sent)
                    .await
                    .inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))?;
                latencies.record(sent.elapsed());
            }
            Ok(latencies)
        });
    }
    collect(started, tasks).await
}

/// Sends `rate` requests a second for so long, by whichever client is free; with none free a request waits, and its latency grows.
/// Dropped, it ends.
pub async fn open_loop<C: Client>(
    clients: Vec<C>,
    first: u64,
    rate: f64,
    duration: Duration,
) -> Result<Outcome> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of requests")]
    let total = (rate * duration.as_secs_f64()).ceil() as u64;
    let started = Instant::now();
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let due_at = move |index: u64| started + Duration::from_secs_f64(index as f64 / rate);
    let shared = Arc::new(Shared { next: AtomicU64::new(0), stop: AtomicBool::new(false) });
    let _stop = StopWhenDropped(Arc::clone(&shared));
    let due = Arc::new(Semaphore::new(0));
    let waiting = clients.len();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let (shared, due) = (Arc::clone(&shared), Arc::clone(&due));
        tasks.spawn(async move {
            let mut latencies = Latencies::new();
            while let Ok(permit) = due.acquire().await {
                permit.forget();
                let index = shared.next.fetch_add(1, Ordering::Relaxed);
                if index >= total || shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                let call = client.call(first + index, due_at(index)).await;
                call.inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))?;
                latencies.record(due_at(index).elapsed());
            }
            Ok(latencies)
        });
    }
    let pacer = tokio::task::spawn_blocking(move || {
        for index in 0..total {
            if shared.stop.load(Ordering::Relaxed) {
                break;
            }
            // Of no importance when it is stopped before: the longest pause is that between two requests.
            std::thread::sleep(due_at(index).saturating_duration_since(Instant::now()));
            due.add_permits(1);
        }
        // So that each client learns that there is nothing more.
        due.add_permits(waiting);
    });
    let outcome = collect(started, tasks).await;
    pacer.await.map_err(|error| BenchError::Told(error.to_string()))?;
    outcome
}

async fn collect(started: Instant, mut tasks: JoinSet<Result<Latencies>>) -> Result<Outcome> {
    let mut latencies = Latencies::new();
    while let Some(joined) = tasks.join_next().await {
        match joined {
            Ok(one) => latencies.add(&one?),
            Err(error) => return told(format!("a client of the load failed: {error}")),
        }
    }
    Ok(Outcome { started, took: started.elapsed(), completed: latencies.count(), latencies })
}

#[cfg(test)]
mod tests;

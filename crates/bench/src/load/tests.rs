use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;

/// Answers after a while; one request stalls.
#[derive(Clone)]
struct Slow {
    answer_after: Duration,
    stalls_at: u64,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Slow {
    fn clients(count: usize, answer_after: Duration, stalls_at: u64) -> (Vec<Self>, Arc<Mutex<Vec<u64>>>) {
        let seen = Arc::default();
        (vec![Self { answer_after, stalls_at, seen: Arc::clone(&seen) }; count], seen)
    }
}

const STALL: Duration = Duration::from_millis(300);

impl Client for Slow {
    async fn call(&mut self, number: u64, _due: Instant) -> Result<()> {
        self.seen.lock().unwrap().push(number);
        tokio::time::sleep(if number == self.stalls_at { STALL } else { self.answer_after }).await;
        Ok(())
    }
}

struct Failing;

impl Client for Failing {
    async fn call(&mut self, number: u64, _due: Instant) -> Result<()> {
        if number == 3 { told("no") } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_closed_loop_numbers_its_requests_without_holes() {
    let (clients, seen) = Slow::clients(4, Duration::ZERO, u64::MAX);
    let outcome = closed_loop(clients, 100, Until::Count(50)).await.unwrap();
    assert_eq!(outcome.completed, 50);
    let seen: BTreeSet<u64> = seen.lock().unwrap().iter().copied().collect();
    assert_eq!(seen, (100..150).collect());
}

#[tokio::test]
async fn a_closed_loop_ends_when_its_time_is_over() {
    let (clients, _) = Slow::clients(2, Duration::from_millis(5), u64::MAX);
    let outcome = closed_loop(clients, 0, Until::Elapsed(Duration::from_millis(100))).await.unwrap();
    assert!(outcome.completed >= 2 && outcome.started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_charges_a_stall_to_all_who_waited_for_it() {
    let (clients, seen) = Slow::clients(1, Duration::ZERO, 0);
    let outcome = open_loop(clients, 0, 100.0, Duration::from_millis(300)).await.unwrap();
    assert_eq!((outcome.completed, seen.lock().unwrap().len()), (30, 30));
    // Due in the middle of the stall, they waited for half of it, though each was answered at once when it was sent.
    assert!(outcome.latencies.milliseconds(0.5) > 100.0, "{}", outcome.latencies.milliseconds(0.5));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_does_not_send_before_the_time() {
    let (clients, _) = Slow::clients(8, Duration::ZERO, u64::MAX);
    let outcome = open_loop(clients, 0, 50.0, Duration::from_millis(200)).await.unwrap();
    assert_eq!(outcome.completed, 10);
    assert!(outcome.started.elapsed() >= Duration::from_millis(180), "{:?}", outcome.started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_request_fails_either_loop() {
    let failing = || vec![Failing, Failing];
    let duration = Duration::from_mins(1);
    for outcome in
        [closed_loop(failing(), 0, Until::Count(100)).await, open_loop(failing(), 0, 1_000.0, duration).await]
    {
        assert_eq!(outcome.unwrap_err().to_string(), "no");
    }
}

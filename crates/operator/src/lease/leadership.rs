//! Whether this process may write, at this very moment, and work that ends when it may no longer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Reads a clock that only goes forward.
type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Until when this process leads. Clones are of the same leadership.
#[derive(Clone)]
pub struct Leadership {
    /// In nanoseconds of the clock.
    until: Arc<AtomicU64>,
    clock: Clock,
}

/// This process does not lead, or does so no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process does not lead: it must not write")]
pub struct NotLeading;

impl Leadership {
    /// Of a process that has to be elected.
    pub fn none() -> Self {
        Self::on_clock(Arc::new(since_boot))
    }

    /// Of a process that is the only one.
    pub fn unlimited() -> Self {
        let leadership = Self::none();
        leadership.until.store(u64::MAX, Ordering::SeqCst);
        leadership
    }

    /// None yet, on another clock.
    pub(crate) fn on_clock(clock: Clock) -> Self {
        Self { until: Arc::default(), clock }
    }

    /// Now, on the clock that counts.
    pub fn now(&self) -> Duration {
        (self.clock)()
    }

    /// It lasts until then.
    pub fn last_until(&self, end: Duration) {
        self.until.store(u64::try_from(end.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Whether this process leads now.
    pub fn is_valid(&self) -> bool {
        !self.left().is_zero()
    }

    /// Does the work for as long as this process leads. The clock is asked before every step that the work makes, so
    /// that a process which was stopped in the midst of it does nothing more when it goes on too late.
    pub async fn guard<T>(&self, work: impl Future<Output = T>) -> Result<T, NotLeading> {
        let (mut work, mut end) = (pin!(work), pin!(self.end()));
        std::future::poll_fn(|context| {
            if !self.is_valid() {
                return Poll::Ready(Err(NotLeading));
            }
            match work.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Ok(done)),
                Poll::Pending => end.as_mut().poll(context).map(|()| Err(NotLeading)),
            }
        })
        .await
    }

    async fn end(&self) {
        while self.is_valid() {
            tokio::time::sleep(self.left()).await;
        }
    }

    fn left(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::SeqCst)).saturating_sub(self.now())
    }
}

/// The time since the machine started, in which it counts while it was suspended.
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is negative.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that stands at what it is set to, in milliseconds.
    fn clock() -> (Arc<AtomicU64>, Leadership) {
        let time = Arc::new(AtomicU64::new(0));
        let read = time.clone();
        let clock = move || Duration::from_millis(read.load(Ordering::SeqCst));
        (time, Leadership::on_clock(Arc::new(clock)))
    }

    #[tokio::test]
    async fn nothing_is_begun_without_leadership_or_after_its_end() {
        let (time, leadership) = clock();
        let mut begun = 0;
        for (now, until, allowed) in
            [(0, None, false), (0, Some(10), true), (10, Some(10), false), (9, None, true)]
        {
            time.store(now, Ordering::SeqCst);
            if let Some(until) = until {
                leadership.last_until(Duration::from_millis(until));
            }
            let before = begun;
            let result = leadership.guard(async { begun += 1 }).await;
            assert_eq!(
                (result.is_ok(), begun - before),
                (allowed, i32::from(allowed)),
                "at {now} until {until:?}"
            );
        }
    }

    #[tokio::test]
    async fn work_that_goes_on_after_a_stop_makes_no_further_step() {
        let (time, leadership) = clock();
        leadership.last_until(Duration::from_millis(10));
        let mut steps = 0;
        let work = async {
            loop {
                steps += 1;
                // The whole process is stopped here, timers and all, and is let go on much later.
                time.fetch_add(4, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(leadership.guard(work).await, Err::<(), _>(NotLeading));
        assert_eq!(steps, 3);
    }

    #[tokio::test]
    async fn work_that_waits_is_given_up_at_the_end() {
        let leadership = Leadership::none();
        leadership.last_until(leadership.now() + Duration::from_millis(20));
        assert_eq!(leadership.guard(std::future::pending::<()>()).await, Err(NotLeading));
        assert!(!leadership.is_valid());
        assert!(Leadership::unlimited().is_valid());
    }
}

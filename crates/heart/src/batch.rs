//! Group commit: the requests of one message.
//!
//! Number and size bound it. A request is never split, and one that is larger
//! than the bound goes alone.

use broadcast_protocol::write::{MAX_WRITES, WriteBatch};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::role::{NotPublished, Placed, Submission};

/// The size that a message of several requests keeps within, in bytes.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// The requests of the next message.
#[derive(Debug)]
pub struct Batch {
    writes: WriteBatch,
    waiting: Waiting,
}

/// Those who wait for the message's confirm, in the order of their writes. Dropped, they learn that the outcome is
/// unknown.
#[derive(Debug, Default)]
pub struct Waiting(Vec<Waiter>);

#[derive(Debug)]
struct Waiter {
    count: usize,
    /// Whether it waits for more than the confirm.
    awaited: bool,
    answer: oneshot::Sender<Result<Placed, NotPublished>>,
    reserved: OwnedSemaphorePermit,
}

impl Batch {
    /// A batch of one request.
    pub fn new(first: Submission) -> Self {
        let mut batch = Self { writes: WriteBatch::default(), waiting: Waiting::default() };
        batch.add(first);
        batch
    }

    /// Adds a request, or gives it back when it does not fit.
    pub fn try_add(&mut self, next: Submission) -> Result<(), Submission> {
        let fits = self.writes.len() + next.writes.len() <= MAX_WRITES
            && self.writes.bytes() + next.writes.bytes() <= MAX_BATCH_BYTES;
        if !fits {
            return Err(next);
        }
        self.add(next);
        Ok(())
    }

    fn add(&mut self, Submission { writes, awaited, answer, reserved }: Submission) {
        self.waiting.0.push(Waiter { count: writes.len(), awaited, answer, reserved });
        self.writes.append(&writes);
    }

    /// How many requests it is of.
    pub fn requests(&self) -> usize {
        self.waiting.0.len()
    }

    /// Whether anybody waits until nodes have applied it.
    pub fn is_awaited(&self) -> bool {
        self.waiting.0.iter().any(|waiter| waiter.awaited)
    }

    /// What to publish, and whom to tell.
    pub fn into_parts(self) -> (WriteBatch, Waiting) {
        (self.writes, self.waiting)
    }
}

impl Waiting {
    /// How many of them the confirm lets go on: they wait for nothing else.
    pub fn let_go(&self) -> usize {
        self.0.iter().filter(|waiter| !waiter.awaited).count()
    }

    /// Tells all that the message was not published.
    pub fn refuse(self) {
        for Waiter { answer, .. } in self.0 {
            // Nobody to tell: the client has gone.
            let _ = answer.send(Err(NotPublished));
        }
    }

    /// Tells all that the message which begins at `first` is confirmed.
    pub fn answer(self, epoch: u64, first: u64) {
        let mut first = first;
        for Waiter { count, answer, reserved, .. } in self.0 {
            let last = first + count as u64 - 1;
            // Nobody to tell: the client has gone, its writes are durable all the same.
            let _ = answer.send(Ok(Placed { first, last, epoch }));
            drop(reserved);
            first = last + 1;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use broadcast_protocol::write::Write;
    use tokio::sync::Semaphore;

    use super::*;

    pub(crate) type Answer = oneshot::Receiver<Result<Placed, NotPublished>>;

    pub(crate) fn submission(writes: usize, bytes: usize) -> (Submission, Answer) {
        let value = "x".repeat(bytes);
        let json = format!(r#"{{"op":"put","collection":"c","key":"k","value":"{value}"}}"#);
        let write = Write::parse(&json, "write").unwrap();
        let mut batch = WriteBatch::default();
        (0..writes).for_each(|_| batch.push(&write));
        let (answer, receiver) = oneshot::channel();
        let reserved = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (Submission { writes: batch, awaited: false, answer, reserved }, receiver)
    }

    #[test]
    fn every_request_gets_its_own_range_of_the_message() {
        let (one, mut first) = submission(2, 1);
        let (two, mut second) = submission(3, 1);
        let mut batch = Batch::new(one);
        batch.try_add(two).unwrap();
        let (writes, waiting) = batch.into_parts();
        assert_eq!(writes.len(), 5);
        waiting.answer(7, 41);
        assert_eq!(first.try_recv().unwrap(), Ok(Placed { first: 41, last: 42, epoch: 7 }));
        assert_eq!(second.try_recv().unwrap(), Ok(Placed { first: 43, last: 45, epoch: 7 }));
    }

    #[test]
    fn a_message_is_awaited_when_one_of_its_requests_is() {
        for awaited in [[false, false], [true, false], [false, true]] {
            let [first, next] = awaited.map(|awaited| Submission { awaited, ..submission(1, 1).0 });
            let mut batch = Batch::new(first);
            batch.try_add(next).unwrap();
            assert_eq!(batch.is_awaited(), awaited != [false, false]);
        }
    }

    #[test]
    fn the_confirm_lets_go_who_waits_for_nothing_else() {
        let requests = [true, false, false].map(|awaited| Submission { awaited, ..submission(1, 1).0 });
        let [first, second, third] = requests;
        let mut batch = Batch::new(first);
        batch.try_add(second).unwrap();
        batch.try_add(third).unwrap();
        assert_eq!(batch.requests(), 3);
        assert_eq!(batch.into_parts().1.let_go(), 2);
    }

    #[test]
    fn those_who_wait_for_a_message_that_was_not_published_learn_that() {
        let (one, mut answer) = submission(1, 1);
        Batch::new(one).into_parts().1.refuse();
        assert_eq!(answer.try_recv().unwrap(), Err(NotPublished));
    }

    #[test]
    fn a_message_is_bounded_by_number_and_size_and_a_large_request_goes_alone() {
        for (first, next, fits) in [
            ((1, 1), (MAX_WRITES - 1, 1), true),
            ((1, 1), (MAX_WRITES, 1), false),
            ((1, 200_000), (3, 200_000), true),
            ((1, 200_000), (5, 200_000), false),
            ((6, 200_000), (1, 1), false),
        ] {
            let mut batch = Batch::new(submission(first.0, first.1).0);
            let refused = batch.try_add(submission(next.0, next.1).0).err();
            assert_eq!(refused.is_none(), fits, "{first:?} and {next:?}");
            assert_eq!(refused.map_or(next.0, |refused| refused.writes.len()), next.0);
        }
    }

    #[test]
    fn those_who_wait_for_a_doubtful_message_learn_that_the_outcome_is_unknown() {
        let (one, mut answer) = submission(1, 1);
        drop(Batch::new(one).into_parts());
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}

//! Which requests become the next message: those that came while the last one was being confirmed, and those of the clients
//! that its confirm lets go on, if they come soon.
//!
//! A client that writes one thing after the other, and was answered just now, is about to write the next one. Were it not
//! waited for, there would be two waves of clients in turn, each of about half of them, and twice as many messages for the
//! same writes. `PostgreSQL`'s `commit_delay` does the like, with half of what a sync takes as the time to wait.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::batch::Batch;
use crate::role::{NotPublished, Submission};

/// How long a message waits at most for clients that were answered: in parts of what the last confirm took, and in all.
const PART_OF_CONFIRM: u32 = 2;
const MAX_WAIT: Duration = Duration::from_millis(10);

/// The requests of clients, as they become messages.
#[derive(Debug)]
pub(crate) struct Gathering {
    submissions: mpsc::Receiver<Submission>,
    /// The next message, while more is waited for.
    next: Option<Batch>,
    /// A request that did not fit the last message.
    carried: Option<Submission>,
    /// How many requests the next message is of when everybody comes who may.
    expected: usize,
    until: Instant,
}

impl Gathering {
    /// Of what comes from here.
    pub(crate) fn new(submissions: mpsc::Receiver<Submission>) -> Self {
        Self { submissions, next: None, carried: None, expected: 0, until: Instant::now() }
    }

    /// A message took so long to be confirmed, and that many clients are let go by it.
    pub(crate) fn note_confirm(&mut self, took: Duration, let_go: usize) {
        self.expected = let_go + self.submissions.len() + usize::from(self.carried.is_some());
        // A single client has nobody to wait for.
        let wait = if self.expected > 1 { (took / PART_OF_CONFIRM).min(MAX_WAIT) } else { Duration::ZERO };
        self.until = Instant::now() + wait;
    }

    /// Until when somebody may come who was answered just now.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Whether there are requests already.
    pub(crate) fn has_begun(&self) -> bool {
        self.next.is_some() || self.carried.is_some() || !self.submissions.is_empty()
    }

    /// The requests of the next message; `None` when there will be no more. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Batch> {
        if self.next.is_none() {
            let first = match self.carried.take() {
                Some(carried) => carried,
                None => self.submissions.recv().await?,
            };
            self.next = Some(Batch::new(first));
        }
        while self.carried.is_none()
            && let Some(batch) = &mut self.next
        {
            let next = match self.submissions.try_recv() {
                Ok(next) => next,
                Err(_) if batch.requests() >= self.expected => break,
                Err(_) => match timeout_at(self.until, self.submissions.recv()).await {
                    Ok(Some(next)) => next,
                    _ => break,
                },
            };
            self.carried = batch.try_add(next).err();
        }
        self.next.take()
    }

    /// Takes no more requests. Those that came are still to be published.
    pub(crate) fn close(&mut self) {
        self.submissions.close();
    }

    /// Whether it takes no more.
    pub(crate) fn is_closed(&self) -> bool {
        self.submissions.is_closed()
    }

    /// Tells everybody who is in no message that it will not be published.
    pub(crate) fn refuse_all(&mut self) {
        self.close();
        if let Some(batch) = self.next.take() {
            batch.into_parts().1.refuse();
        }
        let carried = self.carried.take();
        let rest = std::iter::from_fn(|| self.submissions.try_recv().ok());
        for submission in carried.into_iter().chain(rest) {
            // Nobody to tell: the client has gone.
            let _ = submission.answer.send(Err(NotPublished));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::tests::{Answer, submission};

    const CONFIRM: Duration = Duration::from_millis(8);

    struct Clients(mpsc::Sender<Submission>);

    impl Clients {
        fn send(&self) -> Answer {
            self.send_of(1, 1)
        }

        /// Two of these do not fit one message.
        fn send_large(&self) -> Answer {
            self.send_of(4, 200_000)
        }

        fn send_of(&self, writes: usize, bytes: usize) -> Answer {
            let (submission, answer) = submission(writes, bytes);
            self.0.try_send(submission).unwrap();
            answer
        }

        fn send_after(&self, milliseconds: u64) {
            let sender = self.0.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                sender.try_send(submission(1, 1).0).unwrap();
            });
        }
    }

    fn start() -> (Clients, Gathering) {
        let (sender, submissions) = mpsc::channel(100);
        (Clients(sender), Gathering::new(submissions))
    }

    /// How many requests the next message is of, and after how many milliseconds it is published.
    async fn next(gathering: &mut Gathering) -> (usize, u128) {
        let started = Instant::now();
        let batch = gathering.next().await.unwrap();
        (batch.requests(), started.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_those_who_were_answered_and_no_longer_than_until_all_are_there() {
        let (clients, mut gathering) = start();
        let _answers = [clients.send(), clients.send()];
        gathering.note_confirm(CONFIRM, 2);
        clients.send_after(1);
        clients.send_after(3);
        assert_eq!(next(&mut gathering).await, (4, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_come_in_half_the_time_of_a_confirm_is_not_waited_for() {
        for (confirm, waits) in [(CONFIRM, 4), (Duration::from_secs(5), 10)] {
            let (clients, mut gathering) = start();
            let _answer = clients.send();
            gathering.note_confirm(confirm, 3);
            clients.send_after(2);
            clients.send_after(waits + 2);
            assert_eq!(next(&mut gathering).await, (2, u128::from(waits)));
            assert_eq!(next(&mut gathering).await, (1, 2), "the time is over for the next one too");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_waits_for_nobody() {
        let (clients, mut gathering) = start();
        let _first = clients.send();
        assert_eq!(next(&mut gathering).await, (1, 0));
        for let_go in [1, 0] {
            gathering.note_confirm(CONFIRM, let_go);
            assert!(gathering.until() <= Instant::now());
            let _next = clients.send();
            assert_eq!(next(&mut gathering).await, (1, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_full_waits_for_nobody() {
        let (clients, mut gathering) = start();
        let _answers = [clients.send_large(), clients.send_large()];
        gathering.note_confirm(CONFIRM, 5);
        assert_eq!(next(&mut gathering).await, (1, 0));
        assert!(gathering.has_begun());
        gathering.note_confirm(CONFIRM, 0);
        assert_eq!(next(&mut gathering).await, (1, 0));
        assert!(!gathering.has_begun());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_cut_short_goes_on_where_it_was() {
        let (clients, mut gathering) = start();
        let _answer = clients.send();
        gathering.note_confirm(CONFIRM, 1);
        let short = Duration::from_millis(1);
        assert!(tokio::time::timeout(short, gathering.next()).await.is_err());
        assert!(gathering.has_begun());
        let _other = clients.send();
        assert_eq!(next(&mut gathering).await, (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_in_no_message_at_the_end_learns_that_it_was_not_published() {
        let (clients, mut gathering) = start();
        let mut answers = [clients.send_large(), clients.send_large(), clients.send()];
        gathering.note_confirm(CONFIRM, 5);
        gathering.next = gathering.submissions.try_recv().ok().map(Batch::new);
        gathering.carried = gathering.submissions.try_recv().ok();
        gathering.refuse_all();
        for answer in &mut answers {
            assert_eq!(answer.try_recv(), Ok(Err(NotPublished)));
        }
        assert!(gathering.next().await.is_none());
        assert_eq!(clients.0.try_send(submission(1, 1).0).map_err(drop), Err(()));
    }
}

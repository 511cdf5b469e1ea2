//! What outlives the sessions with the broker, shared by the session, the HTTP interface and the list of nodes.
//!
//! The lock is held for a few instructions at a time and never while anything is waited for: what makes up a page of the
//! log is copied outside of it.

use std::sync::{Arc, Mutex, PoisonError};

use broadcast_protocol::sequencer::{Memory, RetainedAfter};
use broadcast_service::log::{LogPage, MAX_LOG_PAGE_BYTES};
use bytes::{Bytes, BytesMut};

/// A [`Memory`] with several users.
#[derive(Debug, Clone)]
pub struct SharedMemory(Arc<Mutex<Memory>>);

impl SharedMemory {
    /// What a new process knows.
    pub fn new(genesis: bool, retained_bytes: u64) -> Self {
        let limit = usize::try_from(retained_bytes).unwrap_or(usize::MAX);
        Self(Arc::new(Mutex::new(Memory::new(genesis, limit))))
    }

    /// Does a short piece of work on the memory.
    pub fn with<R>(&self, work: impl FnOnce(&mut Memory) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The messages after a position, oldest first: at least one if there is any, and no more than a page.
    pub fn page_after(&self, after: u64) -> LogPage {
        let found = self.with(|memory| match memory.retained.after(after) {
            RetainedAfter::Gone { oldest } => Err(oldest),
            RetainedAfter::Messages(messages) => {
                let mut bytes = 0;
                let fits = |body: &Bytes| {
                    let is_first = bytes == 0;
                    bytes += body.len() + 1;
                    is_first || bytes <= MAX_LOG_PAGE_BYTES
                };
                Ok(messages.map(|message| message.body().clone()).take_while(fits).collect::<Vec<Bytes>>())
            }
        });
        match found {
            Ok(bodies) => LogPage::Messages(join_lines(&bodies)),
            Err(oldest) => LogPage::Gone { after, oldest },
        }
    }
}

fn join_lines(bodies: &[Bytes]) -> Bytes {
    let mut lines = BytesMut::with_capacity(bodies.iter().map(|body| body.len() + 1).sum());
    for body in bodies {
        lines.extend_from_slice(body);
        lines.extend_from_slice(b"\n");
    }
    lines.freeze()
}

#[cfg(test)]
pub(crate) mod tests {
    use broadcast_protocol::chain::Position;
    use broadcast_protocol::envelope::{Term, WriteMessage};
    use broadcast_protocol::write::{Write, WriteBatch};

    use super::*;

    /// A message of one write whose value has so many bytes.
    pub(crate) fn message(previous: Position, value_bytes: usize) -> WriteMessage {
        let value = "x".repeat(value_bytes);
        let json = format!(r#"{{"op":"put","collection":"c","key":"k","value":"{value}"}}"#);
        let mut batch = WriteBatch::default();
        batch.push(&Write::parse(&json, "write").unwrap());
        WriteMessage::new("c", Term::new(1, 1), previous, 0, batch)
    }

    /// A memory of so many messages, from the beginning on.
    pub(crate) fn filled(count: usize, value_bytes: usize) -> SharedMemory {
        let memory = SharedMemory::new(false, 1 << 30);
        let mut previous = Position::genesis("c");
        for _ in 0..count {
            let message = message(previous, value_bytes);
            previous = message.position;
            memory.with(|memory| memory.retained.push(message));
        }
        memory
    }

    #[test]
    fn a_page_is_bounded_and_has_at_least_one_message() {
        let count = |memory: &SharedMemory, after| match memory.page_after(after) {
            LogPage::Messages(lines) => lines.split(|byte| *byte == b'\n').count() - 1,
            gone @ LogPage::Gone { .. } => panic!("{gone:?}"),
        };
        let memory = filled(40, 200_000);
        assert_eq!((count(&memory, 0), count(&memory, 38), count(&memory, 40)), (20, 2, 0));
        let end = memory.with(|memory| memory.claim()).unwrap();
        let large: Vec<String> = (0..30)
            .map(|_| {
                format!(r#"{{"op":"put","collection":"c","key":"k","value":"{}"}}"#, "x".repeat(200_000))
            })
            .collect();
        let mut batch = WriteBatch::default();
        for write in &large {
            batch.push(&Write::parse(write, "write").unwrap());
        }
        let large = WriteMessage::new("c", Term::new(1, 1), end.position, 0, batch);
        memory.with(|memory| memory.retained.push(large));
        assert_eq!(count(&memory, 40), 1);
    }

    #[test]
    fn what_is_forgotten_is_gone_and_the_oldest_is_named() {
        let memory = filled(3, 1);
        memory.with(|memory| memory.retained.forget_through(1));
        assert_eq!(memory.page_after(0), LogPage::Gone { after: 0, oldest: Some(2) });
    }
}

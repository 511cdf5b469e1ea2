//! What the tests of several modules make their histories of.

use broadcast_protocol::chain::Position;
use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::write::{Write, WriteBatch};

pub(crate) const CLUSTER: &str = "test";

/// The cluster's history, continued message by message.
pub(crate) struct History {
    pub(crate) position: Position,
    pub(crate) epoch: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { position: Position::genesis(CLUSTER), epoch: 1 }
    }
}

impl History {
    /// The next message: each write is its JSON.
    pub(crate) fn message<S: AsRef<str>>(&mut self, writes: &[S]) -> WriteMessage {
        let mut batch = WriteBatch::default();
        for write in writes {
            batch.push(&Write::parse(write.as_ref(), "write").unwrap());
        }
        let message = WriteMessage::new(CLUSTER, self.epoch, self.position, 1_000, batch);
        self.position = message.position;
        message
    }

    /// `count` messages of one put each, to different keys.
    pub(crate) fn puts(&mut self, count: u64) -> Vec<WriteMessage> {
        (0..count)
            .map(|_| self.message(&[put("c", &format!("{:04}", self.position.last + 1), "1")]))
            .collect()
    }
}

pub(crate) fn put(collection: &str, key: &str, value: &str) -> String {
    format!(r#"{{"op":"put","collection":"{collection}","key":"{key}","value":{value}}}"#)
}

pub(crate) fn put_with_id(collection: &str, key: &str, value: &str, id: &str) -> String {
    with(&put(collection, key, value), "id", &format!("\"{id}\""))
}

pub(crate) fn delete(collection: &str, key: &str) -> String {
    format!(r#"{{"op":"delete","collection":"{collection}","key":"{key}"}}"#)
}

/// A write with one field more.
pub(crate) fn with(write: &str, field: &str, json: &str) -> String {
    let fields = write.strip_suffix('}').unwrap_or(write);
    format!(r#"{fields},"{field}":{json}}}"#)
}

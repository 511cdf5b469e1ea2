//! The heart's decisions: which history a new heart continues, and what may be published when.
//!
//! Guarantees, by the types: nothing is published before the head's content was published again and confirmed
//! ([`TakeOver`] becomes a [`Reign`] only then), and at most one message of writes is unconfirmed ([`Reign::publish`]
//! consumes the reign; [`InFlight::confirmed`] gives it back). Any doubt (a nack, a return, a time-out, a lost
//! connection) is dropping the value: the only way on is a new take-over.

use crate::chain::Position;
use crate::envelope::{Mark, Message, WriteMessage};
use crate::report::Report;
use crate::write::WriteBatch;

/// The head queue holds no message of this cluster: what the history's end is cannot be known from the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the head queue holds no message of this cluster: it was deleted, purged, or the broker lost its data"
)]
pub struct HeadLost;

/// Somebody has seen a later history than this heart continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("node {node} is at {last} of epoch {epoch}, later than the head this heart took over")]
pub struct StaleHead {
    /// The node that reported it.
    pub node: u32,
    /// The position that it has applied.
    pub last: u64,
    /// The epoch that it has seen.
    pub epoch: u64,
}

/// A heart that holds the lock and has read the head queue, but has not published yet.
#[derive(Debug)]
pub struct TakeOver {
    cluster: String,
    publication: Message,
}

/// The active heart, with nothing in flight.
#[derive(Debug)]
pub struct Reign {
    cluster: String,
    epoch: u64,
    position: Position,
}

/// The active heart while one message of writes waits for its confirm.
#[derive(Debug)]
pub struct InFlight {
    reign: Reign,
    message: WriteMessage,
}

impl TakeOver {
    /// Continues the head: the [`later`] of all messages in the head queue. An acknowledged write is in the head queue
    /// before its confirm, so it is at or before the head.
    pub fn decide(cluster: &str, head: Option<Message>) -> Result<Self, HeadLost> {
        let head = head.ok_or(HeadLost)?;
        let epoch = head.epoch() + 1;
        let publication = match head {
            Message::Write(message) => Message::Write(message.with_epoch(epoch)),
            Message::Mark(mark) => Message::Mark(Mark { epoch, ..mark }),
        };
        Ok(Self { cluster: cluster.to_owned(), publication })
    }

    /// What to publish through the exchange: the head's content under the new epoch.
    pub fn publication(&self) -> &Message {
        &self.publication
    }

    /// Whether the head fits what showed an earlier one to be stale.
    pub fn judge(&self, earlier: StaleHead) -> Result<(), StaleHead> {
        judge(self.publication.epoch(), self.publication.position().last, earlier)
    }

    /// The broker confirmed the publication: every queue that is bound has the head.
    pub fn confirmed(self) -> Reign {
        Reign {
            cluster: self.cluster,
            epoch: self.publication.epoch(),
            position: self.publication.position(),
        }
    }
}

impl Reign {
    /// The epoch of this reign.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The position after the last confirmed write.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next message: these writes, of which there is at least one. `at` is in milliseconds since the Unix epoch.
    pub fn publish(self, batch: WriteBatch, at: u64) -> InFlight {
        let message = WriteMessage::new(&self.cluster, self.epoch, self.position, at, batch);
        InFlight { reign: self, message }
    }

    /// The word that everything confirmed is held for everyone. It proves nothing by itself being confirmed, so the
    /// next message need not wait for it. `at` is in milliseconds since the Unix epoch.
    pub fn mark(&self, at: u64) -> Mark {
        Mark { cluster: self.cluster.clone(), epoch: self.epoch, position: self.position, at }
    }

    /// Whether a node's report fits the history that this heart continues. One that is ahead shows that the head was
    /// stale (a restored broker, say): going on would fork the history.
    pub fn judge(&self, report: &Report) -> Result<(), StaleHead> {
        judge(self.epoch, self.position.last, StaleHead::shown_by(report))
    }
}

impl InFlight {
    /// The message that waits for its confirm.
    pub fn message(&self) -> &WriteMessage {
        &self.message
    }

    /// As [`Reign::judge`].
    pub fn judge(&self, report: &Report) -> Result<(), StaleHead> {
        // Not the position in flight: no node may have applied what is not confirmed.
        self.reign.judge(report)
    }

    /// The broker confirmed the message: its writes are durable for everyone.
    pub fn confirmed(self) -> Reign {
        Reign { position: self.message.position, ..self.reign }
    }
}

impl StaleHead {
    fn shown_by(report: &Report) -> Self {
        Self { node: report.node.get(), last: report.applied.last, epoch: report.epoch }
    }
}

/// Which of two messages is nearer to the history's end: the one with the higher `(epoch, last)`. A mark is preferred
/// to the write that it vouches for, because it needs no second proof.
pub fn later(one: Message, other: Message) -> Message {
    let rank =
        |message: &Message| (message.epoch(), message.position().last, matches!(message, Message::Mark(_)));
    if rank(&one) > rank(&other) { one } else { other }
}

/// Whether a node's report leaves room for a history that begins now: this node has seen nothing of another one.
pub fn judge_genesis(report: &Report) -> Result<(), StaleHead> {
    judge(0, 0, StaleHead::shown_by(report))
}

fn judge(epoch: u64, last: u64, seen: StaleHead) -> Result<(), StaleHead> {
    if seen.epoch > epoch || seen.last > last { Err(seen) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::names::NodeId;
    use crate::report::NodeState;
    use crate::write::Write;

    fn batch(key: &str) -> WriteBatch {
        let json = format!(r#"{{"op":"delete","collection":"c","key":"{key}"}}"#);
        let mut batch = WriteBatch::default();
        batch.push(&Write::parse(&json, "write").unwrap());
        batch
    }

    fn mark(epoch: u64, position: Position) -> Message {
        Message::Mark(Mark { cluster: "c".to_owned(), epoch, position, at: 0 })
    }

    fn first_reign() -> Reign {
        TakeOver::decide("c", Some(Message::Mark(Mark::genesis("c", 0)))).unwrap().confirmed()
    }

    fn report(epoch: u64, last: u64) -> Report {
        Report {
            cluster: "c".to_owned(),
            node: NodeId::new(2).unwrap(),
            state: NodeState::Ready,
            applied: Position { last, ..Position::genesis("c") },
            epoch,
            digest: Digest::default(),
            rows: 0,
            lag_seconds: 0.0,
            failed: 0,
            malformed: 0,
            reason: None,
        }
    }

    #[test]
    fn the_first_heart_begins_at_the_genesis_mark() {
        let reign = first_reign();
        assert_eq!((reign.epoch(), reign.position()), (1, Position::genesis("c")));
    }

    #[test]
    fn an_empty_head_queue_is_no_beginning() {
        assert_eq!(TakeOver::decide("c", None).unwrap_err(), HeadLost);
    }

    #[test]
    fn the_next_heart_continues_the_highest_epoch_then_the_highest_position() {
        let one = first_reign().publish(batch("a"), 0);
        let first = one.message().clone();
        let two = one.confirmed().publish(batch("b"), 0);
        let second = two.message().clone();
        let stale = WriteMessage::new("c", 1, second.position, 0, batch("never confirmed to anyone"));
        let again = first.with_epoch(2);
        for (head, expected) in [
            (vec![Message::Write(first.clone()), Message::Write(second.clone())], (2, second.position)),
            (vec![Message::Write(second.clone()), Message::Write(first.clone())], (2, second.position)),
            (vec![Message::Write(again), Message::Write(stale)], (3, first.position)),
            (vec![mark(1, second.position), Message::Write(second.clone())], (2, second.position)),
        ] {
            let take_over = TakeOver::decide("c", head.into_iter().reduce(later)).unwrap();
            let publication = take_over.publication().clone();
            assert_eq!((publication.epoch(), publication.position()), expected);
            let reign = take_over.confirmed();
            assert_eq!((reign.epoch(), reign.position()), expected);
        }
    }

    #[test]
    fn a_mark_stays_a_mark_and_a_write_keeps_its_content() {
        let in_flight = first_reign().publish(batch("a"), 0);
        let write = in_flight.message().clone();
        let take_over = TakeOver::decide("c", Some(Message::Write(write.clone()))).unwrap();
        assert_eq!(
            (take_over.publication().kind(), take_over.publication().position()),
            ("write", write.position)
        );
        let vouched =
            TakeOver::decide("c", Some(later(mark(1, write.position), Message::Write(write)))).unwrap();
        assert_eq!(vouched.publication().kind(), "mark");
    }

    #[test]
    fn every_message_continues_the_one_before() {
        let in_flight = first_reign().publish(batch("a"), 5);
        assert_eq!((in_flight.message().first, in_flight.message().epoch), (1, 1));
        let reign = in_flight.confirmed();
        let mark = reign.mark(6);
        let in_flight = reign.publish(batch("b"), 7);
        assert_eq!(in_flight.message().first, 2);
        assert_eq!(in_flight.message().previous, mark.position);
    }

    #[test]
    fn a_node_that_is_ahead_shows_a_stale_head() {
        let in_flight = first_reign().publish(batch("a"), 0);
        assert_eq!(in_flight.judge(&report(1, 0)), Ok(()));
        assert!(in_flight.judge(&report(1, 1)).is_err());
        let reign = in_flight.confirmed();
        assert_eq!(reign.judge(&report(1, 1)), Ok(()));
        let error = reign.judge(&report(2, 0)).unwrap_err();
        assert_eq!(error, StaleHead { node: 2, last: 0, epoch: 2 });
        assert!(error.to_string().contains("node 2 is at 0 of epoch 2"));
    }

    #[test]
    fn a_later_head_settles_what_showed_an_earlier_one_to_be_stale() {
        let stale = first_reign().judge(&report(2, 5)).unwrap_err();
        let head = |epoch, last| mark(epoch, Position { last, ..Position::genesis("c") });
        for (message, fits) in [(head(1, 4), false), (head(1, 5), true), (head(0, 5), false)] {
            assert_eq!(TakeOver::decide("c", Some(message)).unwrap().judge(stale).is_ok(), fits);
        }
    }

    #[test]
    fn a_history_begins_only_where_no_node_has_seen_one() {
        assert_eq!(judge_genesis(&report(0, 0)), Ok(()));
        for seen in [report(1, 0), report(0, 1)] {
            assert!(judge_genesis(&seen).is_err());
        }
    }
}

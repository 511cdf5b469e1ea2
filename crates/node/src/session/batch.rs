//! What is done: the replica's decisions become one transaction, and after it acknowledgements.

use std::time::Instant;

use broadcast_protocol::chain::Position;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::replica::{Change, Dropped, Halt, Step};
use broadcast_service::amqp::AmqpError;

use super::{End, Session, Tag};
use crate::store::StoreError;

/// What the replica decided, for one transaction.
#[derive(Default)]
pub(super) struct Batch {
    changes: Vec<Change>,
    bytes: usize,
    applied: u64,
    repaired: u64,
    acks: Vec<Tag>,
    rejects: Vec<Tag>,
    /// What most nodes have at a position.
    compare: Option<(Position, Digest)>,
    halt: Option<Halt>,
}

impl Batch {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halt.is_some()
    }
}

impl Session<'_> {
    pub(super) fn sort(&self, steps: Vec<Step<Tag>>, batch: &mut Batch) {
        for step in steps {
            match step {
                Step::Ack(tag, why) => {
                    self.node.metrics.count_dropped(why);
                    if !matches!(why, Dropped::Mark | Dropped::Seal) {
                        tracing::debug!(?why, "a message was not needed");
                    }
                    batch.acks.push(tag);
                }
                Step::Reject(tag, error) => {
                    self.node.metrics.count_malformed();
                    self.node.status.send_modify(|status| status.malformed += 1);
                    tracing::warn!(%error, "a message was rejected; the dead letters keep it");
                    batch.rejects.push(tag);
                }
                Step::Do { ack, change } => {
                    match &change {
                        Change::Apply(message) => {
                            batch.bytes += message.body().len();
                            batch.applied += 1;
                            batch.repaired += u64::from(ack.is_none());
                        }
                        Change::ApplyKept(_) => batch.applied += 1,
                        Change::Keep(message) => {
                            batch.bytes += message.body().len();
                            self.node.metrics.messages_kept.inc();
                        }
                        Change::Discard(_) => {}
                    }
                    batch.acks.extend(ack);
                    batch.changes.push(change);
                }
                Step::Compare(position, digest) => batch.compare = Some((position, digest)),
                Step::Halt(halt) => batch.halt = Some(halt),
            }
        }
    }

    pub(super) async fn commit(&mut self, batch: Batch) -> Result<(), End> {
        let Batch { changes, applied, repaired, acks, rejects, compare, mut halt, .. } = batch;
        let awaited = self.awaited().is_some_and(|tag| acks.contains(&tag));
        if !changes.is_empty() {
            let started = Instant::now();
            match self.node.writer.change(changes).await {
                Ok(committed) => {
                    (self.committed, self.commit_time) = (tokio::time::Instant::now(), started.elapsed());
                    self.show_applied(&committed, started, (applied, repaired), awaited);
                }
                Err(error) => return Err(self.give_back(error, applied).await),
            }
        }
        if halt.is_none() {
            halt = compare.and_then(|(position, digest)| self.find_difference(position, digest));
        }
        self.settle(acks, rejects, halt.is_none()).await?;
        halt.map_or(Ok(()), |halt| Err(halt.into()))
    }

    fn find_difference(&self, position: Position, other: Digest) -> Option<Halt> {
        let committed = self.node.status.borrow().committed;
        let differs = committed.applied.position == position && committed.digest != other;
        differs.then_some(Halt::RowsDiffer { last: position.last, own: committed.digest, other })
    }

    /// After the transaction: nothing of these deliveries is needed any more.
    async fn settle(
        &mut self,
        mut acks: Vec<Tag>,
        rejects: Vec<Tag>,
        may_ack_multiple: bool,
    ) -> Result<(), AmqpError> {
        for tag in rejects {
            if let Some(receipt) = self.unsettled.remove(&tag) {
                receipt.reject().await?;
            }
        }
        acks.sort_unstable();
        // One acknowledgement for all up to the last one that has nothing unsettled before it. A replica that has
        // halted no longer knows what is unsettled.
        let covers_all_before = |tag: &&Tag| may_ack_multiple && self.replica.may_ack_multiple(**tag);
        if let Some(through) = acks.iter().rev().find(covers_all_before).copied()
            && let Some(receipt) = self.unsettled.remove(&through)
        {
            receipt.ack_through().await?;
            self.unsettled.retain(|tag, _| *tag > through);
        }
        for tag in acks {
            if let Some(receipt) = self.unsettled.remove(&tag) {
                receipt.ack().await?;
            }
        }
        Ok(())
    }

    /// The transaction failed: the broker gets everything back that is not settled.
    pub(super) async fn give_back(&mut self, error: StoreError, messages: u64) -> End {
        self.node.metrics.count_failed(messages);
        self.node.status.send_modify(|status| status.failed += messages);
        if let Some((_, receipt)) = self.unsettled.pop_last() {
            // If it cannot be said, closing the channel says the same.
            if let Err(error) = receipt.requeue_through().await {
                tracing::debug!(%error, "giving the deliveries back");
            }
        }
        End::StoreFailed(error)
    }
}

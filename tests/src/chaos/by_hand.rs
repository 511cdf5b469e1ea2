//! What somebody does to the broker's objects.

use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use tokio::time::timeout;

use super::Chaos;
use crate::report::{Counted, count};

/// How long a change at the broker by hand may take. It may stand still.
const BY_HAND: Duration = Duration::from_secs(10);

/// A change of the broker's objects.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Delete,
    Purge,
    Unbind,
}

impl Chaos {
    pub(super) async fn publish_garbage(&mut self) {
        let exchange = self.cluster.names().exchange().to_owned();
        let by_hand = async { self.broker.by_hand().await.publish(&exchange, "write", b"garbage").await };
        // It may stand still.
        if timeout(BY_HAND, by_hand).await.is_ok() {
            self.count("garbage published", "");
        }
    }

    pub(super) async fn delete_exchange(&mut self) {
        let exchange = self.cluster.names().exchange().to_owned();
        let by_hand = self.broker.by_hand().await;
        let deleted =
            by_hand.channel().exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await;
        count(Counted::Faults, usize::from(deleted.is_ok()));
        self.count("exchange deleted", &format!("{deleted:?}"));
        self.wait_until_bound().await;
    }

    pub(super) async fn change_queue(&mut self, queue: &str, change: Change, what: &str) {
        let by_hand = self.broker.by_hand().await;
        let (channel, queue, exchange) =
            (by_hand.channel(), queue.into(), self.cluster.names().exchange().into());
        let changing = async {
            match change {
                Change::Delete => channel.queue_delete(queue, QueueDeleteOptions::default()).await.map(drop),
                Change::Purge => channel.queue_purge(queue, QueuePurgeOptions::default()).await.map(drop),
                Change::Unbind => {
                    channel.queue_unbind(queue, exchange, "".into(), FieldTable::default()).await
                }
            }
        };
        match timeout(BY_HAND, changing).await {
            Ok(Ok(())) => {
                count(Counted::Faults, 1);
                self.count(what, "");
            }
            // A quorum queue whose broker was just started may have no leader yet.
            other => println!("{what}: {other:?}"),
        }
    }
}

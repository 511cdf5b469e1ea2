//! Exchange and head queue are declared again and again: what somebody deleted is back before it is needed, and counted.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broadcast_protocol::topology::Topology;
use broadcast_service::amqp::{AmqpError, Connection};
use tokio::time::sleep;

use crate::metrics::{Metrics, Object};

/// How often they are declared again.
const DECLARE_EVERY: Duration = Duration::from_secs(1);

/// Declares what a heart publishes through, and where the next one finds the history's end.
#[derive(Debug, Clone)]
pub struct Upkeep {
    metrics: Metrics,
    /// What is not there before is not missing.
    were_declared: Arc<AtomicBool>,
}

impl Upkeep {
    /// Of a process that has declared nothing yet.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, were_declared: Arc::default() }
    }

    /// Declares both.
    pub async fn declare(&self, connection: &Connection, topology: &Topology) -> Result<(), AmqpError> {
        let (exchange, queue) = (topology.exchange(), topology.head_queue());
        let has_exchange = connection.has_exchange(&exchange.name).await?;
        let has_queue = connection.inspect_queue(&queue.name).await?.is_some();
        connection.declare_exchange(&exchange).await?;
        connection.declare_queue(&queue).await?;
        if self.were_declared.swap(true, Ordering::Relaxed) {
            for (object, name, is_there) in
                [("exchange", exchange.name, has_exchange), ("head_queue", queue.name, has_queue)]
            {
                if !is_there {
                    tracing::warn!(object, name, "was gone; it is declared again");
                    self.metrics.objects_restored.get_or_create(&Object { object }).inc();
                }
            }
        }
        Ok(())
    }

    /// Repairs what somebody deletes, on channels of its own: the beat does not wait for it.
    pub(crate) async fn keep_declared(
        &self,
        connection: &Connection,
        topology: &Topology,
    ) -> Result<Infallible, AmqpError> {
        loop {
            sleep(DECLARE_EVERY).await;
            self.declare(connection, topology).await?;
        }
    }
}

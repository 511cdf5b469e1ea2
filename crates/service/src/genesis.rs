//! Where a cluster's history begins: a mark, put into the head queue once.

use broadcast_protocol::envelope::{Mark, Message};

use crate::amqp::{AmqpError, CALL_DEADLINE, Confirm, Outgoing, Publisher};
use crate::clock::unix_milliseconds;

/// Puts the mark of a new cluster into the head queue, and into no other: there is nothing to apply. Only when this
/// returns without error is it there for sure.
pub async fn publish_genesis(
    publisher: &Publisher,
    cluster: &str,
    head_queue: &str,
    app_id: &str,
) -> Result<Mark, AmqpError> {
    let mark = Mark::genesis(cluster, unix_milliseconds());
    publish_beginning(publisher, &mark, head_queue, app_id).await?.confirmed(CALL_DEADLINE).await?;
    Ok(mark)
}

/// Puts a mark into the head queue alone; only its confirm says whether it is there.
pub async fn publish_beginning(
    publisher: &Publisher,
    mark: &Mark,
    head_queue: &str,
    app_id: &str,
) -> Result<Confirm, AmqpError> {
    let message = Message::from(mark.clone());
    let outgoing = Outgoing {
        routing_key: head_queue,
        mandatory: true,
        persistent: true,
        kind: message.kind(),
        message_id: &message.id(),
        app_id,
        body: &message.body(),
        ..Outgoing::default()
    };
    publisher.publish(&outgoing).await
}

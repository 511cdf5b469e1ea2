//! A connection that lives for long, as hearts, nodes and the operator have.

use broadcast_protocol::topology::ExchangeDeclaration;
use broadcast_service::amqp::{AmqpError, Connection};
use broadcast_tests::broker::Broker;

/// More channels than a connection has numbers for.
const MANY: usize = 2_100;

#[tokio::test]
async fn what_the_broker_refused_long_ago_is_no_answer_to_anything_else() {
    let broker = Broker::shared().await;
    let connection = Connection::connect(&broker.url().parse().unwrap(), "test").await.unwrap();
    assert!(!connection.has_exchange("nobody-has-this").await.unwrap());
    let taken = connection.declare_exchange(&other_kind()).await.unwrap_err();
    assert!(matches!(taken, AmqpError::ArgumentsDiffer(_)), "{taken}");
    assert!(!connection.is_spent());
    for count in 0..MANY {
        assert!(connection.has_exchange("amq.fanout").await.unwrap(), "after {count} channels");
    }
    assert!(connection.is_spent() && connection.is_alive());
}

/// The broker's own exchange of this name is of another type.
fn other_kind() -> ExchangeDeclaration {
    ExchangeDeclaration { name: "amq.direct".to_owned() }
}

//! The active heart stands still, or loses its network without a word: writes go on, and each that was acknowledged is applied once.

use broadcast_tests::broker::Broker;
use broadcast_tests::failover::{fail_over, start};
use broadcast_tests::proxy::{Direction, Fault};
use futures_util::future::join_all;

#[tokio::test]
async fn writes_go_on_when_the_active_heart_stands_still() {
    fail_over(
        "active heart stands still",
        async |cluster, active| cluster.heart_process(active).signal("STOP"),
        async |cluster, active| cluster.heart_process(active).signal("CONT"),
    )
    .await;
}

#[tokio::test]
async fn writes_go_on_when_nothing_gets_through_between_the_active_heart_and_the_broker() {
    fail_over(
        "active heart partitioned from the broker",
        async |cluster, active| cluster.heart_proxy(active).set(Fault::Hold),
        async |cluster, active| cluster.heart_proxy(active).set(Fault::None),
    )
    .await;
}

#[tokio::test]
async fn writes_go_on_when_what_the_active_heart_sends_or_receives_is_lost() {
    let lose = async |direction| {
        fail_over(
            &format!("active heart half-open ({direction:?} lost)"),
            async |cluster, active| cluster.heart_proxy(active).set(Fault::Lose(direction)),
            async |cluster, active| cluster.heart_proxy(active).set(Fault::None),
        )
        .await;
    };
    join_all([Direction::ToBroker, Direction::FromBroker].map(lose)).await;
}

#[tokio::test]
async fn writes_go_on_while_a_node_is_cut_off_and_it_catches_up() {
    let broker = Broker::shared().await;
    let (cluster, _) = start(&broker).await;
    let load = cluster.start_load(3);
    load.progress(50).await;
    cluster.node_proxy(2).set(Fault::Hold);
    load.progress(200).await;
    cluster.node_proxy(2).set(Fault::None);
    load.progress(50).await;
    assert_eq!(load.finish().await, 0, "writers notice nothing of it");
    cluster.converge().await;
}

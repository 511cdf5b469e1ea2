//! Faults in any order, the next one before the last one is overcome: the promises hold all the same.
//!
//! The order comes from a number, so that one that fails can be run again: `FAULTS_SEED=7 cargo test --test broker_mixed`.

#![allow(clippy::unwrap_used)]

use broadcast_tests::broker::Broker;
use broadcast_tests::standalone::Cluster;

/// How many faults one run has.
const FAULTS: usize = 14;

/// A generator of small numbers that are the same for the same seed (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }
}

async fn one_fault(dice: &mut Dice, broker: &mut Broker, cluster: &mut Cluster) -> String {
    let node = u32::try_from(1 + dice.roll(3)).unwrap();
    let heart = usize::try_from(dice.roll(2)).unwrap();
    match dice.roll(7) {
        0 => {
            broker.kill();
            broker.restart().await;
            "the broker killed".to_owned()
        }
        1 => {
            cluster.take_heart(heart).kill();
            cluster.start_heart(heart);
            format!("heart {heart} killed")
        }
        2 => {
            cluster.take_heart(0).kill();
            cluster.take_heart(1).kill();
            cluster.start_heart(heart);
            cluster.start_heart(1 - heart);
            "both hearts killed".to_owned()
        }
        3 => {
            cluster.take_node(node).kill();
            cluster.start_node(node);
            format!("node {node} killed")
        }
        4 => {
            for id in 1..=3 {
                cluster.take_node(id).kill();
            }
            for id in 1..=3 {
                cluster.start_node(id);
            }
            "all nodes killed".to_owned()
        }
        // Of node 3 only: what is in no queue and no database is lost.
        5 => {
            broker.by_hand().await.purge(&cluster.queue(3)).await;
            "the queue of node 3 purged".to_owned()
        }
        _ => {
            cluster.take_node(3).kill();
            broker.by_hand().await.delete_queue(&cluster.queue(3)).await;
            cluster.start_node(3);
            "node 3 killed and its queue deleted".to_owned()
        }
    }
}

#[tokio::test]
async fn faults_in_any_order_lose_nothing_acknowledged() {
    let seed = std::env::var("FAULTS_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("FAULTS_SEED={seed}");
    let mut dice = Dice(seed);
    let mut broker = Broker::start().await;
    let mut cluster = Cluster::prepare(&broker.url(), 3);
    cluster.start_all(2).await;
    let load = cluster.start_load(6);
    for _ in 0..FAULTS {
        load.progress(usize::try_from(1 + dice.roll(60)).unwrap()).await;
        println!("{}", one_fault(&mut dice, &mut broker, &mut cluster).await);
    }
    load.progress(100).await;
    load.finish().await;
    cluster.converge().await;
}

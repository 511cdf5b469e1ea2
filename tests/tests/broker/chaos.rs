//! Minutes of faults by chance under concurrent clients: every acknowledged write is in every database once, all databases are equal, and
//! one order of the writes explains every answer and every read.
//!
//! `CHAOS_MINUTES` says how long both types of queues are tormented together, `CHAOS_SEED` repeats an order of faults.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broadcast_tests::broker::Broker;
use broadcast_tests::chaos::Chaos;
use broadcast_tests::clients::{COLLECTION, Clients, Surroundings};
use broadcast_tests::dice::Dice;
use broadcast_tests::history::{Count, History, Read};
use broadcast_tests::oracle::Rows;
use broadcast_tests::report::tell;
use broadcast_tests::standalone::Cluster;
use tokio::sync::Mutex;
use tokio::time::Instant;

const NODES: [u32; 3] = [1, 2, 3];
const GUEST: u32 = 4;

/// The shortest and the longest time of faults before everything has to be well, in milliseconds.
const ROUND: (usize, usize) = (10_000, 30_000);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} has to be a number, and is {text:?}")))
}

fn random_seed() -> u64 {
    u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()) / 1_000
}

async fn prepare(queue_type: &str, dice: Dice) -> Chaos {
    let broker = Broker::start().await;
    let mut cluster = Cluster::prepare(&broker.url(), GUEST);
    cluster.settings = format!("queue_type: {queue_type}\n");
    cluster.put_proxies_between();
    cluster.list_nodes(&NODES, None);
    for heart in [0, 1] {
        cluster.start_heart(heart);
    }
    for node in NODES {
        cluster.start_node(node);
    }
    cluster.oracle.leave_rows_out(COLLECTION);
    cluster.wait_until_ready().await;
    Chaos::new(broker, cluster, dice, &NODES, GUEST)
}

/// Faults under clients, then peace, then the judgement.
async fn one_round(chaos: &mut Chaos, dice: &mut Dice, round: usize) -> Count {
    let cluster = &chaos.cluster;
    let history = History::default();
    let surroundings = Surroundings {
        name: format!("round-{round}"),
        hearts: [0, 1].map(|heart| cluster.heart(heart).clone()).to_vec(),
        nodes: NODES.iter().chain([&GUEST]).map(|node| cluster.node(*node).clone()).collect(),
        history: history.clone(),
        oracle: cluster.oracle.clone(),
    };
    let load = cluster.start_load(2);
    let clients = Clients::start(&surroundings, dice, 4);
    chaos.rage(dice.pause(ROUND.0, ROUND.1)).await;
    load.progress(20).await;
    load.finish().await;
    clients.finish().await;
    let (position, rows) = chaos.cluster.converge().await;
    record_end(&history, position, &rows);
    let violations = history.find_violations();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
    history.count()
}

/// What all nodes have in the end is what they show.
fn record_end(history: &History, position: u64, rows: &Rows) {
    for key in history.keys() {
        let row = rows.get(&(COLLECTION.to_owned(), key.clone()));
        let row = row.map(|row| (serde_json::from_str(&row.value).unwrap(), row.seq));
        let (node, now) = ("every node".to_owned(), history.now());
        history.read(Read { key, node, at_least: position, position, row, start: now, end: now });
    }
}

async fn torment(queue_type: &str) {
    // One at a time: a machine that is too slow for two shows nothing but that.
    static ALONE: Mutex<()> = Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let seed = number("CHAOS_SEED").unwrap_or_else(random_seed);
    let own_seed = seed ^ queue_type.bytes().map(u64::from).sum::<u64>();
    let length = Duration::from_secs(number("CHAOS_MINUTES").unwrap_or(2) * 60 / 2);
    println!("CHAOS_SEED={seed}");
    let mut dice = Dice::new(own_seed);
    let mut chaos = prepare(queue_type, dice.split()).await;
    let started = Instant::now();
    let mut rounds = Vec::new();
    while rounds.is_empty() || started.elapsed() < length {
        let counts = one_round(&mut chaos, &mut dice, rounds.len()).await;
        rounds.push(counts);
    }
    let sum = |count: fn(&Count) -> usize| rounds.iter().map(count).sum::<usize>();
    tell(&format!(
        "chaos with {queue_type} queues, seed {seed}: {} rounds in {:.0?}; {}; {} writes acknowledged ({} with a failed condition), \
         {} more of unknown outcome, {} reads; lost 0, doubled 0, unexplained 0",
        rounds.len(),
        started.elapsed(),
        chaos.describe(),
        chaos.cluster.oracle.count(),
        sum(|count| count.rejected),
        sum(|count| count.unknown),
        sum(|count| count.reads),
    ));
}

#[tokio::test]
async fn chaos_loses_nothing_with_classic_queues() {
    torment("classic").await;
}

#[tokio::test]
async fn chaos_loses_nothing_with_quorum_queues() {
    torment("quorum").await;
}

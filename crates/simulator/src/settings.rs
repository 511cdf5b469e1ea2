//! What differs from one simulation to the next, drawn from its seed.

use crate::agenda::Time;
use crate::faults::Fault;
use crate::rng::Rng;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) nodes: u32,
    pub(crate) hearts: usize,
    pub(crate) clients: usize,
    /// No operator: the first heart begins the history.
    pub(crate) is_standalone: bool,
    /// What takes how long, in milliseconds.
    pub(crate) latency: Time,
    pub(crate) slow_latency: Time,
    pub(crate) slow_per_mille: u64,
    pub(crate) routing: Time,
    pub(crate) commit: Time,
    pub(crate) report_interval: Time,
    /// Between two requests of a client.
    pub(crate) client_gap: Time,
    /// Reports and tips that do not arrive, in a thousand.
    pub(crate) letters_lost: u64,
    /// What a queue holds, in messages.
    pub(crate) queue_length: usize,
    pub(crate) requeues_at_tail: bool,
    pub(crate) delivery_limit: u32,
    /// What a node's log holds, in messages.
    pub(crate) log_length: usize,
    pub(crate) retained_bytes: usize,
    pub(crate) kept_bytes: u64,
    /// The faults that occur.
    pub(crate) faults: Vec<Fault>,
    pub(crate) fault_gap: Time,
    /// When the last fault occurs.
    pub(crate) quiet_from: Time,
    /// Whoever acts dies at once, so many times in a million.
    pub(crate) crash_per_million: u64,
    /// How long a human watches a cluster that does not go on.
    pub(crate) patience: Time,
}

impl Settings {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let is_slow = rng.chance(300);
        let kinds = rng.within(1, 7);
        let faults: Vec<Fault> = (0..kinds).filter_map(|_| rng.pick(&Fault::ALL)).collect();
        let log_length = rng.pick(&[1, 5, 1_000]).unwrap_or(1_000);
        Self {
            nodes: u32::try_from(rng.within(1, 4)).unwrap_or(1),
            hearts: rng.index(3) + 1,
            clients: rng.index(2) + 1,
            is_standalone: rng.chance(200),
            latency: if is_slow { rng.within(1, 40) } else { rng.within(1, 4) },
            slow_latency: rng.within(20, 2_000),
            slow_per_mille: rng.pick(&[0, 0, 2, 10]).unwrap_or(0),
            routing: if is_slow { rng.within(0, 50) } else { rng.within(0, 3) },
            commit: if is_slow { rng.within(5, 200) } else { rng.within(0, 10) },
            report_interval: rng.within(20, 400),
            client_gap: rng.pick(&[50, 150, 300, 600]).unwrap_or(150),
            letters_lost: rng.pick(&[0, 0, 20, 200]).unwrap_or(0),
            queue_length: rng.pick(&[10, 1_000, 1_000, 1_000]).unwrap_or(1_000),
            requeues_at_tail: rng.chance(300),
            delivery_limit: rng.pick(&[2, 20, u32::MAX, u32::MAX]).unwrap_or(u32::MAX),
            // A database with wrong rows has no snapshot to give, and may be the only one that is so far.
            log_length: if faults.contains(&Fault::CorruptDisk) { 10_000 } else { log_length },
            retained_bytes: rng.pick(&[1_000, 20_000, 1 << 20]).unwrap_or(0),
            kept_bytes: 1 << 20,
            faults,
            fault_gap: rng.within(200, 2_000),
            quiet_from: rng.within(4_000, 13_000),
            crash_per_million: rng.pick(&[0, 0, 1_000, 5_000]).unwrap_or(0),
            patience: rng.pick(&[6_000, 40_000, 40_000]).unwrap_or(40_000),
        }
    }
}

//! What was exercised how often: a simulation that never does something proves nothing about it.

use std::fmt::Write as _;

macro_rules! seen {
    ($($name:ident = $text:literal,)*) => {
        /// Something that a simulation is to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Seen { $($name,)* }

        const NAMES: &[&str] = &[$($text,)*];
    };
}

seen! {
    HeartCrashed = "fault: heart killed",
    HeartCrashedActing = "fault: heart killed between two actions",
    HeartPaused = "fault: heart stopped for a while (SIGSTOP)",
    HeartStopped = "fault: heart told to end",
    HeartCut = "fault: heart's connection cut",
    PodCrashed = "fault: node killed",
    PodCrashedActing = "fault: node killed between two actions",
    PodPaused = "fault: node stopped for a while (SIGSTOP)",
    PodStopped = "fault: node told to end",
    PodCut = "fault: node's connection cut",
    PodAway = "fault: node away for long",
    SecondPod = "fault: second pod of one node",
    DiskLost = "fault: node's disk lost",
    DiskRestored = "fault: node's disk restored from a backup",
    DiskFails = "fault: node's database fails for a while",
    DiskCorrupt = "fault: node's rows changed behind its back",
    ScaledUp = "fault: node added",
    ScaledDown = "fault: node removed",
    BrokerCrashed = "fault: broker killed",
    BrokerWiped = "fault: broker's disk lost",
    AllWipedButOne = "fault: broker's disk and all hearts lost, the furthest node away",
    ExchangeDeleted = "fault: exchange deleted",
    HeadDeleted = "fault: head queue deleted",
    HeadPurged = "fault: head queue purged",
    HeadUnbound = "fault: head queue unbound",
    QueueDeleted = "fault: node's queue deleted",
    QueuePurged = "fault: node's queue purged",
    QueueUnbound = "fault: node's queue unbound",
    Duplicated = "fault: message copied to the end of a queue",
    Malformed = "fault: malformed message in a queue",
    NewerVersion = "fault: message of a newer version in a queue",
    ClockJumped = "fault: clock jumped",
    PeersCut = "fault: peers do not reach each other for a while",
    AllHeartsCrashed = "fault: all hearts killed at once",
    LossAccepted = "human: loss accepted",
    Tainted = "promise: writes lost that are outside of it",
    DeadEnd = "promise: node left behind by a loss that is outside of it",
    LockRefused = "broker: lock refused",
    LetterLost = "broker: report or tip lost",
    Returned = "broker: message returned",
    OverflowDropped = "broker: queue's oldest dropped",
    DeliveryLimitDropped = "broker: dropped for its delivery limit",
    Redelivered = "broker: delivered again",
    RequeuedAtHead = "broker: requeued in place",
    RequeuedAtTail = "broker: requeued at the tail",
    RoutedLate = "broker: dead publisher's message came late",
    RouteLost = "broker: dead publisher's message did not reach a queue",
    UnconfirmedTailLost = "broker: unconfirmed tail lost",
    Genesis = "heart: began the history",
    Reign = "heart: reigns",
    WritePublishedAgain = "heart: published the last write again",
    MarkPublishedAgain = "heart: published the last mark again",
    SealPublished = "heart: published a seal",
    SealDecided = "heart: reigns after a sealing",
    TipHeard = "heart: heard a tip in a sealing",
    ClaimHeard = "heart: heard a claim while taking over",
    DoubtLost = "heart: reign or standby ended, connection lost",
    DoubtLate = "heart: reign ended, confirm too late",
    DoubtStaleHead = "heart: reign ended, stale head",
    DoubtCutShort = "heart: reign ended, cut short",
    ClientUnknown = "client: outcome unknown",
    ClientRetried = "client: tried again with the same id",
    Applied = "node: applied a delivery",
    AppliedKept = "node: applied a kept message",
    Kept = "node: kept a message",
    Discarded = "node: discarded a kept message",
    Repaired = "node: applied a peer's message",
    SnapshotInstalled = "node: installed a snapshot",
    Rebuilt = "node: rebuilt its database",
    DroppedStale = "node: dropped, stale",
    DroppedDuplicate = "node: dropped, duplicate",
    DroppedMark = "node: took a mark",
    DroppedSeal = "node: took a seal",
    Rejected = "node: rejected",
    Compared = "node: compared its digest",
    HaltNewerVersion = "node: halted, newer version",
    HaltDiverged = "node: halted, diverged",
    HaltGivenUp = "node: halted, has what was given up",
    HaltRowsDiffer = "node: halted, rows differ",
    Gap = "node: met a gap",
    NobodyHelps = "node: nobody helps",
    GivenBack = "node: transaction failed, all given back",
    TakenOver = "node: replaced by another pod",
    DeclaredAfterSilence = "node: declared again after silence",
    TipSent = "node: sent a tip",
    RequestRepeated = "node: met a request id again",
    PreconditionFailed = "node: precondition failed",
}

/// How often each was seen.
#[derive(Debug, Clone)]
pub struct Tally {
    counts: Vec<u64>,
    /// Simulated time, in milliseconds.
    pub(crate) simulated: u64,
    pub(crate) events: u64,
    pub(crate) acknowledged: u64,
    /// Simulated time from the last fault until everything was the same everywhere, in milliseconds: the longest.
    pub(crate) convergence: u64,
    seeds: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let counts = vec![0; NAMES.len()];
        Self { counts, simulated: 0, events: 0, acknowledged: 0, convergence: 0, seeds: 0 }
    }
}

impl Tally {
    pub(crate) fn count(&mut self, seen: Seen) {
        self.counts[seen as usize] += 1;
    }

    /// Adds one seed's.
    pub fn add_seed(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.simulated += other.simulated;
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.convergence = self.convergence.max(other.convergence);
        self.seeds += 1;
    }

    /// How many seeds were added.
    pub fn seeds(&self) -> u64 {
        self.seeds
    }

    /// What was never seen.
    pub fn missing(&self) -> Vec<&'static str> {
        NAMES.iter().zip(&self.counts).filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect()
    }

    /// All of it, in lines.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (name, count) in NAMES.iter().zip(&self.counts) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{count:>12}  {name}");
        }
        let hours = self.simulated / 3_600_000;
        let _ = write!(
            text,
            "{} seeds, {} events, {hours} simulated hours, {} messages of writes acknowledged; \
             the longest way back to one history took {} s",
            self.seeds,
            self.events,
            self.acknowledged,
            self.convergence / 1000
        );
        text
    }
}

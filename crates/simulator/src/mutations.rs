//! Ways to get the protocol wrong. Each one is a rule of the protocol that drivers or broker break on purpose; a
//! simulator that does not find it proves nothing.

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// The head queue holds one message: one that a dead heart's connection brings late displaces the newest.
    HeadQueueOfOne,
    /// The next heart does not publish the history's end again.
    HeadNotPublishedAgain,
    /// The next message is published, and clients are answered, before the broker has confirmed the last one.
    ConfirmNotAwaited,
    /// A heart publishes although another one has the lock.
    LockIgnored,
    /// The end of the history is the best position that a node has applied.
    SealBestAppliedOnly,
    /// A sealing heart waits for nobody.
    SealWaitsForNobody,
    /// A node applies a message as it comes.
    AppliedWithoutProof,
    /// A node acknowledges a message before it is on disk.
    AckedBeforeTransaction,
    /// Nodes do not learn what was cut from the history.
    CutNotTold,
    /// A request id is not looked up.
    RequestIdsIgnored,
    /// A snapshot does not carry request ids.
    SnapshotWithoutRequests,
    /// A node reports before its queue is bound.
    ReportBeforeQueue,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::HeadQueueOfOne,
        Self::HeadNotPublishedAgain,
        Self::ConfirmNotAwaited,
        Self::LockIgnored,
        Self::SealBestAppliedOnly,
        Self::SealWaitsForNobody,
        Self::AppliedWithoutProof,
        Self::AckedBeforeTransaction,
        Self::CutNotTold,
        Self::RequestIdsIgnored,
        Self::SnapshotWithoutRequests,
        Self::ReportBeforeQueue,
    ];
}

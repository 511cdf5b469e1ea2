//! What goes wrong.

use proptest::prelude::*;

/// How long a fault lasts at most.
pub(super) const LONGEST_FAULT: f64 = 40.0;

/// How long a request or an answer may be on its way while the network is slow.
pub(super) const SLOWEST: f64 = 30.0;

/// Something that happens to a candidate. Times are in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// The whole process is stopped for so long, and then goes on.
    Stop(f64),
    /// What it sends is lost, or what it is answered.
    CutOff(f64),
    /// Requests and answers take up to [`SLOWEST`].
    Slow(f64),
    /// It ends without a word and starts again after so long.
    Kill(f64),
    /// It is told to end, and releases the Lease.
    Restart(f64),
    /// Its wall clock is set by so many seconds.
    SetClock(f64),
    /// Somebody writes an annotation into the Lease.
    Annotate,
}

pub(super) fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0.0..LONGEST_FAULT).prop_map(Fault::Stop),
        (0.0..LONGEST_FAULT).prop_map(Fault::CutOff),
        (0.0..LONGEST_FAULT).prop_map(Fault::Slow),
        (0.0..10.0).prop_map(Fault::Kill),
        (0.0..10.0).prop_map(Fault::Restart),
        (-4000.0..4000.0).prop_map(Fault::SetClock),
        Just(Fault::Annotate),
    ]
}

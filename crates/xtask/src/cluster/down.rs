//! Takes the local cluster down, and proves that nothing of it is left.
//!
//! Nothing is asked to stop: whatever the programs would still write is removed with them. That also makes the way down from a healthy
//! cluster the same as from the remains of one.

use std::thread;
use std::time::{Duration, Instant};

use crate::apt;
use crate::cluster::layout::Layout;
use crate::cluster::leftovers;
use crate::context::Context;
use crate::failure::{Result, told};

const PATIENCE: Duration = Duration::from_mins(2);

/// Ends and removes everything that belongs to the local cluster; whether there was anything.
pub(crate) fn take_down(context: &Context) -> Result<bool> {
    let layout = Layout::of(context);
    if leftovers::find(&layout).is_empty() {
        return Ok(false);
    }
    if !apt::is_root()? {
        return told("the local cluster belongs to root: run this command as root");
    }
    context.step("taking the local cluster down", |step| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = leftovers::find(&layout);
            if found.is_empty() {
                return leftovers::remove_empty_folders(step);
            }
            if Instant::now() > deadline {
                let list: Vec<_> = found.iter().map(|leftover| format!("  {leftover}")).collect();
                return told(format!("these are left of the local cluster and resist:\n{}", list.join("\n")));
            }
            leftovers::remove(step, &found)?;
            // What was killed takes a moment to let go of its mounts and control groups.
            thread::sleep(Duration::from_millis(100));
        }
    })?;
    Ok(true)
}

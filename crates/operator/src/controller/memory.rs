//! What is remembered of a resource between passes. Nothing here is needed for what is done, only for when: a process
//! that starts anew may write or try once too often, and waits in vain for a Secret that went with its namespace.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broadcast_service::backoff::Backoff;

use crate::controller::drift::{Repairs, find_repaired};
use crate::secret::BrokerAccess;

/// The shortest delay after a failure.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest: what is mended is noticed within it.
const LONGEST: Duration = Duration::from_secs(15);

/// How soon to look again while something is under way, and how late when that goes on and on: watches tell of most, but
/// nothing tells when the heart finds that a node is current.
const FIRST_LOOK: Duration = Duration::from_secs(2);
const LAST_LOOK: Duration = Duration::from_secs(15);

/// What is remembered, by uid.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<String, OfOne>>);

#[derive(Debug, Default)]
struct OfOne {
    backoff: Option<Backoff>,
    looks: Option<Backoff>,
    written: Option<Instant>,
    /// When a pass last found out how things stand, or the first one failed.
    found: Option<Instant>,
    access: Option<BrokerAccess>,
    repairs: Option<Repairs>,
}

impl Memory {
    /// A pass failed: how long to wait.
    pub fn next_delay(&self, uid: &str) -> Duration {
        self.with(uid, |one| one.backoff.get_or_insert_with(|| Backoff::new(SHORTEST, LONGEST)).next_delay())
    }

    /// A pass succeeded.
    pub fn reset_delay(&self, uid: &str) {
        // The pass may have been the one that let it go.
        if let Some(one) = self.all().get_mut(uid) {
            one.backoff = None;
        }
    }

    /// Something is under way: how long to wait before the next look.
    pub fn next_look(&self, uid: &str) -> Duration {
        self.with(uid, |one| {
            one.looks.get_or_insert_with(|| Backoff::new(FIRST_LOOK, LAST_LOOK)).next_delay()
        })
    }

    /// Something has changed, and more may soon.
    pub fn reset_patience(&self, uid: &str) {
        self.with(uid, |one| one.looks = None);
    }

    /// A pass found out how things stand.
    pub fn note_finding(&self, uid: &str) {
        self.with(uid, |one| one.found = Some(Instant::now()));
    }

    /// How long ago a pass last found out how things stand, as far as this process knows.
    pub fn since_finding(&self, uid: &str) -> Duration {
        self.with(uid, |one| one.found.get_or_insert_with(Instant::now).elapsed())
    }

    /// The status was written.
    pub fn note_write(&self, uid: &str) {
        self.with(uid, |one| one.written = Some(Instant::now()));
    }

    /// How long ago the status was written.
    pub fn since_write(&self, uid: &str) -> Option<Duration> {
        self.with(uid, |one| one.written.map(|written| written.elapsed()))
    }

    /// The broker's address was read.
    pub fn note_access(&self, uid: &str, access: &BrokerAccess) {
        self.with(uid, |one| one.access = Some(access.clone()));
    }

    /// The broker's address as it was read last.
    pub fn last_access(&self, uid: &str) -> Option<BrokerAccess> {
        self.with(uid, |one| one.access.clone())
    }

    /// What was made anew by now; gives what is news.
    pub fn note_repairs(&self, uid: &str, now: Repairs) -> Vec<String> {
        self.with(uid, |one| {
            let news = find_repaired(one.repairs.as_ref(), &now);
            one.repairs.get_or_insert_default().extend(now);
            news
        })
    }

    /// The resource is gone.
    pub fn forget(&self, uid: &str) {
        self.all().remove(uid);
    }

    fn with<T>(&self, uid: &str, use_it: impl FnOnce(&mut OfOne) -> T) -> T {
        use_it(self.all().entry(uid.to_owned()).or_default())
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, OfOne>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_looked_at_ever_later_until_something_changes() {
        let memory = Memory::default();
        let looks: Vec<_> = (0..6).map(|_| memory.next_look("a")).collect();
        assert!(looks[0] <= FIRST_LOOK && looks[5] >= LAST_LOOK / 2, "{looks:?}");
        memory.reset_patience("a");
        assert!(memory.next_look("a") <= FIRST_LOOK);
    }

    #[test]
    fn nothing_is_remembered_of_a_resource_that_is_gone() {
        let memory = Memory::default();
        memory.note_write("a");
        memory.forget("a");
        memory.reset_delay("a");
        assert!(memory.all().is_empty());
    }

    #[test]
    fn a_success_makes_the_next_delay_short_again() {
        let memory = Memory::default();
        for _ in 0..20 {
            memory.next_delay("a");
        }
        memory.reset_delay("a");
        assert!(memory.next_delay("a") <= SHORTEST);
    }
}

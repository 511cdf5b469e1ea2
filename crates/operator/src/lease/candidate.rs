//! One candidate's decisions, from what it saw of the Lease and from its own clock alone: no IO, no clock, no chance.
//!
//! Times are durations since any moment, on a clock that only goes forward; the wall clock is written into records for
//! people to read, and never looked at.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How long a record must stay as it is, on the clock of whoever looks at it, until its holder may be succeeded.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How long a leader leads from when it sent its last renewal that was answered.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// How often a leader renews, and how often the others look.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// How long one request may take: a leader has time for three before its deadline.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(3);

/// What a Lease says. Two equal ones mean that its holder has not renewed in between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Whose it is; empty when it is nobody's.
    pub holder: String,
    /// When it became theirs, on their wall clock.
    pub acquired: Option<Timestamp>,
    /// When they renewed it last, on their wall clock.
    pub renewed: Option<Timestamp>,
    /// How often it went to another holder.
    pub transitions: i32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing for so long.
    Wait(Duration),
    /// Read the Lease.
    Read,
    /// Create the Lease, which must not exist.
    Create(Record),
    /// Replace the Lease that was read or written last, which must not have changed since.
    Replace(Record),
    /// Write nothing ever again.
    StepDown(Loss),
}

/// Why a leader no longer is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// No renewal was answered in time.
    #[error("leadership lost: no renewal was answered for {} s", RENEW_DEADLINE.as_secs())]
    Expired,
    /// The Lease is another's.
    #[error("leadership lost: the Lease is held by {0:?}")]
    Taken(String),
    /// The Lease is gone.
    #[error("leadership lost: the Lease was deleted")]
    Deleted,
}

/// A process that leads or would like to.
#[derive(Debug)]
pub struct Candidate {
    identity: String,
    seen: Option<Seen>,
    /// Whether the last request was answered: else the Lease may have changed by what came of it.
    is_current: bool,
    leads_until: Option<Duration>,
    loss: Option<Loss>,
    /// When the next request is due.
    due: Duration,
    /// When the next renewal is due.
    renewal_due: Duration,
}

#[derive(Debug)]
struct Seen {
    /// `None`: there is no Lease.
    record: Option<Record>,
    /// From when on it may be taken if it stays as it is.
    free_at: Duration,
}

impl Candidate {
    /// Knows nothing. The identity is no other process's, now or ever.
    pub fn new(identity: String) -> Self {
        Self {
            identity,
            seen: None,
            is_current: false,
            leads_until: None,
            loss: None,
            due: Duration::ZERO,
            renewal_due: Duration::ZERO,
        }
    }

    /// Until when it leads, if it has come to that. Later than now: it leads.
    pub fn leads_until(&self) -> Option<Duration> {
        self.leads_until
    }

    /// The holder in the record that was seen last.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref()?.record.as_ref().map(|record| record.holder.as_str())
    }

    /// How long an answer is worth waiting for from now on.
    pub fn patience(&self, now: Duration) -> Duration {
        let left = self.leads_until.map_or(REQUEST_DEADLINE, |until| until.saturating_sub(now));
        left.min(REQUEST_DEADLINE)
    }

    /// What to do now.
    pub fn decide(&self, now: Duration, wall: Timestamp) -> Step {
        if let Some(loss) = self.loss_at(now) {
            return Step::StepDown(loss);
        }
        if now < self.due {
            let next = self.leads_until.map_or(self.due, |until| until.min(self.due));
            return Step::Wait(next.saturating_sub(now));
        }
        let Some(seen) = self.seen.as_ref().filter(|_| self.is_current) else { return Step::Read };
        match &seen.record {
            Some(record) if record.holder == self.identity => Step::Replace(renew(record, wall)),
            _ if now < seen.free_at => Step::Read,
            Some(record) => {
                let transitions = record.transitions.saturating_add(1);
                Step::Replace(Record { transitions, ..self.first_record(wall) })
            }
            None => Step::Create(self.first_record(wall)),
        }
    }

    /// The record that gives the Lease up; `None` if it is not this process's. For a leader that has stopped to write.
    pub fn vacate(&self, wall: Timestamp) -> Option<Record> {
        let record = self.seen.as_ref()?.record.as_ref().filter(|record| record.holder == self.identity)?;
        Some(Record { holder: String::new(), ..renew(record, wall) })
    }

    /// The Lease was read (`None`: there is none) by a request sent at `sent`.
    pub fn note_read(&mut self, sent: Duration, now: Duration, record: Option<Record>) {
        let is_own = record.as_ref().is_some_and(|record| record.holder == self.identity);
        if self.leads_until.is_some() && !is_own {
            let holder = record.as_ref().map(|record| record.holder.clone());
            self.loss.get_or_insert(holder.map_or(Loss::Deleted, Loss::Taken));
        }
        let free_at = match &self.seen {
            Some(seen) if seen.record == record => seen.free_at,
            // While this process runs there has not been any.
            None if record.is_none() => now,
            _ if record.as_ref().is_some_and(|record| record.holder.is_empty()) => now,
            _ => now + LEASE_DURATION,
        };
        self.seen = Some(Seen { record, free_at });
        self.is_current = true;
        self.due = if is_own { self.renewal_due } else { free_at.min(sent + RETRY_PERIOD) };
    }

    /// The Lease was written by a request sent at `sent`; what the API server answered.
    pub fn note_written(&mut self, sent: Duration, now: Duration, record: Record) {
        self.seen = Some(Seen { record: Some(record), free_at: now + LEASE_DURATION });
        self.is_current = true;
        self.due = sent + RETRY_PERIOD;
        self.renewal_due = self.due;
        // From before the request was sent: whoever sees the record sees it later. And what is over stays over.
        let until = sent + RENEW_DEADLINE;
        let is_over = self.leads_until.is_some_and(|until| now >= until);
        if !is_over && now < until {
            self.leads_until = Some(until);
        }
    }

    /// A write was refused: the Lease is there already, is gone, or was written by somebody else.
    pub fn note_conflict(&mut self, sent: Duration, now: Duration) {
        self.note_failure(sent);
        if self.leads_until.is_some() {
            // It has to know at once whether it still leads.
            self.due = now;
        }
    }

    /// A request failed or was not answered in time: if it was a write, it may be carried out yet.
    pub fn note_failure(&mut self, sent: Duration) {
        self.is_current = false;
        self.due = sent + RETRY_PERIOD;
        self.renewal_due = self.due;
    }

    fn loss_at(&self, now: Duration) -> Option<Loss> {
        let is_over = self.leads_until.is_some_and(|until| now >= until);
        self.loss.clone().or(is_over.then_some(Loss::Expired))
    }

    fn first_record(&self, wall: Timestamp) -> Record {
        let now = Some(to_microseconds(wall));
        Record { holder: self.identity.clone(), acquired: now, renewed: now, transitions: 0 }
    }
}

/// Another record than before, whatever became of the wall clock in the meantime.
fn renew(record: &Record, wall: Timestamp) -> Record {
    let after_last = record.renewed.and_then(|last| last.checked_add(SignedDuration::from_micros(1)).ok());
    let renewed = Some(to_microseconds(wall)).max(after_last);
    Record { renewed, ..record.clone() }
}

/// What the API server keeps of a time.
fn to_microseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

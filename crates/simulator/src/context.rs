//! What everybody who takes part in a simulation works with: time, chance, the network, and who watches.

use std::fmt;

use crate::agenda::{Agenda, Event, Time};
use crate::client::{Answer, Submission};
use crate::invariants::Oracle;
use crate::mutations::Mutation;
use crate::network::Link;
use crate::report::{Seen, Tally};
use crate::rng::Rng;
use crate::settings::Settings;

/// The cluster's id.
pub(crate) const CLUSTER: &str = "sim";

/// The wall clock's time when the simulation begins.
const WALL: u64 = 1_700_000_000_000;

pub(crate) struct Context {
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) settings: Settings,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) oracle: Oracle,
    pub(crate) tally: Tally,
    pub(crate) links: Vec<Link>,
    /// What hearts have answered to clients and nobody has passed on.
    pub(crate) answers: Vec<(Submission, Answer)>,
    agenda: Agenda,
    trace: bool,
}

impl Context {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let settings = Settings::draw(&mut rng);
        Self {
            now: 0,
            rng,
            settings,
            mutation,
            oracle: Oracle::default(),
            tally: Tally::default(),
            links: Vec::new(),
            answers: Vec::new(),
            agenda: Agenda::default(),
            trace,
        }
    }

    pub(crate) fn plan_at(&mut self, at: Time, event: Event) {
        self.agenda.plan(at, event);
    }

    pub(crate) fn plan_in(&mut self, delay: Time, event: Event) {
        self.agenda.plan(self.now + delay, event);
    }

    /// Goes on to the next event.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let (at, event) = self.agenda.next()?;
        self.now = at;
        Some(event)
    }

    /// The wall clock of somebody whose clock is off by so much.
    pub(crate) fn wall(&self, offset: i64) -> u64 {
        (WALL + self.now).saturating_add_signed(offset)
    }

    pub(crate) fn latency(&mut self) -> Time {
        if self.rng.chance(self.settings.slow_per_mille) {
            return self.rng.within(1, self.settings.slow_latency);
        }
        self.rng.within(0, self.settings.latency)
    }

    pub(crate) fn is_mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(crate) fn count(&mut self, seen: Seen) {
        self.tally.count(seen);
    }

    /// Prints a line of the trace, if there is one.
    pub(crate) fn tell(&self, who: impl fmt::Display, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>8} {who}: {}", self.now, what());
        }
    }
}

/// The delays between attempts, as the programs have them: doubled each time, half to all of it, never above a bound.
#[derive(Debug, Clone)]
pub(crate) struct Backoff(Time);

impl Default for Backoff {
    fn default() -> Self {
        Self(100)
    }
}

impl Backoff {
    pub(crate) fn next_delay(&mut self, rng: &mut Rng) -> Time {
        let delay = self.0;
        self.0 = (delay * 2).min(5_000);
        rng.within(delay / 2, delay)
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

//! Any number of candidates in a world in which everything goes wrong that they say they can bear: clocks that run apart and wall
//! clocks that jump, requests and answers that are lost or come much later, processes that are stopped, killed or told to
//! end, partitions, others who write into the Lease. Two must never lead at the same time, and when the faults are over
//! somebody leads.

mod fault;

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::fault::{Fault, LONGEST_FAULT, SLOWEST, any_fault};
use super::*;

/// How much faster or slower than true a clock may go.
const MAX_DRIFT: f64 = 0.1;

/// How long after the end of a leader's time a write of it may still arrive.
const FLIGHT: f64 = 2.0;

/// The time in which faults begin; each lasts up to [`LONGEST_FAULT`].
const FAULTS: f64 = 120.0;

/// How long without faults it may take until somebody leads.
const RECOVERY: f64 = 25.0;

/// When all is over: faults, requests on their way, recovery; and a while in which nobody may stop to lead.
const CALM: f64 = FAULTS + LONGEST_FAULT + 2.0 * SLOWEST + RECOVERY;
const END: f64 = CALM + 30.0;

fn any_drift() -> impl Strategy<Value = f64> {
    prop_oneof![Just(-MAX_DRIFT), Just(MAX_DRIFT), -MAX_DRIFT..=MAX_DRIFT]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_two_ever_lead_at_the_same_time_and_somebody_does_when_the_faults_are_over(
        drifts in proptest::collection::vec(any_drift(), 2..5),
        faults in proptest::collection::vec((0.0..FAULTS, 0_usize..4, any_fault()), 0..40),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(&drifts, seed);
        for (at, process, fault) in faults {
            world.schedule(at, Event::Fault(process % drifts.len(), fault));
        }
        world.run()?;
    }
}

/// What happens, and to which of the processes.
#[derive(Debug, Clone)]
enum Event {
    Fault(usize, Fault),
    Start(usize),
    /// To the life of a process with this number, like all that follows.
    Wake(usize, u64),
    Answer(usize, u64, u64, Answer),
    /// The process waits no longer for this request.
    GiveUp(usize, u64, u64),
    /// A request reaches the API server; the last is how long its answer takes, unless that is lost.
    Arrive(usize, u64, u64, Request, Option<f64>),
    Look,
}

#[derive(Debug, Clone)]
enum Request {
    Read,
    Create(Record),
    Replace(u64, Record),
}

#[derive(Debug, Clone)]
enum Answer {
    Read(Option<(u64, Record)>),
    Written(u64, Record),
    Conflict,
}

struct Process {
    rate: f64,
    wall_offset: f64,
    stopped_until: f64,
    cut_off_until: f64,
    slow_until: f64,
    lives: u64,
    candidate: Option<Candidate>,
    /// The version that was read or written last.
    version: u64,
    /// The request that is waited for, and when it was sent, on the process's clock.
    waiting: Option<(u64, Duration)>,
    /// When a write of this process may have been sent at the latest.
    wrote_until: f64,
}

struct World {
    now: f64,
    events: BTreeMap<(u64, u64), Event>,
    /// Numbers for all that needs one.
    numbers: u64,
    processes: Vec<Process>,
    lease: Option<(u64, Record)>,
    random: StdRng,
}

impl World {
    fn new(drifts: &[f64], seed: u64) -> Self {
        let process = |drift: &f64| Process {
            rate: 1.0 + drift,
            wall_offset: 0.0,
            stopped_until: 0.0,
            cut_off_until: 0.0,
            slow_until: 0.0,
            lives: 0,
            candidate: None,
            version: 0,
            waiting: None,
            wrote_until: f64::NEG_INFINITY,
        };
        let processes: Vec<_> = drifts.iter().map(process).collect();
        let random = StdRng::seed_from_u64(seed);
        let mut world =
            Self { now: 0.0, events: BTreeMap::new(), numbers: 0, processes, lease: None, random };
        for index in 0..drifts.len() {
            world.schedule(0.0, Event::Start(index));
        }
        for second in 0..30 {
            world.schedule(CALM + f64::from(second), Event::Look);
        }
        world
    }

    fn schedule(&mut self, at: f64, event: Event) {
        // In any order where it is not given: a process that goes on after a stop finds timers and answers there.
        self.numbers += 1;
        let order = (self.random.random_range(0..1_u64 << 20) << 32) | self.numbers;
        // Rounded up: what waits for a moment finds it come.
        let at = Duration::from_secs_f64(at) + Duration::from_micros(1);
        self.events.insert((at.as_micros().try_into().unwrap(), order), event);
    }

    fn run(&mut self) -> Result<(), TestCaseError> {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = Duration::from_micros(at).as_secs_f64();
            if self.now > END {
                break;
            }
            self.happen(event)?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        let (index, life) = match &event {
            Event::Fault(index, fault) => {
                self.strike(*index, *fault);
                return Ok(());
            }
            Event::Look => {
                let leaders = (0..self.processes.len()).filter(|index| self.leads(*index)).count();
                prop_assert_eq!(leaders, 1, "at {}", self.now);
                return Ok(());
            }
            Event::Arrive(index, life, number, request, answered_after) => {
                let answer = self.serve(request.clone());
                if let Some(delay) = answered_after {
                    self.schedule(self.now + delay, Event::Answer(*index, *life, *number, answer));
                }
                return Ok(());
            }
            Event::Start(index) => (*index, self.processes[*index].lives),
            Event::Wake(index, life) | Event::Answer(index, life, ..) | Event::GiveUp(index, life, _) => {
                (*index, *life)
            }
        };
        let process = &mut self.processes[index];
        if process.lives != life {
            return Ok(());
        }
        if self.now < process.stopped_until {
            let later = process.stopped_until;
            self.schedule(later, event);
            return Ok(());
        }
        self.act(index, event)
    }

    /// What a process that runs does.
    fn act(&mut self, index: usize, event: Event) -> Result<(), TestCaseError> {
        let now = self.local(index);
        let process = &mut self.processes[index];
        match event {
            Event::Start(_) => {
                process.lives += 1;
                process.waiting = None;
                process.candidate = Some(Candidate::new(format!("{index}_{}", process.lives)));
            }
            Event::Answer(_, _, number, answer) => {
                let Some((_, sent)) = process.waiting.take_if(|(waited_for, _)| *waited_for == number) else {
                    return Ok(());
                };
                let candidate = process.candidate.as_mut().unwrap();
                match answer {
                    Answer::Read(found) => {
                        process.version = found.as_ref().map_or(0, |(version, _)| *version);
                        candidate.note_read(sent, now, found.map(|(_, record)| record));
                    }
                    Answer::Written(version, record) => {
                        process.version = version;
                        candidate.note_written(sent, now, record);
                        self.check_that_no_other_leads(index)?;
                    }
                    Answer::Conflict => candidate.note_conflict(sent, now),
                }
            }
            Event::GiveUp(_, _, number) => {
                let Some((_, sent)) = process.waiting.take_if(|(waited_for, _)| *waited_for == number) else {
                    return Ok(());
                };
                process.candidate.as_mut().unwrap().note_failure(sent);
            }
            _ => {}
        }
        self.go_on(index);
        Ok(())
    }

    /// Does what the candidate decides.
    fn go_on(&mut self, index: usize) {
        let (now, wall) = (self.local(index), self.wall(index));
        let process = &mut self.processes[index];
        let (Some(candidate), None) = (&process.candidate, process.waiting) else { return };
        let (life, version, rate) = (process.lives, process.version, process.rate);
        let patience = candidate.patience(now).as_secs_f64() / rate;
        let request = match candidate.decide(now, wall) {
            Step::Wait(delay) => {
                let at = self.now + delay.as_secs_f64() / rate + 1e-5;
                return self.schedule(at, Event::Wake(index, life));
            }
            Step::StepDown(_) => return self.end(index, 1.0),
            Step::Read => Request::Read,
            Step::Create(record) => Request::Create(record),
            Step::Replace(record) => Request::Replace(version, record),
        };
        self.numbers += 1;
        let number = self.numbers;
        self.processes[index].waiting = Some((number, now));
        self.schedule(self.now + patience, Event::GiveUp(index, life, number));
        let answered_after = self.travel(index);
        if let Some(delay) = self.travel(index) {
            self.schedule(self.now + delay, Event::Arrive(index, life, number, request, answered_after));
        }
    }

    /// How long a message of a process takes; `None` when it is lost.
    fn travel(&mut self, index: usize) -> Option<f64> {
        let process = &self.processes[index];
        if self.now < process.cut_off_until && self.random.random_bool(0.9) {
            return None;
        }
        let is_slow = self.now < process.slow_until;
        let longest = match self.random.random_range(0..3) {
            0 if is_slow => SLOWEST,
            1 if is_slow => REQUEST_DEADLINE.as_secs_f64(),
            _ => 0.05,
        };
        Some(self.random.random_range(0.001..longest))
    }

    /// The API server: compares versions, and keeps times to the microsecond.
    fn serve(&mut self, request: Request) -> Answer {
        let record = match request {
            Request::Read => return Answer::Read(self.lease.clone()),
            Request::Create(record) if self.lease.is_none() => record,
            Request::Replace(version, record)
                if self.lease.as_ref().is_some_and(|(at, _)| *at == version) =>
            {
                record
            }
            Request::Create(_) | Request::Replace(..) => return Answer::Conflict,
        };
        self.numbers += 1;
        self.lease = Some((self.numbers, record.clone()));
        Answer::Written(self.numbers, record)
    }

    fn strike(&mut self, index: usize, fault: Fault) {
        let process = &mut self.processes[index];
        match fault {
            Fault::Stop(duration) => process.stopped_until = process.stopped_until.max(self.now + duration),
            Fault::CutOff(duration) => process.cut_off_until = process.cut_off_until.max(self.now + duration),
            Fault::Slow(duration) => process.slow_until = process.slow_until.max(self.now + duration),
            Fault::SetClock(by) => process.wall_offset += by,
            Fault::Kill(restart) => self.end(index, restart),
            Fault::Restart(restart) if self.now >= process.stopped_until => {
                if self.leads(index) {
                    self.release(index);
                }
                self.end(index, restart);
            }
            Fault::Restart(_) => {}
            Fault::Annotate => {
                self.numbers += 1;
                let version = self.numbers;
                self.lease.iter_mut().for_each(|(at, _)| *at = version);
            }
        }
    }

    /// After its last write: nothing of it can arrive any more.
    fn release(&mut self, index: usize) {
        let wall = self.wall(index);
        let process = &mut self.processes[index];
        process.candidate.as_mut().unwrap().leads_until = None;
        process.wrote_until = f64::NEG_INFINITY;
        let Some(record) = process.candidate.as_ref().unwrap().vacate(wall) else { return };
        let request = Request::Replace(process.version, record);
        if let Some(delay) = self.travel(index) {
            let (life, number) = (self.processes[index].lives, 0);
            self.schedule(self.now + delay, Event::Arrive(index, life, number, request, None));
        }
    }

    /// The process ends, and starts again somewhat later, if it was there at all.
    fn end(&mut self, index: usize, restart: f64) {
        if self.processes[index].candidate.is_none() {
            return;
        }
        self.note_writes(index);
        let process = &mut self.processes[index];
        process.candidate = None;
        process.lives += 1;
        process.stopped_until = 0.0;
        self.schedule(self.now + restart, Event::Start(index));
    }

    /// Until now, or until its time was over if that was before, it may have written.
    fn note_writes(&mut self, index: usize) {
        let Some(end) = self.leads_until(index) else { return };
        let now = self.now;
        let process = &mut self.processes[index];
        process.wrote_until = process.wrote_until.max(end.min(now));
    }

    fn check_that_no_other_leads(&mut self, index: usize) -> Result<(), TestCaseError> {
        if !self.leads(index) {
            return Ok(());
        }
        for other in (0..self.processes.len()).filter(|other| *other != index) {
            let until =
                self.processes[other].wrote_until.max(self.leads_until(other).unwrap_or(f64::NEG_INFINITY));
            prop_assert!(
                until + FLIGHT <= self.now,
                "at {} process {index} leads, and a write of {other} of {until} may still arrive",
                self.now
            );
        }
        Ok(())
    }

    fn leads(&self, index: usize) -> bool {
        self.leads_until(index).is_some_and(|until| self.now < until)
    }

    /// In true time.
    fn leads_until(&self, index: usize) -> Option<f64> {
        let process = &self.processes[index];
        let candidate = process.candidate.as_ref().filter(|candidate| candidate.loss.is_none())?;
        candidate.leads_until().map(|until| until.as_secs_f64() / process.rate)
    }

    fn local(&self, index: usize) -> Duration {
        Duration::from_secs_f64(self.now * self.processes[index].rate)
    }

    fn wall(&self, index: usize) -> Timestamp {
        let seconds = 1_800_000_000.0 + self.now + self.processes[index].wall_offset;
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs_f64(seconds)
    }
}

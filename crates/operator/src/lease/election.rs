//! Does what a [`Candidate`] decides: reads and writes the Lease, each request within a deadline.

use std::time::Duration;

use broadcast_service::admin::Readiness;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::controller::error::describe;
use crate::lease::candidate::{Candidate, LEASE_DURATION, Loss, REQUEST_DEADLINE, Record, Step};
use crate::lease::leadership::Leadership;
use crate::names::MANAGER;

/// Which Lease, and who wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseNames {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// The name of this process, which no other process has or will have.
    pub identity: String,
}

/// This process's part in the election.
pub struct Election {
    api: Api<Lease>,
    name: String,
    candidate: Candidate,
    leadership: Leadership,
    /// As it was read or written last: a replacement keeps what others put into it, and names its version.
    lease: Option<Lease>,
    /// Why the last request failed.
    trouble: Option<String>,
}

/// A request that did not do what it was to do.
enum Failure {
    /// The Lease is not as it was.
    Conflict,
    /// Anything else, or no answer.
    Other(String),
}

impl Election {
    /// Nothing is asked yet. The leadership follows what this process wins and loses; `client` must write without it.
    pub fn new(client: Client, names: LeaseNames, leadership: Leadership) -> Self {
        Self {
            api: Api::namespaced(client, &names.namespace),
            name: names.name,
            candidate: Candidate::new(names.identity),
            leadership,
            lease: None,
            trouble: None,
        }
    }

    /// Stands by until this process leads. It is as ready as it can be while it is able to use the Lease.
    pub async fn win(&mut self, readiness: &watch::Sender<Readiness>) -> Result<(), Loss> {
        let mut holder = String::new();
        loop {
            self.step().await?;
            if self.leadership.is_valid() {
                tracing::info!(lease = self.name, "leading");
                return Ok(());
            }
            if let Some(problem) = &self.trouble {
                readiness.send_replace(Readiness::NotReady(format!("the Lease cannot be used: {problem}")));
            } else if let Some(seen) = self.candidate.holder() {
                readiness.send_replace(Readiness::Standby);
                if holder != seen {
                    seen.clone_into(&mut holder);
                    tracing::info!(lease = self.name, holder, "standing by");
                }
            }
        }
    }

    /// Renews until leadership is lost.
    pub async fn hold(&mut self) -> Loss {
        loop {
            if let Err(loss) = self.step().await {
                return loss;
            }
        }
    }

    /// Lets another take over at once. To be called when all that this process writes is written.
    pub async fn release(mut self) {
        self.leadership.last_until(Duration::ZERO);
        match timeout(REQUEST_DEADLINE, self.vacate()).await {
            Ok(Ok(())) => tracing::info!("the Lease is released"),
            Ok(Err(problem)) => tracing::warn!(problem, "the Lease is not released: it has to run out"),
            Err(_) => tracing::warn!("the Lease is not released in time: it has to run out"),
        }
    }

    async fn vacate(&mut self) -> Result<(), String> {
        loop {
            // The last renewal may still be on its way.
            let sent = self.leadership.now();
            let record = self.read().await?;
            self.candidate.note_read(sent, self.leadership.now(), record);
            let Some(record) = self.candidate.vacate(Timestamp::now()) else { return Ok(()) };
            match self.write(&record, false).await {
                Ok(_) => return Ok(()),
                Err(Failure::Conflict) => {}
                Err(Failure::Other(problem)) => return Err(problem),
            }
        }
    }

    async fn step(&mut self) -> Result<(), Loss> {
        let sent = self.leadership.now();
        match self.candidate.decide(sent, Timestamp::now()) {
            Step::Wait(delay) => tokio::time::sleep(delay).await,
            Step::Read => self.ask(sent).await,
            Step::Create(record) => self.put(sent, &record, true).await,
            Step::Replace(record) => self.put(sent, &record, false).await,
            Step::StepDown(loss) => {
                self.leadership.last_until(Duration::ZERO);
                tracing::error!(%loss, "nothing is written any more");
                return Err(loss);
            }
        }
        Ok(())
    }

    async fn ask(&mut self, sent: Duration) {
        let patience = self.candidate.patience(sent);
        let answer = timeout(patience, self.read()).await;
        match answer.unwrap_or_else(|_| Err(no_answer(patience))) {
            Ok(record) => {
                self.trouble = None;
                self.candidate.note_read(sent, self.leadership.now(), record);
            }
            Err(problem) => self.note_trouble(sent, problem),
        }
    }

    async fn put(&mut self, sent: Duration, record: &Record, is_new: bool) {
        let patience = self.candidate.patience(sent);
        let answer = timeout(patience, self.write(record, is_new)).await;
        let now = self.leadership.now();
        match answer.unwrap_or_else(|_| Err(Failure::Other(no_answer(patience)))) {
            Ok(record) => {
                self.trouble = None;
                self.candidate.note_written(sent, now, record);
                if let Some(end) = self.candidate.leads_until() {
                    self.leadership.last_until(end);
                }
            }
            Err(Failure::Conflict) => self.candidate.note_conflict(sent, now),
            Err(Failure::Other(problem)) => self.note_trouble(sent, problem),
        }
    }

    fn note_trouble(&mut self, sent: Duration, problem: String) {
        tracing::warn!(problem, "the Lease cannot be used");
        self.trouble = Some(problem);
        self.candidate.note_failure(sent);
    }

    async fn read(&mut self) -> Result<Option<Record>, String> {
        self.lease = self.api.get_opt(&self.name).await.map_err(|error| describe(&error))?;
        Ok(self.lease.as_ref().map(parse_record))
    }

    async fn write(&mut self, record: &Record, is_new: bool) -> Result<Record, Failure> {
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let lease = build_lease(&self.name, self.lease.as_ref(), record);
        let answer = if is_new {
            self.api.create(&parameters, &lease).await
        } else {
            self.api.replace(&self.name, &parameters, &lease).await
        };
        let written = answer.map_err(|error| match error {
            Error::Api(status) if status.code == 409 || (status.code == 404 && !is_new) => Failure::Conflict,
            error => Failure::Other(describe(&error)),
        })?;
        let record = parse_record(&written);
        self.lease = Some(written);
        Ok(record)
    }
}

/// A Lease that says nothing is nobody's.
fn parse_record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

fn build_lease(name: &str, last: Option<&Lease>, record: &Record) -> Lease {
    let new = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let last = last.cloned().unwrap_or(Lease { metadata: new, spec: None });
    Lease {
        metadata: ObjectMeta { managed_fields: None, ..last.metadata },
        spec: Some(LeaseSpec {
            holder_identity: Some(record.holder.clone()).filter(|holder| !holder.is_empty()),
            acquire_time: record.acquired.map(MicroTime),
            renew_time: record.renewed.map(MicroTime),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            lease_transitions: Some(record.transitions),
            ..last.spec.unwrap_or_default()
        }),
    }
}

fn no_answer(patience: Duration) -> String {
    format!("no answer within {:.1} s", patience.as_secs_f64())
}

#[cfg(test)]
mod tests;

//! One process, one fate: the first task that ends ends all others, SIGTERM or SIGINT ends them in order, and neither
//! takes longer than a deadline.

use std::fmt::Display;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why a process ended that was not told to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// A task returned an error.
    #[error("{task}: {cause}")]
    Failed {
        /// The task.
        task: &'static str,
        /// Its error.
        cause: String,
    },
    /// A task returned though nobody told it to.
    #[error("{0} ended though nobody told it to")]
    Ended(&'static str),
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Panicked(String),
    /// Some tasks did not end in time.
    #[error("{tasks} task(s) did not end within {}s", deadline.as_secs_f64())]
    Stuck {
        /// How many.
        tasks: usize,
        /// How long they had.
        deadline: Duration,
    },
}

/// The tasks of a process.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<(&'static str, Result<(), String>)>,
    shutdown: CancellationToken,
}

/// A token that SIGTERM and SIGINT cancel.
pub fn cancelled_by_signals() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        cancelled.cancel();
    });
    Ok(token)
}

impl Tasks {
    /// No tasks yet; cancelling the token ends them all in order.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { set: JoinSet::new(), shutdown }
    }

    /// Starts a task, which is to end when the token is cancelled and not before.
    pub fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await.map_err(|error| error.to_string())) });
    }

    /// Runs until the token is cancelled or a task ends, then gives the others `drain` to end.
    pub async fn run(mut self, drain: Duration) -> Result<(), TaskError> {
        let first = tokio::select! {
            // A task that was told to end may have done so before this one is looked at.
            biased;
            () = self.shutdown.cancelled() => Ok(()),
            Some(ended) = self.set.join_next() => match failure(ended) {
                // It was told to, but has ended before this was noticed here.
                Ok(_) if self.shutdown.is_cancelled() => Ok(()),
                Ok(name) => Err(TaskError::Ended(name)),
                Err(error) => Err(error),
            },
        };
        self.shutdown.cancel();
        let rest = tokio::time::timeout(drain, async {
            let mut result = Ok(());
            while let Some(ended) = self.set.join_next().await {
                result = result.and(failure(ended).map(drop));
            }
            result
        })
        .await;
        first.and(rest.unwrap_or_else(|_| Err(TaskError::Stuck { tasks: self.set.len(), deadline: drain })))
    }
}

type Ended = Result<(&'static str, Result<(), String>), tokio::task::JoinError>;

fn failure(ended: Ended) -> Result<&'static str, TaskError> {
    match ended {
        Ok((name, Ok(()))) => Ok(name),
        Ok((task, Err(cause))) => Err(TaskError::Failed { task, cause }),
        Err(error) => Err(TaskError::Panicked(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_millis(50);

    async fn until_told(token: CancellationToken) -> Result<(), String> {
        token.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_task_that_ends_early_ends_the_process() {
        let token = CancellationToken::new();
        let mut tasks = Tasks::new(token.clone());
        tasks.spawn("steady", until_told(token.clone()));
        tasks.spawn("early", async { Ok::<(), String>(()) });
        assert_eq!(tasks.run(DRAIN).await, Err(TaskError::Ended("early")));
        assert!(token.is_cancelled());
    }

    #[tokio::test]
    async fn a_task_that_fails_says_why() {
        let token = CancellationToken::new();
        let mut tasks = Tasks::new(token.clone());
        tasks.spawn("steady", until_told(token));
        tasks.spawn("failing", async { Err("disk full") });
        assert_eq!(tasks.run(DRAIN).await.unwrap_err().to_string(), "failing: disk full");
    }

    #[tokio::test]
    async fn a_stop_ends_all_tasks_in_order_and_none_can_hold_it_up() {
        let token = CancellationToken::new();
        let mut tasks = Tasks::new(token.clone());
        tasks.spawn("steady", until_told(token.clone()));
        tasks.spawn("quick", until_told(token.clone()));
        token.cancel();
        tokio::task::yield_now().await;
        assert_eq!(tasks.run(DRAIN).await, Ok(()));

        let mut tasks = Tasks::new(token);
        tasks.spawn("stuck", std::future::pending::<Result<(), String>>());
        assert_eq!(tasks.run(DRAIN).await, Err(TaskError::Stuck { tasks: 1, deadline: DRAIN }));
    }
}

//! Lets an operator's actions be counted, and no more of them happen than a test allows: it reaches the API server and the broker through
//! proxies that share a [`Gate`].
//!
//! An action is a request that is to change something in Kubernetes, whatever comes of it, or a change of what is on the broker: what is
//! declared again is none. The last one that is allowed is done, and nobody hears of it: neither its answer nor anything after it gets
//! through, which is how a process ends that is killed just then.

mod amqp;
mod kubernetes;

pub use amqp::{AmqpProxy, BrokerModel};
pub use kubernetes::KubernetesProxy;

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

/// Who lets actions through.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<Mutex<State>>,
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    done: Vec<String>,
}

/// What becomes of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is done.
    Pass,
    /// It is done, and nobody hears of it.
    Last,
    /// It is not done.
    Never,
}

impl Gate {
    /// Lets so many actions through.
    pub fn new(limit: usize) -> Self {
        let state = Arc::new(Mutex::new(State { limit, done: Vec::new() }));
        Self { state, closed: watch::Sender::new(limit == 0) }
    }

    /// The actions that were done.
    pub fn done(&self) -> Vec<String> {
        self.state.lock().unwrap().done.clone()
    }

    /// Waits until the last action that is allowed was done.
    pub async fn wait_until_closed(&self) {
        let mut closed = self.closed.subscribe();
        let _the_sender_is_here = closed.wait_for(|closed| *closed).await;
    }

    pub(crate) fn take(&self, action: String) -> Turn {
        let mut state = self.state.lock().unwrap();
        if state.done.len() == state.limit {
            return Turn::Never;
        }
        state.done.push(action);
        if state.done.len() == state.limit { Turn::Last } else { Turn::Pass }
    }

    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_three_actions_the_second_is_the_last_when_two_are_allowed() {
        let gate = Gate::new(2);
        let turns = ["a", "b", "c"].map(|action| gate.take(action.to_owned()));
        assert_eq!(turns, [Turn::Pass, Turn::Last, Turn::Never]);
        assert_eq!(gate.done(), ["a", "b"]);
    }
}

//! One connection to each broker, virtual host and user, for all clusters there: a broker would rather have one than a thousand that come
//! and go.
//!
//! - Whoever finds that it does not work discards it, for all.
//! - While a broker cannot be reached it is tried once in [`RETRY_AFTER`], however many ask.
//! - What nobody has used for [`UNUSED_AFTER`] is closed: it is another user's, or another broker's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broadcast_service::amqp::{AmqpError, Connection};
use broadcast_service::amqp_url::AmqpUrl;

use crate::names::MANAGER;

/// How long the answer to one who tried is the answer to all.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Longer than a cluster goes without a pass.
const UNUSED_AFTER: Duration = Duration::from_mins(1);

/// The connections.
#[derive(Debug, Default)]
pub struct Brokers(Mutex<Vec<Way>>);

/// The way to a broker.
#[derive(Debug)]
struct Way {
    url: AmqpUrl,
    used: Instant,
    /// One connects while the others wait.
    state: Arc<tokio::sync::Mutex<State>>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Open(Arc<Connection>),
    Failed(AmqpError, Instant),
}

impl Brokers {
    /// The connection, and whether it is a new one.
    pub async fn connect(&self, url: &AmqpUrl) -> Result<(Arc<Connection>, bool), AmqpError> {
        let state = self.find(url);
        let mut state = state.lock().await;
        match &*state {
            State::Open(connection) if connection.is_alive() && !connection.is_spent() => {
                return Ok((connection.clone(), false));
            }
            State::Failed(error, since) if since.elapsed() < RETRY_AFTER => return Err(error.clone()),
            _ => {}
        }
        match Connection::connect(url, MANAGER).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *state = State::Open(connection.clone());
                Ok((connection, true))
            }
            Err(error) => {
                *state = State::Failed(error.clone(), Instant::now());
                Err(error)
            }
        }
    }

    /// A connection that does not work: the next one who asks gets another.
    pub fn discard(&self, broken: &Arc<Connection>) {
        for way in &*self.all() {
            // Whoever holds it is connecting.
            let Ok(mut state) = way.state.try_lock() else { continue };
            if matches!(&*state, State::Open(connection) if Arc::ptr_eq(connection, broken)) {
                *state = State::Closed;
            }
        }
    }

    /// Closes all connections, as far as nobody uses them.
    pub async fn close(&self) {
        let ways = std::mem::take(&mut *self.all());
        futures_util::future::join_all(ways.into_iter().map(Way::close)).await;
    }

    fn find(&self, url: &AmqpUrl) -> Arc<tokio::sync::Mutex<State>> {
        let mut ways = self.all();
        let is_unused = |way: &mut Way| way.url != *url && way.used.elapsed() >= UNUSED_AFTER;
        for unused in ways.extract_if(.., is_unused) {
            tokio::spawn(unused.close());
        }
        if let Some(way) = ways.iter_mut().find(|way| way.url == *url) {
            way.used = Instant::now();
            return way.state.clone();
        }
        let state = Arc::default();
        ways.push(Way { url: url.clone(), used: Instant::now(), state: Arc::clone(&state) });
        state
    }

    fn all(&self) -> MutexGuard<'_, Vec<Way>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    /// The broker would complain of a connection that is just cut.
    async fn close(self) {
        let state = std::mem::take(&mut *self.state.lock().await);
        if let State::Open(connection) = state
            && let Ok(connection) = Arc::try_unwrap(connection)
        {
            // All that mattered was answered.
            let _ = connection.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_tried_once_for_all_who_ask() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: AmqpUrl = format!("amqp://a:b@{}/", listener.local_addr().unwrap()).parse().unwrap();
        let tries = tokio::spawn(async move {
            let mut tries = 0;
            while tokio::time::timeout(RETRY_AFTER / 2, listener.accept()).await.is_ok() {
                tries += 1;
            }
            tries
        });
        let brokers = Brokers::default();
        let asked = futures_util::future::join_all((0..20).map(|_| brokers.connect(&url))).await;
        assert!(asked.iter().all(Result::is_err));
        assert_eq!(tries.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn each_user_has_a_way_of_its_own() {
        let brokers = Brokers::default();
        let urls = ["amqp://a:b@h/", "amqp://a:c@h/", "amqp://a:b@h/other", "amqp://a:b@h/"];
        for url in urls {
            brokers.find(&url.parse().unwrap());
        }
        assert_eq!(brokers.all().len(), 3);
    }
}

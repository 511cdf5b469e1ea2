//! Credentials that change while a session goes on with the last ones: the session is renewed soon, but not before the
//! broker is known to take the new ones.
//!
//! A broker that gets another password, or whose certificates are replaced, leaves connections alone; one that removes
//! a user does not. So nobody can wait for the next session, and nobody should leave a working one for nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::amqp::AmqpError;
use crate::amqp_url::{AmqpUrl, AmqpUrlSource};
use crate::backoff::Backoff;

/// How often the source is looked at. The jitter keeps a cluster's processes from renewing their sessions together.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often the same is tried that was refused: the broker logs each attempt.
const TRY_EVERY: Duration = Duration::from_mins(1);

/// Returns once `source` holds something else than `used` that `attempt` gets in with.
pub async fn wait_for_renewal<A>(source: &AmqpUrlSource, used: &AmqpUrl, attempt: impl Fn(AmqpUrl) -> A)
where
    A: Future<Output = Result<(), AmqpError>>,
{
    let mut looks = Backoff::new(LOOK_EVERY, LOOK_EVERY);
    let mut refused: Option<(AmqpUrl, Instant)> = None;
    loop {
        sleep(looks.next_delay()).await;
        let Some(found) = fetch(source).await.filter(|found| found != used) else { continue };
        if refused.as_ref().is_some_and(|(url, at)| *url == found && at.elapsed() < TRY_EVERY) {
            continue;
        }
        match attempt(found.clone()).await {
            Ok(()) => {
                tracing::info!(broker = %found, "renewing the session with changed credentials");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the changed credentials do not work; going on with the last ones");
                refused = Some((found, Instant::now()));
            }
        }
    }
}

async fn fetch(source: &AmqpUrlSource) -> Option<AmqpUrl> {
    let source = source.clone();
    // A task that does not end is stopped with the process.
    let fetched = tokio::task::spawn_blocking(move || source.fetch()).await.ok()?;
    fetched.inspect_err(|error| tracing::warn!(%error, "the changed credentials cannot be read")).ok()
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_session_is_renewed_when_something_else_works_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let write = |user: &str| std::fs::write(&path, format!("amqp://{user}:secret@broker")).unwrap();
        write("old");
        let source = AmqpUrlSource::File(path.clone());
        let used = source.fetch().unwrap();
        let attempts = Mutex::new(Vec::new());
        let renewal = wait_for_renewal(&source, &used, |url| {
            attempts.lock().unwrap().push(url.user().to_owned());
            ready(if url.user() == "right" { Ok(()) } else { Err(AmqpError::Nacked) })
        });
        let changes = async {
            sleep(LOOK_EVERY * 10).await;
            write("wrong");
            sleep(TRY_EVERY * 3).await;
            std::fs::write(&path, "no address").unwrap();
            sleep(LOOK_EVERY * 10).await;
            write("old");
            sleep(LOOK_EVERY * 10).await;
            write("right");
        };
        tokio::join!(renewal, changes);
        let attempts = attempts.into_inner().unwrap();
        let (last, refused) = attempts.split_last().unwrap();
        assert_eq!(last, "right");
        assert!((2..=3).contains(&refused.len()), "once a minute for three minutes: {attempts:?}");
        assert!(refused.iter().all(|user| user == "wrong"), "{attempts:?}");
    }
}

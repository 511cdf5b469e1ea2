//! The events of a resource, the newest last.

use std::collections::BTreeMap;
use std::time::Duration;

use broadcast_api::BroadcastCluster;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::ListParams;
use serde::Serialize;

use crate::arguments::Format;
use crate::cluster::{Cluster, DEADLINE, within};
use crate::error::CliError;
use crate::output::{self, Cell, Colours, Look};

/// How often new ones are looked for.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Told {
    /// When it was last told; nothing when that is not known.
    at: Option<Timestamp>,
    /// `Normal` or `Warning`.
    kind: String,
    reason: String,
    message: String,
    /// How often.
    count: i32,
}

/// Events by what Kubernetes calls them.
type ByUid = BTreeMap<String, Told>;

/// Shows them once, or all that come.
pub(crate) async fn run(cluster: &Cluster, format: Format, watch: bool) -> Result<(), CliError> {
    let mut known = fetch(cluster).await?;
    let all = in_order(known.values().cloned());
    if !watch {
        return output::print(format, &all, |all, colours| show(all, colours));
    }
    tell(format, &all)?;
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
        match fetch(cluster).await {
            Ok(events) => {
                tell(format, &find_news(&known, &events))?;
                known = events;
            }
            // What cannot be seen now may be seen again: that is what watching is for.
            Err(error) => eprintln!("error: {error}"),
        }
    }
}

async fn fetch(cluster: &Cluster) -> Result<ByUid, CliError> {
    let fields =
        format!("involvedObject.kind={},involvedObject.name={}", BroadcastCluster::kind(&()), cluster.name());
    let parameters = ListParams::default().fields(&fields);
    let events = cluster.api::<Event>();
    let listed = within(format!("events of {}", cluster.title()), DEADLINE, events.list(&parameters)).await?;
    Ok(listed.items.into_iter().map(read).collect())
}

fn read(event: Event) -> (String, Told) {
    let series = event.series;
    let last = series.as_ref().and_then(|series| series.last_observed_time.as_ref().map(|time| time.0));
    let at = last
        .or_else(|| event.last_timestamp.map(|time| time.0))
        .or_else(|| event.event_time.map(|time| time.0))
        .or_else(|| event.metadata.creation_timestamp.map(|time| time.0));
    let told = Told {
        at,
        kind: event.type_.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        count: series.and_then(|series| series.count).or(event.count).unwrap_or(1),
    };
    (event.metadata.uid.unwrap_or_default(), told)
}

fn in_order(events: impl IntoIterator<Item = Told>) -> Vec<Told> {
    let mut events: Vec<_> = events.into_iter().collect();
    events.sort_by_key(|told| told.at);
    events
}

/// Those that are new, or were told again.
fn find_news(known: &ByUid, events: &ByUid) -> Vec<Told> {
    in_order(events.iter().filter(|(uid, told)| known.get(*uid) != Some(told)).map(|(_, told)| told.clone()))
}

fn tell(format: Format, events: &[Told]) -> Result<(), CliError> {
    events.iter().try_for_each(|told| output::print_one_of_many(format, told, describe))
}

fn describe(Told { at, kind, reason, message, .. }: &Told) -> String {
    format!("{}   {kind:<7}   {reason}   {}", show_time(*at), message.replace(char::is_control, " "))
}

fn show_time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn show(events: &[Told], colours: Colours) -> String {
    if events.is_empty() {
        return "no events: Kubernetes keeps them for an hour".to_owned();
    }
    let row = |told: &Told| {
        let look = if told.kind == "Warning" { Look::Bad } else { Look::Good };
        vec![
            Cell::from(show_time(told.at)),
            Cell::looking(told.kind.clone(), look),
            Cell::from(told.reason.clone()),
            Cell::from(Some(told.count)),
            Cell::from(told.message.clone()),
        ]
    };
    let rows: Vec<_> = events.iter().map(row).collect();
    output::table(&["LAST", "TYPE", "REASON", "COUNT", "MESSAGE"], &rows, colours)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{cluster, expect};

    const EVENTS: &str = "GET /api/v1/namespaces/shop/events?&fieldSelector=involvedObject.kind%3DBroadcastCluster%2C\
                          involvedObject.name%3Dorders";

    /// As the API server shows one that was made with the newer API, and one that was made with the older one.
    fn events() -> Value {
        let about = json!({"kind": "BroadcastCluster", "name": "orders"});
        json!({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": [
            {"metadata": {"name": "b", "uid": "b"}, "involvedObject": about, "type": "Warning", "reason": "NodesNotReady",
                "message": "1 of 3\nnodes are ready", "eventTime": "2026-01-01T10:00:00.500000Z",
                "series": {"count": 4, "lastObservedTime": "2026-01-01T12:00:00.000000Z"}},
            {"metadata": {"name": "a", "uid": "a"}, "involvedObject": about, "type": "Normal", "reason": "Ready",
                "message": "the heart takes writes", "count": 2, "firstTimestamp": "2026-01-01T09:00:00Z",
                "lastTimestamp": "2026-01-01T11:00:00Z"},
        ]})
    }

    async fn fetch_from(list: Value) -> ByUid {
        let (cluster, served) = cluster(vec![expect(EVENTS, list)]);
        let events = fetch(&cluster).await.unwrap();
        drop(cluster);
        served.await.unwrap();
        events
    }

    #[tokio::test]
    async fn the_event_that_was_told_last_is_the_last_one() {
        let events = in_order(fetch_from(events()).await.into_values());
        insta::assert_snapshot!(show(&events, Colours::NONE));
        insta::assert_snapshot!(events.iter().map(describe).collect::<Vec<_>>().join("\n"));
    }

    #[tokio::test]
    async fn what_is_told_again_is_news_and_what_is_forgotten_is_none() {
        let known = fetch_from(events()).await;
        assert_eq!(find_news(&known, &known), []);
        assert_eq!(find_news(&known, &ByUid::new()), []);
        let mut again = known.clone();
        again.get_mut("a").unwrap().count = 3;
        let reasons = |news: Vec<Told>| news.into_iter().map(|told| told.reason).collect::<Vec<_>>();
        assert_eq!(reasons(find_news(&known, &again)), ["Ready"]);
        assert_eq!(reasons(find_news(&ByUid::new(), &known)), ["Ready", "NodesNotReady"]);
    }
}

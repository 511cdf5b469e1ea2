//! Reading and writing documents.
//!
//! Keys travel in bodies and queries: the API server's proxy decodes paths, so that a key with a slash would be another
//! path.

use std::io::{Read, Write, stdin, stdout};
use std::path::Path;

use http::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::arguments::{Acknowledged, Format, Place, WriteOptions};
use crate::cluster::{Cluster, DEADLINE, encode, read_json};
use crate::error::CliError;
use crate::output;

/// How long a node waits for a position that is asked for.
const POSITION_SECONDS: u64 = 10;

/// What stands for standard input.
const STDIN: &str = "-";

/// Rows of a collection, as far as they are used.
#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
    position: u64,
}

#[derive(Deserialize)]
struct Item {
    key: String,
    value: Box<RawValue>,
}

#[derive(Serialize)]
struct Writes<'a> {
    writes: [WriteJson<'a>; 1],
}

/// One write. The document stays as it is: numbers are not to be rounded.
#[derive(Serialize)]
struct WriteJson<'a> {
    op: &'static str,
    collection: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

/// Prints a document, as it is stored.
pub(crate) async fn get(
    cluster: &Cluster,
    format: Format,
    place: Place,
    at_least: Option<u64>,
) -> Result<(), CliError> {
    let Place { collection, key } = place;
    let node = cluster.find_any("node").await?;
    let wait = at_least.map(|seq| format!("&at_least={seq}&timeout={POSITION_SECONDS}s")).unwrap_or_default();
    // Keys are in order: the first that begins with this one is this one.
    let path = format!("/v1/collections/{}?prefix={}&limit=1{wait}", encode(&collection), encode(&key));
    let page: Page = cluster.look(&node.pod, &path, DEADLINE).await?;
    let Some(item) = page.items.into_iter().find(|item| item.key == key) else {
        return Err(CliError::NoDocument { collection, key, position: page.position });
    };
    if format == Format::Yaml {
        let value: Value = read_json(&format!("{collection}/{key}"), item.value.get())?;
        return output::print(format, &value, |_, _| String::new());
    }
    writeln!(stdout(), "{}", item.value.get())?;
    Ok(())
}

/// Stores a document and prints the heart's answer.
pub(crate) async fn put(
    cluster: &Cluster,
    format: Format,
    place: Place,
    value: &str,
    options: &WriteOptions,
) -> Result<(), CliError> {
    let text = if value == STDIN { read_input(Path::new(STDIN))? } else { value.to_owned() };
    let value: &RawValue = serde_json::from_str(&text).map_err(|error| {
        CliError::Input(format!(
            "the document is not JSON: {error}; a text needs quotes of its own: '\"text\"'"
        ))
    })?;
    write_one(cluster, format, &place, Some(value), options).await
}

/// Deletes a document and prints the heart's answer.
pub(crate) async fn delete(
    cluster: &Cluster,
    format: Format,
    place: Place,
    options: &WriteOptions,
) -> Result<(), CliError> {
    write_one(cluster, format, &place, None, options).await
}

/// Makes many writes and prints the heart's answer.
pub(crate) async fn write(
    cluster: &Cluster,
    format: Format,
    file: &Path,
    acknowledged: &Acknowledged,
) -> Result<(), CliError> {
    write_all(cluster, format, "application/x-ndjson", read_input(file)?, acknowledged).await
}

async fn write_one(
    cluster: &Cluster,
    format: Format,
    place: &Place,
    value: Option<&RawValue>,
    options: &WriteOptions,
) -> Result<(), CliError> {
    let Place { collection, key } = place;
    let op = if value.is_some() { "put" } else { "delete" };
    let write = WriteJson { op, collection, key, value, id: options.id.as_deref() };
    // Text, and JSON that was read as such, always encode.
    let body = serde_json::to_string(&Writes { writes: [write] }).unwrap_or_default();
    write_all(cluster, format, "application/json", body, &options.acknowledged).await
}

async fn write_all(
    cluster: &Cluster,
    format: Format,
    content_type: &str,
    body: String,
    Acknowledged { ack, timeout }: &Acknowledged,
) -> Result<(), CliError> {
    let heart = cluster.find_any("heart").await?;
    let path = format!("/v1/writes?ack={}&timeout={}ms", ack.as_str(), timeout.as_millis());
    let request = Request::post(&path).header("content-type", content_type);
    let answer = cluster.ask(&heart.pod, request, body, DEADLINE + *timeout).await?;
    let what = format!("{}: POST {path}", heart.pod);
    let written: Value = read_json(&what, &answer.body)?;
    output::print(format, &written, |written, _| describe(written))?;
    if answer.status == StatusCode::ACCEPTED {
        eprintln!("warning: written, but not enough nodes had said that they applied it within {timeout:?}");
    }
    match written["rejected"].as_array() {
        Some(rejected) if !rejected.is_empty() => {
            let message = format!("{} of the writes changed nothing: {}", rejected.len(), list(rejected));
            Err(CliError::Refused { what, message })
        }
        _ => Ok(()),
    }
}

fn describe(written: &Value) -> String {
    let (first, last, epoch) = (&written["first"], &written["last"], &written["epoch"]);
    let range = if first == last { format!("write {first}") } else { format!("writes {first} to {last}") };
    format!("{range} in epoch {epoch}, acknowledged by {}", written["ack"].as_str().unwrap_or("?"))
}

fn list(rejected: &[Value]) -> String {
    const MAX: usize = 10;
    let name = |write: &Value| format!("{} ({})", write["seq"], write["reason"].as_str().unwrap_or("?"));
    let more = if rejected.len() > MAX { ", …" } else { "" };
    rejected.iter().take(MAX).map(name).collect::<Vec<_>>().join(", ") + more
}

fn read_input(file: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| CliError::Input(format!("cannot read {}: {error}", file.display()));
    if file != Path::new(STDIN) {
        return std::fs::read_to_string(file).map_err(failed);
    }
    let mut text = String::new();
    stdin().read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::arguments::{Ack, Of};
    use crate::testing::{cluster, expect, pod};

    fn list_of(component: &str) -> String {
        format!(
            "GET /api/v1/namespaces/shop/pods?&labelSelector=app.kubernetes.io%2Finstance%3Dorders%2C\
             app.kubernetes.io%2Fcomponent%3D{component}"
        )
    }

    fn pods(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [pod(name, Some(1), "Running", true)]})
    }

    fn place(key: &str) -> Place {
        Place { collection: "users".to_owned(), key: key.to_owned() }
    }

    fn options(id: Option<&str>) -> WriteOptions {
        let acknowledged = Acknowledged { ack: Ack::All, timeout: Duration::from_secs(5) };
        WriteOptions { id: id.map(str::to_owned), acknowledged, of: Of { name: None } }
    }

    #[tokio::test]
    async fn a_document_is_asked_for_in_a_query_whatever_its_key() {
        const PATH: &str = "GET /api/v1/namespaces/shop/pods/node-1:8080/proxy/v1/collections/users\
                            ?prefix=a%2Fb&limit=1&at_least=7&timeout=10s";
        for (items, is_there) in [
            (json!([{"key": "a/b", "value": 1.50, "seq": 7}]), true),
            (json!([{"key": "a/bc", "value": 1, "seq": 7}]), false),
            (json!([]), false),
        ] {
            let answer = json!({"items": items, "position": 9, "next": null});
            let exchanges = vec![expect(&list_of("node"), pods("node-1")), expect(PATH, answer)];
            let (cluster, served) = cluster(exchanges);
            let result = get(&cluster, Format::Json, place("a/b"), Some(7)).await;
            drop(cluster);
            served.await.unwrap();
            match result {
                Ok(()) => assert!(is_there),
                Err(error) => {
                    assert!(
                        !is_there && error.to_string().starts_with("users/a/b does not exist at position 9")
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn a_write_that_changed_nothing_is_an_error() {
        const PATH: &str =
            "POST /api/v1/namespaces/shop/pods/heart-a:8080/proxy/v1/writes?ack=all&timeout=5000ms";
        let written = json!({"first": 7, "last": 7, "epoch": 2, "ack": "all"});
        let mut rejected = written.clone();
        rejected["rejected"] = json!([{"index": 0, "seq": 7, "reason": "id_reused"}]);
        for (answer, problem) in
            [(written, None), (rejected, Some("1 of the writes changed nothing: 7 (id_reused)"))]
        {
            let write =
                json!({"op": "put", "collection": "users", "key": "a\nb", "value": {"n": 1}, "id": "r1"});
            let body = json!({"writes": [write]});
            let (cluster, served) = cluster(vec![
                expect(&list_of("heart"), pods("heart-a")),
                expect(PATH, answer).with_body(body),
            ]);
            let result =
                put(&cluster, Format::Json, place("a\nb"), "{\"n\":\n1}", &options(Some("r1"))).await;
            drop(cluster);
            served.await.unwrap();
            let told = result.err().map(|error| error.to_string());
            assert_eq!(told.is_some(), problem.is_some(), "{told:?}");
            assert!(problem.is_none_or(|problem| told.is_some_and(|told| told.ends_with(problem))));
        }
    }

    #[tokio::test]
    async fn a_document_that_is_no_json_goes_nowhere() {
        let (cluster, served) = cluster(vec![]);
        let error = put(&cluster, Format::Json, place("1"), "Ada", &options(None)).await.unwrap_err();
        assert!(error.to_string().starts_with("the document is not JSON: "), "{error}");
        drop(cluster);
        served.await.unwrap();
    }

    #[test]
    fn an_answer_is_told_in_a_sentence() {
        for (answer, told) in [
            (
                json!({"first": 7, "last": 7, "epoch": 2, "ack": "broker"}),
                "write 7 in epoch 2, acknowledged by broker",
            ),
            (
                json!({"first": 7, "last": 9, "epoch": 2, "ack": "all"}),
                "writes 7 to 9 in epoch 2, acknowledged by all",
            ),
        ] {
            assert_eq!(describe(&answer), told);
        }
    }
}

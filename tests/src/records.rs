//! Real records to write: the languages, countries and subdivisions of the world, from Debian's package `iso-codes`. About 13,000 JSON
//! values of different shapes and scripts, the same on every machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Where the package `iso-codes` puts its data.
const FOLDER: &str = "/usr/share/iso-codes/json";

/// Each file, the field that is a record's key in it, and the collection its records go to.
const SOURCES: [(&str, &str, &str); 3] = [
    ("iso_639-3", "alpha_3", "languages"),
    ("iso_3166-1", "alpha_2", "countries"),
    ("iso_3166-2", "code", "subdivisions"),
];

/// For how long one write is tried again while the heart says that it cannot take it now.
const PATIENCE: Duration = Duration::from_mins(1);

/// One document: what is to be at `/v1/collections/{collection}/{key}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// `languages`, `countries` or `subdivisions`.
    pub collection: &'static str,
    /// The standard's code: `deu`, `DE`, `DE-BY`.
    pub key: String,
    /// Everything the standard says about it.
    pub value: Value,
}

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// A file is missing or not readable.
    #[error("cannot read {path}: {source} (it is part of Debian's package iso-codes)")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file's content is not what the package is known to contain.
    #[error("{path} is not as expected: {what}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The heart could not be reached.
    #[error("cannot write {collection}/{key}: {source}")]
    Send {
        /// Of the record.
        collection: &'static str,
        /// Of the record.
        key: String,
        /// What the client says.
        source: reqwest::Error,
    },
    /// The heart did not take a write.
    #[error("{collection}/{key} was not taken: {status} {answer}")]
    Refused {
        /// Of the record.
        collection: &'static str,
        /// Of the record.
        key: String,
        /// What the heart answered.
        status: StatusCode,
        /// And what it said.
        answer: String,
    },
}

/// All records, in the files' order.
pub fn iso_codes() -> Result<Vec<Record>, RecordsError> {
    let mut records = Vec::new();
    for (file, key_field, collection) in SOURCES {
        let path = Path::new(FOLDER).join(file).with_extension("json");
        let bytes = fs::read(&path).map_err(|source| RecordsError::Read { path: path.clone(), source })?;
        let added = parse_file(&bytes, key_field, collection);
        records.extend(added.map_err(|what| RecordsError::Content { path, what })?);
    }
    Ok(records)
}

/// A file holds one list under the standard's name.
fn parse_file(bytes: &[u8], key_field: &str, collection: &'static str) -> Result<Vec<Record>, String> {
    let content: serde_json::Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let Some(Value::Array(list)) = content.into_iter().next().map(|(_, list)| list) else {
        return Err("its first field is no list".to_owned());
    };
    list.into_iter()
        .map(|value| match value.get(key_field).and_then(Value::as_str) {
            Some(key) => Ok(Record { collection, key: key.to_owned(), value }),
            None => Err(format!("an entry has no field {key_field}: {value}")),
        })
        .collect()
}

/// Writes all records, one request each, no more than `concurrency` at a time, and gives the highest sequence number.
///
/// While the heart says that it cannot take writes now, each is tried again under one id, so that it applies once. `on_progress` is
/// told how many are written so far. Dropping the future stops it; what was written stays written.
pub async fn load(
    client: &Client,
    base_url: &str,
    records: &[Record],
    concurrency: usize,
    mut on_progress: impl FnMut(usize),
) -> Result<u64, RecordsError> {
    let writes = stream::iter(records).map(|record| write(client, base_url, record));
    let mut answers = writes.buffer_unordered(concurrency.max(1)).enumerate();
    let mut highest = 0;
    while let Some((index, last)) = answers.next().await {
        highest = highest.max(last?);
        on_progress(index + 1);
    }
    Ok(highest)
}

#[derive(Deserialize)]
struct Written {
    last: u64,
}

async fn write(client: &Client, base_url: &str, record: &Record) -> Result<u64, RecordsError> {
    let (collection, key) = (record.collection, &record.key);
    let send_error = |source| RecordsError::Send { collection, key: key.clone(), source };
    let url = format!("{}/v1/collections/{collection}/{key}", base_url.trim_end_matches('/'));
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(50);
    loop {
        let request =
            client.put(&url).header("Idempotency-Key", format!("{collection}-{key}")).json(&record.value);
        let answer = request.timeout(Duration::from_secs(30)).send().await.map_err(send_error)?;
        let status = answer.status();
        if status.is_success() {
            return answer.json().await.map(|written: Written| written.last).map_err(send_error);
        }
        if status != StatusCode::SERVICE_UNAVAILABLE || Instant::now() >= deadline {
            let answer = answer.text().await.unwrap_or_default();
            return Err(RecordsError::Refused { collection, key: key.clone(), status, answer });
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_whole_value_under_its_code() {
        let file = r#"{"3166-1": [{"alpha_2": "AW", "name": "Aruba", "flag": "🇦🇼"}]}"#.as_bytes();
        let records = parse_file(file, "alpha_2", "countries").unwrap();
        let value = serde_json::json!({"alpha_2": "AW", "name": "Aruba", "flag": "🇦🇼"});
        assert_eq!(records, [Record { collection: "countries", key: "AW".to_owned(), value }]);
    }

    #[test]
    fn an_entry_without_a_code_is_shown() {
        let error = parse_file(br#"{"x": [{"name": "Nowhere"}]}"#, "code", "countries").unwrap_err();
        assert_eq!(error, r#"an entry has no field code: {"name":"Nowhere"}"#);
    }
}

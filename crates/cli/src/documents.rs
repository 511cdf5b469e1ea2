//! Reading and writing documents.

use std::io::{Write, stdout};

use http::Request;
use http::request::Builder;

use crate::arguments::WriteOptions;
use crate::cluster::{Asked, Cluster, document_path};
use crate::error::CliError;

/// Prints a document, as it is stored.
pub(crate) async fn get(
    cluster: &Cluster,
    collection: &str,
    key: &str,
    at_least: Option<u64>,
) -> Result<(), CliError> {
    let node = any_ready(cluster.find("node").await?, "node")?;
    let query = at_least.map(|seq| format!("?at_least={seq}")).unwrap_or_default();
    let request = Request::get(document_path(collection, key) + &query);
    writeln!(stdout(), "{}", cluster.ask(&node.pod, request, "").await?)?;
    Ok(())
}

/// Stores a document and prints the heart's answer.
pub(crate) async fn put(
    cluster: &Cluster,
    collection: &str,
    key: &str,
    value: &str,
    options: &WriteOptions,
) -> Result<(), CliError> {
    write(cluster, Request::put(document_uri(collection, key, options)), value, options).await
}

/// Deletes a document and prints the heart's answer.
pub(crate) async fn delete(
    cluster: &Cluster,
    collection: &str,
    key: &str,
    options: &WriteOptions,
) -> Result<(), CliError> {
    write(cluster, Request::delete(document_uri(collection, key, options)), "", options).await
}

async fn write(
    cluster: &Cluster,
    mut request: Builder,
    body: &str,
    options: &WriteOptions,
) -> Result<(), CliError> {
    let heart = any_ready(cluster.find("heart").await?, "heart")?;
    request = request.header("content-type", "application/json");
    if let Some(id) = &options.id {
        request = request.header("idempotency-key", id);
    }
    writeln!(stdout(), "{}", cluster.ask(&heart.pod, request, body).await?)?;
    Ok(())
}

fn document_uri(collection: &str, key: &str, options: &WriteOptions) -> String {
    format!("{}?ack={}", document_path(collection, key), options.ack.as_str())
}

/// One that is ready, or else any.
fn any_ready(asked: Vec<Asked>, what: &'static str) -> Result<Asked, CliError> {
    asked.into_iter().max_by_key(|asked| asked.is_ready).ok_or(CliError::NobodyThere(what))
}

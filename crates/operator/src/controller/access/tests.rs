use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::broker::Brokers;
use crate::controller::validate::validate;
use crate::testing::api_server::{Exchange, api_server, expect, refuse};
use crate::testing::{cluster, installation, other_access};

const SECRETS: &str = "GET /api/v1/namespaces/shop/secrets";

fn secret(name: &str, files: &BTreeMap<String, Vec<u8>>) -> Value {
    let data: BTreeMap<_, _> = files.iter().map(|(key, file)| (key, ByteString(file.clone()))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})
}

fn address() -> BTreeMap<String, Vec<u8>> {
    [("uri".to_owned(), b"amqp://ada:s3cret@broker/shop".to_vec())].into()
}

/// What is fetched for a resource with a CA of its own, out of these answers and no others.
async fn fetch(is_deleted: bool, exchanges: Vec<Exchange>) -> Result<BrokerAccess, SecretError> {
    let mut cluster = cluster();
    cluster.spec.rabbitmq.tls = serde_json::from_value(json!({"caSecretRef": {"name": "ca"}})).unwrap();
    cluster.metadata.deletion_timestamp = is_deleted.then(|| Time(Timestamp::now()));
    let valid = validate(&cluster, &installation()).unwrap();
    let (client, server) = api_server(exchanges);
    let http = reqwest::Client::new();
    let brokers = Brokers::default();
    let sources = Sources {
        client: &client,
        known: None,
        http: &http,
        brokers: &brokers,
        all: Vec::new(),
        last_access: None,
    };
    let access = fetch_access(&cluster, &valid, &sources).await.unwrap();
    drop(client);
    server.await.unwrap();
    access
}

#[tokio::test]
async fn every_secret_is_read_by_its_name() {
    let ca = other_access().files().remove("ca.crt").unwrap();
    let access = fetch(
        false,
        vec![
            expect(&format!("{SECRETS}/rabbitmq"), secret("rabbitmq", &address())),
            expect(&format!("{SECRETS}/ca"), secret("ca", &[("ca.crt".to_owned(), ca.clone())].into())),
        ],
    );
    let files = access.await.unwrap().files();
    assert_eq!(files["url"], b"amqps://ada:s3cret@broker/shop?cacertfile=ca.crt");
    assert_eq!(files["ca.crt"], ca);
}

#[tokio::test]
async fn a_named_secret_that_is_not_there_is_named() {
    let access = fetch(
        false,
        vec![
            expect(&format!("{SECRETS}/rabbitmq"), secret("rabbitmq", &address())),
            refuse(&format!("{SECRETS}/ca"), 404),
        ],
    );
    assert_eq!(access.await.unwrap_err(), SecretError::Missing("ca".to_owned()));
}

#[tokio::test]
async fn a_resource_that_is_deleted_after_its_secrets_still_has_the_copy_for_the_pods() {
    let copy = other_access();
    let access = fetch(
        true,
        vec![
            expect(&format!("{SECRETS}/rabbitmq"), secret("rabbitmq", &address())),
            refuse(&format!("{SECRETS}/ca"), 404),
            expect(&format!("{SECRETS}/orders-amqp"), secret("orders-amqp", &copy.files())),
        ],
    );
    assert_eq!(access.await.unwrap().url(), copy.url());
}

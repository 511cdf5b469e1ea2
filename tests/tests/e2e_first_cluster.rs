//! A newcomer's first cluster: the sample is applied as it is, becomes ready, takes real records, and every node has them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;

use broadcast_tests::cluster::resource::wait_for_agreement;
use broadcast_tests::cluster::rows::read_all_rows;
use broadcast_tests::cluster::{self, Scenario};
use broadcast_tests::oracle::Rows;
use broadcast_tests::records::{self, Record};
use serde_json::{Value, json};

const COLLECTIONS: [&str; 3] = ["countries", "languages", "subdivisions"];

#[test]
fn every_node_of_a_first_cluster_holds_every_record_that_was_written() {
    cluster::run("first", async |stage| {
        stage.apply(&stage.sample("orders", 3)).await;
        stage.wait_until_ready("orders", 3).await;
        check_printed_columns(stage);

        let heart = stage.heart("orders").await;
        let records = records::iso_codes().unwrap();
        assert!(records.len() > 10_000, "only {} records", records.len());
        let last = records::load(heart.http(), heart.base().as_str(), &records, 32, |_| {}).await.unwrap();
        assert_eq!(last, records.len() as u64, "every record was written once");

        let nodes = stage.nodes("orders", 1..=3).await;
        wait_for_agreement(&nodes, last).await;
        let expected = build_expected(&records);
        for (id, node) in (1..).zip(&nodes) {
            let rows = read_all_rows(node, &COLLECTIONS).await;
            assert_rows(&format!("node {id}"), &rows, &expected);
            if let Some(in_file) = stage.read_node_file("orders", id).await {
                assert_rows(&format!("the file of node {id}"), &in_file, &expected);
                assert_eq!(in_file, rows, "node {id} answers with other rows than it has");
            }
        }

        let ada = json!({"name": "Ada"});
        let written = heart.put("users", "42", &ada, None).await.unwrap();
        for node in &nodes {
            let document = node.read("users", "42", written.last, "10s").await.unwrap();
            assert_eq!((document.value, document.seq), (ada.clone(), written.last));
        }
    });
}

/// What a person sees first.
fn check_printed_columns(stage: &Scenario) {
    let table = stage.kubectl(&["get", "bcast", "orders"]).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let [header, row] = &rows[..] else { panic!("{table}") };
    assert_eq!(header[..], ["NAME", "READY", "NODES", "HEART", "LAG", "POSITION", "AGE"], "{table}");
    assert_eq!(row[..3], ["orders", "True", "3/3"], "{table}");
    assert!(row[3].starts_with("orders-heart-"), "{table}");
    assert_eq!(row[4..6], ["0", "0"], "{table}");
}

type Expected<'a> = BTreeMap<(&'a str, &'a str), &'a Value>;

fn build_expected(records: &[Record]) -> Expected<'_> {
    records.iter().map(|record| ((record.collection, record.key.as_str()), &record.value)).collect()
}

fn assert_rows(whose: &str, rows: &Rows, expected: &Expected<'_>) {
    for ((collection, key), row) in rows {
        let found: Value = serde_json::from_str(&row.value).unwrap();
        let record = expected.get(&(collection.as_str(), key.as_str()));
        assert_eq!(Some(&&found), record, "{whose}: {collection}/{key}");
    }
    assert_eq!(rows.len(), expected.len(), "{whose}: rows are missing");
}

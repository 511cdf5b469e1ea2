//! A node's rows over its HTTP interface, page by page, as any client reads them.

use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::resource::wait_for_agreement;
use crate::client::{Client, send};
use crate::oracle::{Oracle, Row, Rows};

const PAGE: &str = "1000";

#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    key: String,
    value: Box<RawValue>,
    seq: u64,
}

/// Waits until the nodes, from node 1 on, have what a load wrote, and compares the rows of each with it.
pub async fn check_rows(nodes: &[Client], oracle: &Oracle) {
    wait_for_agreement(nodes, oracle.highest()).await;
    for (id, node) in (1..).zip(nodes) {
        oracle.check(&format!("node {id} of {}", nodes.len()), &read_all_rows(node, &["load"]).await);
    }
}

/// Reads these collections. That the node has no others is asserted by counting.
pub async fn read_all_rows(node: &Client, collections: &[&str]) -> Rows {
    let mut rows = Rows::new();
    for collection in collections {
        let mut after = None;
        loop {
            let request = node.request(Method::GET, &format!("v1/collections/{collection}"));
            let request = request.query(&[("limit", PAGE)]);
            let request = if let Some(after) = &after { request.query(&[("after", after)]) } else { request };
            let page: Page = send(request).await.unwrap().json().await.unwrap();
            for Item { key, value, seq } in page.items {
                let row = Row { value: value.get().to_owned(), seq };
                let twice = rows.insert(((*collection).to_owned(), key.clone()), row);
                assert_eq!(twice, None, "{collection}/{key} is on two pages");
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    assert_eq!(
        rows.len() as u64,
        node.node_status().await.unwrap().rows,
        "there are rows of other collections"
    );
    rows
}

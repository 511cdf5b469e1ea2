//! The chart as files: rendered without a cluster, its alerts, and the queries of its dashboard.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use crate::cluster::environment::{Complaint, needed, read};

/// What Grafana puts in for its own variables, as far as the dashboard uses them.
const VARIABLES: [(&str, &str); 2] = [("$__rate_interval", "1m"), ("$cluster", ".*")];

/// An alert as Prometheus reads it.
#[derive(Debug, Clone, Deserialize)]
pub struct Alert {
    /// Its name.
    #[serde(rename = "alert")]
    pub name: String,
    /// Its expression.
    pub expr: String,
    /// What it adds to the series' labels.
    pub labels: BTreeMap<String, String>,
    /// What people read.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

/// A query of the dashboard.
#[derive(Debug, Clone)]
pub struct Query {
    /// The title of its panel.
    pub panel: String,
    /// The query with Grafana's variables filled in for all clusters.
    pub expr: String,
}

/// The chart's folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/broadcast-operator")
}

/// A file of the chart.
pub fn read_file(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The alerts of the chart.
pub fn alerts() -> Vec<Alert> {
    let rules: Rules = serde_yaml::from_str(&read_file("files/alerts.yaml")).unwrap();
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// The queries of the dashboard.
pub fn queries() -> Vec<Query> {
    let dashboard: Value = serde_json::from_str(&read_file("files/dashboard.json")).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().unwrap().to_owned();
            let expr = VARIABLES.iter().fold(expr, |expr, (name, value)| expr.replace(name, value));
            queries.push(Query { panel: panel["title"].as_str().unwrap().to_owned(), expr });
        }
    }
    queries
}

/// Every object that the chart makes of these values, or what Helm says is wrong with them.
pub fn render(values: &str) -> Result<Vec<Value>, Complaint> {
    let mut helm = Command::new(needed("HELM"));
    helm.args(["template", "broadcast-operator"]).arg(folder());
    let manifests = read(helm.args(["--namespace=broadcast-system", "--values=-"]), values)?;
    let documents = serde_yaml::Deserializer::from_str(&manifests);
    let objects = documents.map(|document| Value::deserialize(document).unwrap());
    Ok(objects.filter(|object| !object.is_null()).collect())
}

/// Helm's own opinion of the chart with these values.
pub fn lint(values: &str) -> Result<String, Complaint> {
    let mut helm = Command::new(needed("HELM"));
    read(helm.args(["lint", "--strict", "--values=-"]).arg(folder()), values)
}

/// Lets `promtool` do something.
pub fn promtool(arguments: &[&str], input: &str) -> Result<String, Complaint> {
    read(Command::new(needed("PROMTOOL")).args(arguments), input)
}

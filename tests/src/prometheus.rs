//! A Prometheus on this machine (Debian's package) that scrapes pods and has the chart's alerts.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, wait_for};
use crate::processes::{Folder, Process, free_port};

/// How often it scrapes, and looks at its rules.
const INTERVAL: &str = "2s";

/// How long it may take to answer at first.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// What it scrapes: ports of loopback, with the labels that service discovery would find, and how those are rewritten.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// Ports, each with its labels.
    pub targets: Vec<(u16, Value)>,
    /// As in Prometheus' own configuration.
    pub relabelings: Vec<Value>,
}

/// A series with its value at one time.
#[derive(Debug, Clone, Deserialize)]
pub struct Sample {
    /// Its labels.
    pub metric: Value,
    /// The time and the value, in digits.
    pub value: (f64, String),
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Samples {
    result: Vec<Sample>,
}

/// A running Prometheus.
pub struct Prometheus {
    client: Client,
    _process: Process,
    _folder: Folder,
}

impl Prometheus {
    /// Starts one with these jobs and a file of rules.
    pub async fn start(jobs: &[Job], rules: &Path) -> Self {
        let folder = Folder::new();
        let configuration = json!({
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": [rules],
            "scrape_configs": jobs.iter().map(build_scrape_config).collect::<Vec<_>>(),
        });
        // JSON is YAML.
        let file = folder.write("prometheus.yaml", &configuration.to_string());
        let port = free_port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start("prometheus", &mut command, &folder.join("log"));
        let prometheus = Self { client: Client::new(port), _process: process, _folder: folder };
        wait_for("Prometheus to be ready", START_PATIENCE, async || {
            let answer = prometheus.client.request(Method::GET, "-/ready").send().await;
            answer.and_then(reqwest::Response::error_for_status).map(drop).map_err(|error| error.to_string())
        })
        .await;
        prometheus
    }

    /// What a query gives now, or what is wrong with it.
    pub async fn query(&self, expr: &str) -> Result<Vec<Sample>, String> {
        let request = self.client.request(Method::GET, "api/v1/query").query(&[("query", expr)]);
        self.fetch::<Samples>(request).await.map(|samples| samples.result)
    }

    /// Every rule as `/api/v1/rules` shows it.
    pub async fn rules(&self) -> Result<Vec<Value>, String> {
        let groups: Value = self.fetch(self.client.request(Method::GET, "api/v1/rules")).await?;
        let groups = groups["groups"].as_array().cloned().unwrap_or_default();
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
    }

    async fn fetch<T: serde::de::DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, String> {
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(text);
        }
        let answer: Answer<T> = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        Ok(answer.data)
    }
}

fn build_scrape_config(job: &Job) -> Value {
    let targets: Vec<_> = job
        .targets
        .iter()
        .map(|(port, labels)| json!({"targets": [format!("127.0.0.1:{port}")], "labels": labels}))
        .collect();
    json!({"job_name": job.name, "static_configs": targets, "relabel_configs": job.relabelings})
}

//! Takes a file's keys one by one and collects what is wrong with them, so that all of it is reported at once.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use serde_yaml::{Mapping, Value};

use super::AuthConfig;
use crate::names::{self, NodeId};
use crate::topology::QueueType;

/// Everything that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:\n  {}", problems.join("\n  "))]
pub struct ConfigError {
    file: String,
    problems: Vec<String>,
}

impl ConfigError {
    pub(super) fn new(file: &str, problems: Vec<String>) -> Self {
        Self { file: file.to_owned(), problems }
    }

    /// The problems, each with its key and what is allowed.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

pub(super) struct Reader {
    file: String,
    prefix: String,
    fields: Mapping,
    known: Vec<&'static str>,
    problems: Vec<String>,
}

impl Reader {
    pub(super) fn new(file: &str, text: &str) -> Result<Self, ConfigError> {
        let fields = match serde_yaml::from_str(text) {
            Ok(Value::Mapping(fields)) => fields,
            Ok(Value::Null) => Mapping::new(),
            Ok(_) => return Err(ConfigError::new(file, vec!["not a mapping of keys to values".to_owned()])),
            Err(error) => return Err(ConfigError::new(file, vec![error.to_string()])),
        };
        Ok(Self {
            file: file.to_owned(),
            prefix: String::new(),
            fields,
            known: Vec::new(),
            problems: Vec::new(),
        })
    }

    /// The result, or everything that was wrong.
    pub(super) fn finish<T>(mut self, config: T) -> Result<T, ConfigError> {
        self.refuse_unknown();
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigError::new(&self.file, self.problems)) }
    }

    /// The keys below a key; give it back with [`Reader::close_section`].
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let fields = match self.take(key) {
            Some(Value::Mapping(fields)) => fields,
            Some(_) => {
                self.problem(key, "not a mapping of keys to values");
                Mapping::new()
            }
            None => Mapping::new(),
        };
        let prefix = format!("{}{key}.", self.prefix);
        Self { file: self.file.clone(), prefix, fields, known: Vec::new(), problems: Vec::new() }
    }

    pub(super) fn close_section(&mut self, mut section: Self) {
        section.refuse_unknown();
        self.problems.append(&mut section.problems);
    }

    /// An exchange or queue name; required where there is no default.
    pub(super) fn name(&mut self, key: &'static str, default: Option<&str>) -> String {
        let Some(name) = self.text(key) else {
            if default.is_none() && !self.has_problem(key) {
                self.problem(key, "missing");
            }
            return default.unwrap_or_default().to_owned();
        };
        if let Err(problem) = names::check_name(&name) {
            self.problem(key, problem);
        }
        name
    }

    pub(super) fn cluster(&mut self, exchange: &str, queue_name: &str) -> String {
        let cluster = self.text("cluster").unwrap_or_else(|| format!("{exchange}/{queue_name}"));
        if cluster.is_empty() || cluster.len() > 512 {
            self.problem("cluster", "1 to 512 bytes are allowed");
        }
        cluster
    }

    pub(super) fn queue_type(&mut self) -> QueueType {
        match self.take("queue_type").map(serde_yaml::from_value) {
            None => QueueType::default(),
            Some(Ok(queue_type)) => queue_type,
            Some(Err(_)) => {
                self.problem("queue_type", "allowed are classic and quorum");
                QueueType::default()
            }
        }
    }

    /// The id from the environment, else from the file; one of them is required.
    pub(super) fn node_id(&mut self, from_environment: Option<&str>) -> Option<NodeId> {
        let written = self.take("node_id");
        let (number, source) = match (from_environment, written) {
            (Some(text), _) => (text.trim().parse().ok(), "NODE_ID (environment)"),
            (None, Some(value)) => (value.as_u64().and_then(|id| u32::try_from(id).ok()), "node_id"),
            (None, None) => {
                self.problem("node_id", "missing (the environment's NODE_ID would do, too)");
                return None;
            }
        };
        let id = number.and_then(NodeId::new);
        if id.is_none() {
            self.problem(source, format!("a whole number from 1 to {} is needed", NodeId::MAX));
        }
        id
    }

    pub(super) fn number<N>(&mut self, key: &'static str, allowed: RangeInclusive<N>, default: N) -> N
    where
        N: Copy + Display + PartialOrd + TryFrom<u64>,
    {
        let Some(value) = self.take(key) else { return default };
        match value.as_u64().and_then(|number| N::try_from(number).ok()) {
            Some(number) if allowed.contains(&number) => number,
            _ => {
                let (low, high) = (allowed.start(), allowed.end());
                self.problem(key, format!("a whole number from {low} to {high} is needed"));
                default
            }
        }
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.problem(key, "allowed are true and false");
                default
            }
        }
    }

    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.text(key)?;
        if text.is_empty() {
            self.problem(key, "an empty path");
        }
        Some(PathBuf::from(text))
    }

    pub(super) fn auth(&mut self) -> Option<AuthConfig> {
        if !self.fields.contains_key("auth") {
            self.known.push("auth");
            return None;
        }
        let mut section = self.section("auth");
        let tokens_dir = section.path("tokens_dir");
        if tokens_dir.is_none() && !section.has_problem("tokens_dir") {
            section.problem("tokens_dir", "missing");
        }
        self.close_section(section);
        tokens_dir.map(|tokens_dir| AuthConfig { tokens_dir })
    }

    pub(super) fn address(&mut self, key: &'static str, default: SocketAddr) -> SocketAddr {
        let Some(text) = self.text(key) else { return default };
        SocketAddr::from_str(&text).unwrap_or_else(|_| {
            self.problem(key, format!("{text:?} is no address and port such as \"127.0.0.1:8080\""));
            default
        })
    }

    pub(super) fn urls(&mut self, key: &'static str) -> Vec<String> {
        let values = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Sequence(values)) => values,
            Some(_) => {
                self.problem(key, "a list of base URLs is needed");
                return Vec::new();
            }
        };
        let mut urls = Vec::new();
        for value in values {
            match value.as_str() {
                Some(url) if url.strip_prefix("http://").is_some_and(|host| !host.is_empty()) => {
                    urls.push(url.trim_end_matches('/').to_owned());
                }
                other => {
                    let other = other.unwrap_or("an entry");
                    self.problem(key, format!("{other} is no URL such as http://127.0.0.1:8081"));
                }
            }
        }
        urls
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        let value = self.take(key)?;
        if !value.is_string() {
            self.problem(key, "a string is needed");
        }
        value.as_str().map(str::to_owned)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.fields.remove(key).filter(|value| !value.is_null())
    }

    fn problem(&mut self, key: &str, problem: impl Display) {
        self.problems.push(format!("{}{key}: {problem}", self.prefix));
    }

    fn has_problem(&self, key: &str) -> bool {
        let start = format!("{}{key}:", self.prefix);
        self.problems.iter().any(|problem| problem.starts_with(&start))
    }

    fn refuse_unknown(&mut self) {
        for key in std::mem::take(&mut self.fields).into_keys() {
            let key = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
            self.problem(&key, format!("unknown key; allowed are {}", self.known.join(", ")));
        }
    }
}

//! What the API server noted of the operator's requests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where in the log something began.
#[derive(Clone, Debug)]
pub struct Mark {
    path: PathBuf,
    bytes: u64,
}

/// How often what was asked for, as `list pods` or `patch broadcastclusters/status`.
pub type Requests = BTreeMap<String, usize>;

impl Mark {
    /// From now on.
    pub fn now(path: &Path) -> Self {
        let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        Self { path: path.to_owned(), bytes }
    }

    /// The requests since the mark that were to change something, whatever became of them. The Lease is not counted.
    pub fn writes(&self) -> Requests {
        self.count(is_write)
    }

    /// Those of them that are about objects in these namespaces.
    pub fn writes_in(&self, namespaces: &[&str]) -> Requests {
        let is_there = |object: &Value| namespaces.iter().any(|namespace| object["namespace"] == **namespace);
        self.count(|verb, object| is_write(verb, object) && is_there(object))
    }

    /// The requests since the mark that were answered once and changed nothing.
    pub fn reads(&self) -> Requests {
        self.count(|verb, _| is_read(verb))
    }

    fn count(&self, counts: impl Fn(&str, &Value) -> bool) -> Requests {
        let mut file = File::open(&self.path).unwrap();
        file.seek(SeekFrom::Start(self.bytes)).unwrap();
        let mut requests = Requests::new();
        for line in BufReader::new(file).lines() {
            let line = line.unwrap();
            // The last one may still be on its way.
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (verb, object) = (text(&event["verb"]), &event["objectRef"]);
            // A watch is noted when it begins and when it ends.
            if event["stage"] == "ResponseComplete" && verb != "watch" && counts(&verb, object) {
                let part = object["subresource"].as_str().map_or_else(String::new, |part| format!("/{part}"));
                let resource = text(&object["resource"]);
                *requests.entry(format!("{verb} {resource}{part}")).or_default() += 1;
            }
        }
        requests
    }
}

fn is_write(verb: &str, object: &Value) -> bool {
    !is_read(verb) && object["resource"] != "leases"
}

fn is_read(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::Folder;

    #[test]
    fn what_was_asked_for_since_a_mark_is_counted_by_kind() {
        let folder = Folder::new();
        let event = |verb: &str, resource: &str, stage: &str| {
            format!(
                "{{\"stage\":\"{stage}\",\"verb\":\"{verb}\",\"objectRef\":{{\"resource\":\"{resource}\",\"namespace\":\"shop\"}}}}\n"
            )
        };
        let before = event("patch", "pods", "ResponseComplete");
        let path = folder.write("audit.log", &before);
        let mark = Mark::now(&path);
        assert!(mark.writes().is_empty());
        let after = [
            event("list", "pods", "ResponseComplete"),
            event("watch", "pods", "ResponseStarted"),
            event("watch", "pods", "ResponseComplete"),
            event("patch", "services", "ResponseComplete"),
            event("update", "leases", "ResponseComplete"),
        ];
        folder.write("audit.log", &(before + &after.concat() + "{\"cut"));
        assert_eq!(mark.reads(), Requests::from([("list pods".to_owned(), 1)]));
        let written = Requests::from([("patch services".to_owned(), 1)]);
        assert_eq!((mark.writes(), mark.writes_in(&["shop"])), (written.clone(), written));
        assert_eq!(mark.writes_in(&["other"]), Requests::new());
    }
}

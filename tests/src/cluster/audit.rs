//! What the operator's pods wrote, as the API server noted it on its own clock: the witness that no two write at a time.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::Scenario;

/// A request of an operator that was to change something, whatever became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// When the API server had it: RFC 3339 with six digits for a second's parts, so that texts compare as times do.
    pub at: String,
    /// Who sent it.
    pub pod: String,
    /// For people: `patch deployments/orders-node-1`.
    pub what: String,
    /// For a change of the Lease that was made: whose it is from then on, empty when it is nobody's.
    pub new_holder: Option<String>,
    /// Whether it is about the Lease, which everybody may try to get.
    is_about_lease: bool,
}

/// Where in the log a test began.
pub struct Mark {
    path: PathBuf,
    bytes: usize,
}

impl Scenario {
    /// From now on; `None` where the API server notes nothing.
    pub fn mark_audit_log(&self) -> Option<Mark> {
        let path = self.environment.audit_log.clone()?;
        let bytes = read(&path).len();
        Some(Mark { path, bytes })
    }
}

impl Mark {
    /// Asserts that since the mark nobody wrote but the pod that held the Lease then, and that all of these pods did.
    pub fn assert_one_writer_at_a_time(&self, expected: &[&str]) {
        let log = read(&self.path);
        let (before, after) = log.split_at(self.bytes);
        let holder = parse(before).into_iter().rev().find_map(|write| write.new_holder).unwrap_or_default();
        let writes = parse(after);
        let strays = find_strays(&holder, &writes);
        assert!(strays.is_empty(), "written without the Lease: {strays:#?}\nof all these: {writes:#?}");
        for pod in expected {
            let has_written = writes.iter().any(|write| write.pod == *pod && !write.is_about_lease);
            assert!(has_written, "{pod} wrote nothing: {writes:#?}");
        }
    }
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| {
        panic!("{}: {error}; `cargo xtask down` first if the cluster is an older one", path.display())
    })
}

/// The writes in the order in which they came. The log has them in the order in which they were answered.
fn parse(log: &str) -> Vec<Write> {
    let mut writes: Vec<_> =
        log.lines().map(|line| parse_line(&serde_json::from_str(line).unwrap())).collect();
    writes.sort_by(|a, b| a.at.cmp(&b.at));
    writes
}

fn parse_line(event: &Value) -> Write {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let is_about_lease = object["resource"] == "leases";
    let is_done = event["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300);
    let holder = text(&event["requestObject"]["spec"]["holderIdentity"]);
    Write {
        at: text(&event["requestReceivedTimestamp"]),
        pod: text(&event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0]),
        what: format!("{} {}/{}", text(&event["verb"]), text(&object["resource"]), text(&object["name"])),
        // Behind the pod's name stands what tells its processes apart.
        new_holder: (is_about_lease && is_done)
            .then(|| holder.split_once('_').map_or_else(String::new, |(pod, _)| pod.to_owned())),
        is_about_lease,
    }
}

/// The writes of pods that did not hold the Lease at that time.
fn find_strays(holder: &str, writes: &[Write]) -> Vec<Write> {
    let mut holder = holder;
    let mut strays = Vec::new();
    for write in writes {
        match &write.new_holder {
            Some(new) => holder = new,
            None if !write.is_about_lease && write.pod != holder => strays.push(write.clone()),
            None => {}
        }
    }
    strays
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(second: u32, pod: &str, object: &Value, code: u32, body: &Value) -> String {
        json!({
            "kind": "Event", "stage": "ResponseComplete", "verb": "patch",
            "user": {"extra": {"authentication.kubernetes.io/pod-name": [pod]}},
            "objectRef": object, "responseStatus": {"code": code}, "requestObject": body,
            "requestReceivedTimestamp": format!("2026-01-01T00:00:{second:02}.000000Z"),
        })
        .to_string()
    }

    fn lease(second: u32, pod: &str, holder: &str, code: u32) -> String {
        let body =
            json!({"spec": if holder.is_empty() { json!({}) } else { json!({"holderIdentity": holder}) }});
        line(second, pod, &json!({"resource": "leases", "name": "operator"}), code, &body)
    }

    fn deployment(second: u32, pod: &str) -> String {
        line(second, pod, &json!({"resource": "deployments", "name": "orders-node-1"}), 200, &Value::Null)
    }

    fn strays_of(lines: &[String]) -> Vec<String> {
        let strays = find_strays("", &parse(&lines.join("\n")));
        strays.into_iter().map(|write| format!("{} at {}", write.what, &write.at[17..19])).collect()
    }

    #[test]
    fn a_write_of_one_that_does_not_hold_the_lease_is_found() {
        let stray = |second: u32| [format!("patch deployments/orders-node-1 at {second:02}")];
        let one = lease(1, "one", "one_12ab", 201);
        assert_eq!(strays_of(&[one.clone(), deployment(2, "one")]), [""; 0]);
        assert_eq!(strays_of(&[one.clone(), deployment(2, "two")]), stray(2));
        assert_eq!(
            strays_of(&[one.clone(), lease(2, "two", "two_34cd", 409), deployment(3, "two")]),
            stray(3)
        );
        let taken = lease(2, "two", "two_34cd", 200);
        assert_eq!(strays_of(&[one.clone(), taken.clone(), deployment(3, "two")]), [""; 0]);
        assert_eq!(strays_of(&[one.clone(), taken.clone(), deployment(3, "one")]), stray(3));
        assert_eq!(strays_of(&[one.clone(), lease(2, "one", "", 200), deployment(3, "one")]), stray(3));
        assert_eq!(strays_of(&[one, taken, deployment(1, "one")]), [""; 0], "it came before");
    }
}

//! What a human asks for by annotations of the resource: things that are said once, and not part of what is wanted.

use broadcast_api::BroadcastCluster;
use broadcast_protocol::envelope::MAX_NUMBER;
use broadcast_protocol::names::NodeId;
use kube::ResourceExt;

use crate::names::{
    ACCEPT_LOSS_ANNOTATION, FORCE_DELETE_ANNOTATION, PAUSED_ANNOTATION, REMOVE_NODES_ANNOTATION,
};

/// What the annotations of a resource say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// From which sequence number on a human accepts the loss of all writes.
    pub accepted_loss: Option<u64>,
    /// Nothing is changed.
    pub paused: bool,
    /// The nodes that go first when there are to be fewer, in this order.
    pub remove_first: Vec<NodeId>,
    /// A deletion does not wait for the broker.
    pub force_delete: bool,
}

/// Reads them; the error has everything that is wrong with them. What is wrong does not keep a resource from being deleted.
pub fn read_annotations(cluster: &BroadcastCluster) -> Result<Annotations, Vec<String>> {
    let mut problems = Vec::new();
    let annotations = Annotations {
        accepted_loss: read(cluster, ACCEPT_LOSS_ANNOTATION, parse_loss, &mut problems),
        paused: read(cluster, PAUSED_ANNOTATION, parse_flag, &mut problems).unwrap_or_default(),
        remove_first: read(cluster, REMOVE_NODES_ANNOTATION, parse_ids, &mut problems).unwrap_or_default(),
        force_delete: read(cluster, FORCE_DELETE_ANNOTATION, parse_flag, &mut problems).unwrap_or_default(),
    };
    if problems.is_empty() || cluster.metadata.deletion_timestamp.is_some() {
        Ok(annotations)
    } else {
        Err(problems)
    }
}

fn read<T>(
    cluster: &BroadcastCluster,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
    problems: &mut Vec<String>,
) -> Option<T> {
    let text = cluster.annotations().get(name)?;
    let problem =
        |problem| problems.push(format!("metadata.annotations[{name:?}]: {text:?} is not {problem}"));
    parse(text).map_err(problem).ok()
}

fn parse_flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "\"true\" or \"false\"".to_owned())
}

fn parse_loss(text: &str) -> Result<u64, String> {
    let is_allowed = |from: &u64| (1..=MAX_NUMBER).contains(from);
    text.parse()
        .ok()
        .filter(is_allowed)
        .ok_or_else(|| format!("the sequence number of the first write that may be lost, 1 to {MAX_NUMBER}"))
}

fn parse_ids(text: &str) -> Result<Vec<NodeId>, String> {
    let parse = |id: &str| NodeId::new(id.trim().parse().ok()?);
    let ids: Option<Vec<_>> = text.split(',').map(parse).collect();
    ids.ok_or_else(|| format!("a list of node ids such as \"2,5\", each 1 to {}", NodeId::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cluster;

    fn read_one(name: &str, text: &str) -> Result<Annotations, Vec<String>> {
        let mut cluster = cluster();
        cluster.annotations_mut().insert(name.to_owned(), text.to_owned());
        read_annotations(&cluster)
    }

    #[test]
    fn each_says_what_it_says() {
        assert_eq!(read_annotations(&cluster()), Ok(Annotations::default()));
        assert_eq!(read_one(ACCEPT_LOSS_ANNOTATION, "1041").unwrap().accepted_loss, Some(1041));
        assert!(read_one(PAUSED_ANNOTATION, "true").unwrap().paused);
        assert!(!read_one(PAUSED_ANNOTATION, "false").unwrap().paused);
        assert!(read_one(FORCE_DELETE_ANNOTATION, "true").unwrap().force_delete);
        let ids: Vec<_> = [5, 2].map(|id| NodeId::new(id).unwrap()).into();
        assert_eq!(read_one(REMOVE_NODES_ANNOTATION, "5, 2").unwrap().remove_first, ids);
    }

    #[test]
    fn a_value_that_is_not_allowed_is_refused_with_what_is() {
        let cases: [(&str, &[&str], &str); 4] = [
            (
                ACCEPT_LOSS_ANNOTATION,
                &["", "0", "-1", "true", "99999999999999999999"],
                "the first write that may",
            ),
            (PAUSED_ANNOTATION, &["", "yes", "True", "1"], "is not \"true\" or \"false\""),
            (FORCE_DELETE_ANNOTATION, &["now"], "is not \"true\" or \"false\""),
            (
                REMOVE_NODES_ANNOTATION,
                &["", "0", "10000", "1,,2", "one", "1-3", "1\n2"],
                "such as \"2,5\", each 1 to 9999",
            ),
        ];
        for (name, texts, allowed) in cases {
            for text in texts {
                let problems = read_one(name, text).unwrap_err();
                assert_eq!(problems.len(), 1);
                assert!(
                    problems[0].contains(name) && problems[0].contains(allowed),
                    "{text:?}: {problems:?}"
                );
            }
        }
    }
}

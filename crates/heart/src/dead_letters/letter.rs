//! What can be said of a letter.

use broadcast_protocol::envelope::Message;
use broadcast_protocol::names::{BrokerNames, NodeId};
use broadcast_service::amqp::Death;
use bytes::Bytes;
use serde::Serialize;

/// How much of a letter's body is shown, in bytes.
const SHOWN_BYTES: usize = 1024;

/// How many hexadecimal digits an id has.
const ID_DIGITS: usize = 16;

/// A letter, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// The same as long as it is not given back. Letters with one content from one queue and second share one.
    pub id: String,
    /// The node whose queue it was in, when it is one of this cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// That queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Why it is here, in the broker's word: `rejected`, `maxlen`.
    pub reason: String,
    /// Since when, in seconds since the Unix epoch; 0 when that is not known.
    pub at: u64,
    /// What is wrong with it as a message of this cluster, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The length of its body.
    pub bytes: usize,
    /// The beginning of its body, up to 1 KiB.
    pub body: String,
}

impl Letter {
    /// Describes a letter of a cluster.
    pub(super) fn read(cluster: &str, names: &BrokerNames, death: Option<&Death>, body: &Bytes) -> Self {
        Self {
            id: identify(death, body),
            node: death.and_then(|death| names.node_of_queue(&death.queue)).map(NodeId::get),
            queue: death.map(|death| death.queue.clone()),
            reason: death.map(|death| death.reason.clone()).unwrap_or_default(),
            at: death.map(|death| death.at).unwrap_or_default(),
            problem: Message::decode(cluster, body).err().map(|error| error.to_string()),
            bytes: body.len(),
            body: String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]).into_owned(),
        }
    }
}

/// Made of the content, the queue and the time.
pub(super) fn identify(death: Option<&Death>, body: &[u8]) -> String {
    let (queue, at) = death.map_or(("", 0), |death| (death.queue.as_str(), death.at));
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(queue.len() as u64).to_le_bytes()).update(queue.as_bytes());
    hasher.update(&at.to_le_bytes()).update(body);
    let mut id = hasher.finalize().to_hex().to_string();
    id.truncate(ID_DIGITS);
    id
}

/// The queue that a letter goes back to, or why there is none: a queue of something else is none of ours.
pub(super) fn find_way_back<'a>(names: &BrokerNames, death: Option<&'a Death>) -> Result<&'a str, String> {
    let death = death.ok_or("it does not say which queue it comes from")?;
    match names.node_of_queue(&death.queue) {
        Some(_) => Ok(&death.queue),
        None => Err(format!("it comes from {:?}, which is no node's queue", death.queue)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(queue: &str, at: u64) -> Death {
        Death { queue: queue.to_owned(), reason: "rejected".to_owned(), at }
    }

    #[test]
    fn an_id_is_the_same_as_long_as_the_letter_is() {
        let first = death("q_node_1", 7);
        let id = identify(Some(&first), b"body");
        assert_eq!(id, identify(Some(&first.clone()), b"body"));
        assert_eq!((id.len(), id.bytes().all(|digit| digit.is_ascii_hexdigit())), (ID_DIGITS, true));
        for (other, body) in [
            (Some(death("q_node_2", 7)), "body"),
            (Some(death("q_node_1", 8)), "body"),
            (Some(first), "bodies"),
            (None, "body"),
        ] {
            assert_ne!(identify(other.as_ref(), body.as_bytes()), id, "{other:?} {body}");
        }
    }

    #[test]
    fn a_letter_says_whose_it_was_and_what_is_wrong_with_it() {
        let names = BrokerNames::new("e", "q");
        let body = Bytes::from(format!("not JSON {}", "ü".repeat(SHOWN_BYTES)));
        let letter = Letter::read("c", &names, Some(&death("q_node_3", 9)), &body);
        assert_eq!((letter.node, letter.at, letter.reason.as_str()), (Some(3), 9, "rejected"));
        assert_eq!((letter.bytes, letter.body.starts_with("not JSON ü")), (body.len(), true));
        assert!(letter.body.len() <= SHOWN_BYTES + 2 && letter.problem.is_some(), "{letter:?}");
        let letter = Letter::read("c", &names, None, &Bytes::new());
        assert_eq!((letter.node, letter.queue, letter.at), (None, None, 0));
    }

    #[test]
    fn a_letter_goes_back_to_a_nodes_queue_and_nowhere_else() {
        let names = BrokerNames::new("e", "q");
        for (death, expected) in [
            (Some(death("q_node_3", 9)), Ok("q_node_3")),
            (Some(death("q_head", 9)), Err("it comes from \"q_head\", which is no node's queue")),
            (Some(death("other_node_3", 9)), Err("it comes from \"other_node_3\", which is no node's queue")),
            (None, Err("it does not say which queue it comes from")),
        ] {
            assert_eq!(find_way_back(&names, death.as_ref()), expected.map_err(str::to_owned));
        }
    }
}

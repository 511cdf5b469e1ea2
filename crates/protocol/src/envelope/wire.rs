//! The JSON of a message.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    DecodeError, Link, MAX_MESSAGE_BYTES, MAX_NUMBER, Mark, Message, Seal, Term, VERSION, WriteMessage,
};
use crate::chain::{ChainHash, Position};
use crate::cut::Cut;
use crate::digest::Digest;
use crate::write::{self, MAX_WRITES};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire<'a> {
    pub(super) v: u64,
    #[serde(borrow)]
    pub(super) cluster: Cow<'a, str>,
    pub(super) epoch: u64,
    pub(super) at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reign: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<Cut>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<ChainHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prev: Option<ChainHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seal: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) number: Option<u64>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(super) writes: Option<&'a RawValue>,
}

impl Wire<'_> {
    pub(super) fn new(cluster: &str, epoch: u64, at: u64) -> Wire<'_> {
        Wire {
            v: VERSION,
            cluster: cluster.into(),
            epoch,
            at,
            reign: None,
            cut: None,
            hash: None,
            first: None,
            prev: None,
            last: None,
            digest: None,
            seal: None,
            number: None,
            writes: None,
        }
    }

    pub(super) fn of_reign(cluster: &str, term: Term, at: u64) -> Wire<'_> {
        let cut = Some(term.cut).filter(|cut| !cut.is_none());
        Wire { reign: Some(term.reign), cut, ..Wire::new(cluster, term.epoch, at) }
    }
}

pub(super) fn encode(wire: &Wire<'_>) -> Vec<u8> {
    // Strings and integers always encode.
    serde_json::to_vec(wire).unwrap_or_default()
}

/// Decodes a message of this cluster completely: shape, numbering, hash and every write.
pub(super) fn decode(cluster: &str, body: &Bytes) -> Result<Message, DecodeError> {
    if body.len() > MAX_MESSAGE_BYTES {
        let problem = format!("{} bytes; at most {MAX_MESSAGE_BYTES} are allowed", body.len());
        return Err(DecodeError::Malformed(problem));
    }
    let wire = match serde_json::from_slice::<Wire<'_>>(body) {
        Ok(wire) if wire.v == VERSION => wire,
        Ok(wire) => return Err(wrong_version(cluster, wire.v, &wire.cluster)),
        Err(error) => return Err(not_of_this_shape(cluster, body, &error)),
    };
    if wire.cluster != cluster {
        return Err(other_cluster(cluster, &wire.cluster));
    }
    let cut = wire.cut.unwrap_or_default();
    let (reign, last) = (wire.reign.unwrap_or(0), wire.last.unwrap_or(0));
    if [wire.epoch, wire.at, reign, last, cut.epoch, cut.last].into_iter().any(|number| number > MAX_NUMBER) {
        return Err(DecodeError::Malformed(format!(
            "epoch, reign, at, last and those of cut are at most {MAX_NUMBER}"
        )));
    }
    let (cluster_id, epoch, at) = (cluster.to_owned(), wire.epoch, wire.at);
    match wire {
        Wire {
            reign: Some(reign),
            first: Some(first),
            prev: Some(prev),
            hash: Some(hash),
            writes: Some(writes),
            last: None,
            digest: None,
            seal: None,
            number: None,
            ..
        } => {
            let written = Written { term: Term { epoch, reign, cut }, at, first, prev, hash, writes };
            written.decode(cluster, body).map(|message| Message::Link(Link::Write(message)))
        }
        Wire {
            reign: Some(reign),
            last: Some(last),
            hash: Some(hash),
            digest,
            first: None,
            prev: None,
            writes: None,
            seal: None,
            number: None,
            ..
        } => {
            let (term, position) = (Term { epoch, reign, cut }, Position { last, hash });
            Ok(Message::Link(Link::Mark(Mark { cluster: cluster_id, term, position, at, digest })))
        }
        Wire {
            seal: Some(nonce),
            number: Some(number),
            reign: None,
            cut: None,
            hash: None,
            last: None,
            digest: None,
            first: None,
            prev: None,
            writes: None,
            ..
        } => Ok(Message::Seal(Seal { cluster: cluster_id, epoch, nonce, number, at })),
        _ => Err(DecodeError::Malformed(
            "neither reign, first, prev, hash and writes, nor reign, last and hash, nor seal and number"
                .to_owned(),
        )),
    }
}

/// The fields of a message of writes.
struct Written<'a> {
    term: Term,
    at: u64,
    first: u64,
    prev: ChainHash,
    hash: ChainHash,
    writes: &'a RawValue,
}

impl Written<'_> {
    fn decode(&self, cluster: &str, body: &Bytes) -> Result<WriteMessage, DecodeError> {
        let json = self.writes.get();
        let computed = self.prev.next(json.as_bytes());
        if computed != self.hash {
            return Err(DecodeError::HashMismatch { found: self.hash, computed });
        }
        let writes = write::parse_array(json)?;
        let first = self.first;
        if first == 0 || first > MAX_NUMBER - MAX_WRITES as u64 {
            return Err(DecodeError::Malformed(format!("first is {first}; 1 is the lowest")));
        }
        Ok(WriteMessage {
            term: self.term,
            first,
            previous: Position { last: first - 1, hash: self.prev },
            position: Position { last: first - 1 + writes.len() as u64, hash: computed },
            at: self.at,
            cluster: cluster.to_owned(),
            writes: body.slice_ref(json.as_bytes()),
            decoded: Some(writes.into()),
            body: body.clone(),
        })
    }
}

fn not_of_this_shape(cluster: &str, body: &[u8], error: &serde_json::Error) -> DecodeError {
    /// What every version has.
    #[derive(Deserialize)]
    struct Header<'a> {
        v: u64,
        #[serde(borrow)]
        cluster: Cow<'a, str>,
    }
    match serde_json::from_slice::<Header<'_>>(body) {
        Ok(header) if header.v != VERSION => wrong_version(cluster, header.v, &header.cluster),
        Ok(header) if header.cluster != cluster => other_cluster(cluster, &header.cluster),
        _ => DecodeError::Malformed(error.to_string()),
    }
}

fn wrong_version(cluster: &str, version: u64, of_cluster: &str) -> DecodeError {
    if of_cluster != cluster {
        other_cluster(cluster, of_cluster)
    } else if version > VERSION {
        DecodeError::NewerVersion(version)
    } else {
        DecodeError::Malformed(format!("envelope version {version}; {VERSION} is the lowest"))
    }
}

fn other_cluster(expected: &str, found: &str) -> DecodeError {
    DecodeError::OtherCluster { expected: expected.to_owned(), found: found.chars().take(80).collect() }
}

//! One write of a client, checked: what a heart takes and what a node applies are decided by the same function.
//!
//! Limits are part of the protocol. If nodes differed in what they refuse, their databases would differ.

mod compact;
mod condition;
mod fingerprint;

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use compact::compact;
pub use condition::Condition;
pub use fingerprint::{Fingerprint, NotAFingerprint};

/// The longest collection name, in bytes.
pub const MAX_COLLECTION_BYTES: usize = 63;
/// The longest key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;
/// The largest value, in bytes of JSON without insignificant white space.
pub const MAX_VALUE_BYTES: usize = 256 << 10;
/// The longest request id, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 128;
/// How deep a value may nest.
pub const MAX_VALUE_DEPTH: usize = 128;
/// The most writes in one request, and so in one message.
pub const MAX_WRITES: usize = 10_000;
/// The largest request body, in bytes.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;

/// What a write does.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Stores a value: JSON text without insignificant white space.
    Put(Box<RawValue>),
    /// Removes the row, if there is one.
    Delete,
}

/// One write.
#[derive(Debug, Clone)]
pub struct Write {
    /// What to do.
    pub operation: Operation,
    /// The collection: `[a-z0-9_][a-z0-9_.-]{0,62}`.
    pub collection: String,
    /// The key: 1 to [`MAX_KEY_BYTES`] bytes.
    pub key: String,
    /// The client's request id: a second write with it changes nothing.
    pub id: Option<String>,
    /// What must hold of the row for the write to change anything.
    pub condition: Option<Condition>,
}

/// Why a write was refused: where in the request, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct InvalidWrite {
    /// The path to the wrong part (`writes[3].key`).
    pub place: String,
    /// What is wrong with it.
    pub problem: String,
}

impl InvalidWrite {
    fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }

    fn at_condition(place: fmt::Arguments<'_>, problem: String) -> Self {
        Self::new(format!("{place}.if"), problem)
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OperationName {
    Put,
    Delete,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadWrite<'a> {
    op: OperationName,
    collection: String,
    key: String,
    #[serde(default, borrow, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default, borrow, rename = "if", deserialize_with = "present")]
    condition: Option<&'a RawValue>,
}

/// `"value":null` is a value, and `"if":null` is an error; only a missing one is none.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Serialize)]
struct SentWrite<'a> {
    op: OperationName,
    collection: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "if")]
    condition: Option<Condition>,
}

impl Write {
    /// Decodes and checks one write; `place` is its path in messages (`writes[3]`).
    pub fn parse(json: &str, place: &str) -> Result<Self, InvalidWrite> {
        let wire: ReadWrite<'_> =
            serde_json::from_str(json).map_err(|error| InvalidWrite::new(place, error.to_string()))?;
        Self::from_wire(wire, format_args!("{place}"))
    }

    fn from_wire(wire: ReadWrite<'_>, place: fmt::Arguments<'_>) -> Result<Self, InvalidWrite> {
        let operation = match (wire.op, wire.value) {
            (OperationName::Put, Some(value)) => Operation::Put(value.to_owned()),
            (OperationName::Delete, None) => Operation::Delete,
            (OperationName::Put, None) => {
                return Err(InvalidWrite::new(format!("{place}.value"), "missing; a put needs one"));
            }
            (OperationName::Delete, Some(_)) => {
                return Err(InvalidWrite::new(format!("{place}.value"), "a delete has none"));
            }
        };
        let condition = wire.condition.map(|json| Condition::parse(json.get()));
        let condition =
            condition.transpose().map_err(|problem| InvalidWrite::at_condition(place, problem))?;
        Self { operation, collection: wire.collection, key: wire.key, id: wire.id, condition }.check(place)
    }

    /// Checks limits and removes insignificant white space from the value; `place` as in [`Write::parse`].
    pub fn checked(self, place: &str) -> Result<Self, InvalidWrite> {
        self.check(format_args!("{place}"))
    }

    // The place is formatted only for an error: there are thousands of writes in a message.
    fn check(mut self, place: fmt::Arguments<'_>) -> Result<Self, InvalidWrite> {
        check_collection(&self.collection)
            .map_err(|problem| InvalidWrite::new(format!("{place}.collection"), problem))?;
        check_length(&self.key, MAX_KEY_BYTES)
            .map_err(|problem| InvalidWrite::new(format!("{place}.key"), problem))?;
        if let Some(id) = &self.id {
            check_length(id, MAX_ID_BYTES)
                .map_err(|problem| InvalidWrite::new(format!("{place}.id"), problem))?;
        }
        if let Some(condition) = self.condition {
            condition.check(&self.operation).map_err(|problem| InvalidWrite::at_condition(place, problem))?;
        }
        if let Operation::Put(value) = &self.operation {
            let compacted =
                compact(value).map_err(|problem| InvalidWrite::new(format!("{place}.value"), problem))?;
            if let Some(compacted) = compacted {
                self.operation = Operation::Put(compacted);
            }
        }
        Ok(self)
    }

    /// Appends the write's JSON, the form that is hashed and sent.
    fn encode_into(&self, out: &mut Vec<u8>) {
        let (op, value) = match &self.operation {
            Operation::Put(value) => (OperationName::Put, Some(value.as_ref())),
            Operation::Delete => (OperationName::Delete, None),
        };
        let Self { collection, key, condition, .. } = self;
        let wire = SentWrite { op, collection, key, value, id: self.id.as_deref(), condition: *condition };
        // Writing to memory what has only strings for keys cannot fail.
        serde_json::to_writer(out, &wire).unwrap_or_default();
    }
}

/// The writes of one message, encoded: a JSON array.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    json: Vec<u8>,
    count: usize,
}

impl WriteBatch {
    /// Appends a write.
    pub fn push(&mut self, write: &Write) {
        self.json.push(if self.count == 0 { b'[' } else { b',' });
        write.encode_into(&mut self.json);
        self.count += 1;
    }

    /// Appends all writes of another batch.
    pub fn append(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.json.push(if self.count == 0 { b'[' } else { b',' });
        self.json.extend_from_slice(&other.json[1..]);
        self.count += other.count;
    }

    /// How many writes there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.json.len()
    }

    /// The JSON array.
    pub fn into_json(mut self) -> Vec<u8> {
        if self.count == 0 {
            self.json.push(b'[');
        }
        self.json.push(b']');
        self.json
    }
}

/// The writes of a message, if all are valid: in one pass. Parsing them one by one tells what is wrong with which.
struct ValidWrites(Vec<Write>);

impl<'de> Deserialize<'de> for ValidWrites {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Writes;
        impl<'de> Visitor<'de> for Writes {
            type Value = Vec<Write>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "1 to {MAX_WRITES} writes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut json: A) -> Result<Vec<Write>, A::Error> {
                let mut writes = Vec::new();
                while let Some(wire) = json.next_element()? {
                    writes.push(Write::from_wire(wire, format_args!("")).map_err(de::Error::custom)?);
                    if writes.len() > MAX_WRITES {
                        break;
                    }
                }
                match writes.len() {
                    1..=MAX_WRITES => Ok(writes),
                    count => Err(de::Error::invalid_length(count, &self)),
                }
            }
        }
        deserializer.deserialize_seq(Writes).map(Self)
    }
}

/// Decodes and checks the writes of a request: JSON `{"writes":[…]}`.
pub fn parse_request(body: &[u8]) -> Result<Vec<Write>, InvalidWrite> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Request<T> {
        writes: T,
    }
    if let Ok(json) = std::str::from_utf8(body)
        && let Ok(Request { writes: ValidWrites(writes) }) = serde_json::from_str(json)
    {
        return Ok(writes);
    }
    let request: Request<Vec<&RawValue>> =
        serde_json::from_slice(body).map_err(|error| InvalidWrite::new("body", error.to_string()))?;
    parse_all(request.writes.into_iter().map(RawValue::get))
}

/// Decodes and checks the writes of a request in NDJSON: one write a line, empty lines ignored.
pub fn parse_ndjson(body: &[u8]) -> Result<Vec<Write>, InvalidWrite> {
    let text = std::str::from_utf8(body).map_err(|error| InvalidWrite::new("body", error.to_string()))?;
    parse_all(text.lines().filter(|line| !line.trim().is_empty()))
}

/// Decodes and checks a JSON array of writes.
pub(crate) fn parse_array(json: &str) -> Result<Vec<Write>, InvalidWrite> {
    if let Ok(ValidWrites(writes)) = serde_json::from_str(json) {
        return Ok(writes);
    }
    let writes: Vec<&RawValue> =
        serde_json::from_str(json).map_err(|error| InvalidWrite::new("writes", error.to_string()))?;
    parse_all(writes.into_iter().map(RawValue::get))
}

fn parse_all<'a>(writes: impl Iterator<Item = &'a str>) -> Result<Vec<Write>, InvalidWrite> {
    let writes: Vec<Write> = writes
        .take(MAX_WRITES + 1)
        .enumerate()
        .map(|(index, json)| Write::parse(json, &format!("writes[{index}]")))
        .collect::<Result<_, _>>()?;
    match writes.len() {
        0 => Err(InvalidWrite::new("writes", "empty; at least one write is needed")),
        count if count > MAX_WRITES => {
            Err(InvalidWrite::new("writes", format!("more than {MAX_WRITES} writes; split the request")))
        }
        _ => Ok(writes),
    }
}

/// Says what is wrong with a collection's name, if anything.
pub fn check_collection(name: &str) -> Result<(), String> {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let bytes = name.as_bytes();
    if bytes.len() <= MAX_COLLECTION_BYTES
        && bytes.first().copied().is_some_and(first)
        && bytes.iter().all(|&byte| first(byte) || byte == b'.' || byte == b'-')
    {
        return Ok(());
    }
    let shown: String = name.chars().take(MAX_COLLECTION_BYTES + 1).collect();
    Err(format!("{shown:?} does not match [a-z0-9_][a-z0-9_.-]{{0,62}}"))
}

fn check_length(text: &str, max: usize) -> Result<(), String> {
    match text.len() {
        0 => Err(format!("empty; 1 to {max} bytes are allowed")),
        len if len > max => Err(format!("{len} bytes long; 1 to {max} are allowed")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

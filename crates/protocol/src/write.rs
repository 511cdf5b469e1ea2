//! One write of a client, checked: what a heart takes and what a node applies are decided by the same function.
//!
//! Limits are part of the protocol. If nodes differed in what they refuse, their databases would differ.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

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
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OperationName {
    Put,
    Delete,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadWrite {
    op: OperationName,
    collection: String,
    key: String,
    #[serde(default, deserialize_with = "present")]
    value: Option<Box<RawValue>>,
    #[serde(default)]
    id: Option<String>,
}

/// `"value":null` is a value; only a missing one is none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
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
}

impl Write {
    /// Decodes and checks one write; `place` is its path in messages (`writes[3]`).
    pub fn parse(json: &str, place: &str) -> Result<Self, InvalidWrite> {
        let wire: ReadWrite =
            serde_json::from_str(json).map_err(|error| InvalidWrite::new(place, error.to_string()))?;
        let operation = match (wire.op, wire.value) {
            (OperationName::Put, Some(value)) => Operation::Put(value),
            (OperationName::Delete, None) => Operation::Delete,
            (OperationName::Put, None) => {
                return Err(InvalidWrite::new(format!("{place}.value"), "missing; a put needs one"));
            }
            (OperationName::Delete, Some(_)) => {
                return Err(InvalidWrite::new(format!("{place}.value"), "a delete has none"));
            }
        };
        Self { operation, collection: wire.collection, key: wire.key, id: wire.id }.checked(place)
    }

    /// Checks limits and removes insignificant white space from the value; `place` as in [`Write::parse`].
    pub fn checked(mut self, place: &str) -> Result<Self, InvalidWrite> {
        check_collection(&self.collection)
            .map_err(|problem| InvalidWrite::new(format!("{place}.collection"), problem))?;
        check_length(&self.key, MAX_KEY_BYTES)
            .map_err(|problem| InvalidWrite::new(format!("{place}.key"), problem))?;
        if let Some(id) = &self.id {
            check_length(id, MAX_ID_BYTES)
                .map_err(|problem| InvalidWrite::new(format!("{place}.id"), problem))?;
        }
        if let Operation::Put(value) = self.operation {
            let value =
                compact(value).map_err(|problem| InvalidWrite::new(format!("{place}.value"), problem))?;
            self.operation = Operation::Put(value);
        }
        Ok(self)
    }

    /// Appends the write's JSON, the form that is hashed and sent.
    fn encode_into(&self, out: &mut Vec<u8>) {
        let (op, value) = match &self.operation {
            Operation::Put(value) => (OperationName::Put, Some(value.as_ref())),
            Operation::Delete => (OperationName::Delete, None),
        };
        let wire =
            SentWrite { op, collection: &self.collection, key: &self.key, value, id: self.id.as_deref() };
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

/// Decodes and checks the writes of a request: JSON `{"writes":[…]}`.
pub fn parse_request(body: &[u8]) -> Result<Vec<Write>, InvalidWrite> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Request<'a> {
        #[serde(borrow)]
        writes: Vec<&'a RawValue>,
    }
    let request: Request<'_> =
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

/// Removes white space between the tokens of valid JSON, so that equal values take equal bytes and a message is one
/// line of NDJSON. Numbers and strings stay as the client wrote them.
fn compact(value: Box<RawValue>) -> Result<Box<RawValue>, String> {
    let json = value.get();
    let mut out = String::new();
    let mut kept_until = 0;
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (index, byte) in json.bytes().enumerate() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b' ' | b'\t' | b'\r' | b'\n' => {
                out.push_str(&json[kept_until..index]);
                kept_until = index + 1;
            }
            _ => {}
        }
        if depth > MAX_VALUE_DEPTH {
            return Err(format!("nests deeper than {MAX_VALUE_DEPTH}"));
        }
    }
    let length = out.len() + json.len() - kept_until;
    if length > MAX_VALUE_BYTES {
        return Err(format!("{length} bytes of JSON; at most {MAX_VALUE_BYTES} are allowed"));
    }
    if kept_until == 0 {
        return Ok(value);
    }
    out.push_str(&json[kept_until..]);
    RawValue::from_string(out).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(json: &str) -> String {
        let mut batch = WriteBatch::default();
        batch.push(&Write::parse(json, "write").unwrap());
        String::from_utf8(batch.into_json()).unwrap()
    }

    #[test]
    fn a_value_keeps_its_numbers_and_strings_and_loses_only_white_space_between_tokens() {
        for (value, kept) in [
            ("{ \"a\" : [ 1.50 , 12345678901234567890123 ] }", "{\"a\":[1.50,12345678901234567890123]}"),
            ("\" a \\\" b \\\\\"", "\" a \\\" b \\\\\""),
            ("null", "null"),
            ("{\"b\\\\\": \"x y\",\n\"c\":\t1}", "{\"b\\\\\":\"x y\",\"c\":1}"),
        ] {
            let json = format!(r#"{{"op":"put","collection":"c","key":"k","value": {value} }}"#);
            assert_eq!(
                encoded(&json),
                format!(r#"[{{"op":"put","collection":"c","key":"k","value":{kept}}}]"#)
            );
        }
    }

    #[test]
    fn an_invalid_write_is_named_with_its_place_and_what_is_allowed() {
        let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
        let cases = [
            (r#"{"op":"put","collection":"c","key":"k"}"#.to_owned(), "writes[0].value: missing"),
            (
                r#"{"op":"delete","collection":"c","key":"k","value":1}"#.to_owned(),
                "writes[0].value: a delete",
            ),
            (r#"{"op":"drop","collection":"c","key":"k"}"#.to_owned(), "expected `put` or `delete`"),
            (r#"{"op":"delete","collection":"C","key":"k"}"#.to_owned(), "writes[0].collection: \"C\""),
            (r#"{"op":"delete","collection":"","key":"k"}"#.to_owned(), "writes[0].collection: \"\""),
            (r#"{"op":"delete","collection":"c","key":""}"#.to_owned(), "writes[0].key: empty"),
            (r#"{"op":"delete","collection":"c","key":"k","id":""}"#.to_owned(), "writes[0].id: empty"),
            (r#"{"op":"delete","collection":"c","key":"k","x":1}"#.to_owned(), "unknown field `x`"),
            (r#"{"op":"delete","collection":"c"}"#.to_owned(), "missing field `key`"),
            (format!(r#"{{"op":"delete","collection":"c","key":"{}"}}"#, "k".repeat(1025)), "1 to 1024"),
            (format!(r#"{{"op":"put","collection":"c","key":"k","value":{deep}}}"#), "deeper than 128"),
            (
                format!(
                    r#"{{"op":"put","collection":"c","key":"k","value":"{}"}}"#,
                    "v".repeat(MAX_VALUE_BYTES)
                ),
                "at most 262144",
            ),
        ];
        for (write, message) in cases {
            let error =
                parse_request(format!("{{\"writes\":[{write}]}}").as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}\n{message}");
        }
    }

    #[test]
    fn a_request_is_refused_whole() {
        let good = r#"{"op":"delete","collection":"c","key":"k"}"#;
        let bad = r#"{"op":"delete","collection":"c","key":""}"#;
        let error = parse_request(format!("{{\"writes\":[{good},{bad}]}}").as_bytes()).unwrap_err();
        assert_eq!(error.place, "writes[1].key");
        let error = parse_ndjson(format!("{good}\n\n{bad}\n").as_bytes()).unwrap_err();
        assert_eq!(error.place, "writes[1].key");
        for (body, message) in
            [("{}", "missing field `writes`"), ("{\"writes\":[]}", "empty"), ("x", "line 1")]
        {
            assert!(parse_request(body.as_bytes()).unwrap_err().to_string().contains(message), "{body}");
        }
        let many = format!("{good}\n").repeat(MAX_WRITES + 1);
        assert!(parse_ndjson(many.as_bytes()).unwrap_err().problem.contains("more than 10000"));
    }

    #[test]
    fn batches_join_into_one_array() {
        let write = Write::parse(r#"{"op":"delete","collection":"c","key":"k"}"#, "write").unwrap();
        let mut one = WriteBatch::default();
        one.push(&write);
        let mut all = WriteBatch::default();
        all.append(&WriteBatch::default());
        all.append(&one);
        all.append(&one);
        assert_eq!((all.len(), all.bytes()), (2, all.clone().into_json().len() - 1));
        let json = String::from_utf8(all.into_json()).unwrap();
        assert_eq!(parse_array(&json).unwrap().len(), 2);
        assert_eq!(WriteBatch::default().into_json(), b"[]");
    }
}

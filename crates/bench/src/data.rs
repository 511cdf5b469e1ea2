//! The data: the same for everyone, made from the number of a write alone.

use std::sync::LazyLock;

/// Keys are of 16 bytes.
pub const KEY_BYTES: usize = 16;

/// The collection, or the column of that name.
pub const COLLECTION: &str = "bench";

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many keys there are; later writes change what earlier ones stored.
    pub keys: u64,
    /// The length of a value, in bytes of JSON.
    pub value_bytes: usize,
    /// How many writes a request has.
    pub writes: u64,
}

impl Shape {
    /// Single writes of 200 bytes over a million keys.
    pub const SINGLE: Self = Self { keys: 1_000_000, value_bytes: 200, writes: 1 };

    /// The same with so many writes in a request.
    #[must_use]
    pub const fn with_writes(self, writes: u64) -> Self {
        Self { writes, ..self }
    }

    /// The keys and values of a request; values are JSON strings.
    pub fn rows(self, request: u64) -> impl Iterator<Item = (String, String)> {
        let first = request * self.writes;
        (first..first + self.writes).map(move |number| (self.key(number), self.value(number)))
    }

    /// The key of a write. Keys come in no order, and the first `keys` writes have one each.
    pub fn key(self, number: u64) -> String {
        // Odd, so that no two numbers have one key.
        format!("{:016x}", (number % self.keys).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// The value of a write: those of one length differ, and half of each is noise to a compressor. It costs the generator a copy.
    pub fn value(self, number: u64) -> String {
        let length = self.value_bytes.saturating_sub(2).min(NOISE_BYTES);
        let noise = mix(number);
        let mut value = String::with_capacity(self.value_bytes);
        value.push('"');
        let own = format!("{noise:016x}");
        value.push_str(&own[..own.len().min(length)]);
        let rest = length.saturating_sub(own.len());
        let start = usize::try_from(noise).unwrap_or_default() % (NOISE_BYTES - rest + 1);
        value.push_str(&NOISE[start..start + rest]);
        value.push('"');
        value
    }

    /// A request as the heart takes several writes.
    pub fn writes_body(self, request: u64) -> String {
        let mut body = String::with_capacity(self.body_capacity());
        body.push_str(r#"{"writes":["#);
        for (key, value) in self.rows(request) {
            let parts = [
                r#"{"op":"put","collection":""#,
                COLLECTION,
                r#"","key":""#,
                &key,
                r#"","value":"#,
                &value,
                "},",
            ];
            body.extend(parts);
        }
        body.pop();
        body.push_str("]}");
        body
    }

    /// A request as rqlite takes it: the same upserts.
    pub fn statements_body(self, request: u64) -> String {
        let mut body = String::with_capacity(self.body_capacity());
        body.push('[');
        for (key, value) in self.rows(request) {
            // The text of a value has the quotes that it has as JSON.
            let text = value.trim_matches('"');
            let parts = ["[\"", UPSERT, "\",\"", COLLECTION, "\",\"", &key, r#"","\""#, text, r#"\""],"#];
            body.extend(parts);
        }
        body.pop();
        body.push(']');
        body
    }

    fn body_capacity(self) -> usize {
        usize::try_from(self.writes).unwrap_or_default() * (self.value_bytes + 256)
    }
}

/// Values are cut out of this much noise.
const NOISE_BYTES: usize = 1 << 20;

static NOISE: LazyLock<String> = LazyLock::new(|| {
    let words: Vec<String> =
        (0..NOISE_BYTES as u64 / 16).map(|number| format!("{:016x}", mix(number))).collect();
    words.concat()
});

/// The upsert that a node does, of collection, key and value.
pub const UPSERT: &str = "INSERT INTO documents(collection, key, value) VALUES (?, ?, ?) \
     ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value";

/// A table like a node's.
pub const TABLE: &str = "CREATE TABLE documents(collection TEXT, key TEXT, value TEXT, \
     PRIMARY KEY (collection, key)) WITHOUT ROWID";

/// `splitmix64`: every number has another successor.
pub fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn keys_and_values_have_the_length_that_is_promised() {
        for value_bytes in [2, 3, 100, 200, 256 << 10] {
            let shape = Shape { value_bytes, ..Shape::SINGLE };
            for number in [0, 1, 999_999, u64::MAX - 1] {
                assert_eq!(shape.key(number).len(), KEY_BYTES);
                assert_eq!(shape.value(number).len(), value_bytes);
            }
        }
    }

    #[test]
    fn writes_after_the_last_key_change_the_first_ones_again() {
        let shape = Shape { keys: 100, ..Shape::SINGLE };
        let keys: BTreeSet<String> = (0..200).map(|number| shape.key(number)).collect();
        assert_eq!(keys.len(), 100);
        assert_eq!(shape.key(7), shape.key(107));
        assert_ne!(shape.value(7), shape.value(107));
    }

    #[test]
    fn both_forms_of_a_request_have_the_same_rows() {
        let shape = Shape::SINGLE.with_writes(3);
        let ours: Value = serde_json::from_str(&shape.writes_body(5)).unwrap();
        let theirs: Value = serde_json::from_str(&shape.statements_body(5)).unwrap();
        assert_eq!(theirs.as_array().unwrap().len(), 3);
        for (write, statement) in ours["writes"].as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
            assert_eq!(write["key"], statement[2]);
            assert_eq!(Value::String(write["value"].to_string()), statement[3]);
        }
    }
}

//! The one form of a value.

use serde_json::value::RawValue;

use super::{MAX_VALUE_BYTES, MAX_VALUE_DEPTH};

/// Removes white space between the tokens of valid JSON, so that equal values take equal bytes and a message is one
/// line of NDJSON; nothing when there is none. Numbers and strings stay as the client wrote them.
pub(super) fn compact(value: &RawValue) -> Result<Option<Box<RawValue>>, String> {
    let json = value.get();
    let mut out = String::new();
    let (mut index, mut kept_until, mut depth) = (0, 0, 0_usize);
    while let Some(byte) = json.as_bytes().get(index) {
        match byte {
            b'"' => index += string_length(&json.as_bytes()[index..]) - 1,
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
        index += 1;
    }
    let length = out.len() + json.len() - kept_until;
    if length > MAX_VALUE_BYTES {
        return Err(format!("{length} bytes of JSON; at most {MAX_VALUE_BYTES} are allowed"));
    }
    if kept_until == 0 {
        return Ok(None);
    }
    out.push_str(&json[kept_until..]);
    RawValue::from_string(out).map(Some).map_err(|error| error.to_string())
}

/// The length of the JSON string that valid JSON begins with, its quotes included.
fn string_length(json: &[u8]) -> usize {
    let ends = |byte: &u8| matches!(byte, b'"' | b'\\');
    let mut index = 1;
    loop {
        let rest = json.get(index..).unwrap_or_default();
        // Without a branch for each byte: most of a value is strings.
        let (blocks, _) = rest.as_chunks::<16>();
        let plain = blocks.iter().take_while(|block| !block.iter().fold(false, |end, byte| end | ends(byte)));
        index += plain.count() * 16;
        let Some(found) = json.get(index..).unwrap_or_default().iter().position(ends) else {
            return json.len();
        };
        index += found + 1;
        if json[index - 1] == b'"' {
            return index;
        }
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_ends_where_it_ends_whatever_its_length_and_escapes() {
        for length in 0..40 {
            for tail in ["", r#"\""#, r"\\", r"\\ \u0020", r#"\\\" \""#] {
                let string = format!("\"{}{tail}\"", " ".repeat(length));
                assert_eq!(string_length(format!("{string} \"\"").as_bytes()), string.len(), "{string}");
                let value = RawValue::from_string(format!("[{string},  {{{string}:\n{string}}}]")).unwrap();
                let compacted = compact(&value).unwrap().unwrap();
                assert_eq!(compacted.get(), format!("[{string},{{{string}:{string}}}]"));
                assert!(compact(&compacted).unwrap().is_none(), "{string}");
            }
        }
    }
}

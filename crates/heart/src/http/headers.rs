//! What the headers of a request say of its one write.

use axum::http::{HeaderMap, HeaderName, header};
use broadcast_protocol::write::Condition;
use broadcast_service::http::ApiError;

/// The header with the request id.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The request id.
pub(super) fn read_id(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = read_one(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    Ok(Some(value.to_owned()))
}

/// The precondition: that the row does not exist (`If-None-Match: *`), or that this write stored it
/// (`If-Match: "1041"`, which is the `ETag` that a node gives).
pub(super) fn read_condition(headers: &HeaderMap) -> Result<Option<Condition>, ApiError> {
    match (read_one(headers, &header::IF_NONE_MATCH)?, read_one(headers, &header::IF_MATCH)?) {
        (None, None) => Ok(None),
        (Some("*"), None) => Ok(Some(Condition::Absent)),
        (None, Some(tag)) => match read_tag(tag) {
            Some(seq) => Ok(Some(Condition::Seq(seq))),
            None => Err(refuse(&header::IF_MATCH, r#"the number of a write in quotes ("1041") is needed"#)),
        },
        (Some(_), None) => Err(refuse(&header::IF_NONE_MATCH, "only * is understood")),
        (Some(_), Some(_)) => Err(refuse(&header::IF_MATCH, "not together with If-None-Match")),
    }
}

fn read_tag(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn read_one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refuse(name, "more than one"));
    }
    std::str::from_utf8(value.as_bytes()).map(Some).map_err(|_| refuse(name, "not UTF-8"))
}

fn refuse(name: &HeaderName, problem: &str) -> ApiError {
    ApiError::bad_request("invalid_write", format!("header {name}: {problem}"))
}

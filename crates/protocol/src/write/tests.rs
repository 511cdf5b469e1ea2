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
        assert_eq!(encoded(&json), format!(r#"[{{"op":"put","collection":"c","key":"k","value":{kept}}}]"#));
    }
}

#[test]
fn an_invalid_write_is_named_with_its_place_and_what_is_allowed() {
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let cases = [
        (r#"{"op":"put","collection":"c","key":"k"}"#.to_owned(), "writes[0].value: missing"),
        (r#"{"op":"delete","collection":"c","key":"k","value":1}"#.to_owned(), "writes[0].value: a delete"),
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
            format!(r#"{{"op":"put","collection":"c","key":"k","value":"{}"}}"#, "v".repeat(MAX_VALUE_BYTES)),
            "at most 262144",
        ),
    ];
    for (write, message) in cases {
        let error = parse_request(format!("{{\"writes\":[{write}]}}").as_bytes()).unwrap_err().to_string();
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
    for (body, message) in [("{}", "missing field `writes`"), ("{\"writes\":[]}", "empty"), ("x", "line 1")] {
        assert!(parse_request(body.as_bytes()).unwrap_err().to_string().contains(message), "{body}");
    }
    let many = vec![good; MAX_WRITES + 1].join(",");
    let refused = parse_request(format!("{{\"writes\":[{many}]}}").as_bytes()).unwrap_err();
    assert!(refused.problem.contains("more than 10000"), "{refused}");
    let most = vec![good; MAX_WRITES].join(",");
    assert_eq!(parse_request(format!("{{\"writes\":[{most}]}}").as_bytes()).unwrap().len(), MAX_WRITES);
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

#[test]
fn a_condition_is_one_of_two_and_survives_its_json() {
    for (condition, parsed) in
        [(r#"{"absent":true}"#, Condition::Absent), (r#"{"seq":1041}"#, Condition::Seq(1041))]
    {
        let json =
            format!(r#"{{"op":"put","collection":"c","key":"k","value":1,"id":"r","if":{condition}}}"#);
        assert_eq!(Write::parse(&json, "write").unwrap().condition, Some(parsed));
        assert_eq!(encoded(&json), format!("[{json}]"));
    }
    for (condition, problem) in [
        ("null", "null"),
        ("{}", "either"),
        (r#"{"absent":false}"#, "either"),
        (r#"{"absent":true,"seq":1}"#, "either"),
        (r#"{"absent":null,"seq":null}"#, "either"),
        (r#"{"seq":0}"#, "1 to 9223372036854775807"),
        (r#"{"seq":9223372036854775808}"#, "1 to 9223372036854775807"),
        (r#"{"seq":-1}"#, "-1"),
        (r#"{"sequence":1}"#, "unknown field `sequence`"),
    ] {
        let json = format!(r#"{{"op":"put","collection":"c","key":"k","value":1,"if":{condition}}}"#);
        let error = Write::parse(&json, "writes[3]").unwrap_err();
        assert_eq!(error.place, "writes[3].if", "{condition}");
        assert!(error.problem.contains(problem), "{condition}: {error}");
    }
    let delete = |condition| format!(r#"{{"op":"delete","collection":"c","key":"k","if":{condition}}}"#);
    assert_eq!(Write::parse(&delete(r#"{"absent":true}"#), "w").unwrap_err().place, "w.if");
    assert!(Write::parse(&delete(r#"{"seq":1}"#), "w").is_ok());
}

#[test]
fn a_condition_holds_of_the_row_as_it_is() {
    for (condition, seq, holds) in [
        (Condition::Absent, None, true),
        (Condition::Absent, Some(1), false),
        (Condition::Seq(1), Some(1), true),
        (Condition::Seq(1), Some(2), false),
        (Condition::Seq(1), None, false),
    ] {
        assert_eq!(condition.holds(seq), holds, "{condition:?} {seq:?}");
    }
}

#[test]
fn a_fingerprint_is_of_everything_but_the_id() {
    let fingerprint = |json: &str| Write::parse(json, "write").unwrap().fingerprint();
    let writes = [
        r#"{"op":"put","collection":"ab","key":"c","value":1}"#,
        r#"{"op":"put","collection":"a","key":"bc","value":1}"#,
        r#"{"op":"put","collection":"ab","key":"c","value":2}"#,
        r#"{"op":"delete","collection":"ab","key":"c"}"#,
        r#"{"op":"put","collection":"ab","key":"c","value":1,"if":{"absent":true}}"#,
        r#"{"op":"put","collection":"ab","key":"c","value":1,"if":{"seq":1}}"#,
        r#"{"op":"put","collection":"ab","key":"c","value":1,"if":{"seq":2}}"#,
    ];
    let all: std::collections::HashSet<_> = writes.into_iter().map(fingerprint).collect();
    assert_eq!(all.len(), writes.len());
    let with_id = r#"{"op":"put","collection":"ab","key":"c","value": 1,"id":"r"}"#;
    assert_eq!(fingerprint(with_id), fingerprint(writes[0]));
    // Part of the protocol: never another one.
    assert_eq!(fingerprint(writes[0]).to_string(), "81e4b4882931844e30327316497df22a");
}

#[test]
fn a_fingerprint_survives_its_text_and_refuses_any_other() {
    let fingerprint = Fingerprint::of_id("r");
    assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    assert_eq!(Fingerprint::from_bytes(fingerprint.bytes()), fingerprint);
    for text in ["", "0", &"g".repeat(32), &"+".repeat(32), &"0".repeat(33)] {
        assert_eq!(text.parse::<Fingerprint>(), Err(NotAFingerprint), "{text}");
    }
}

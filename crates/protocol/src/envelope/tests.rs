use proptest::prelude::*;

use super::*;

const CLUSTER: &str = "c1";

fn batch(count: usize) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for key in 0..count {
        let json = format!(r#"{{"op":"put","collection":"users","key":"{key}","value":{{"n":{key}}}}}"#);
        batch.push(&Write::parse(&json, "write").unwrap());
    }
    batch
}

fn term(epoch: u64) -> Term {
    Term::new(epoch, 5)
}

fn message(count: usize) -> WriteMessage {
    WriteMessage::new(CLUSTER, term(7), Position::genesis(CLUSTER), 1_700_000_000_000, batch(count))
}

fn decode(body: &str) -> Result<Message, DecodeError> {
    Message::decode(CLUSTER, &Bytes::copy_from_slice(body.as_bytes()))
}

#[test]
fn what_is_kept_without_its_decoded_writes_still_says_them() {
    let sent = message(3);
    let Ok(Message::Link(Link::Write(received))) = Message::decode(CLUSTER, sent.body()) else { panic!() };
    assert!(received.decoded.is_some());
    let kept = received.without_decoded();
    assert!(kept.decoded.is_none());
    let keys = |message: &WriteMessage| -> Vec<String> {
        message.writes().unwrap().iter().map(|write| write.key.clone()).collect()
    };
    assert_eq!(keys(&kept), keys(&sent));
}

#[test]
fn a_write_message_survives_the_wire() {
    let sent = message(3);
    let Ok(Message::Link(Link::Write(read))) = Message::decode(CLUSTER, sent.body()) else {
        panic!("no write message")
    };
    assert_eq!((read.term, read.first, read.at), (term(7), 1, sent.at));
    assert_eq!((read.previous, read.position), (sent.previous, sent.position));
    assert_eq!(read.position.last, 3);
    assert_eq!(read.writes().unwrap().len(), 3);
    assert_eq!(Message::from(read).id(), "7.1");
}

#[test]
fn a_message_of_the_next_reign_has_the_same_hash() {
    let again = message(2).with_term(term(8));
    let Ok(Message::Link(Link::Write(read))) = Message::decode(CLUSTER, again.body()) else {
        panic!("no write message")
    };
    assert_eq!((read.term, read.position), (term(8), message(2).position));
}

#[test]
fn what_was_cut_travels_with_writes_and_marks() {
    let term = Term { cut: Cut { epoch: 6, last: 3 }, ..term(7) };
    let write = Link::Write(message(2)).with_term(term);
    let mark = Link::Mark(Mark::genesis(CLUSTER, 0)).with_term(term);
    for link in [write, mark] {
        let body = Message::Link(link).body();
        let Ok(Message::Link(read)) = Message::decode(CLUSTER, &body) else { panic!("no link") };
        assert_eq!(read.term(), term);
        let beyond =
            String::from_utf8(body.to_vec()).unwrap().replace("\"last\":3}", "\"last\":9223372036854775808}");
        assert!(Message::decode(CLUSTER, &beyond.into()).unwrap_err().to_string().contains("cut"));
    }
}

#[test]
fn a_mark_survives_the_wire() {
    let mark = Mark {
        cluster: CLUSTER.to_owned(),
        term: term(7),
        position: message(2).position,
        at: 5,
        digest: None,
    };
    let Ok(Message::Link(Link::Mark(read))) = Message::decode(CLUSTER, &mark.body()) else {
        panic!("no mark")
    };
    assert_eq!(read, mark);
    assert!(!String::from_utf8_lossy(&mark.body()).contains("cut"), "nothing was");
    assert_eq!(Mark::genesis(CLUSTER, 0).position, Position::genesis(CLUSTER));
}

#[test]
fn every_kind_of_malformed_message_is_told_apart() {
    let good = String::from_utf8(message(1).body().to_vec()).unwrap();
    let cases = [
        ("", "not a message: EOF"),
        ("hello", "not a message: expected value"),
        ("{}", "missing field `v`"),
        ("[]", "not a message"),
        (&good.replace("\"v\":1", "\"v\":2"), "envelope version 2; this node"),
        (&good.replace("\"v\":1", "\"v\":2,\"later\":true"), "envelope version 2; this node"),
        (&good.replace("\"v\":1", "\"v\":0"), "envelope version 0; 1 is the lowest"),
        (&good.replace("\"cluster\":\"c1\"", "\"cluster\":\"c2\""), "of cluster \"c2\""),
        (&good.replace("\"v\":1,\"cluster\":\"c1\"", "\"v\":2,\"cluster\":\"c2\""), "of cluster \"c2\""),
        (&good.replace("\"key\":\"0\"", "\"key\":\"9\""), "the hash does not match"),
        (&good.replace("\"first\":1", "\"first\":0"), "1 is the lowest"),
        (&good.replace("\"first\":1", "\"first\":9223372036854775807"), "1 is the lowest"),
        (&good.replace("\"epoch\":7", "\"epoch\":9223372036854775808"), "at most 9223372036854775807"),
        (&good.replace("\"at\":1700000000000", "\"at\":9223372036854775808"), "at most 9223372036854775807"),
        (&good.replace("\"epoch\":7", "\"epoch\":-7"), "not a message: invalid value"),
        (&good.replace("\"first\":1", "\"last\":1"), "neither reign"),
        (&good.replace("\"epoch\"", "\"epoque\""), "unknown field `epoque`"),
        (&good[..good.len() - 1], "not a message: EOF"),
    ];
    for (body, problem) in cases {
        let error = decode(body).unwrap_err().to_string();
        assert!(error.contains(problem), "{body}\n{error}\nexpected: {problem}");
    }
}

#[test]
fn a_message_with_a_right_hash_but_an_invalid_or_no_write_is_refused() {
    for (writes, problem) in [
        ("[]", "writes: empty"),
        ("{}", "writes: invalid type"),
        (r#"[{"op":"put","collection":"UP","key":"1","value":1}]"#, "writes[0].collection"),
    ] {
        let hash = ChainHash::genesis(CLUSTER).next(writes.as_bytes());
        let prev = ChainHash::genesis(CLUSTER);
        let body = format!(
            r#"{{"v":1,"cluster":"c1","epoch":1,"reign":5,"first":1,"prev":"{prev}","hash":"{hash}","at":0,"writes":{writes}}}"#
        );
        let error = decode(&body).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn a_message_over_the_size_limit_is_refused_unread() {
    let error = Message::decode(CLUSTER, &Bytes::from(vec![b' '; MAX_MESSAGE_BYTES + 1])).unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Message::decode(CLUSTER, &Bytes::from(bytes)).is_err());
    }

    /// Any change of a message is refused, or is one of the fields that the hash does not cover.
    #[test]
    fn a_changed_byte_never_changes_the_writes(count in 1_usize..5, place: prop::sample::Index, byte: u8) {
        let sent = message(count);
        let mut bytes = sent.body().to_vec();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(Message::Link(Link::Write(read))) = Message::decode(CLUSTER, &Bytes::from(bytes)) {
            prop_assert_eq!(read.position.hash, sent.position.hash);
            prop_assert_eq!(read.writes, sent.writes);
        }
    }

    /// Pieces of real messages in any order: closer to what a confused publisher sends than random bytes.
    #[test]
    fn no_mixture_of_pieces_panics_the_decoder(cuts in proptest::collection::vec((0_usize..400, 0_usize..400), 0..8)) {
        let source = [message(2).body().to_vec(), Mark::genesis(CLUSTER, 1).body().to_vec()].concat();
        let mut bytes = Vec::new();
        for (start, end) in cuts {
            let (start, end) = (start.min(source.len()), end.min(source.len()));
            bytes.extend_from_slice(source.get(start..end).unwrap_or_default());
        }
        let _ = Message::decode(CLUSTER, &Bytes::from(bytes));
    }

    #[test]
    fn any_valid_write_survives_the_wire(key in "\\PC{1,40}", value in "\\PC{0,60}", id in proptest::option::of("[a-z0-9-]{1,20}")) {
        let json = serde_json::json!({"op": "put", "collection": "c", "key": key, "value": value});
        let mut object = json.as_object().unwrap().clone();
        if let Some(id) = &id { object.insert("id".into(), id.as_str().into()); }
        let write = Write::parse(&serde_json::to_string(&object).unwrap(), "write").unwrap();
        let mut batch = WriteBatch::default();
        batch.push(&write);
        let sent = WriteMessage::new(CLUSTER, term(1), Position::genesis(CLUSTER), 0, batch);
        let Ok(Message::Link(Link::Write(read))) = Message::decode(CLUSTER, sent.body()) else { panic!("refused") };
        let writes = read.writes().unwrap();
        prop_assert_eq!(&writes[0].key, &key);
        prop_assert_eq!(&writes[0].id, &id);
        let crate::write::Operation::Put(stored) = &writes[0].operation else { panic!("not a put") };
        prop_assert_eq!(serde_json::from_str::<String>(stored.get()).unwrap(), value);
    }
}

#[test]
fn a_seal_survives_the_wire_and_is_no_link() {
    let seal = Seal { cluster: CLUSTER.to_owned(), epoch: 7, nonce: u64::MAX, number: 3, at: 5 };
    let Ok(Message::Seal(read)) = Message::decode(CLUSTER, &seal.body()) else { panic!("no seal") };
    assert_eq!(read, seal);
    let text = String::from_utf8(seal.body().to_vec()).unwrap();
    assert!(decode(&text.replace("\"number\":3", "\"last\":3")).unwrap_err().to_string().contains("neither"));
}

use super::*;
use crate::outcome::REQUEST_ID_WINDOW;

const CLUSTER: &str = "test";

const ROWS: [(&str, &str, u64, &str); 4] = [
    ("a", "1", 3, r#"{"n":1.50}"#),
    ("a", "10", 7, "null"),
    ("a", "ü\n\"", 1, "\"x y\""),
    ("b", "1", 2, "[]"),
];

fn request(seq: u64, rejection: Option<Rejection>) -> SnapshotRequest {
    let id = Fingerprint::of_id(&seq.to_string());
    SnapshotRequest { seq, id, content: Fingerprint::of_id("content"), rejection }
}

fn requests() -> [SnapshotRequest; 2] {
    [request(3, None), request(5, Some(Rejection::PreconditionFailed))]
}

fn header() -> SnapshotHeader {
    let mut digest = Digest::default();
    for (collection, key, seq, value) in ROWS {
        digest.add(collection, key, value, seq);
    }
    let hash = ChainHash::genesis("any");
    let (v, cluster) = (VERSION, CLUSTER.to_owned());
    let cut = Cut { epoch: 2, last: 5 };
    SnapshotHeader { v, cluster, last: 7, hash, epoch: 2, cut, at: 1_000, digest, rows: 4, requests: 2 }
}

fn snapshot(header: &SnapshotHeader) -> Vec<u8> {
    let mut writer = SnapshotWriter::begin(header, Vec::new()).unwrap();
    for (collection, key, seq, value) in ROWS {
        writer.row(collection, key, seq, value).unwrap();
    }
    for request in requests() {
        writer.request(&request).unwrap();
    }
    writer.end().unwrap()
}

fn compressed(lines: &str) -> Vec<u8> {
    let mut frame = FrameEncoder::new(Vec::new());
    io::Write::write_all(&mut frame, lines.as_bytes()).unwrap();
    frame.finish().unwrap()
}

/// These lines and the end that they need.
fn ended(lines: &[String]) -> Vec<u8> {
    let lines = lines.join("\n") + "\n";
    compressed(&format!("{lines}{{\"end\":\"{}\"}}\n", blake3::hash(lines.as_bytes())))
}

type Parts = (SnapshotHeader, Vec<(String, String, u64, String)>, Vec<SnapshotRequest>);

fn read(stream: &[u8]) -> Result<Parts, SnapshotError> {
    let mut reader = SnapshotReader::open(CLUSTER, stream)?;
    let (mut rows, mut requests) = (Vec::new(), Vec::new());
    while let Some(entry) = reader.next_entry()? {
        match entry {
            SnapshotEntry::Row(row) => {
                rows.push((row.collection, row.key, row.seq, row.value.get().to_owned()));
            }
            SnapshotEntry::Request(request) => requests.push(request),
        }
    }
    Ok((reader.header().clone(), rows, requests))
}

#[test]
fn what_was_written_is_read() {
    let rows = ROWS
        .map(|(collection, key, seq, value)| (collection.to_owned(), key.to_owned(), seq, value.to_owned()));
    assert_eq!(read(&snapshot(&header())), Ok((header(), rows.to_vec(), requests().to_vec())));
    let position = Position { last: 7, hash: ChainHash::genesis("any") };
    assert_eq!(header().applied(), Applied { position, epoch: header().epoch, cut: header().cut });
}

#[test]
fn whatever_is_cut_off_changed_or_appended_is_noticed() {
    let whole = snapshot(&header());
    let parts = read(&whole);
    // The frame's end mark carries nothing.
    for length in 0..whole.len() - 4 {
        assert!(read(&whole[..length]).is_err(), "cut at {length}");
    }
    for index in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[index] ^= 1 << bit;
            let found = read(&changed);
            // What is compressed may say the same in another way.
            assert!(found.is_err() || found == parts, "bit {bit} of byte {index}");
        }
    }
    for rest in [b"\0".as_slice(), b"rest", &whole, &whole[..4], &compressed(""), &compressed("\n")] {
        let longer = [whole.as_slice(), rest].concat();
        assert!(read(&longer).is_err(), "{} bytes more", rest.len());
    }
}

#[test]
fn what_a_snapshot_is_of_is_checked_first() {
    let of_other = read(&snapshot(&SnapshotHeader { cluster: "other".to_owned(), ..header() })).unwrap_err();
    assert_eq!(of_other.to_string(), "snapshot of cluster \"other\", not of \"test\"");
    let newer = compressed("{\"v\":2,\"cluster\":\"test\",\"what\":\"ever\"}\n");
    assert_eq!(read(&newer).unwrap_err(), SnapshotError::NewerVersion(2));
    for (header, problem) in [
        (SnapshotHeader { v: 0, ..header() }, "version 0; 1 is the lowest"),
        (SnapshotHeader { last: u64::MAX, ..header() }, "at most 9223372036854775807"),
        (SnapshotHeader { digest: Digest::default(), ..header() }, "digest of rows"),
        (SnapshotHeader { rows: 3, ..header() }, "line 5 of the snapshot"),
        (SnapshotHeader { rows: 5, ..header() }, "line 6 of the snapshot"),
        (SnapshotHeader { requests: 1, ..header() }, "line 7 of the snapshot"),
        (SnapshotHeader { requests: 3, ..header() }, "line 8 of the snapshot"),
    ] {
        let error = read(&snapshot(&header)).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}\n{problem}");
    }
}

#[test]
fn a_line_that_no_database_can_hold_is_refused() {
    let row = |collection: &str, key: &str, seq: u64, value: &str| {
        format!(r#"{{"collection":"{collection}","key":"{key}","seq":{seq},"value":{value}}}"#)
    };
    let json = |seq, rejection| serde_json::to_string(&request(seq, rejection)).unwrap();
    let header = |last, rows, requests| {
        serde_json::to_string(&SnapshotHeader { last, rows, requests, ..header() }).unwrap()
    };
    let long = "x".repeat(MAX_LINE_BYTES);
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let window = REQUEST_ID_WINDOW;
    for (lines, problem) in [
        (
            vec![header(7, 2, 0), row("a", "2", 1, "1"), row("a", "1", 2, "1")],
            "line 3 of the snapshot: the row a/1",
        ),
        (vec![header(7, 2, 0), row("b", "1", 1, "1"), row("a", "2", 2, "1")], "the row a/2 is not after"),
        (vec![header(7, 2, 0), row("a", "1", 1, "1"), row("a", "1", 2, "1")], "the row a/1 is not after"),
        (vec![header(7, 1, 0), row("A", "1", 1, "1")], "line 2 of the snapshot: row.collection"),
        (vec![header(7, 1, 0), row("a", "", 1, "1")], "row.key: empty"),
        (vec![header(7, 1, 0), row("a", "1", 1, &deep)], "deeper than 128"),
        (vec![header(7, 1, 0), row("a", "1", 0, "1")], "seq is 0; 1 to 7"),
        (vec![header(7, 1, 0), row("a", "1", 8, "1")], "seq is 8; 1 to 7"),
        (vec![header(7, 1, 0), row("a", "1", 1, "{")], "line 2 of the snapshot: EOF"),
        (vec![header(7, 1, 0), row("a", "1", 1, &format!("\"{long}\""))], "longer than"),
        (
            vec![header(7, 1, 0), r#"{"collection":"a","key":"1","seq":1}"#.to_owned()],
            "missing field `value`",
        ),
        (vec![header(7, 0, 2), json(2, None), json(2, None)], "request 2 is not after"),
        (vec![header(7, 0, 1), json(8, None)], "seq is 8"),
        (vec![header(7 + window, 0, 1), json(7, None)], "too old"),
        (vec![header(7, 0, 1), json(1, Some(Rejection::IdReused))], "cannot have reused"),
        (vec![header(7, 0, 1), r#"{"seq":1,"id":"0","content":"0"}"#.to_owned()], "32 hex digits"),
        (vec![header(7, 0, 1), "{}".to_owned()], "missing field `seq`"),
        (vec!["{}".to_owned()], "line 1 of the snapshot: missing field `v`"),
    ] {
        let error = read(&ended(&lines)).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}\n{problem}");
    }
}

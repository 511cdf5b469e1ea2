use broadcast_protocol::chain::Position;
use broadcast_protocol::outcome::{REQUEST_ID_WINDOW, Rejected, Rejection};
use proptest::prelude::*;
use rusqlite::params;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::read::Reader;
use super::*;
use crate::testing::{CLUSTER, History, delete, put, put_with_id, with};

const LOG_BYTES: u64 = 1 << 20;

pub(super) fn open(directory: &TempDir) -> Store {
    Store::open(directory.path(), CLUSTER, LOG_BYTES).unwrap()
}

pub(super) fn new_store() -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    (directory, store)
}

fn read<T>(store: &mut Store, question: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>) -> T {
    question(&Reader::of(&mut store.connection).unwrap()).unwrap()
}

/// Where readers see the database.
#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method is not general enough for any lifetime"
)]
pub(super) async fn committed_as_read(readers: &Readers) -> Committed {
    readers.read(|reader| reader.committed()).await.unwrap()
}

fn value(store: &mut Store, key: &str) -> Option<(String, u64)> {
    read(store, |reader| reader.document("c", key)).map(|document| (document.value, document.seq))
}

/// Whether what is maintained row by row is what the rows give.
pub(super) fn assert_consistent(store: &mut Store) {
    let committed = store.committed().unwrap();
    let stop = CancellationToken::new();
    let (scrub, counts) = read(store, |reader| Ok((reader.scrub(&stop)?, reader.collections()?)));
    assert!(scrub.is_sound(), "{scrub:?}");
    assert_eq!(scrub.committed, committed);
    let mut found = Vec::new();
    let mut statement =
        store.connection.prepare("SELECT collection, count(*) FROM documents GROUP BY 1 ORDER BY 1").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        found.push(CollectionCount { name: row.get(0).unwrap(), rows: row.get(1).unwrap() });
    }
    assert_eq!(counts, found);
}

#[test]
fn rows_and_position_survive_a_restart_together() {
    let (directory, mut store) = new_store();
    let mut history = History { epoch: 7, ..History::default() };
    let messages = [
        history.message(&[put("c", "a", "1.50"), put("c", "b", "null")]),
        history.message(&[put("c", "a", "[2]"), delete("c", "b"), delete("c", "never"), put("d", "x", "{}")]),
    ];
    let committed = store.apply(&messages).unwrap().committed;
    assert_eq!((committed.applied.position, committed.applied.epoch), (history.position, 7));
    assert_eq!((committed.rows, committed.at), (2, 1_000));
    drop(store);
    let mut store = open(&directory);
    assert_eq!(store.committed().unwrap(), committed);
    assert_eq!(value(&mut store, "a"), Some(("[2]".to_owned(), 3)));
    assert_eq!(value(&mut store, "b"), None);
    assert_consistent(&mut store);
}

#[test]
fn a_transaction_that_fails_in_the_middle_changes_nothing() {
    let (_directory, mut store) = new_store();
    let mut history = History::default();
    let before = store.apply(&history.puts(3)).unwrap().committed;
    let mut messages = history.puts(2);
    let mut elsewhere = History { position: Position { last: 9, ..history.position }, epoch: 1 };
    messages.extend(elsewhere.puts(1));
    let error = store.apply(&messages).unwrap_err();
    assert!(matches!(error, StoreError::BrokenLink { applied: 5, found: 9 }), "{error}");
    assert_eq!(store.committed().unwrap(), before);
    assert_consistent(&mut store);
}

#[test]
fn a_process_that_dies_in_a_transaction_leaves_the_last_one_whole() {
    let (directory, mut store) = new_store();
    let mut history = History::default();
    let before = store.apply(&history.puts(3)).unwrap().committed;
    // What a crash leaves: the files as they are while a transaction is under way.
    store
        .connection
        .execute_batch("BEGIN IMMEDIATE; DELETE FROM documents; UPDATE _broadcast_state SET last = 99")
        .unwrap();
    let copy = TempDir::new().unwrap();
    for name in [FILE_NAME.to_owned(), format!("{FILE_NAME}-wal")] {
        std::fs::copy(directory.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let mut recovered = open(&copy);
    assert_eq!(recovered.committed().unwrap(), before);
    assert_consistent(&mut recovered);
}

#[test]
fn a_write_changes_the_row_only_if_its_condition_holds_and_the_message_goes_on() {
    let (_directory, mut store) = new_store();
    let mut history = History::default();
    let put_if = |value: &str, condition: &str| with(&put("c", "a", value), "if", condition);
    let (absent, seq_1) = (r#"{"absent":true}"#, r#"{"seq":1}"#);
    let messages = [
        history.message(&[put_if("1", absent), put_if("2", absent), put_if("3", seq_1), put_if("4", seq_1)]),
        history.message(&[
            with(&delete("c", "a"), "if", seq_1),
            put("c", "b", "5"),
            with(&delete("c", "a"), "if", r#"{"seq":3}"#),
            put_if("8", seq_1),
            put_if("9", absent),
        ]),
    ];
    let applied = store.apply(&messages).unwrap();
    let failed = [2, 4, 5, 8].map(|seq| Rejected { seq, reason: Rejection::PreconditionFailed });
    assert_eq!((applied.rejected.as_slice(), applied.committed.applied.position.last), (&failed[..], 9));
    assert_eq!(value(&mut store, "a"), Some(("9".to_owned(), 9)));
    assert_eq!(value(&mut store, "b"), Some(("5".to_owned(), 6)));
    assert_consistent(&mut store);
}

#[test]
fn a_write_whose_request_id_was_seen_changes_nothing_and_has_the_first_ones_outcome() {
    let (directory, mut store) = new_store();
    let mut history = History::default();
    let first = put_with_id("c", "a", "1", "r1");
    let failing = with(&put_with_id("c", "b", "1", "r2"), "if", r#"{"seq":99}"#);
    let writes = [
        first.clone(),
        first.clone(),
        failing.clone(),
        put("c", "b", "0"),
        // The condition would not hold later either, or would: what counts is the first time.
        failing.clone(),
        put_with_id("c", "a", "2", "r1"),
        put_with_id("c", "b", "1", "r2"),
        put_with_id("c", "a", "3", "r3"),
    ];
    let applied = store.apply(&[history.message(&writes)]).unwrap();
    let rejected = |rejected: &[(u64, Rejection)]| -> Vec<Rejected> {
        rejected.iter().map(|&(seq, reason)| Rejected { seq, reason }).collect()
    };
    let (failed, reused) = (Rejection::PreconditionFailed, Rejection::IdReused);
    assert_eq!(applied.rejected, rejected(&[(3, failed), (5, failed), (6, reused), (7, reused)]));
    assert_eq!(value(&mut store, "a"), Some(("3".to_owned(), 8)));
    assert_eq!(value(&mut store, "b"), Some(("0".to_owned(), 4)));
    drop(store);
    let mut store = open(&directory);
    let applied = store.apply(&[history.message(&[first, failing])]).unwrap();
    assert_eq!(applied.rejected, rejected(&[(10, failed)]));
    assert_eq!(value(&mut store, "a"), Some(("3".to_owned(), 8)));
    assert_consistent(&mut store);
}

#[test]
fn a_request_id_is_remembered_for_exactly_the_window() {
    for (distance, is_applied) in [(REQUEST_ID_WINDOW - 1, false), (REQUEST_ID_WINDOW, true)] {
        let (_directory, mut store) = new_store();
        let mut history = History::default();
        store.apply(&[history.message(&[put_with_id("c", "a", "1", "r")])]).unwrap();
        // The history between them, without making a million writes.
        history.position.last = distance;
        store.connection.execute("UPDATE _broadcast_state SET last = ?", [distance]).unwrap();
        let rejected = store.apply(&[history.message(&[put_with_id("c", "a", "2", "r")])]).unwrap().rejected;
        assert_eq!(rejected.is_empty(), is_applied, "{distance}");
        let expected = if is_applied { ("2".to_owned(), distance + 1) } else { ("1".to_owned(), 1) };
        assert_eq!(value(&mut store, "a"), Some(expected), "{distance}");
        // Forgotten when it can no longer matter, not before.
        store.connection.execute("UPDATE _broadcast_state SET last = ?", [distance * 2 + 1]).unwrap();
        history.position.last = distance * 2 + 1;
        store.apply(&[history.message(&[put("c", "z", "1")])]).unwrap();
        let kept: u64 = store
            .connection
            .query_row("SELECT count(*) FROM _broadcast_requests", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, 0, "{distance}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_maintained_digest_and_counts_are_those_of_the_rows(
        messages in prop::collection::vec(
            prop::collection::vec((0..3_u8, 0..4_u8, 0..3_u8, prop::option::of(0..4_u8), 0..8_u8), 1..5),
            1..12,
        ),
        split in 0..12_usize,
    ) {
        let mut history = History::default();
        let messages: Vec<_> = messages
            .into_iter()
            .map(|writes| {
                let writes: Vec<String> = writes
                    .into_iter()
                    .map(|(collection, key, value, id, condition)| {
                        let (collection, key) = (format!("c{collection}"), format!("k{key}"));
                        let write = match value {
                            0 => delete(&collection, &key),
                            value => put(&collection, &key, &value.to_string()),
                        };
                        let write = id.map_or(write.clone(), |id| with(&write, "id", &format!("\"{id}\"")));
                        match condition {
                            0 if value > 0 => with(&write, "if", r#"{"absent":true}"#),
                            seq @ 1..5 => with(&write, "if", &format!("{{\"seq\":{seq}}}")),
                            _ => write,
                        }
                    })
                    .collect();
                history.message(&writes)
            })
            .collect();
        // How the messages are grouped into transactions must not matter.
        let (_one_directory, mut one) = new_store();
        let applied = one.apply(&messages).unwrap();
        assert_consistent(&mut one);
        let (_two_directory, mut two) = new_store();
        let (first, rest) = messages.split_at(split.min(messages.len()));
        let mut rejected = two.apply(first).unwrap().rejected;
        let rest = two.apply(rest).unwrap();
        rejected.extend(rest.rejected);
        prop_assert_eq!((rest.committed, rejected), (applied.committed, applied.rejected));
        assert_consistent(&mut two);
    }
}

#[test]
fn opening_the_file_ends_the_writing_of_whoever_had_it_open() {
    let (directory, mut first) = new_store();
    let mut history = History::default();
    first.apply(&history.puts(1)).unwrap();
    first.probe().unwrap();
    let mut second = open(&directory);
    let messages = history.puts(1);
    assert!(matches!(first.apply(&messages), Err(StoreError::TakenOver { .. })));
    assert!(matches!(first.probe(), Err(StoreError::TakenOver { .. })));
    assert!(
        matches!(first.committed(), Err(StoreError::TakenOver { .. })),
        "it is not where this one left it"
    );
    second.apply(&messages).unwrap();
    assert_consistent(&mut second);
}

#[test]
fn a_file_that_is_not_this_nodes_is_refused_and_not_touched() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE_NAME);
    let refused = |message: &str| {
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(directory.path(), CLUSTER, LOG_BYTES).unwrap_err();
        assert!(error.is_refusal(), "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{message}");
    };
    std::fs::write(&path, "certainly not a database".repeat(100)).unwrap();
    refused("not a database");

    std::fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs(x)").unwrap();
    refused("not of a node");

    std::fs::remove_file(&path).unwrap();
    drop(Store::open(directory.path(), "another", LOG_BYTES).unwrap());
    refused("the database of cluster \"another\", this node is configured for \"test\"");

    std::fs::remove_file(&path).unwrap();
    let store = Store::open(directory.path(), CLUSTER, LOG_BYTES).unwrap();
    store.connection.execute("UPDATE _broadcast_state SET schema = 2", []).unwrap();
    drop(store);
    refused("schema version 2, this node knows versions up to 1");
}

#[test]
fn a_database_that_is_full_locked_or_read_only_fails_without_harm_and_recovers() {
    let (directory, mut store) = new_store();
    let mut history = History::default();
    let before = store.apply(&history.puts(1)).unwrap().committed;
    let value = format!("\"{}\"", "v".repeat(200_000));
    let message = [history.message(&[put("c", "large", &value)])];
    store.connection.busy_timeout(Duration::ZERO).unwrap();
    let other = Connection::open(directory.path().join(FILE_NAME)).unwrap();

    let pages: u32 = store.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    let set = |store: &Store, name, value: u32| store.connection.pragma_update(None, name, value).unwrap();
    for (name, code) in [
        ("full", ErrorCode::DiskFull),
        ("locked", ErrorCode::DatabaseBusy),
        ("read-only", ErrorCode::ReadOnly),
    ] {
        match name {
            "full" => set(&store, "max_page_count", pages),
            "locked" => other.execute_batch("BEGIN IMMEDIATE").unwrap(),
            _ => set(&store, "query_only", 1),
        }
        match store.apply(&message) {
            Err(StoreError::Sqlite(error)) => assert_eq!(error.sqlite_error_code(), Some(code), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        // What is full may have room for the little that a probe writes.
        assert_eq!(store.probe().is_err(), name != "full", "{name}");
        match name {
            "full" => set(&store, "max_page_count", 1_000_000),
            "locked" => other.execute_batch("ROLLBACK").unwrap(),
            _ => set(&store, "query_only", 0),
        }
        store.probe().unwrap();
        assert_eq!(store.committed().unwrap(), before, "{name}");
    }
    store.apply(&message).unwrap();
    assert_consistent(&mut store);
}

#[test]
fn the_documents_table_is_what_people_query() {
    let (_directory, mut store) = new_store();
    let mut history = History::default();
    store.apply(&[history.message(&[put("users", "42", r#"{"name":"Ada"}"#)])]).unwrap();
    let name: String = store
        .connection
        .query_row(
            "SELECT json_extract(value, '$.name') FROM documents WHERE collection = ?1 AND key = ?2 AND seq = ?3",
            params!["users", "42", 1],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(name, "Ada");
    let tables: u64 = store
        .connection
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_broadcast\\_%' ESCAPE '\\'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn readers_see_what_is_committed_while_a_transaction_is_under_way() {
    let (_directory, mut store) = new_store();
    let mut history = History::default();
    store.apply(&history.puts(3)).unwrap();
    let readers = store.readers();
    store.connection.execute_batch("BEGIN IMMEDIATE; DELETE FROM documents").unwrap();
    for _ in 0..8 {
        let page = readers.read(|reader| reader.list("c", "", None, 10)).await.unwrap();
        assert_eq!((page.items.len(), page.position), (3, 3));
    }
}

mod log;

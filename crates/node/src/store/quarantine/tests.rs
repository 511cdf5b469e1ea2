use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::store::Committed;
use crate::store::tests::{assert_consistent, committed_as_read, new_store, open};
use crate::testing::{CLUSTER, History};

fn names(directory: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn rows_put_aside(directory: &TempDir) -> u64 {
    let aside = Connection::open(directory.path().join(QUARANTINED_NAME)).unwrap();
    aside.query_row("SELECT count(*) FROM documents", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_database_is_put_aside_and_everyone_goes_on_with_an_empty_one() {
    let (directory, mut store) = new_store();
    let readers = store.readers();
    let last = async || committed_as_read(&readers).await.applied.position.last;
    for rows in [3, 5] {
        let messages = History::default().puts(rows + 1);
        store.apply(&messages[..1]).unwrap();
        // Somebody reads all the while, and ends when another file is in use.
        let in_use = readers.connect().unwrap();
        in_use.execute_batch("BEGIN; SELECT * FROM documents LIMIT 1").unwrap();
        store.apply(&messages[1..]).unwrap();
        assert_eq!(last().await, rows + 1);
        store.quarantine().unwrap();
        assert_eq!(store.committed().unwrap(), Committed::nothing(CLUSTER));
        assert_eq!(last().await, 0);
        store.apply(&History::default().puts(1)).unwrap();
        drop(in_use);
        assert_eq!(last().await, 1);
        assert_consistent(&mut store);
        // One is kept, with all that was in it.
        assert_eq!(rows_put_aside(&directory), rows + 1);
        store.quarantine().unwrap();
        assert_eq!(rows_put_aside(&directory), 1);
    }
    store.apply(&History::default().puts(2)).unwrap();
    drop(store);
    assert_eq!(open(&directory).committed().unwrap().applied.position.last, 2);
}

#[test]
fn a_write_ahead_log_is_never_applied_to_another_file() {
    let (directory, mut store) = new_store();
    store.apply(&History::default().puts(3)).unwrap();
    // What a crash between the renames leaves: a log beside no database.
    let copy = TempDir::new().unwrap();
    let wal = format!("{FILE_NAME}-wal");
    std::fs::copy(directory.path().join(&wal), copy.path().join(&wal)).unwrap();
    assert!(std::fs::metadata(copy.path().join(&wal)).unwrap().len() > 0);
    let mut recovered = open(&copy);
    assert_eq!(recovered.committed().unwrap(), Committed::nothing(CLUSTER));
    assert_consistent(&mut recovered);
}

#[test]
fn a_quarantine_that_failed_half_way_is_completed_by_the_next_probe() {
    let (directory, mut store) = new_store();
    store.apply(&History::default().puts(3)).unwrap();
    put_aside(&store.path).unwrap();
    assert!(store.apply(&History::default().puts(1)).is_err());
    store.probe().unwrap();
    assert_eq!(store.committed().unwrap(), Committed::nothing(CLUSTER));
    store.apply(&History::default().puts(1)).unwrap();
    assert_eq!(rows_put_aside(&directory), 3);
}

#[test]
fn a_damaged_file_is_told_apart_from_one_that_is_refused_and_can_be_put_aside() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE_NAME);
    let refused = || Store::open(directory.path(), CLUSTER, 0).unwrap_err();
    drop(Store::open(directory.path(), "another", 0).unwrap());
    assert!(refused().is_refusal() && !refused().is_damage());

    std::fs::remove_file(&path).unwrap();
    drop(open(&directory));
    Connection::open(&path).unwrap().execute("UPDATE _broadcast_state SET hash = 'none'", []).unwrap();
    assert!(open(&directory).committed().unwrap_err().is_damage());
    Connection::open(&path).unwrap().execute("DELETE FROM _broadcast_state", []).unwrap();
    assert!(refused().is_damage());
    let header = std::fs::read(&path).unwrap();
    std::fs::write(&path, &header[..header.len() / 2]).unwrap();
    assert!(refused().is_damage(), "{}", refused());
    std::fs::write(&path, "certainly not a database".repeat(100)).unwrap();
    assert!(refused().is_damage());

    Store::quarantine_unopened(directory.path()).unwrap();
    assert_eq!(names(&directory), [QUARANTINED_NAME]);
    assert_eq!(open(&directory).committed().unwrap(), Committed::nothing(CLUSTER));
    // Nothing there: nothing to put aside.
    Store::quarantine_unopened(TempDir::new().unwrap().path()).unwrap();
}

#[test]
fn whoever_lost_the_file_to_another_process_puts_nothing_aside() {
    let (directory, mut first) = new_store();
    let _second = open(&directory);
    assert!(matches!(first.quarantine(), Err(StoreError::TakenOver { .. })));
    assert!(!names(&directory).contains(&QUARANTINED_NAME.to_owned()));
}

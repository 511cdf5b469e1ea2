use tempfile::TempDir;

use super::*;
use crate::store::FILE_NAME;
use crate::store::tests::{assert_consistent, committed_as_read, new_store, open};
use crate::testing::{CLUSTER, History};

/// A peer's snapshot of so many writes.
fn snapshot(writes: u64) -> (Vec<u8>, Committed) {
    let (_directory, mut peer) = new_store();
    let committed = peer.apply(&History::default().puts(writes)).unwrap().committed;
    (peer.readers().write_snapshot(Vec::new()).unwrap(), committed)
}

/// A database of three writes, one of which somebody has changed, and with a message that waits.
fn changed() -> (TempDir, Store) {
    let (directory, mut store) = new_store();
    let mut history = History { epoch: 4, ..History::default() };
    store.apply(&history.puts(3)).unwrap();
    history.puts(5);
    let waits = history.puts(1).remove(0);
    store.change(&[broadcast_protocol::replica::Change::Keep(waits)]).unwrap();
    store.connection.execute("UPDATE documents SET value = '7' WHERE key = '0002'", []).unwrap();
    (directory, store)
}

fn names(directory: &TempDir) -> Vec<String> {
    let names = std::fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names.sort();
    names
}

#[tokio::test]
async fn the_database_is_put_aside_for_one_that_is_whole_and_nothing_that_only_it_has_is_lost() {
    for writes in [3, 5] {
        let (directory, mut store) = changed();
        let (bytes, peer) = snapshot(writes);
        let (readers, kept) = (store.readers(), store.kept().unwrap());
        assert_eq!(committed_as_read(&readers).await.applied.position.last, 3);
        let committed = store.replace(bytes.as_slice()).unwrap();
        let expected = Applied { epoch: 4, ..peer.applied };
        assert_eq!(committed, Committed { applied: expected, ..peer });
        assert_eq!(committed_as_read(&readers).await, committed);
        assert_consistent(&mut store);
        assert_eq!((store.kept().unwrap(), kept.len()), (kept, 1));
        assert_eq!(names(&directory), [FILE_NAME, "node.db.quarantined"]);
        let aside = Connection::open(directory.path().join("node.db.quarantined")).unwrap();
        let rows: u64 = aside
            .query_row("SELECT count(*) FROM documents WHERE value = '7'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 1);
        drop(store);
        assert_eq!(open(&directory).committed().unwrap(), committed);
    }
}

#[test]
fn a_snapshot_that_is_not_as_far_or_breaks_off_leaves_everything_as_it_was() {
    let (directory, mut store) = changed();
    let before = store.committed().unwrap();
    let whole = snapshot(5).0;
    for (bytes, problem) in [
        (snapshot(2).0, "position 2 is not further on than this database, at 3"),
        (whole[..whole.len() - 10].to_vec(), "breaks off"),
    ] {
        let error = store.replace(bytes.as_slice()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
        assert_eq!(store.committed().unwrap(), before);
        assert_eq!(names(&directory), [FILE_NAME]);
    }
    store.replace(whole.as_slice()).unwrap();
}

#[test]
fn a_crash_between_the_two_leaves_the_new_one_and_an_earlier_crash_the_old_one() {
    let (directory, store) = changed();
    let (bytes, peer) = snapshot(5);
    let (path, new) = (directory.path().join(FILE_NAME), directory.path().join(NEW_NAME));
    let own = store.committed().unwrap();
    store.build(&new, bytes.as_slice(), own).unwrap();
    drop(store);
    let store = open(&directory);
    assert_eq!(store.committed().unwrap(), own, "nothing had happened to it yet");
    assert_eq!(names(&directory), [FILE_NAME]);

    store.build(&new, bytes.as_slice(), own).unwrap();
    store.put_aside().unwrap();
    drop(store);
    assert!(!path.exists());
    let mut store = open(&directory);
    assert_eq!(store.committed().unwrap().applied.position, peer.applied.position);
    assert_consistent(&mut store);

    // The same without a crash: what failed half way is done by the next probe.
    store.build(&new, snapshot(7).0.as_slice(), own).unwrap();
    store.put_aside().unwrap();
    store.probe().unwrap();
    assert_eq!(store.committed().unwrap().applied.position.last, 7);
}

#[test]
fn a_new_database_that_nobody_has_closed_is_not_taken_for_whole() {
    let (directory, store) = changed();
    drop(store);
    let (path, new) = (directory.path().join(FILE_NAME), directory.path().join(NEW_NAME));
    std::fs::remove_file(path).unwrap();
    std::fs::write(&new, "half").unwrap();
    std::fs::write(with_suffix(&new, "-wal"), "the other half").unwrap();
    assert_eq!(open(&directory).committed().unwrap(), Committed::nothing(CLUSTER));
    assert_eq!(names(&directory), [FILE_NAME]);
}

#[test]
fn whoever_lost_the_file_to_another_process_replaces_nothing() {
    let (directory, mut first) = changed();
    let second = open(&directory);
    let error = first.replace(snapshot(5).0.as_slice()).unwrap_err();
    assert!(matches!(error, InstallError::Store(StoreError::TakenOver { .. })), "{error}");
    assert_eq!(second.committed().unwrap().applied.position.last, 3);
    assert_eq!(names(&directory), [FILE_NAME]);
}

use std::io::Cursor;

use broadcast_protocol::cut::Cut;
use broadcast_protocol::digest::Digest;
use broadcast_protocol::outcome::{Rejected, Rejection};
use broadcast_protocol::snapshot::{SnapshotHeader, SnapshotWriter, VERSION};
use broadcast_protocol::write::Fingerprint;
use tempfile::TempDir;

use super::*;
use crate::store::tests::{assert_consistent, committed_as_read, new_store, open};
use crate::testing::{CLUSTER, History, delete, put, put_with_id, with};

/// A database with rows, deleted rows, request ids and a history to go on with.
fn donor() -> (TempDir, Store, History) {
    let (directory, mut store) = new_store();
    let mut history = History { epoch: 5, ..History::default() };
    let messages = [
        history.message(&[put("b", "x", "1"), put("a", "ä", "[1.50]"), put("a", "z", "null")]),
        history.message(&[delete("a", "z"), put_with_id("c", "k", "1", "r1"), put("a", "a", "{}")]),
        history.message(&[with(&put_with_id("c", "k", "2", "r2"), "if", r#"{"absent":true}"#)]),
    ];
    store.apply(&messages).unwrap();
    (directory, store, history)
}

fn snapshot(store: &Store) -> Vec<u8> {
    store.readers().write_snapshot(Vec::new()).unwrap()
}

/// A database of the same cluster that has something of its own.
fn behind() -> (TempDir, Store) {
    let (directory, mut store) = new_store();
    let mut other = History { epoch: 3, ..History::default() };
    store.apply(&[other.message(&[put("mine", "k", "0"), put_with_id("mine", "l", "0", "r1")])]).unwrap();
    (directory, store)
}

#[test]
fn an_installed_database_is_equal_and_goes_on_alike() {
    let (_donor_directory, mut donor, mut history) = donor();
    let (directory, mut joiner) = behind();
    let committed = joiner.install(Cursor::new(snapshot(&donor))).unwrap();
    assert_eq!(committed, donor.committed().unwrap());
    drop(joiner);
    let mut joiner = open(&directory);
    assert_eq!(joiner.committed().unwrap(), committed);
    assert_consistent(&mut joiner);
    assert_eq!(snapshot(&joiner), snapshot(&donor));
    // What was decided before is decided alike by both: the same retries, the same row numbers.
    let next = [history.message(&[
        put_with_id("c", "k", "1", "r1"),
        with(&put_with_id("c", "k", "2", "r2"), "if", r#"{"absent":true}"#),
        put_with_id("c", "k", "3", "r2"),
        with(&put("c", "k", "4"), "if", r#"{"seq":5}"#),
    ])];
    let applied = joiner.apply(&next).unwrap();
    let reasons: Vec<_> = applied.rejected.iter().map(|&Rejected { seq, reason }| (seq, reason)).collect();
    assert_eq!(reasons, [(9, Rejection::PreconditionFailed), (10, Rejection::IdReused)]);
    assert_eq!(applied, donor.apply(&next).unwrap());
    assert_eq!(snapshot(&joiner), snapshot(&donor));
}

#[test]
fn a_snapshot_is_of_one_position_while_the_writer_goes_on() {
    /// Applies a message as soon as something is written.
    struct Meanwhile<'a>(Vec<u8>, Option<(&'a mut Store, &'a mut History)>);
    impl std::io::Write for Meanwhile<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if let Some((store, history)) = self.1.take() {
                store.apply(&[history.message(&[put("a", "a", "9"), delete("b", "x")])]).unwrap();
            }
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (_directory, mut donor, mut history) = donor();
    let before = donor.committed().unwrap();
    let readers = donor.readers();
    let written = readers.write_snapshot(Meanwhile(Vec::new(), Some((&mut donor, &mut history)))).unwrap().0;
    assert_ne!(donor.committed().unwrap(), before);
    let (_joiner_directory, mut joiner) = new_store();
    assert_eq!(joiner.install(written.as_slice()).unwrap(), before);
}

/// A snapshot that no database gave: of as many rows and request ids as are said.
fn made_up(change: impl FnOnce(&mut SnapshotHeader), ids: &[&str]) -> Vec<u8> {
    let mut digest = Digest::default();
    digest.add("a", "k", "1", 7);
    let position = History::default().position;
    let mut header = SnapshotHeader {
        v: VERSION,
        cluster: CLUSTER.to_owned(),
        last: 9,
        hash: position.hash,
        epoch: 1,
        cut: Cut::default(),
        at: 1,
        digest,
        rows: 1,
        requests: ids.len() as u64,
    };
    change(&mut header);
    let mut writer = SnapshotWriter::begin(&header, Vec::new()).unwrap();
    writer.row("a", "k", 7, "1").unwrap();
    for (seq, id) in (1..).zip(ids) {
        let (id, content) = (Fingerprint::of_id(id), Fingerprint::of_id("content"));
        writer.request(&SnapshotRequest { seq, id, content, rejection: None }).unwrap();
    }
    writer.end().unwrap()
}

#[test]
fn a_snapshot_that_is_refused_changes_nothing() {
    let (_donor_directory, donor, _) = donor();
    let whole = snapshot(&donor);
    let (_directory, mut store) = behind();
    let before = snapshot(&store);
    let mut corrupt = whole.clone();
    corrupt[whole.len() / 2] ^= 0x10;
    let truncated = &whole[..whole.len() - 10];
    let longer = [whole.as_slice(), b"more"].concat();
    for (bytes, problem) in [
        (truncated.to_vec(), "breaks off"),
        (corrupt, "the snapshot's hash is"),
        (longer, "something follows the end"),
        (Vec::new(), "breaks off"),
        (made_up(|header| header.cluster = "other".to_owned(), &[]), "of cluster \"other\", not of \"test\""),
        (made_up(|header| header.v = 2, &[]), "snapshot of version 2"),
        (made_up(|header| header.last = 2, &[]), "position 2 is not further on than this database, at 2"),
        (made_up(|header| header.last = 1, &[]), "position 1 is not further on than this database, at 2"),
        (made_up(|header| header.digest = Digest::default(), &[]), "the snapshot's digest of rows is"),
        (made_up(|header| header.rows = 2, &[]), "line 3 of the snapshot"),
        (made_up(|_| (), &["r", "s", "r"]), "line 5 of the snapshot: a request before it has the same id"),
    ] {
        let error = store.install(bytes.as_slice()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}\n{problem}");
        assert_eq!(snapshot(&store), before, "{problem}");
    }
    assert_consistent(&mut store);
    store.install(made_up(|_| (), &["r", "s"]).as_slice()).unwrap();
    assert_consistent(&mut store);
}

#[test]
fn whoever_lost_the_file_to_another_process_installs_nothing() {
    let (_donor_directory, donor, _) = donor();
    let (directory, mut first) = behind();
    let second = open(&directory);
    let error = first.install(snapshot(&donor).as_slice()).unwrap_err();
    assert!(matches!(error, InstallError::Store(StoreError::TakenOver { .. })), "{error}");
    assert_eq!(second.committed().unwrap().applied.position.last, 2);
}

#[tokio::test]
async fn readers_see_the_old_rows_until_all_of_the_new_ones_are_there() {
    /// Reads from the database before the snapshot's last bytes are handed out.
    struct Watched<R> {
        bytes: R,
        look: Option<Box<dyn FnOnce() + Send>>,
    }
    impl<R: Read> Read for Watched<R> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let read = self.bytes.read(into)?;
            if read == 0
                && let Some(look) = self.look.take()
            {
                look();
            }
            Ok(read)
        }
    }
    let (_donor_directory, donor, _) = donor();
    let (_directory, mut store) = behind();
    let bytes = snapshot(&donor);
    let (readers, runtime) = (store.readers(), tokio::runtime::Handle::current());
    let (old, seen) = (store.committed().unwrap(), std::sync::mpsc::channel());
    let look = {
        let readers = readers.clone();
        move || seen.0.send(runtime.block_on(committed_as_read(&readers))).unwrap()
    };
    let watched = Watched { bytes: Cursor::new(bytes), look: Some(Box::new(look)) };
    let new = tokio::task::spawn_blocking(move || store.install(watched).unwrap()).await.unwrap();
    assert_eq!(seen.1.recv().unwrap(), old);
    assert_eq!(committed_as_read(&readers).await, new);
}

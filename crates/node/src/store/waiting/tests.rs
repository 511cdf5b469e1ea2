use broadcast_protocol::envelope::WriteMessage;
use broadcast_protocol::replica::{Change, Kept};
use tempfile::TempDir;

use super::*;
use crate::testing::{CLUSTER, History};

fn header(message: &WriteMessage) -> Kept {
    let WriteMessage { term, previous, position, .. } = *message;
    Kept { term, previous, position, bytes: message.body().len() as u64 }
}

#[test]
fn what_waits_is_there_after_a_restart_and_is_applied_as_if_it_had_just_come() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let messages = History::default().puts(3);
    let mut store = Store::open(one.path(), CLUSTER, 1 << 20).unwrap();
    let kept = [Change::Keep(messages[1].clone()), Change::Keep(messages[2].clone())];
    let committed = store.change(&kept).unwrap().committed;
    assert_eq!((committed.rows, committed.applied.position.last), (0, 0), "it changes nothing that is read");
    let next_reign = messages[2].with_term(Term { cut: Cut { epoch: 2, last: 9 }, ..Term::new(2, 7) });
    store.change(&[Change::Keep(next_reign.clone())]).unwrap();
    drop(store);

    let mut store = Store::open(one.path(), CLUSTER, 1 << 20).unwrap();
    assert_eq!(store.kept().unwrap(), [header(&messages[1]), header(&next_reign)]);
    let (second, third) = (messages[1].position, messages[2].position);
    let changes = [Change::Apply(messages[0].clone()), Change::ApplyKept(second), Change::ApplyKept(third)];
    let applied = store.change(&changes).unwrap();
    let mut other = Store::open(two.path(), CLUSTER, 1 << 20).unwrap();
    let expected = other.apply(&[messages[0].clone(), messages[1].clone(), next_reign]).unwrap();
    assert_eq!(applied, expected);
    assert!(store.kept().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_needed_is_forgotten_and_what_is_gone_is_damage() {
    let directory = TempDir::new().unwrap();
    let messages = History::default().puts(2);
    let mut store = Store::open(directory.path(), CLUSTER, 1 << 20).unwrap();
    let position = messages[1].position;
    store.change(&[Change::Keep(messages[1].clone())]).unwrap();
    let readers = store.readers();
    let body = readers.read(move |reader| reader.kept_body(position)).await.unwrap();
    assert_eq!(body.as_deref(), Some(messages[1].body().as_ref()));
    store.change(&[Change::Discard(position)]).unwrap();
    assert_eq!(readers.read(move |reader| reader.kept_body(position)).await.unwrap(), None);
    let error = store.change(&[Change::Apply(messages[0].clone()), Change::ApplyKept(position)]).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert_eq!(store.committed().unwrap().applied.position.last, 0, "all or nothing");
}

use broadcast_service::log::LogPage;
use bytes::Bytes;

use super::*;

#[test]
fn the_log_keeps_the_newest_messages_and_says_when_it_no_longer_reaches_back() {
    let directory = TempDir::new().unwrap();
    let mut history = History::default();
    let messages = history.puts(20);
    let size = messages[0].body().len() as u64;
    let mut store = Store::open(directory.path(), CLUSTER, size * 5 + size / 2).unwrap();
    for pair in messages.chunks(2) {
        store.apply(pair).unwrap();
    }
    let (kept, bytes): (u64, u64) = store
        .connection
        .query_row("SELECT count(*), sum(length(body)) FROM _broadcast_log", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((kept, bytes), (5, schema::load(&store.connection).unwrap().log_bytes));
    assert_eq!(read(&mut store, |reader| reader.log(14)), LogPage::Gone { after: 14, oldest: Some(16) });
    let lines = |messages: &[broadcast_protocol::envelope::WriteMessage]| {
        messages.iter().flat_map(|message| [message.body().as_ref(), b"\n"].concat()).collect::<Bytes>()
    };
    assert_eq!(read(&mut store, |reader| reader.log(15)), LogPage::Messages(lines(&messages[15..])));
    assert_eq!(read(&mut store, |reader| reader.log(19)), LogPage::Messages(lines(&messages[19..])));
    for after in [20, 21, u64::MAX >> 1] {
        assert_eq!(read(&mut store, |reader| reader.log(after)), LogPage::Messages(Bytes::new()), "{after}");
    }
}

#[test]
fn a_log_page_is_bounded_and_never_empty_because_of_it() {
    let (_directory, mut store) = new_store();
    let mut history = History::default();
    let value = format!("\"{}\"", "v".repeat(200_000));
    let writes: Vec<String> = (0..15).map(|key| put("c", &key.to_string(), &value)).collect();
    store.log_bytes = u64::MAX;
    for _ in 0..3 {
        store.apply(&[history.message(&writes)]).unwrap();
    }
    let mut after = 0;
    for _ in 0..3 {
        let LogPage::Messages(page) = read(&mut store, |reader| reader.log(after)) else { unreachable!() };
        assert_eq!(page.split(|byte| *byte == b'\n').count() - 1, 1);
        after += 15;
    }
    let rows = read(&mut store, |reader| reader.list("c", "", None, 1000));
    assert_eq!(rows.items.len(), 15);
}

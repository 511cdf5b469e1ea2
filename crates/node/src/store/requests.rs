//! Request ids: a write with the id of one before it changes nothing and has the first one's outcome.

use std::collections::{BTreeMap, HashMap};

use broadcast_protocol::outcome::{REQUEST_ID_WINDOW, Rejection};
use broadcast_protocol::write::{Fingerprint, Write};
use rusqlite::{Connection, params};

use super::{StoreError, schema};

/// What became of a write.
pub(super) type Outcome = Result<(), Rejection>;

/// What is known of the writes with an id among some that are to be applied, by sequence number.
#[derive(Default)]
pub(super) struct Requests(BTreeMap<u64, Request>);

enum Request {
    /// The first with its id, and its outcome once that is known.
    First { id: Fingerprint, content: Fingerprint, outcome: Outcome },
    /// It has an outcome already.
    Decided(Outcome),
    /// It has the outcome of one before it, which is to be applied too.
    Repeats(u64),
}

impl Requests {
    /// Finds out which of the writes repeat one before them. They are in order.
    pub(super) fn find<'a>(
        connection: &Connection,
        writes: impl Iterator<Item = (u64, &'a Write)>,
    ) -> Result<Self, StoreError> {
        let mut found = BTreeMap::new();
        let mut firsts: HashMap<Fingerprint, (u64, Fingerprint)> = HashMap::new();
        for (seq, write) in writes {
            let Some(id) = &write.id else { continue };
            let (id, content) = (Fingerprint::of_id(id), write.fingerprint());
            let here = firsts.get(&id).filter(|(first, _)| is_remembered(*first, seq));
            let request = match here {
                Some((first, same)) if *same == content => Request::Repeats(*first),
                Some(_) => Request::Decided(Err(Rejection::IdReused)),
                None => match find_seen(connection, seq, id)? {
                    Some((same, outcome)) if same == content => Request::Decided(outcome),
                    Some(_) => Request::Decided(Err(Rejection::IdReused)),
                    None => {
                        firsts.insert(id, (seq, content));
                        Request::First { id, content, outcome: Ok(()) }
                    }
                },
            };
            found.insert(seq, request);
        }
        Ok(Self(found))
    }

    /// The outcome of a write that repeats one before it, whose own outcome is known by now.
    pub(super) fn outcome_of_repeated(&self, seq: u64) -> Option<Outcome> {
        match self.0.get(&seq)? {
            Request::First { .. } => None,
            Request::Decided(outcome) => Some(*outcome),
            Request::Repeats(first) => match self.0.get(first)? {
                Request::First { outcome, .. } => Some(*outcome),
                _ => None,
            },
        }
    }

    /// Takes the outcome of a write that is the first with its id.
    pub(super) fn decide(&mut self, seq: u64, decided: Outcome) {
        if let Some(Request::First { outcome, .. }) = self.0.get_mut(&seq) {
            *outcome = decided;
        }
    }

    /// Remembers the first ones and their outcomes.
    pub(super) fn save(&self, connection: &Connection) -> Result<(), rusqlite::Error> {
        let mut insert = connection.prepare_cached(
            "INSERT OR REPLACE INTO _broadcast_requests(seq, id, content, rejection) VALUES (?, ?, ?, ?)",
        )?;
        for (seq, request) in &self.0 {
            if let Request::First { id, content, outcome } = request {
                let rejection = outcome.err().map(Rejection::as_str);
                insert.execute(params![seq, id.bytes(), content.bytes(), rejection])?;
            }
        }
        Ok(())
    }
}

/// Removes what is remembered no longer once everything up to `last` is applied.
pub(super) fn forget_old(connection: &Connection, last: u64) -> Result<(), rusqlite::Error> {
    let oldest_kept = (last + 1).saturating_sub(REQUEST_ID_WINDOW);
    let mut delete = connection.prepare_cached("DELETE FROM _broadcast_requests WHERE seq < ?")?;
    delete.execute([oldest_kept]).map(drop)
}

/// By distance in the history alone: old ids may still be there or not, the answer is the same.
fn is_remembered(first: u64, seq: u64) -> bool {
    first > seq.saturating_sub(REQUEST_ID_WINDOW)
}

/// The content and the outcome of the write that an id came with first, if it is remembered.
fn find_seen(
    connection: &Connection,
    seq: u64,
    id: Fingerprint,
) -> Result<Option<(Fingerprint, Outcome)>, StoreError> {
    let mut find =
        connection.prepare_cached("SELECT seq, content, rejection FROM _broadcast_requests WHERE id = ?")?;
    let mut rows = find.query([id.bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    if !is_remembered(row.get(0)?, seq) {
        return Ok(None);
    }
    let outcome = schema::rejection(row, 2)?.map_or(Ok(()), Err);
    Ok(Some((Fingerprint::from_bytes(row.get(1)?), outcome)))
}

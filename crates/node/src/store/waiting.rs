//! The messages that wait for what is before them: they are not applied, and acknowledged because they are here.

use broadcast_protocol::chain::{ChainHash, Position};
use broadcast_protocol::cut::Cut;
use broadcast_protocol::envelope::{Link, Message, Term, WriteMessage};
use broadcast_protocol::replica::Kept;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::read::Reader;
use super::{Store, StoreError};

impl Store {
    /// What waits.
    pub(crate) fn kept(&self) -> Result<Vec<Kept>, StoreError> {
        let mut find = self.connection.prepare_cached(
            "SELECT epoch, reign, cut_epoch, cut_last, first, previous, last, hash, length(body) FROM _broadcast_waiting",
        )?;
        let mut rows = find.query([])?;
        let mut kept = Vec::new();
        while let Some(row) = rows.next()? {
            let first: u64 = row.get(4)?;
            let cut = Cut { epoch: row.get(2)?, last: row.get(3)? };
            kept.push(Kept {
                term: Term { epoch: row.get(0)?, reign: row.get(1)?, cut },
                previous: Position { last: first.saturating_sub(1), hash: hash(row, 5)? },
                position: Position { last: row.get(6)?, hash: hash(row, 7)? },
                bytes: row.get(8)?,
            });
        }
        Ok(kept)
    }
}

impl Reader<'_> {
    /// The body of the message that waits with a position, if it still does.
    pub(crate) fn kept_body(&self, position: Position) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(find_body(&self.transaction, position)?)
    }
}

/// Keeps a message, in the place of one with its position.
pub(super) fn keep(connection: &Connection, message: &WriteMessage) -> Result<(), rusqlite::Error> {
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO _broadcast_waiting(last, hash, first, previous, epoch, reign, cut_epoch, cut_last, body)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    let WriteMessage { term, first, previous, position, .. } = message;
    insert
        .execute(params![
            position.last,
            position.hash.to_string(),
            first,
            previous.hash.to_string(),
            term.epoch,
            term.reign,
            term.cut.epoch,
            term.cut.last,
            message.body().as_ref()
        ])
        .map(drop)
}

/// Takes the message with a position out.
pub(super) fn take(
    connection: &Connection,
    cluster: &str,
    position: Position,
) -> Result<WriteMessage, StoreError> {
    let body = find_body(connection, position)?.ok_or_else(|| {
        StoreError::Damaged(format!("the message that waited for {} is gone", position.last))
    })?;
    discard(connection, position)?;
    match Message::decode(cluster, &Bytes::from(body)) {
        Ok(Message::Link(Link::Write(message))) => Ok(message),
        Ok(_) => Err(StoreError::Damaged(format!("what waited for {} is no write", position.last))),
        Err(error) => {
            Err(StoreError::Damaged(format!("the message that waited for {}: {error}", position.last)))
        }
    }
}

/// Forgets the message with a position.
pub(super) fn discard(connection: &Connection, position: Position) -> Result<(), rusqlite::Error> {
    let mut delete =
        connection.prepare_cached("DELETE FROM _broadcast_waiting WHERE last = ? AND hash = ?")?;
    delete.execute(params![position.last, position.hash.to_string()]).map(drop)
}

fn find_body(connection: &Connection, position: Position) -> Result<Option<Vec<u8>>, rusqlite::Error> {
    let mut find =
        connection.prepare_cached("SELECT body FROM _broadcast_waiting WHERE last = ? AND hash = ?")?;
    find.query_row(params![position.last, position.hash.to_string()], |row| row.get(0)).optional()
}

fn hash(row: &Row<'_>, column: usize) -> Result<ChainHash, StoreError> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| StoreError::Damaged(format!("hash: {error}")))
}

#[cfg(test)]
mod tests;

//! Giving the whole database away, as of one position, while the writer goes on.

use std::io;

use broadcast_protocol::outcome::REQUEST_ID_WINDOW;
use broadcast_protocol::snapshot::{SnapshotHeader, SnapshotRequest, SnapshotWriter, VERSION};
use broadcast_protocol::write::Fingerprint;

use super::read::{Reader, Readers};
use super::{StoreError, schema};

/// Why a snapshot was not written to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendSnapshotError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it was written to failed.
    #[error("cannot send: {0}")]
    Send(#[from] io::Error),
}

impl From<rusqlite::Error> for SendSnapshotError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Readers {
    /// Writes a snapshot, through a connection of its own. Blocks, and keeps the write-ahead log from being cut: whoever
    /// is written to must not stall for ever.
    pub(crate) fn write_snapshot<W: io::Write>(&self, out: W) -> Result<W, SendSnapshotError> {
        Reader::of(&mut self.connect()?)?.write_snapshot(out)
    }
}

impl Reader<'_> {
    fn write_snapshot<W: io::Write>(&self, out: W) -> Result<W, SendSnapshotError> {
        let header = self.snapshot_header()?;
        let mut writer = SnapshotWriter::begin(&header, out)?;
        let mut find = self
            .transaction
            .prepare("SELECT collection, key, seq, value FROM documents ORDER BY collection, key")?;
        let mut rows = find.query([])?;
        while let Some(row) = rows.next()? {
            let text = |index| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
            writer.row(text(0)?, text(1)?, row.get(2)?, text(3)?)?;
        }
        let mut find = self.transaction.prepare(
            "SELECT seq, id, content, rejection FROM _broadcast_requests WHERE seq > ? ORDER BY seq",
        )?;
        let mut rows = find.query([oldest_request(header.last)])?;
        while let Some(row) = rows.next()? {
            writer.request(&SnapshotRequest {
                seq: row.get(0)?,
                id: Fingerprint::from_bytes(row.get(1)?),
                content: Fingerprint::from_bytes(row.get(2)?),
                rejection: schema::rejection(row, 3)?,
            })?;
        }
        Ok(writer.end()?)
    }

    fn snapshot_header(&self) -> Result<SnapshotHeader, StoreError> {
        let state = schema::load(&self.transaction)?;
        let committed = state.committed()?;
        let requests = self.transaction.query_row(
            "SELECT count(*) FROM _broadcast_requests WHERE seq > ?",
            [oldest_request(state.last)],
            |row| row.get(0),
        )?;
        Ok(SnapshotHeader {
            v: VERSION,
            cluster: state.cluster,
            last: committed.applied.position.last,
            hash: committed.applied.position.hash,
            epoch: committed.applied.epoch,
            cut: committed.applied.cut,
            at: committed.at,
            digest: committed.digest,
            rows: committed.rows,
            requests,
        })
    }
}

/// Requests after this one are remembered.
fn oldest_request(last: u64) -> u64 {
    last.saturating_sub(REQUEST_ID_WINDOW)
}

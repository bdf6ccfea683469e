//! The SQL of the journal.

use broker_core::chat::{RawEnvelope, ThreadKey};
use broker_core::clock::Timestamp;
use broker_core::store::{Accepted, JournalFate, JournalId, JournalRow};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::sql::{self, Sql};

pub(crate) const UNREAD: &str = "SELECT id, key, kind, retry_attempt, received_at, raw FROM journal
     WHERE fate IS NULL AND id > ?1 ORDER BY id LIMIT ?2";
pub(crate) const TAKE_UNROUTED: &str = "UPDATE journal SET fate = NULL, thread = NULL
     WHERE fate = 'unrouted' AND thread = ?1 AND received_at >= ?2
     RETURNING id, key, kind, retry_attempt, received_at, raw";

/// Appends envelopes; a key that is there already gives the row that has it.
pub(crate) fn accept(connection: &Connection, batch: &[RawEnvelope]) -> Sql<Vec<Accepted>> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO journal (key, kind, retry_attempt, received_at, raw) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (key) DO NOTHING RETURNING id",
    )?;
    let mut known = connection.prepare_cached("SELECT id FROM journal WHERE key = ?1")?;
    let mut accepted = Vec::with_capacity(batch.len());
    for RawEnvelope { key, kind, retry_attempt, received_at, raw } in batch {
        let values = params![key, kind, retry_attempt, received_at.as_millis(), raw];
        let id: Option<u64> = insert.query_row(values, |row| row.get(0)).optional()?;
        accepted.push(match id {
            Some(id) => Accepted { id: JournalId(id), fresh: true },
            None => Accepted { id: JournalId(known.query_row([key], |row| row.get(0))?), fresh: false },
        });
    }
    Ok(accepted)
}

fn read(row: &Row<'_>) -> rusqlite::Result<JournalRow> {
    Ok(JournalRow {
        id: JournalId(row.get("id")?),
        envelope: RawEnvelope {
            key: row.get("key")?,
            kind: row.get("kind")?,
            retry_attempt: row.get("retry_attempt")?,
            received_at: sql::moment(row, "received_at")?,
            raw: row.get("raw")?,
        },
    })
}

pub(crate) fn unread(connection: &Connection, after: Option<JournalId>, limit: usize) -> Sql<Vec<JournalRow>> {
    let after = after.map_or(0, |id| id.0);
    sql::rows("journal", &mut *connection.prepare_cached(UNREAD)?, params![after, sql::limit(limit)], read)
}

/// Settles rows that make no inbox row.
pub(crate) fn settle(connection: &Connection, ids: &[JournalId], fate: &JournalFate) -> Sql<()> {
    let (thread, reason) = match fate {
        JournalFate::Unrouted { thread } => (Some(thread.to_string()), None),
        JournalFate::Ignored { reason } | JournalFate::Unreadable { reason } | JournalFate::Denied { reason } => {
            (None, Some(reason.as_str()))
        }
        JournalFate::Done => (None, None),
    };
    let mut statement =
        connection.prepare_cached("UPDATE journal SET fate = ?2, thread = ?3, reason = ?4 WHERE id = ?1")?;
    for id in ids {
        statement.execute(params![id.0, fate.as_str(), thread, reason])?;
    }
    Ok(())
}

/// Marks rows that a step of a session has settled.
pub(crate) fn mark_read(connection: &Connection, ids: &[JournalId]) -> Sql<()> {
    let mut statement =
        connection.prepare_cached("UPDATE journal SET fate = 'inbox', thread = NULL, reason = NULL WHERE id = ?1")?;
    for id in ids {
        statement.execute([id.0])?;
    }
    Ok(())
}

pub(crate) fn take_unrouted(connection: &Connection, thread: &ThreadKey, since: Timestamp) -> Sql<Vec<JournalRow>> {
    let values = params![thread.to_string(), since.as_millis()];
    let mut taken = sql::rows("journal", &mut *connection.prepare_cached(TAKE_UNROUTED)?, values, read)?;
    // SQLite returns changed rows in any order.
    taken.sort_by_key(|row| row.id);
    Ok(taken)
}

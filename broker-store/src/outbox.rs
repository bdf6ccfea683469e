//! The SQL of the outbox.

use broker_core::agent::TurnId;
use broker_core::chat::{MessageId, OpKey, ThreadKey};
use broker_core::clock::Timestamp;
use broker_core::store::{Fingerprint, PartChange, PartRow, PostId};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use crate::sql::{self, Json, Sql};

/// A part with the columns of its thread's key.
macro_rules! select_part {
    ($tail:literal) => {
        concat!(
            "SELECT o.id, t.installation, t.conversation, t.root, o.post, o.place, o.number, o.parts, o.kind, o.turn, ",
            "o.fingerprint, o.body, o.state, o.attempts, o.attempted_at, o.first_attempt_at, o.look_ups, o.not_before, o.message, ",
            "o.error, o.created_at FROM outbox o JOIN threads t ON t.key = o.thread ",
            $tail
        )
    };
}

pub(crate) const OPEN_PARTS: &str = select_part!(
    "WHERE o.thread = ?1 AND o.state IN ('queued', 'sending', 'unknown') ORDER BY o.place, o.number LIMIT ?2"
);
pub(crate) const COUNT_OPEN: &str =
    "SELECT COUNT(*) FROM outbox WHERE thread = ?1 AND state IN ('queued', 'sending', 'unknown')";
pub(crate) const POST: &str = select_part!("WHERE o.post = ?1 ORDER BY o.number, o.place");
pub(crate) const OF_TURN: &str = select_part!("WHERE o.thread = ?1 AND o.turn = ?2 ORDER BY o.place, o.number");
pub(crate) const THREADS: &str = "SELECT key, installation, conversation, root FROM threads
     WHERE key IN (SELECT thread FROM outbox WHERE state IN ('queued', 'sending', 'unknown'))
     ORDER BY installation, conversation, root";
/// The open states are named so that SQLite sees that the index of open parts serves.
pub(crate) const DROP_QUEUED: &str = "UPDATE outbox SET state = 'dropped'
     WHERE thread = ?1 AND state IN ('queued', 'sending', 'unknown') AND state = 'queued'";

/// Adds parts; each of them has to be new.
pub(crate) fn insert(connection: &Connection, parts: &[PartRow]) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO outbox (id, thread, post, place, number, parts, kind, turn, fingerprint, body, state, attempts,
             attempted_at, first_attempt_at, look_ups, not_before, message, error, created_at)
         VALUES (:id, :thread, :post, :place, :number, :parts, :kind, :turn, :fingerprint, :body, :state, :attempts,
             :attempted_at, :first_attempt_at, :look_ups, :not_before, :message, :error, :created_at)",
    )?;
    for part in parts {
        statement.execute(named_params! {
            ":id": part.id.as_str(),
            ":thread": part.thread.to_string(),
            ":post": part.post.as_str(),
            ":place": part.place,
            ":number": part.number,
            ":parts": part.of,
            ":kind": part.kind.as_str(),
            ":turn": part.turn.as_ref().map(TurnId::as_str),
            ":fingerprint": part.fingerprint.as_ref().map(Fingerprint::as_str),
            ":body": Json(&part.body),
            ":state": part.state.as_str(),
            ":attempts": part.attempts,
            ":attempted_at": part.attempted_at.map(Timestamp::as_millis),
            ":first_attempt_at": part.first_attempt_at.map(Timestamp::as_millis),
            ":look_ups": part.look_ups,
            ":not_before": part.not_before.as_millis(),
            ":message": part.message.as_ref().map(MessageId::as_str),
            ":error": part.error,
            ":created_at": part.created_at.as_millis(),
        })?;
    }
    Ok(())
}

/// What the sender may change of a part: everything but what it is and where it stands in its thread.
fn update(connection: &Connection, part: &PartRow) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "UPDATE outbox SET body = :body, state = :state, attempts = :attempts, attempted_at = :attempted_at,
             first_attempt_at = :first_attempt_at, look_ups = :look_ups, not_before = :not_before, message = :message,
             error = :error
         WHERE id = :id",
    )?;
    statement.execute(named_params! {
        ":id": part.id.as_str(),
        ":body": Json(&part.body),
        ":state": part.state.as_str(),
        ":attempts": part.attempts,
        ":attempted_at": part.attempted_at.map(Timestamp::as_millis),
        ":first_attempt_at": part.first_attempt_at.map(Timestamp::as_millis),
        ":look_ups": part.look_ups,
        ":not_before": part.not_before.as_millis(),
        ":message": part.message.as_ref().map(MessageId::as_str),
        ":error": part.error,
    })?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<PartRow> {
    Ok(PartRow {
        id: sql::id(row, "id", OpKey::new)?,
        thread: sql::thread(row)?,
        post: sql::id(row, "post", PostId::new)?,
        place: row.get("place")?,
        number: row.get("number")?,
        of: row.get("parts")?,
        kind: sql::named(row, "kind")?,
        turn: sql::known(row, "turn", TurnId::new)?,
        fingerprint: sql::known(row, "fingerprint", Fingerprint::new)?,
        body: sql::document(row, "body")?,
        state: sql::named(row, "state")?,
        attempts: row.get("attempts")?,
        attempted_at: row.get::<_, Option<i64>>("attempted_at")?.map(Timestamp::from_millis),
        first_attempt_at: row.get::<_, Option<i64>>("first_attempt_at")?.map(Timestamp::from_millis),
        look_ups: row.get("look_ups")?,
        not_before: sql::moment(row, "not_before")?,
        message: sql::known(row, "message", MessageId::new)?,
        error: row.get("error")?,
        created_at: sql::moment(row, "created_at")?,
    })
}

/// Drops the parts of a thread that were not yet sent.
pub(crate) fn drop_queued(connection: &Connection, thread: &ThreadKey) -> Sql<()> {
    connection.prepare_cached(DROP_QUEUED)?.execute([thread.to_string()])?;
    Ok(())
}

/// How many parts of a thread are not yet sent.
pub(crate) fn count_open(connection: &Connection, thread: &str) -> Sql<usize> {
    Ok(connection.prepare_cached(COUNT_OPEN)?.query_row([thread], |row| row.get(0))?)
}

pub(crate) fn open_parts(connection: &Connection, thread: &ThreadKey, limit: usize) -> Sql<Vec<PartRow>> {
    let values = params![thread.to_string(), sql::limit(limit)];
    sql::rows("outbox", &mut *connection.prepare_cached(OPEN_PARTS)?, values, read)
}

pub(crate) fn post(connection: &Connection, post: &PostId) -> Sql<Vec<PartRow>> {
    sql::rows("outbox", &mut *connection.prepare_cached(POST)?, [post.as_str()], read)
}

pub(crate) fn of_turn(connection: &Connection, thread: &str, turn: &TurnId) -> Sql<Vec<PartRow>> {
    sql::rows("outbox", &mut *connection.prepare_cached(OF_TURN)?, [thread, turn.as_str()], read)
}

pub(crate) fn threads_with_parts(connection: &Connection) -> Sql<Vec<ThreadKey>> {
    sql::rows("threads", &mut *connection.prepare_cached(THREADS)?, [], sql::thread)
}

/// All changes, or none when one of the rows is not in the state that is expected.
pub(crate) fn change(connection: &Connection, changes: &[PartChange]) -> Sql<bool> {
    let mut state = connection.prepare_cached("SELECT state FROM outbox WHERE id = ?1")?;
    for change in changes {
        let found: Option<String> = state.query_row([change.row.id.as_str()], |row| row.get(0)).optional()?;
        if found.as_deref() != Some(change.expected.as_str()) {
            return Ok(false);
        }
    }
    for change in changes {
        update(connection, &change.row)?;
    }
    Ok(true)
}

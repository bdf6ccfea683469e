//! The SQL of turns.

use broker_core::agent::{AgentThreadId, TurnId};
use broker_core::chat::ThreadKey;
use broker_core::clock::Timestamp;
use broker_core::store::{PostKind, TurnEnd, TurnRow};
use rusqlite::{Connection, Row, named_params};

use crate::sql::{self, Named, Sql};

pub(crate) const TURN: &str =
    "SELECT id, thread, started_at, ended_at, ended, inputs, from_person, continuation, signal,
         signal_reason, stopped
     FROM turns WHERE session = ?1 AND id = ?2";

pub(crate) fn put(connection: &Connection, session: &str, turn: &TurnRow) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO turns (session, id, thread, started_at, ended_at, ended, inputs, from_person, continuation, signal,
             signal_reason, stopped)
         VALUES (:session, :id, :thread, :started_at, :ended_at, :ended, :inputs, :from_person, :continuation, :signal,
             :signal_reason, :stopped)
         ON CONFLICT (session, id) DO UPDATE SET
             thread = excluded.thread, started_at = excluded.started_at, ended_at = excluded.ended_at,
             ended = excluded.ended, inputs = excluded.inputs, from_person = excluded.from_person,
             continuation = excluded.continuation, signal = excluded.signal, signal_reason = excluded.signal_reason,
             stopped = excluded.stopped",
    )?;
    statement.execute(named_params! {
        ":session": session,
        ":id": turn.id.as_str(),
        ":thread": turn.thread.as_str(),
        ":started_at": turn.started_at.as_millis(),
        ":ended_at": turn.ended.map(|(at, _)| at.as_millis()),
        ":ended": turn.ended.map(|(_, end)| end.as_str()),
        ":inputs": turn.inputs,
        ":from_person": turn.from_person,
        ":continuation": turn.continuation,
        ":signal": turn.signal.as_ref().map(|(kind, _)| kind.as_str()),
        ":signal_reason": turn.signal.as_ref().and_then(|(_, reason)| reason.as_deref()),
        ":stopped": turn.stopped,
    })?;
    Ok(())
}

fn read(row: &Row<'_>, session: &ThreadKey) -> rusqlite::Result<TurnRow> {
    let ended_at = row.get::<_, Option<i64>>("ended_at")?.map(Timestamp::from_millis);
    let ended = row.get::<_, Option<Named<TurnEnd>>>("ended")?.map(|named| named.0);
    let signal = row.get::<_, Option<Named<PostKind>>>("signal")?.map(|named| named.0);
    let reason: Option<String> = row.get("signal_reason")?;
    Ok(TurnRow {
        id: sql::id(row, "id", TurnId::new)?,
        session: session.clone(),
        thread: sql::id(row, "thread", AgentThreadId::new)?,
        started_at: sql::moment(row, "started_at")?,
        ended: ended_at.zip(ended),
        inputs: row.get("inputs")?,
        from_person: row.get("from_person")?,
        continuation: row.get("continuation")?,
        signal: signal.map(|kind| (kind, reason)),
        stopped: row.get("stopped")?,
    })
}

pub(crate) fn turn(connection: &Connection, session: &ThreadKey, id: &TurnId) -> Sql<Option<TurnRow>> {
    let values = [session.to_string(), id.as_str().to_owned()];
    sql::row("turns", &mut *connection.prepare_cached(TURN)?, values, |row| read(row, session))
}

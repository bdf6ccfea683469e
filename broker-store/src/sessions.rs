//! The SQL of sessions: who may change one, and how a step is made.

use broker_core::agent::{AgentThreadId, TurnId};
use broker_core::chat::{ChatTime, ConversationKey, MessageId, PersonId, ThreadKey};
use broker_core::clock::Timestamp;
use broker_core::sabotage::{Plant, planted};
use broker_core::store::{
    ActiveSession, CommitError, Fence, OwnerId, Revision, SessionCommit, SessionId, SessionRecord, SessionRows,
    StoreCounts,
};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use crate::sql::{self, Json, Place, Sql, SqlError};
use crate::{inbox, journal, outbox, turns};

pub(crate) const RECORD: &str = "SELECT key, id, channel_name, conversation_kind, started_by, started_with, folder,
         agent_thread, agent_confirmed, running_turn, watermark, stopped_at, notice_cause, notice_at, people,
         status_shown, next_number, token_generation, created_at, last_activity
     FROM sessions WHERE key = ?1";
/// Another bot's words alone give nobody anything to do: they go along with the next message. A status that may stand
/// beside a thread is to be taken away after a crash, and is no work otherwise.
pub(crate) const WITH_WORK: &str = "SELECT key, installation, conversation, root FROM threads
     WHERE key IN (
         SELECT key FROM sessions WHERE running_turn IS NOT NULL
         UNION SELECT key FROM sessions WHERE ?1 IS NULL AND status_shown = 1
         UNION SELECT session FROM inbox WHERE state IN ('queued', 'given') AND kind != 'context')
       AND (?1 IS NULL OR (installation = ?1 AND conversation = ?2))
     ORDER BY installation, conversation, root";
pub(crate) const ACTIVE: &str =
    "SELECT threads.key, installation, conversation, root, watermark, max(watermark, caught_up) AS caught_up
     FROM sessions INDEXED BY sessions_activity JOIN threads ON threads.key = sessions.key
     WHERE last_activity >= ?1 ORDER BY last_activity DESC, sessions.key LIMIT ?2";
pub(crate) const BIRTH: &str = "SELECT at FROM birth WHERE id = 1";
pub(crate) const COUNTS: &str = "SELECT (SELECT count(*) FROM sessions) AS sessions,
         (SELECT count(*) FROM journal WHERE fate IS NULL) AS unread,
         (SELECT count(*) FROM journal WHERE fate = 'unreadable') AS unreadable,
         (SELECT count(*) FROM inbox WHERE state IN ('queued', 'given')) AS inbox,
         (SELECT min(created_at) FROM inbox WHERE state IN ('queued', 'given')) AS inbox_oldest,
         (SELECT count(*) FROM outbox WHERE state IN ('queued', 'sending', 'unknown')) AS outbox,
         (SELECT min(created_at) FROM outbox WHERE state IN ('queued', 'sending', 'unknown')) AS outbox_oldest";

/// Takes a session: every earlier fence is void from here on.
pub(crate) fn claim(connection: &Connection, key: &ThreadKey, owner: &OwnerId) -> Sql<(Fence, SessionRows)> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO threads (key, installation, conversation, root, owner, fence, revision)
         VALUES (?1, ?2, ?3, ?4, ?5, 1, 0)
         ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, fence = fence + 1 RETURNING fence, revision",
    )?;
    let ThreadKey { installation, conversation, root } = key;
    let values = params![key.to_string(), installation.as_str(), conversation.as_str(), root.as_str(), owner.as_str()];
    let (fence, revision) = statement.query_row(values, |row| Ok((Fence(row.get(0)?), Revision(row.get(1)?))))?;
    Ok((fence, load(connection, key, revision)?))
}

fn load(connection: &Connection, key: &ThreadKey, revision: Revision) -> Sql<SessionRows> {
    let name = key.to_string();
    let record = session(connection, key)?;
    let (turn, turn_parts) = match record.as_ref().and_then(|record| record.running_turn.as_ref()) {
        Some(turn) => (turns::turn(connection, key, turn)?, outbox::of_turn(connection, &name, turn)?),
        None => (None, Vec::new()),
    };
    Ok(SessionRows {
        record,
        revision,
        inbox: inbox::open(connection, key)?,
        parked: inbox::parked(connection, key)?,
        newest_given: inbox::newest_given(connection, &name)?,
        turn,
        turn_parts,
        open_parts: outbox::count_open(connection, &name)?,
    })
}

/// Makes one step. Nothing was written when it is refused.
pub(crate) fn commit(connection: &Connection, change: &SessionCommit) -> Sql<Result<Revision, CommitError>> {
    only_its_own(change)?;
    let name = change.key.to_string();
    let mut statement = connection.prepare_cached("SELECT fence, revision FROM threads WHERE key = ?1")?;
    let found = statement.query_row([&name], |row| Ok((Fence(row.get(0)?), Revision(row.get(1)?)))).optional()?;
    let revision = match found {
        Some((fence, revision)) if fence == change.fence => revision,
        Some(_) if planted(Plant::TwoOwners) => change.expected,
        _ => return Ok(Err(CommitError::Fenced)),
    };
    if revision != change.expected {
        return Ok(Err(CommitError::Stale { expected: change.expected, found: revision }));
    }
    let next = Revision(revision.0 + change.steps);
    connection.prepare_cached("UPDATE threads SET revision = ?2 WHERE key = ?1")?.execute(params![name, next.0])?;
    if let Some(record) = &change.record {
        put_record(connection, &name, record)?;
    }
    for row in &change.inbox {
        inbox::put(connection, &name, row)?;
    }
    inbox::withdraw(connection, &change.key.conversation_key(), &change.withdrawn)?;
    for turn in &change.turns {
        turns::put(connection, &name, turn)?;
    }
    if change.drop_queued_parts {
        outbox::drop_queued(connection, &change.key)?;
    }
    outbox::insert(connection, &change.parts)?;
    journal::mark_read(connection, &change.read)?;
    Ok(Ok(next))
}

/// A claim covers one session: a step must not reach into another's rows.
fn only_its_own(change: &SessionCommit) -> Sql<()> {
    let foreign = |table, row: &dyn ToString| Err(SqlError::Foreign { table, row: row.to_string() });
    if let Some(record) = change.record.as_ref().filter(|record| record.key != change.key) {
        return foreign("sessions", &record.key);
    }
    if let Some(row) = change.inbox.iter().find(|row| row.session != change.key) {
        return foreign("inbox", &row.id);
    }
    if let Some(turn) = change.turns.iter().find(|turn| turn.session != change.key) {
        return foreign("turns", &turn.id);
    }
    if let Some(part) = change.parts.iter().find(|part| part.thread != change.key) {
        return foreign("outbox", &part.id);
    }
    Ok(())
}

fn put_record(connection: &Connection, name: &str, record: &SessionRecord) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO sessions (key, id, channel_name, conversation_kind, started_by, started_with, folder, agent_thread,
             agent_confirmed, running_turn, watermark, stopped_at, notice_cause, notice_at, people, status_shown,
             next_number, token_generation, created_at, last_activity)
         VALUES (:key, :id, :channel_name, :conversation_kind, :started_by, :started_with, :folder, :agent_thread,
             :agent_confirmed, :running_turn, :watermark, :stopped_at, :notice_cause, :notice_at, :people,
             :status_shown, :next_number, :token_generation, :created_at, :last_activity)
         ON CONFLICT (key) DO UPDATE SET
             id = excluded.id, channel_name = excluded.channel_name, conversation_kind = excluded.conversation_kind,
             started_by = excluded.started_by, started_with = excluded.started_with, folder = excluded.folder,
             agent_thread = excluded.agent_thread, agent_confirmed = excluded.agent_confirmed,
             running_turn = excluded.running_turn, watermark = excluded.watermark, stopped_at = excluded.stopped_at,
             notice_cause = excluded.notice_cause, notice_at = excluded.notice_at,
             people = excluded.people, status_shown = excluded.status_shown, next_number = excluded.next_number,
             token_generation = excluded.token_generation, created_at = excluded.created_at,
             last_activity = excluded.last_activity",
    )?;
    statement.execute(named_params! {
        ":key": name,
        ":id": record.id.as_str(),
        ":channel_name": record.channel_name,
        ":conversation_kind": record.conversation_kind.as_str(),
        ":started_by": record.started_by.as_str(),
        ":started_with": record.started_with.as_str(),
        ":folder": record.folder,
        ":agent_thread": record.agent_thread.as_ref().map(AgentThreadId::as_str),
        ":agent_confirmed": record.agent_confirmed,
        ":running_turn": record.running_turn.as_ref().map(TurnId::as_str),
        ":watermark": Place(record.watermark),
        ":stopped_at": Place(record.stopped_at),
        ":notice_cause": record.last_notice.as_ref().map(|(cause, _)| cause),
        ":notice_at": record.last_notice.as_ref().map(|(_, at)| at.as_millis()),
        ":people": Json(&record.people),
        ":status_shown": record.status_shown,
        ":next_number": record.next_number,
        ":token_generation": record.token_generation,
        ":created_at": record.created_at.as_millis(),
        ":last_activity": record.last_activity.as_millis(),
    })?;
    Ok(())
}

fn read_record(row: &Row<'_>, key: &ThreadKey) -> rusqlite::Result<SessionRecord> {
    let notice_cause: Option<String> = row.get("notice_cause")?;
    let notice_at = row.get::<_, Option<i64>>("notice_at")?.map(Timestamp::from_millis);
    Ok(SessionRecord {
        key: key.clone(),
        id: sql::id(row, "id", SessionId::new)?,
        channel_name: row.get("channel_name")?,
        conversation_kind: sql::named(row, "conversation_kind")?,
        started_by: sql::id(row, "started_by", PersonId::new)?,
        started_with: sql::id(row, "started_with", MessageId::new)?,
        folder: row.get("folder")?,
        agent_thread: sql::known(row, "agent_thread", AgentThreadId::new)?,
        agent_confirmed: row.get("agent_confirmed")?,
        running_turn: sql::known(row, "running_turn", TurnId::new)?,
        watermark: row.get::<_, Place>("watermark")?.0,
        stopped_at: row.get::<_, Place>("stopped_at")?.0,
        last_notice: notice_cause.zip(notice_at),
        people: sql::document(row, "people")?,
        status_shown: row.get("status_shown")?,
        next_number: row.get("next_number")?,
        token_generation: row.get("token_generation")?,
        created_at: sql::moment(row, "created_at")?,
        last_activity: sql::moment(row, "last_activity")?,
    })
}

pub(crate) fn session(connection: &Connection, key: &ThreadKey) -> Sql<Option<SessionRecord>> {
    let mut statement = connection.prepare_cached(RECORD)?;
    sql::row("sessions", &mut statement, [key.to_string()], |row| read_record(row, key))
}

/// Sessions with something to do; of one conversation, when it is given.
pub(crate) fn with_work(connection: &Connection, conversation: Option<&ConversationKey>) -> Sql<Vec<ThreadKey>> {
    let values = params![
        conversation.map(|conversation| conversation.installation.as_str()),
        conversation.map(|conversation| conversation.conversation.as_str()),
    ];
    sql::rows("threads", &mut *connection.prepare_cached(WITH_WORK)?, values, sql::thread)
}

/// Sessions in which something happened since, and up to when each has every message.
pub(crate) fn active(connection: &Connection, since: Timestamp, limit: usize) -> Sql<Vec<ActiveSession>> {
    let values = params![since.as_millis(), sql::limit(limit)];
    sql::rows("sessions", &mut *connection.prepare_cached(ACTIVE)?, values, |row| {
        let place = |column| row.get::<_, Place>(column).map(|place| place.0);
        Ok(ActiveSession { key: sql::thread(row)?, began: place("watermark")?, caught_up: place("caught_up")? })
    })
}

pub(crate) fn caught_up(connection: &Connection, thread: &ThreadKey, up_to: ChatTime) -> Sql<()> {
    let mut statement =
        connection.prepare_cached("UPDATE threads SET caught_up = ?2 WHERE key = ?1 AND caught_up < ?2")?;
    statement.execute(params![thread.to_string(), Place(up_to)])?;
    Ok(())
}

pub(crate) fn birth(connection: &Connection) -> Sql<Timestamp> {
    Ok(connection.prepare_cached(BIRTH)?.query_row([], |row| sql::moment(row, "at"))?)
}

pub(crate) fn counts(connection: &Connection) -> Sql<StoreCounts> {
    Ok(connection.prepare_cached(COUNTS)?.query_row([], |row| {
        let moment = |column| row.get::<_, Option<i64>>(column).map(|at| at.map(Timestamp::from_millis));
        Ok(StoreCounts {
            inbox_oldest: moment("inbox_oldest")?,
            parts_oldest: moment("outbox_oldest")?,
            sessions: row.get("sessions")?,
            journal_unread: row.get("unread")?,
            journal_unreadable: row.get("unreadable")?,
            inbox_open: row.get("inbox")?,
            parts_open: row.get("outbox")?,
        })
    })?)
}

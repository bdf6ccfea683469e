//! The SQL of the inbox.

use broker_core::agent::{AgentThreadId, InputId, TurnId};
use broker_core::chat::{ChatMessage, ChatTime, ConversationKey, MessageId, ThreadKey};
use broker_core::session::MAX_PARKED;
use broker_core::store::{InboxKind, InboxRow, KnownMessage};
use rusqlite::{Connection, Row, named_params, params};

use crate::sql::{self, Json, Place, Sql};

pub(crate) const OPEN: &str = "SELECT id, kind, state, place, message, notice, people, backfill, late, withdrawn,
         attempts, not_before, given_to, turn, created_at
     FROM inbox WHERE session = ?1 AND state IN ('queued', 'given') ORDER BY place, id";
pub(crate) const PARKED: &str = "SELECT id, kind, state, place, message, notice, people, backfill, late, withdrawn,
         attempts, not_before, given_to, turn, created_at
     FROM inbox WHERE session = ?1 AND state = 'parked' AND kind = 'message' ORDER BY place DESC, id DESC LIMIT ?2";
pub(crate) const NEWEST_GIVEN: &str =
    "SELECT max(place) FROM inbox WHERE session = ?1 AND given_to IS NOT NULL AND kind = 'message'";
pub(crate) const KNOWN: &str = "SELECT kind, state, withdrawn, given_to FROM inbox WHERE installation = ?1 AND conversation = ?2 AND message_id = ?3";
pub(crate) const WITHDRAW: &str =
    "UPDATE inbox SET withdrawn = 1 WHERE installation = ?1 AND conversation = ?2 AND message_id = ?3";

/// Writes a row. A new row whose message is in the inbox under another id is left out; which message a row has never
/// changes.
pub(crate) fn put(connection: &Connection, session: &str, row: &InboxRow) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO inbox (id, session, kind, state, place, installation, conversation, message_id, message, notice,
             people, backfill, late, withdrawn, attempts, not_before, given_to, turn, created_at)
         VALUES (:id, :session, :kind, :state, :place, :installation, :conversation, :message_id, :message, :notice,
             :people, :backfill, :late, :withdrawn, :attempts, :not_before, :given_to, :turn, :created_at)
         ON CONFLICT (id) DO UPDATE SET
             kind = excluded.kind, state = excluded.state, place = excluded.place, message = excluded.message,
             notice = excluded.notice, people = excluded.people, backfill = excluded.backfill, late = excluded.late,
             withdrawn = excluded.withdrawn, attempts = excluded.attempts, not_before = excluded.not_before, given_to = excluded.given_to,
             turn = excluded.turn, created_at = excluded.created_at
         ON CONFLICT (installation, conversation, message_id) DO NOTHING",
    )?;
    // Which message a row *is*: an edit is about one that has its own row.
    let own = row.message.as_ref().filter(|_| row.kind != InboxKind::Edit);
    let conversation = own.map(|message| &message.conversation);
    statement.execute(named_params! {
        ":id": row.id.as_str(),
        ":session": session,
        ":kind": row.kind.as_str(),
        ":state": row.state.as_str(),
        ":place": Place(row.at),
        ":installation": conversation.map(|conversation| conversation.installation.as_str()),
        ":conversation": conversation.map(|conversation| conversation.conversation.as_str()),
        ":message_id": own.map(|message| message.id.as_str()),
        ":message": row.message.as_ref().map(Json),
        ":notice": row.notice,
        ":people": Json(&row.people),
        ":backfill": Json(&row.backfill),
        ":late": row.late,
        ":withdrawn": row.withdrawn,
        ":attempts": row.attempts,
        ":not_before": row.not_before.as_millis(),
        ":given_to": row.given_to.as_ref().map(AgentThreadId::as_str),
        ":turn": row.turn.as_ref().map(TurnId::as_str),
        ":created_at": row.created_at.as_millis(),
    })?;
    Ok(())
}

/// Marks the rows of messages that were deleted since.
pub(crate) fn withdraw(connection: &Connection, conversation: &ConversationKey, messages: &[MessageId]) -> Sql<()> {
    let mut statement = connection.prepare_cached(WITHDRAW)?;
    for message in messages {
        let ConversationKey { installation, conversation } = conversation;
        statement.execute([installation.as_str(), conversation.as_str(), message.as_str()])?;
    }
    Ok(())
}

fn read(row: &Row<'_>, session: &ThreadKey) -> rusqlite::Result<InboxRow> {
    Ok(InboxRow {
        id: sql::id(row, "id", InputId::new)?,
        session: session.clone(),
        kind: sql::named(row, "kind")?,
        state: sql::named(row, "state")?,
        at: row.get::<_, Place>("place")?.0,
        message: row.get::<_, Option<Json<ChatMessage>>>("message")?.map(|json| json.0),
        notice: row.get("notice")?,
        people: sql::document(row, "people")?,
        backfill: sql::document(row, "backfill")?,
        late: row.get("late")?,
        withdrawn: row.get("withdrawn")?,
        attempts: row.get("attempts")?,
        not_before: sql::moment(row, "not_before")?,
        given_to: sql::known(row, "given_to", AgentThreadId::new)?,
        turn: sql::known(row, "turn", TurnId::new)?,
        created_at: sql::moment(row, "created_at")?,
    })
}

/// The open rows of a session, by place.
pub(crate) fn open(connection: &Connection, session: &ThreadKey) -> Sql<Vec<InboxRow>> {
    let mut statement = connection.prepare_cached(OPEN)?;
    sql::rows("inbox", &mut statement, [session.to_string()], |row| read(row, session))
}

/// The latest messages of a session that were put aside, by place.
pub(crate) fn parked(connection: &Connection, session: &ThreadKey) -> Sql<Vec<InboxRow>> {
    let mut statement = connection.prepare_cached(PARKED)?;
    let values = params![session.to_string(), sql::limit(MAX_PARKED)];
    let mut rows = sql::rows("inbox", &mut statement, values, |row| read(row, session))?;
    rows.reverse();
    Ok(rows)
}

/// The newest place of a message that was given.
pub(crate) fn newest_given(connection: &Connection, session: &str) -> Sql<ChatTime> {
    let newest: Option<Place> = connection.prepare_cached(NEWEST_GIVEN)?.query_row([session], |row| row.get(0))?;
    Ok(newest.map_or(ChatTime::ZERO, |place| place.0))
}

pub(crate) fn known(
    connection: &Connection,
    conversation: &ConversationKey,
    message: &MessageId,
) -> Sql<Option<KnownMessage>> {
    let values = [conversation.installation.as_str(), conversation.conversation.as_str(), message.as_str()];
    sql::row("inbox", &mut *connection.prepare_cached(KNOWN)?, values, |row| {
        Ok(KnownMessage {
            kind: sql::named(row, "kind")?,
            state: sql::named(row, "state")?,
            withdrawn: row.get("withdrawn")?,
            given_to: sql::known(row, "given_to", AgentThreadId::new)?,
        })
    })
}

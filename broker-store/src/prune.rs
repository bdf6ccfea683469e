//! Deleting what is old and settled.

use broker_core::clock::Timestamp;
use broker_core::store::Old;
use rusqlite::{Connection, params};

use crate::sql::{self, Sql};

/// How old what a statement deletes has to be.
pub(crate) type Age = fn(&Old) -> Timestamp;

/// One statement per table. Of the inbox, a message stays while a search for missed ones may find it again and take it for
/// a new one: `SEARCHED_AGAIN` before the moment up to which its thread was read back.
pub(crate) const STATEMENTS: [(&str, Age); 5] = [
    (
        "DELETE FROM journal WHERE id IN
             (SELECT id FROM journal WHERE fate IS NOT NULL AND received_at < ?1 LIMIT ?2)",
        |old| old.journal,
    ),
    (
        "DELETE FROM inbox WHERE id IN
             (SELECT id FROM inbox WHERE state NOT IN ('queued', 'given') AND created_at < ?1
                  AND (message_id IS NULL OR place < (SELECT caught_up FROM threads WHERE key = session) - 180000000)
                  LIMIT ?2)",
        |old| old.closed,
    ),
    (
        "DELETE FROM outbox WHERE id IN
             (SELECT id FROM outbox WHERE state NOT IN ('queued', 'sending', 'unknown') AND created_at < ?1 LIMIT ?2)",
        |old| old.closed,
    ),
    (
        "DELETE FROM turns WHERE (session, id) IN
             (SELECT session, id FROM turns WHERE ended_at IS NOT NULL AND ended_at < ?1 LIMIT ?2)",
        |old| old.closed,
    ),
    ("DELETE FROM people WHERE id IN (SELECT id FROM people WHERE looked_up_at < ?1 LIMIT ?2)", |old| old.closed),
];

/// Deletes at most `limit` rows, so that others need not wait for the end of a great cleaning.
pub(crate) fn some(connection: &Connection, statement: &str, before: Timestamp, limit: usize) -> Sql<usize> {
    Ok(connection.prepare_cached(statement)?.execute(params![before.as_millis(), sql::limit(limit)])?)
}

#[cfg(test)]
mod tests {
    use broker_core::store::SEARCHED_AGAIN;

    use super::*;

    #[test]
    fn what_a_search_looks_at_again_is_what_is_kept() {
        let (inbox, _) = STATEMENTS[1];
        assert!(inbox.contains(&format!(" - {})", SEARCHED_AGAIN.as_micros())), "{inbox}");
    }
}

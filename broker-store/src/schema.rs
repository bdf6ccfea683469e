//! The tables, and how an older database becomes a newer one.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

/// The steps from an empty database to the present one. A step is never changed once it was released: a change is a new
/// step. The number of steps taken is the database's `user_version`.
const STEPS: &[&str] = &[
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
    include_str!("schema/0003.sql"),
    include_str!("schema/0004.sql"),
    include_str!("schema/0005.sql"),
];

/// Statements that a connection keeps prepared: more than the crate has.
const STATEMENTS: usize = 64;

/// How long SQLite waits for another program that holds the database (a backup, somebody's shell).
const BUSY: Duration = Duration::from_secs(5);

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was written by a newer broker.
    #[error(
        "the database {path} has schema {found}, and this broker knows {known}: start the newer broker again, or put back \
         a copy of the data root from before the upgrade"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: usize,
        /// The newest schema that this broker knows.
        known: usize,
    },
    /// It is not there.
    #[error("there is no database {path}: no broker has run on this data root yet")]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// It was written by an older broker, and this is no time to change it.
    #[error("the database {path} is of an older broker: start the broker once")]
    Older {
        /// The database.
        path: PathBuf,
    },
    /// It cannot be read or brought to the present schema.
    #[error(
        "the database {path} cannot be opened ({source}): check that the disk has space and that the file is the broker's"
    )]
    Unusable {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file cannot be made, or not closed to others.
    #[error("the database {path} cannot be made ({source}): check the disk, and who owns the file")]
    File {
        /// The database.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// No thread can be started.
    #[error("the store's threads cannot be started ({source}): raise the limit of threads of the broker's user")]
    Thread {
        /// What the operating system said.
        source: io::Error,
    },
}

/// Opens a database for writing and brings it to the present schema.
pub(crate) fn open(path: &Path) -> Result<Connection, OpenError> {
    let unusable = |source| OpenError::Unusable { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(unusable)?;
    let found = version(&connection).map_err(unusable)?;
    // Asked before anything is touched: a newer broker may have changed more than its tables.
    if found > STEPS.len() {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: STEPS.len() });
    }
    prepare(&connection).and_then(|()| migrate(&mut connection, found)).map_err(unusable)?;
    Ok(connection)
}

/// Opens a database for reading.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch("PRAGMA temp_store = MEMORY")?;
        connection.busy_timeout(BUSY)?;
        keep_statements(&connection)?;
        Ok(connection)
    };
    open().map_err(|source| OpenError::Unusable { path: path.to_owned(), source })
}

/// Opens a database for a look, when it is there and of the present schema.
pub(crate) fn open_present(path: &Path) -> Result<Connection, OpenError> {
    let at = || path.to_owned();
    if !path.exists() {
        return Err(OpenError::Missing { path: at() });
    }
    let connection = open_reader(path)?;
    let found = version(&connection).map_err(|source| OpenError::Unusable { path: at(), source })?;
    match found.cmp(&STEPS.len()) {
        Ordering::Equal => Ok(connection),
        Ordering::Less => Err(OpenError::Older { path: at() }),
        Ordering::Greater => Err(OpenError::Newer { path: at(), found, known: STEPS.len() }),
    }
}

fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

/// `synchronous = FULL` waits for the disk at each commit. The write-ahead log is carried over each 1,000 pages (4 MiB), and
/// cut back to 64 MiB when a long question made it grow beyond that.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;
         PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = 67108864;",
    )?;
    keep_statements(connection)
}

/// A statement is prepared once. Without the second setting SQLite prepares each one anew whose LIMIT is bound, since another
/// limit might call for another plan (<https://sqlite.org/c3ref/c_dbconfig_defensive.html#sqlitedbconfigenableqpsg>): measured,
/// that was half of what the readers did.
fn keep_statements(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn migrate(connection: &mut Connection, found: usize) -> rusqlite::Result<()> {
    for (taken, step) in STEPS.iter().enumerate().skip(found) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", taken + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{inbox, journal, outbox, prune, sessions, turns};

    #[test]
    fn an_empty_file_gets_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        for _ in 0..2 {
            let connection = open(&path).unwrap();
            assert_eq!(version(&connection).unwrap(), STEPS.len());
        }
    }

    #[test]
    fn an_older_database_keeps_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(STEPS[0]).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        old.execute_batch(
            "INSERT INTO threads VALUES ('T/C:1', 'T', 'C', '1', 'o', 1, 1);
             INSERT INTO inbox VALUES ('i1', 'T/C:1', 'wake_up', 'queued', 7, NULL, NULL, NULL, NULL, 'n', '[]',
                 '{\"state\":\"none\"}', 1, 2, 3, 'th', NULL, 4);
             INSERT INTO sessions VALUES ('T/C:1', 's', NULL, 'direct', 'U1', '1', 'f', NULL, 0, NULL, 7, 0, NULL, NULL, 3, 1, 2);",
        )
        .unwrap();
        drop(old);
        let connection = open(&path).unwrap();
        assert_eq!(version(&connection).unwrap(), STEPS.len());
        let record = sessions::session(&connection, &"T/C:1".parse().unwrap()).unwrap().unwrap();
        assert_eq!((record.next_number, record.people.len(), record.status_shown), (3, 0, false));
        assert_eq!(record.token_generation, 1);
        let rows = inbox::open(&connection, &"T/C:1".parse().unwrap()).unwrap();
        assert_eq!((rows[0].id.as_str(), rows[0].attempts, rows[0].withdrawn), ("i1", 2, false));
    }

    #[test]
    fn a_newer_database_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 99, known: 5, .. }), "{error}");
        assert!(error.to_string().contains("newer broker"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_file_that_is_no_database_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        std::fs::write(&path, "this is certainly not a database, not even a small one".repeat(100)).unwrap();
        assert!(matches!(open(&path), Err(OpenError::Unusable { .. })));
    }

    #[test]
    fn commits_wait_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open(&folder.path().join("db")).unwrap();
        let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0)).unwrap();
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
        assert_eq!(number("synchronous"), 2, "FULL");
        assert_eq!(number("foreign_keys"), 1);
    }

    #[test]
    fn every_question_has_its_index() {
        let connection = open(Path::new(":memory:")).unwrap();
        let cleaning = prune::STATEMENTS.map(|(statement, _)| statement);
        let questions = [
            journal::UNREAD,
            journal::TAKE_UNROUTED,
            sessions::RECORD,
            sessions::WITH_WORK,
            sessions::ACTIVE,
            sessions::BIRTH,
            sessions::COUNTS,
            inbox::OPEN,
            inbox::NEWEST_GIVEN,
            inbox::PARKED,
            inbox::KNOWN,
            turns::TURN,
            outbox::OPEN_PARTS,
            outbox::COUNT_OPEN,
            outbox::POST,
            outbox::OF_TURN,
            outbox::THREADS,
            outbox::DROP_QUEUED,
        ];
        for sql in questions.into_iter().chain(cleaning) {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let wanted = statement.parameter_count();
            for index in 1..=wanted {
                statement.raw_bind_parameter(index, rusqlite::types::Null).unwrap();
            }
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().unwrap() {
                let step: String = row.get("detail").unwrap();
                // A scan is fine where it is one of an index that holds nothing but what is wanted, or counts everything.
                let whole = step.starts_with("SCAN") && !step.contains("INDEX") && !step.contains("CONSTANT");
                assert!(!whole || step == "SCAN sessions", "{sql}\n{step}");
                assert!(!step.contains("AUTOMATIC"), "{sql}\n{step}");
            }
        }
    }
}

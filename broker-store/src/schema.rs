//! The tables, and how an older database becomes a newer one.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

/// The steps from an empty database to the present one. A step is never changed once it was released: a change is a new
/// step. The number of steps taken is the database's `user_version`.
const STEPS: &[&str] = &[include_str!("schema/0001.sql")];

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was written by a newer broker.
    #[error(
        "the database {path} has schema {found}, this broker knows {known}: start the newer broker again, or restore the \
         backup that was made before the upgrade"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: usize,
        /// The newest schema that this broker knows.
        known: usize,
    },
    /// It cannot be opened or brought to the present schema.
    #[error("the database {path} cannot be opened: {source}; check the disk, and who owns the file")]
    Unusable {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

/// Opens a database for writing and brings it to the present schema.
pub(crate) fn open(path: &Path) -> Result<Connection, OpenError> {
    let unusable = |source| OpenError::Unusable { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(unusable)?;
    // `wal_autocheckpoint` is in pages of 4 KiB: the log is written back each 4 MiB.
    let pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA busy_timeout=5000;
        PRAGMA temp_store=MEMORY; PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=67108864;";
    connection.execute_batch(pragmas).map_err(unusable)?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate(&mut connection, path)?;
    Ok(connection)
}

/// Opens a database for reading.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let unusable = |source| OpenError::Unusable { path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(unusable)?;
    connection.execute_batch("PRAGMA busy_timeout=5000; PRAGMA temp_store=MEMORY;").map_err(unusable)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let unusable = |source| OpenError::Unusable { path: path.to_owned(), source };
    let found: usize =
        connection.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0)).map_err(unusable)? as usize;
    if found > STEPS.len() {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: STEPS.len() });
    }
    for (index, step) in STEPS.iter().enumerate().skip(found) {
        let transaction = connection.transaction().map_err(unusable)?;
        transaction.execute_batch(step).map_err(unusable)?;
        transaction
            .pragma_update(None, "user_version", u32::try_from(index + 1).unwrap_or(u32::MAX))
            .map_err(unusable)?;
        transaction.commit().map_err(unusable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_database_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
        let version: u32 = open_reader(&path).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, 99);
    }

    #[test]
    fn a_file_that_is_no_database_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        std::fs::write(&path, "this is certainly not a database, not even a small one".repeat(100)).unwrap();
        assert!(matches!(open(&path), Err(OpenError::Unusable { .. })));
    }

    #[test]
    fn commits_are_durable_ones() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open(&folder.path().join("db")).unwrap();
        let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, String>(0));
        assert_eq!(pragma("journal_mode").unwrap(), "wal");
        let synchronous: u32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!(synchronous, 2, "FULL");
    }
}

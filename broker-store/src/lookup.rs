//! A look into a database that a broker may have open at the same time.

use std::path::Path;

use broker_core::store::{SessionRecord, StoreError};

use crate::sql::{self, Sql};
use crate::{schema, sessions};

const THREADS: &str = "SELECT installation, conversation, root FROM threads WHERE conversation = ?1 AND root = ?2";

/// The sessions of a thread, by the names that its platform gives to conversation and root: one for each installation that
/// sees it. Blocks.
///
/// # Errors
///
/// When the database cannot be read, or is not of the present schema.
pub fn find_sessions(data_root: &Path, conversation: &str, root: &str) -> Result<Vec<SessionRecord>, StoreError> {
    let path = data_root.join("state").join("broker.sqlite");
    let connection = schema::open_present(&path).map_err(|error| StoreError::new(error.to_string()))?;
    let find = || -> Sql<Vec<SessionRecord>> {
        let threads = sql::rows("threads", &mut connection.prepare(THREADS)?, [conversation, root], sql::thread)?;
        threads.iter().filter_map(|thread| sessions::session(&connection, thread).transpose()).collect()
    };
    Ok(find()?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{DataRoot, SqliteStore};

    #[test]
    fn a_database_that_is_not_there_or_not_of_this_schema_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let error = find_sessions(&data, "C1", "1.1").unwrap_err();
        assert!(error.to_string().contains("no broker has run"), "{error}");
        assert!(!data.exists(), "a look makes nothing");

        let root = DataRoot::take(&data).unwrap();
        SqliteStore::open(&root).unwrap();
        assert_eq!(find_sessions(&data, "C1", "1.1").unwrap(), []);
        for (version, expected) in [(3, "start the broker once"), (1000, "newer broker")] {
            let connection = rusqlite::Connection::open(root.database()).unwrap();
            connection.pragma_update(None, "user_version", version).unwrap();
            let error = find_sessions(&data, "C1", "1.1").unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(fs::metadata(root.database()).is_ok());
    }
}

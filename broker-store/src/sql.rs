//! How the broker's words become SQLite's and come back, and what can go wrong with that.

use broker_core::chat::{ChatTime, ThreadKey};
use broker_core::clock::Timestamp;
use broker_core::store::StoreError;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, Params, Row, Statement, ToSql};
use serde::Serialize;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};

/// Why a piece of SQL did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SqlError {
    #[error("sqlite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// What is stored does not fit what this broker reads.
    #[error(
        "the row `{row}` of {table} cannot be read ({source}); with the broker stopped, mend it with the sqlite3 shell or \
         put a backup back"
    )]
    Row {
        table: &'static str,
        row: String,
        #[source]
        source: rusqlite::Error,
    },
    /// A step may touch the rows of its own session only, since its claim covers no others.
    #[error("the row `{row}` of {table} is of another session than the step that brings it")]
    Foreign { table: &'static str, row: String },
}

impl SqlError {
    /// Whether it says that the disk or the file is at fault, and not the one change.
    pub(crate) fn is_fault(&self) -> bool {
        self.code().is_some_and(|code| {
            matches!(
                code,
                ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::ReadOnly
                    | ErrorCode::CannotOpen
                    | ErrorCode::PermissionDenied
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::FileLockingProtocolFailed
            )
        })
    }

    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) | Self::Row { source: error, .. } => error.sqlite_error_code(),
            Self::Foreign { .. } => None,
        }
    }
}

impl From<SqlError> for StoreError {
    fn from(error: SqlError) -> Self {
        let mend = match error.code() {
            Some(ErrorCode::DiskFull) => "the disk is full: free some space, the broker goes on by itself",
            Some(ErrorCode::SystemIoFailure) => {
                "look at the disk and the kernel's log; the broker tries again by itself"
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                "the database is damaged: stop the broker and put a backup back"
            }
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                "the broker's user has to own the database and its folder"
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed) => {
                "another program holds the database: end it"
            }
            _ => return Self::new(error),
        };
        Self::new(format_args!("{error}; {mend}"))
    }
}

pub(crate) type Sql<T> = Result<T, SqlError>;

/// A nested document, kept as JSON.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let document = serde_json::to_string(&self.0);
        document.map(ToSqlOutput::from).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }
}

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?).map(Self).map_err(FromSqlError::other)
    }
}

/// A value that is one of a few names.
pub(crate) struct Named<T>(pub(crate) T);

impl<T: DeserializeOwned> FromSql for Named<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name: StrDeserializer<'_, serde::de::value::Error> = value.as_str()?.into_deserializer();
        T::deserialize(name).map(Self).map_err(FromSqlError::other)
    }
}

/// A place in a thread. SQLite's integers are signed: what does not fit is the end of time, which no message reaches.
pub(crate) struct Place(pub(crate) ChatTime);

impl ToSql for Place {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX).into())
    }
}

impl FromSql for Place {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Self(match value.as_i64()? {
            i64::MAX => ChatTime::MAX,
            micros => ChatTime::from_micros(u64::try_from(micros).map_err(|_| FromSqlError::OutOfRange(micros))?),
        }))
    }
}

/// An identifier of a row.
pub(crate) fn id<T>(row: &Row<'_>, column: &str, make: impl FnOnce(String) -> T) -> rusqlite::Result<T> {
    row.get(column).map(make)
}

/// An identifier of a row that may be absent.
pub(crate) fn known<T>(row: &Row<'_>, column: &str, make: impl FnOnce(String) -> T) -> rusqlite::Result<Option<T>> {
    Ok(row.get::<_, Option<String>>(column)?.map(make))
}

/// One of a few names.
pub(crate) fn named<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    row.get::<_, Named<T>>(column).map(|named| named.0)
}

/// A nested document of a row.
pub(crate) fn document<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    row.get::<_, Json<T>>(column).map(|json| json.0)
}

/// A moment of a row.
pub(crate) fn moment(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

/// A thread of a row that has the columns of its key.
pub(crate) fn thread(row: &Row<'_>) -> rusqlite::Result<ThreadKey> {
    use broker_core::chat::{ConversationId, InstallationId, MessageId};
    Ok(ThreadKey {
        installation: id(row, "installation", InstallationId::new)?,
        conversation: id(row, "conversation", ConversationId::new)?,
        root: id(row, "root", MessageId::new)?,
    })
}

/// All rows of an answer. The first column names a row in the error that says it cannot be read.
pub(crate) fn rows<T>(
    table: &'static str,
    statement: &mut Statement<'_>,
    values: impl Params,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Sql<Vec<T>> {
    let mut answer = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = answer.next()? {
        found.push(read(row).map_err(|source| SqlError::Row { table, row: name(row), source })?);
    }
    Ok(found)
}

/// The one row of an answer, when there is one.
pub(crate) fn row<T>(
    table: &'static str,
    statement: &mut Statement<'_>,
    values: impl Params,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Sql<Option<T>> {
    Ok(rows(table, statement, values, read)?.pop())
}

fn name(row: &Row<'_>) -> String {
    match row.get_ref(0) {
        Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        Ok(ValueRef::Integer(number)) => number.to_string(),
        _ => "?".to_owned(),
    }
}

/// How many rows a limit means to SQLite.
pub(crate) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

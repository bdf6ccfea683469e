//! Group commit: many changes, one transaction, one `fsync`, and each change can fail alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use broker_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::sql::{Sql, SqlError};

/// What the caller of a change waits for.
pub(crate) type Outcome<T> = oneshot::Receiver<Result<T, StoreError>>;

/// A change, told of the transaction that it runs in, or why there is none.
type Change = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Ran + Send>;

/// A change that waits to be made.
pub(crate) struct Job(Change);

/// Told how the commit went, it answers the caller.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A change that was made and is not yet durable.
struct Ran {
    answer: Answer,
    /// Set when the change failed because of the disk: then the store is ill, and not just the change refused.
    fault: Option<StoreError>,
}

impl Job {
    /// A change, and where its outcome will be.
    pub(crate) fn new<T: Send + 'static>(
        change: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> (Self, Outcome<T>) {
        let (sender, outcome) = oneshot::channel();
        let run = move |transaction: Result<&Connection, StoreError>| {
            let mut fault = None;
            let result = transaction.and_then(|connection| {
                in_savepoint(connection, change).map_err(|error| {
                    let is_fault = error.is_fault();
                    let error = StoreError::from(error);
                    fault = is_fault.then(|| error.clone());
                    error
                })
            });
            // A caller that is gone does not want to know.
            let answer = move |committed: Result<(), StoreError>| {
                let _ = sender.send(result.and_then(|value| committed.map(|()| value)));
            };
            Ran { answer: Box::new(answer), fault }
        };
        (Self(Box::new(run)), outcome)
    }
}

/// A group whose callers wait to hear how it went.
pub(crate) struct Ended {
    committed: Result<(), StoreError>,
    fault: Option<StoreError>,
    answers: Vec<Answer>,
}

impl Ended {
    /// Whether the store is well: an error says that nothing of the group was committed, or that one of its changes found
    /// the disk at fault.
    pub(crate) fn health(&self) -> Result<(), StoreError> {
        self.committed.clone().and(self.fault.clone().map_or(Ok(()), Err))
    }

    /// Answers everybody.
    pub(crate) fn answer(self) {
        for answer in self.answers {
            answer(self.committed.clone());
        }
    }
}

/// What a caller is told whose change panicked.
pub(crate) fn given_up() -> StoreError {
    StoreError::new("the change panicked and was undone; this is a fault of the broker, see its log")
}

/// Makes changes durable together.
pub(crate) fn commit(connection: &Connection, jobs: Vec<Job>) -> Ended {
    let mut transaction = run(connection, "BEGIN IMMEDIATE");
    let mut answers = Vec::with_capacity(jobs.len());
    let mut fault = None;
    for Job(job) in jobs {
        let within = transaction.clone().map(|()| connection);
        match catch_unwind(AssertUnwindSafe(|| job(within))) {
            Ok(ran) => {
                answers.push(ran.answer);
                fault = fault.or(ran.fault);
            }
            Err(_) => {
                tracing::error!("a change to the store panicked");
                undo_savepoint(connection);
            }
        }
        // A full or broken disk can make SQLite give up the whole transaction: what ran now would commit by itself.
        if transaction.is_ok() && connection.is_autocommit() {
            transaction = Err(fault.clone().unwrap_or_else(|| StoreError::new("SQLite gave the transaction up")));
        }
    }
    let committed = transaction.and_then(|()| run(connection, "COMMIT"));
    if !connection.is_autocommit()
        && let Err(error) = run(connection, "ROLLBACK")
    {
        tracing::error!(%error, "a failed transaction could not be rolled back");
    }
    Ended { committed, fault, answers }
}

fn run(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.execute_batch(sql).map_err(|error| SqlError::from(error).into())
}

fn in_savepoint<T>(connection: &Connection, change: impl FnOnce(&Connection) -> Sql<T>) -> Sql<T> {
    connection.prepare_cached("SAVEPOINT job")?.execute([])?;
    match change(connection) {
        Ok(value) => {
            connection.prepare_cached("RELEASE job")?.execute([])?;
            Ok(value)
        }
        Err(error) => {
            undo_savepoint(connection);
            Err(error)
        }
    }
}

fn undo_savepoint(connection: &Connection) {
    // Where SQLite has given the whole transaction up, or the change never began, there is no savepoint.
    let _ = connection.execute_batch("ROLLBACK TO job; RELEASE job");
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;

    fn table() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT").unwrap();
        connection
    }

    /// Makes a group, answers everybody, and says whether the store is well.
    fn make(connection: &Connection, jobs: Vec<Job>) -> Result<(), StoreError> {
        let ended = commit(connection, jobs);
        let health = ended.health();
        ended.answer();
        health
    }

    fn insert(n: i64) -> (Job, Outcome<usize>) {
        Job::new(move |connection| Ok(connection.execute("INSERT INTO t VALUES (?1)", params![n])?))
    }

    fn numbers(connection: &Connection) -> Vec<i64> {
        let mut statement = connection.prepare("SELECT n FROM t ORDER BY n").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_change_fails_or_panics_alone() {
        let connection = table();
        let (first, mut one) = insert(1);
        let (again, mut twice) = insert(1);
        let (panics, mut panicked) = Job::new(|connection| -> Sql<()> {
            connection.execute("INSERT INTO t VALUES (7)", [])?;
            panic!("on purpose");
        });
        let (last, mut two) = insert(2);
        assert_eq!(make(&connection, vec![first, again, panics, last]), Ok(()));
        assert_eq!(one.try_recv().unwrap(), Ok(1));
        assert!(twice.try_recv().unwrap().unwrap_err().reason.contains("UNIQUE"));
        assert!(panicked.try_recv().is_err(), "its answer is dropped");
        assert_eq!(two.try_recv().unwrap(), Ok(1));
        assert_eq!(numbers(&connection), [1, 2]);
    }

    #[test]
    fn when_the_commit_fails_everybody_is_told_and_the_next_group_works() {
        let connection = table();
        // A deferred foreign key is looked at by COMMIT alone.
        let schema = "PRAGMA foreign_keys = ON;
            CREATE TABLE child (n INTEGER REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED) STRICT";
        connection.execute_batch(schema).unwrap();
        let (good, mut one) = insert(1);
        let (orphan, mut two) = Job::new(|connection| Ok(connection.execute("INSERT INTO child VALUES (9)", [])?));
        make(&connection, vec![good, orphan]).unwrap_err();
        assert!(one.try_recv().unwrap().is_err());
        assert!(two.try_recv().unwrap().is_err());
        assert_eq!(numbers(&connection), [0; 0]);
        let (good, mut one) = insert(1);
        assert_eq!(make(&connection, vec![good]), Ok(()));
        assert_eq!(one.try_recv().unwrap(), Ok(1));
    }

    #[test]
    fn where_no_transaction_can_begin_nothing_runs() {
        let connection = table();
        connection.execute_batch("BEGIN").unwrap();
        let (job, mut outcome) = insert(1);
        make(&connection, vec![job]).unwrap_err();
        assert!(outcome.try_recv().unwrap().is_err());
        assert!(connection.is_autocommit());
        assert_eq!(numbers(&connection), [0; 0]);
    }

    #[test]
    fn when_the_transaction_is_given_up_midway_nothing_of_the_group_stays() {
        let connection = table();
        let (first, mut one) = insert(1);
        let (gives_up, mut two) = Job::new(|connection| Ok(connection.execute_batch("ROLLBACK")?));
        let (last, mut three) = insert(3);
        make(&connection, vec![first, gives_up, last]).unwrap_err();
        assert!(one.try_recv().unwrap().is_err());
        assert!(two.try_recv().unwrap().is_err());
        assert!(three.try_recv().unwrap().is_err());
        assert_eq!(numbers(&connection), [0; 0]);
    }
}

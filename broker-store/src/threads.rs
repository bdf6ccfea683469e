//! The threads that SQLite works on: one that writes, with group commit, and a few that read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use broker_core::clock::{Clock, SystemClock};
use broker_core::health::PartHealth;
use broker_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::schema::{self, OpenError};
use crate::sql::{Sql, SqlError};

/// Jobs that may wait for a thread; more callers wait outside.
const QUEUE: usize = 1024;
/// Jobs that share one commit.
const GROUP: usize = 256;
/// Threads that read.
const READERS: usize = 2;

/// Tells the caller of a job how the commit of its group went.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// A change. It runs inside the group's transaction, where there is one; what it returns is called after the commit.
type Change = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Answer + Send>;
/// A question.
type Question = Box<dyn FnOnce(&Connection) + Send>;

/// The writer and the readers of one database. Dropped, they finish what they have and end.
#[derive(Debug)]
pub(crate) struct Threads {
    writer: mpsc::Sender<Change>,
    readers: Vec<mpsc::Sender<Question>>,
    next_reader: AtomicUsize,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl Threads {
    pub(crate) fn start(path: &Path, health: watch::Sender<PartHealth>) -> Result<Self, OpenError> {
        let connection = schema::open(path)?;
        let (writer, changes) = mpsc::channel(QUEUE);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|error| OpenError::Unusable {
                path: path.to_owned(),
                source: rusqlite::Error::ToSqlConversionFailure(Box::new(error)),
            })
        };
        let writing = spawn("store-writer", Box::new(move || write(&connection, changes, &health)))?;
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let connection = schema::open_reader(path)?;
            let (reader, mut questions) = mpsc::channel::<Question>(QUEUE);
            let work = move || {
                while let Some(question) = questions.blocking_recv() {
                    // A question that panics drops its answer, which its caller sees.
                    let _ = catch_unwind(AssertUnwindSafe(|| question(&connection)));
                }
            };
            spawn("store-reader", Box::new(work))?;
            readers.push(reader);
        }
        Ok(Self { writer, readers, next_reader: AtomicUsize::new(0), writing: Mutex::new(Some(writing)) })
    }

    /// Makes a change and waits until it is durable.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answer) = oneshot::channel();
        let job: Change = Box::new(move |connection| {
            let result = connection.and_then(|connection| Ok(in_savepoint(connection, change)?));
            Box::new(move |committed| {
                // A caller that is gone does not want to know.
                let _ = sender.send(result.and_then(|value| committed.map(|()| value)));
            })
        });
        self.writer.send(job).await.map_err(|_| closed())?;
        answer.await.map_err(|_| StoreError::new("the change was given up; see the log"))?
    }

    /// Asks a question.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answer) = oneshot::channel();
        let job: Question = Box::new(move |connection| {
            let _ = sender.send(question(connection).map_err(StoreError::from));
        });
        let reader = &self.readers[self.next_reader.fetch_add(1, Ordering::Relaxed) % self.readers.len()];
        reader.send(job).await.map_err(|_| closed())?;
        answer.await.map_err(|_| StoreError::new("the question was given up; see the log"))?
    }

    /// Ends the threads and waits for the writer. Blocks.
    pub(crate) fn join(self) {
        let Self { writer, readers, writing, .. } = self;
        drop((writer, readers));
        if let Some(thread) = writing.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let _ = thread.join();
        }
    }
}

fn closed() -> StoreError {
    StoreError::new("the store is closed")
}

/// Runs a change so that it can fail alone.
pub(crate) fn in_savepoint<T>(connection: &Connection, change: impl FnOnce(&Connection) -> Sql<T>) -> Sql<T> {
    connection.execute_batch("SAVEPOINT job")?;
    match change(connection) {
        Ok(value) => {
            connection.execute_batch("RELEASE job")?;
            Ok(value)
        }
        Err(error) => {
            // Where SQLite has already given the whole transaction up, there is no savepoint any more.
            let _ = connection.execute_batch("ROLLBACK TO job; RELEASE job");
            Err(error)
        }
    }
}

fn write(connection: &Connection, mut changes: mpsc::Receiver<Change>, health: &watch::Sender<PartHealth>) {
    let clock = SystemClock::new();
    while let Some(first) = changes.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(change) = changes.try_recv()
        {
            group.push(change);
        }
        let begun = Instant::now();
        let outcome = commit_group(connection, group);
        let took = begun.elapsed();
        let at = clock.now().as_millis();
        health.send_replace(match outcome {
            Ok(()) => PartHealth::well()
                .with("last_commit_ms", at)
                .with("last_commit_took_us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            Err(error) => PartHealth::ill(error.to_string()).with("last_failure_ms", at),
        });
    }
}

/// Runs a group in one transaction, then answers everybody.
fn commit_group(connection: &Connection, group: Vec<Change>) -> Result<(), StoreError> {
    let run = |sql: &str| connection.execute_batch(sql).map_err(|error| StoreError::from(SqlError::from(error)));
    let mut state = run("BEGIN IMMEDIATE");
    let mut answers: Vec<Answer> = Vec::with_capacity(group.len());
    for change in group {
        // A change that panics is undone with its savepoint; dropping its answer tells its caller.
        let within = state.clone().map(|()| connection);
        match catch_unwind(AssertUnwindSafe(|| change(within))) {
            Ok(answer) => answers.push(answer),
            Err(_) => drop(connection.execute_batch("ROLLBACK TO job; RELEASE job")),
        }
        // A full disk or a broken one can make SQLite give up the whole transaction: a change that ran now would commit
        // by itself.
        if state.is_ok() && connection.is_autocommit() {
            state = Err(StoreError::new("the transaction was given up: the disk is full or broken"));
        }
    }
    let committed = state.and_then(|()| run("COMMIT"));
    if !connection.is_autocommit() {
        drop(connection.execute_batch("ROLLBACK"));
    }
    for answer in answers {
        answer(committed.clone());
    }
    committed
}

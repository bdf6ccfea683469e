//! The thread that writes.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use broker_core::health::PartHealth;
use broker_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::group::{self, Job, given_up};
use crate::pulse::Pulse;
use crate::schema::OpenError;
use crate::sql::Sql;

/// Changes that may wait for the thread; more callers wait outside.
const QUEUE: usize = 1024;
/// Changes that share one commit. A bound, so that the first of them does not wait for ever.
const GROUP: usize = 256;
/// So many changes within [`WINDOW`] are a busy store: then a group waits for more, and a disk that is asked to sync a few
/// hundred times a second instead of thousands leaves the processors to others. A single conversation stays far below and
/// never waits.
const BUSY: usize = 50;
/// See [`BUSY`].
const WINDOW: Duration = Duration::from_millis(50);
/// How long a group of a busy store waits for more.
const LINGER: Duration = Duration::from_millis(2);
/// A change that waits for so long says that the disk hangs: it answers neither yes nor no.
const HUNG: Duration = Duration::from_secs(10);
/// How often an ill store that nobody writes to is tried.
pub(crate) const PROBE: Duration = Duration::from_secs(5);

/// A change in the queue, and its place there: given back when the thread takes it.
type Waiting = (Job, OwnedSemaphorePermit);

/// The one thread that writes. Dropped, it finishes what it has and ends.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Waiting>,
    /// What bounds the queue: a channel of the standard library, since the thread waits with a limit, which one of tokio's
    /// cannot outside a runtime.
    places: Arc<Semaphore>,
    health: watch::Sender<PartHealth>,
    thread: JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(
        connection: Connection,
        health: watch::Sender<PartHealth>,
        probe: Duration,
    ) -> Result<Self, OpenError> {
        let (jobs, waiting) = mpsc::channel();
        let pulse = Pulse::new(health.clone());
        let work = move || write(&connection, &waiting, pulse, probe);
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(work);
        let thread = thread.map_err(|source| OpenError::Thread { source })?;
        Ok(Self { jobs, places: Arc::new(Semaphore::new(QUEUE)), health, thread })
    }

    /// Makes a change and returns when it is durable. Dropping the future does not undo it.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let made = async {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| ended())?;
            let (job, outcome) = Job::new(change);
            self.jobs.send((job, place)).map_err(|_| ended())?;
            outcome.await.map_err(|_| given_up())?
        };
        tokio::pin!(made);
        if let Ok(outcome) = tokio::time::timeout(HUNG, &mut made).await {
            return outcome;
        }
        // The thread cannot say so: it waits itself. The next commit that ends sets it right.
        let reason = format!("a change has waited for {} s: the disk hangs, look at the machine's log", HUNG.as_secs());
        self.health.send_if_modified(|health| {
            let news = health.ok;
            if news {
                tracing::error!(reason, "the store does not answer");
                (health.ok, health.reason) = (false, Some(reason));
            }
            news
        });
        made.await
    }

    /// Ends the thread and waits for it. Blocks.
    pub(crate) fn join(self) {
        drop(self.jobs);
        // It catches the panics of changes; were there another, the panic hook has told it.
        let _ = self.thread.join();
    }
}

fn ended() -> StoreError {
    StoreError::new("the store's thread has ended; restart the broker")
}

/// How many changes came lately.
struct Bustle {
    since: Instant,
    /// In the window that runs, and in the one before it.
    now: usize,
    before: usize,
}

impl Bustle {
    fn new() -> Self {
        Self { since: Instant::now(), now: 0, before: 0 }
    }

    fn count(&mut self, changes: usize) {
        let windows = self.since.elapsed().as_millis() / WINDOW.as_millis();
        if windows > 0 {
            self.before = if windows == 1 { self.now } else { 0 };
            (self.since, self.now) = (Instant::now(), 0);
        }
        self.now += changes;
    }

    fn is_busy(&self) -> bool {
        self.now.max(self.before) >= BUSY
    }
}

fn write(connection: &Connection, waiting: &mpsc::Receiver<Waiting>, mut pulse: Pulse, probe: Duration) {
    let mut bustle = Bustle::new();
    loop {
        let first = match pulse.is_well() {
            true => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => waiting.recv_timeout(probe),
        };
        let jobs = match first {
            Ok((first, _)) => group_of(first, waiting, &mut bustle),
            Err(RecvTimeoutError::Timeout) => vec![Job::new(write_probe).0],
            Err(RecvTimeoutError::Disconnected) => return,
        };
        pulse.beat(|| group::commit(connection, jobs));
    }
}

/// A change and those that go with it.
fn group_of(first: Job, waiting: &mpsc::Receiver<Waiting>, bustle: &mut Bustle) -> Vec<Job> {
    let mut jobs: Vec<Job> = std::iter::once(first).chain(waiting.try_iter().map(|(job, _)| job)).take(GROUP).collect();
    if bustle.is_busy() {
        let until = Instant::now() + LINGER;
        while jobs.len() < GROUP {
            let Ok((job, _)) = waiting.recv_timeout(until.saturating_duration_since(Instant::now())) else { break };
            jobs.push(job);
        }
    }
    bustle.count(jobs.len());
    jobs
}

/// Writes to the disk, so that a store that nobody writes to learns that it works again.
fn write_probe(connection: &Connection) -> Sql<()> {
    let sql = "INSERT INTO probe (id, count) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1";
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[tokio::test]
    async fn an_ill_store_that_nobody_writes_to_learns_that_it_works_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let connection = schema::open(&path).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        let (sender, mut health) = watch::channel(PartHealth::well());
        let writer = Writer::start(connection, sender, Duration::from_millis(20)).unwrap();
        // Another program holds the database.
        let other = schema::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = writer.write(write_probe).await.unwrap_err();
        assert!(error.reason.contains("another program holds the database"), "{error}");
        assert!(!health.borrow().ok);
        other.execute_batch("COMMIT").unwrap();
        let well = health.wait_for(|health| health.ok);
        tokio::time::timeout(Duration::from_secs(30), well).await.unwrap().unwrap();
        writer.join();
        assert!(health.changed().await.is_err(), "the thread has ended");
    }

    /// The clock jumps to the limit as soon as everybody waits for the thread.
    #[tokio::test(start_paused = true)]
    async fn a_disk_that_does_not_answer_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let connection = schema::open(&folder.path().join("db")).unwrap();
        let (sender, mut health) = watch::channel(PartHealth::well());
        let writer = Writer::start(connection, sender, PROBE).unwrap();
        let (let_go, held) = mpsc::channel::<()>();
        let hangs = writer.write(move |_| {
            let _ = held.recv();
            Ok(7)
        });
        let mut hangs = Box::pin(hangs);
        tokio::select! {
            biased;
            outcome = &mut hangs => panic!("{outcome:?}"),
            ill = health.wait_for(|health| !health.ok) => {
                assert!(ill.unwrap().reason.as_ref().unwrap().contains("the disk hangs"));
            }
        }
        drop(let_go);
        assert_eq!(hangs.await, Ok(7));
        assert!(health.borrow().ok, "the commit that ended sets it right");
        writer.join();
    }
}

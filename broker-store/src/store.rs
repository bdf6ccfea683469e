//! [`SqliteStore`]: the store on threads, or on the caller's own.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use broker_core::chat::{ChatTime, ConversationKey, MessageId, Person, PersonId, RawEnvelope, ThreadKey};
use broker_core::clock::Timestamp;
use broker_core::health::PartHealth;
use broker_core::store::{
    Accepted, ActiveSession, CommitError, Fence, JournalFate, JournalId, JournalRow, KnownMessage, Old, OwnerId,
    PartChange, PartRow, PostId, Revision, SessionCommit, SessionRecord, SessionRows, StateStore, StoreCounts,
    StoreError,
};
use rusqlite::Connection;
use tokio::sync::watch;

use crate::data_root::DataRoot;
use crate::inline::Inline;
use crate::readers::Readers;
use crate::schema::{self, OpenError};
use crate::sql::Sql;
use crate::writer::{self, Writer};
use crate::{inbox, journal, outbox, people, prune, sessions};

/// Threads that read.
const READERS: usize = 2;
/// Journal rows that one change deletes: others' changes go in between.
const PRUNED_AT_ONCE: usize = 1000;

/// Where the SQL runs.
#[derive(Debug)]
enum Executor {
    Threads { writer: Writer, readers: Readers },
    Inline(Inline),
}

impl Executor {
    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Self::Threads { writer, .. } => writer.write(change).await,
            Self::Inline(inline) => inline.write(change),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Self::Threads { readers, .. } => readers.read(question).await,
            Self::Inline(inline) => inline.read(question),
        }
    }
}

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    executor: Executor,
    health: watch::Receiver<PartHealth>,
}

impl SqliteStore {
    /// Opens the database of a data root, makes it when there is none, and starts its threads. Blocks until the database
    /// is of the present schema.
    ///
    /// # Errors
    ///
    /// When it was written by a newer broker, or cannot be opened.
    pub fn open(root: &DataRoot) -> Result<Arc<Self>, OpenError> {
        let path = root.database();
        private_file(&path)?;
        let connection = schema::open(&path)?;
        let (sender, health) = watch::channel(PartHealth::well());
        let readers = (0..READERS).map(|_| schema::open_reader(&path)).collect::<Result<_, _>>()?;
        let executor = Executor::Threads {
            writer: Writer::start(connection, sender, writer::PROBE)?,
            readers: Readers::start(readers)?,
        };
        Ok(Arc::new(Self { executor, health }))
    }

    /// A store whose SQL runs on the caller's own thread, for tests that must not depend on threads. A path of `:memory:`
    /// keeps it in memory.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`].
    pub fn inline(path: &Path) -> Result<Arc<Self>, OpenError> {
        if path != Path::new(":memory:") {
            private_file(path)?;
        }
        let (sender, health) = watch::channel(PartHealth::well());
        Ok(Arc::new(Self { executor: Executor::Inline(Inline::new(schema::open(path)?, sender)), health }))
    }

    /// Ends the threads after they have done what they have taken, and waits for that. Blocks. A store that is dropped
    /// instead does the same, and nobody waits.
    pub fn close(self) {
        if let Executor::Threads { writer, readers } = self.executor {
            // The readers first: who closes a database last carries its write-ahead log over, and they may not write.
            readers.join();
            writer.join();
        }
    }
}

/// SQLite would make the file readable to others. Its write-ahead log gets the rights of the file.
fn private_file(path: &Path) -> Result<(), OpenError> {
    let made = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    made.and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
        .map_err(|source| OpenError::File { path: path.to_owned(), source })
}

#[async_trait]
impl StateStore for SqliteStore {
    async fn accept(&self, batch: Vec<RawEnvelope>) -> Result<Vec<Accepted>, StoreError> {
        self.executor.write(move |connection| journal::accept(connection, &batch)).await
    }

    async fn unread(&self, after: Option<JournalId>, limit: usize) -> Result<Vec<JournalRow>, StoreError> {
        self.executor.read(move |connection| journal::unread(connection, after, limit)).await
    }

    async fn settle(&self, ids: Vec<JournalId>, fate: JournalFate) -> Result<(), StoreError> {
        self.executor.write(move |connection| journal::settle(connection, &ids, &fate)).await
    }

    async fn take_unrouted(&self, thread: &ThreadKey, since: Timestamp) -> Result<Vec<JournalRow>, StoreError> {
        let thread = thread.clone();
        self.executor.write(move |connection| journal::take_unrouted(connection, &thread, since)).await
    }

    async fn claim(&self, session: &ThreadKey, owner: &OwnerId) -> Result<(Fence, SessionRows), StoreError> {
        let (session, owner) = (session.clone(), owner.clone());
        self.executor.write(move |connection| sessions::claim(connection, &session, &owner)).await
    }

    async fn commit(&self, change: SessionCommit) -> Result<Revision, CommitError> {
        self.executor.write(move |connection| sessions::commit(connection, &change)).await?
    }

    async fn known_message(
        &self,
        conversation: &ConversationKey,
        message: &MessageId,
    ) -> Result<Option<KnownMessage>, StoreError> {
        let (conversation, message) = (conversation.clone(), message.clone());
        self.executor.read(move |connection| inbox::known(connection, &conversation, &message)).await
    }

    async fn session(&self, key: &ThreadKey) -> Result<Option<SessionRecord>, StoreError> {
        let key = key.clone();
        self.executor.read(move |connection| sessions::session(connection, &key)).await
    }

    async fn sessions_with_work(&self) -> Result<Vec<ThreadKey>, StoreError> {
        self.executor.read(|connection| sessions::with_work(connection, None)).await
    }

    async fn busy_sessions_in(&self, conversation: &ConversationKey) -> Result<Vec<ThreadKey>, StoreError> {
        let conversation = conversation.clone();
        self.executor.read(move |connection| sessions::with_work(connection, Some(&conversation))).await
    }

    async fn active_sessions(&self, since: Timestamp, limit: usize) -> Result<Vec<ActiveSession>, StoreError> {
        self.executor.read(move |connection| sessions::active(connection, since, limit)).await
    }

    async fn caught_up(&self, thread: &ThreadKey, up_to: ChatTime) -> Result<(), StoreError> {
        let thread = thread.clone();
        self.executor.write(move |connection| sessions::caught_up(connection, &thread, up_to)).await
    }

    async fn birth(&self) -> Result<Timestamp, StoreError> {
        self.executor.read(sessions::birth).await
    }

    async fn threads_with_parts(&self) -> Result<Vec<ThreadKey>, StoreError> {
        self.executor.read(outbox::threads_with_parts).await
    }

    async fn open_parts(&self, thread: &ThreadKey, limit: usize) -> Result<Vec<PartRow>, StoreError> {
        let thread = thread.clone();
        self.executor.read(move |connection| outbox::open_parts(connection, &thread, limit)).await
    }

    async fn post(&self, post: &PostId) -> Result<Vec<PartRow>, StoreError> {
        let post = post.clone();
        self.executor.read(move |connection| outbox::post(connection, &post)).await
    }

    async fn change_parts(&self, changes: Vec<PartChange>) -> Result<bool, StoreError> {
        self.executor.write(move |connection| outbox::change(connection, &changes)).await
    }

    async fn person(&self, id: &PersonId) -> Result<Option<(Person, Timestamp)>, StoreError> {
        let id = id.clone();
        self.executor.read(move |connection| people::person(connection, &id)).await
    }

    async fn put_person(&self, person: Person, at: Timestamp) -> Result<(), StoreError> {
        self.executor.write(move |connection| people::put_person(connection, &person, at)).await
    }

    async fn prune(&self, old: Old) -> Result<u64, StoreError> {
        let mut pruned = 0;
        for (statement, before) in prune::STATEMENTS.map(|(statement, age)| (statement, age(&old))) {
            loop {
                let change = move |connection: &Connection| prune::some(connection, statement, before, PRUNED_AT_ONCE);
                let some = self.executor.write(change).await?;
                pruned += u64::try_from(some).unwrap_or(u64::MAX);
                if some < PRUNED_AT_ONCE {
                    break;
                }
            }
        }
        Ok(pruned)
    }

    async fn counts(&self) -> Result<StoreCounts, StoreError> {
        self.executor.read(sessions::counts).await
    }

    fn health(&self) -> watch::Receiver<PartHealth> {
        self.health.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(key: String) -> RawEnvelope {
        let received_at = Timestamp::from_millis(0);
        RawEnvelope { key, kind: "events_api".to_owned(), retry_attempt: 0, received_at, raw: vec![b'x'; 1200] }
    }

    async fn sql(store: &SqliteStore, sql: &'static str) {
        store.executor.write(move |connection| Ok(connection.execute_batch(sql)?)).await.unwrap();
    }

    /// On threads and inline.
    fn both(folder: &Path) -> [Arc<SqliteStore>; 2] {
        let root = DataRoot::take(folder).unwrap();
        [SqliteStore::open(&root).unwrap(), SqliteStore::inline(Path::new(":memory:")).unwrap()]
    }

    #[tokio::test]
    async fn a_full_disk_costs_the_change_and_the_store_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        for store in both(folder.path()) {
            store.accept(vec![envelope("before".to_owned())]).await.unwrap();
            // The database may not grow beyond so many pages.
            sql(&store, "PRAGMA max_page_count = 40").await;
            let mut failed = Vec::new();
            for n in 0..200 {
                failed.extend(store.accept(vec![envelope(format!("event:{n}"))]).await.err());
            }
            assert!(failed.first().unwrap().reason.contains("the disk is full: free some space"), "{failed:?}");
            assert!(!store.health().borrow().ok);
            assert!(store.health().borrow().detail.contains_key("last_commit_ms"), "when it last worked");
            sql(&store, "PRAGMA max_page_count = 1000000").await;
            store.accept(vec![envelope("after".to_owned())]).await.unwrap();
            assert!(store.health().borrow().ok);
            let unread = store.unread(None, 1000).await.unwrap();
            assert_eq!(unread.len(), 202 - failed.len(), "what was answered is there, and nothing else");
        }
    }

    #[tokio::test]
    async fn a_panic_costs_the_call_and_not_the_store() {
        let folder = tempfile::tempdir().unwrap();
        for store in both(folder.path()) {
            let change = store.executor.write(|connection| -> Sql<()> {
                connection.execute("INSERT INTO probe VALUES (1, 7)", [])?;
                panic!("on purpose");
            });
            assert!(change.await.unwrap_err().reason.contains("panicked"));
            if let Executor::Threads { .. } = store.executor {
                for _ in 0..=READERS {
                    let question = store.executor.read(|_| -> Sql<()> { panic!("on purpose") });
                    assert!(question.await.unwrap_err().reason.contains("panicked"));
                }
            }
            store.accept(vec![envelope("a".to_owned())]).await.unwrap();
            assert_eq!(store.unread(None, 9).await.unwrap().len(), 1);
            let count = |connection: &Connection| {
                Ok(connection.query_row("SELECT count(*) FROM probe", [], |row| row.get::<_, u32>(0))?)
            };
            assert_eq!(store.executor.read(count).await.unwrap(), 0, "it was undone");
        }
    }

    #[tokio::test]
    async fn a_damaged_row_is_named_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        for store in both(folder.path()) {
            sql(
                &store,
                "INSERT INTO threads (key, installation, conversation, root, owner, fence, revision)
                     VALUES ('T/C:1', 'T', 'C', '1', 'o', 1, 0), ('T/C:2', 'T', 'C', '2', 'o', 1, 0);
                 INSERT INTO outbox (id, thread, post, place, number, parts, kind, body, state, attempts, look_ups,
                         not_before, created_at)
                     VALUES ('part-7', 'T/C:1', 'p', 1, 1, 1, 'final', 'not json', 'queued', 0, 0, 0, 0);
                 INSERT INTO inbox (id, session, kind, state, place, people, backfill, late, attempts, not_before,
                         created_at)
                     VALUES ('input-7', 'T/C:1', 'wake_up', 'queued', 1, '[{}]', '{\"state\":\"none\"}', 0, 0, 0, 0);",
            )
            .await;
            let damaged: ThreadKey = "T/C:1".parse().unwrap();
            let error = store.open_parts(&damaged, 9).await.unwrap_err();
            assert!(error.reason.contains("`part-7` of outbox"), "{error}");
            let error = store.claim(&damaged, &OwnerId::new("o")).await.unwrap_err();
            assert!(error.reason.contains("`input-7` of inbox"), "{error}");
            assert!(store.health().borrow().ok, "one row is not the disk");
            store.claim(&"T/C:2".parse().unwrap(), &OwnerId::new("o")).await.unwrap();
        }
    }
}

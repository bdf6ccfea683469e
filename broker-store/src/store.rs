//! [`SqliteStore`]: the store on threads, or on the caller's own.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use broker_core::chat::{ConversationKey, MessageId, Person, PersonId, RawEnvelope, ThreadKey};
use broker_core::clock::Timestamp;
use broker_core::health::PartHealth;
use broker_core::store::{
    Accepted, CommitError, Fence, JournalFate, JournalId, JournalRow, OwnerId, PartChange, PartRow, PostId, Revision,
    SessionCommit, SessionRecord, SessionRows, StateStore, StoreCounts, StoreError,
};
use rusqlite::Connection;
use tokio::sync::watch;

use crate::data_root::DataRoot;
use crate::schema::{self, OpenError};
use crate::sql::Sql;
use crate::threads::{Threads, in_savepoint};
use crate::{journal, outbox, people, sessions};

/// Where the SQL runs.
#[derive(Debug)]
enum Executor {
    Threads(Threads),
    /// On the caller's own thread, one call after another. The lock is never held across an await.
    Inline(Mutex<Connection>),
}

impl Executor {
    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Self::Threads(threads) => threads.write(change).await,
            Self::Inline(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(in_savepoint(&connection, change)?)
            }
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Self::Threads(threads) => threads.read(question).await,
            Self::Inline(connection) => Ok(question(&connection.lock().unwrap_or_else(PoisonError::into_inner))?),
        }
    }
}

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    executor: Executor,
    health: watch::Sender<PartHealth>,
}

impl SqliteStore {
    /// Opens the database of a data root, makes it when there is none, and starts its threads.
    ///
    /// # Errors
    ///
    /// When it was written by a newer broker, or cannot be opened.
    pub fn open(root: &DataRoot) -> Result<Arc<Self>, OpenError> {
        let path = root.database();
        private_file(&path)?;
        let health = watch::Sender::new(PartHealth::well());
        Ok(Arc::new(Self { executor: Executor::Threads(Threads::start(&path, health.clone())?), health }))
    }

    /// A store whose SQL runs on the caller's own thread, for tests that must not depend on threads. A path of `:memory:`
    /// keeps it in memory.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`].
    pub fn inline(path: &Path) -> Result<Arc<Self>, OpenError> {
        let connection = schema::open(path)?;
        let health = watch::Sender::new(PartHealth::well());
        Ok(Arc::new(Self { executor: Executor::Inline(Mutex::new(connection)), health }))
    }

    /// Lets the database grow to so many pages of 4 KiB: what happens when a disk is full can be tried with it.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        let set = move |connection: &Connection| Ok(connection.pragma_update(None, "max_page_count", pages)?);
        self.executor.write(set).await
    }

    /// Ends the threads after what they have taken is done. Blocks until then.
    pub fn close(self) {
        if let Executor::Threads(threads) = self.executor {
            threads.join();
        }
    }
}

/// SQLite would make the file readable to others.
fn private_file(path: &Path) -> Result<(), OpenError> {
    let made = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    made.and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600))).map_err(|error| OpenError::Unusable {
        path: path.to_owned(),
        source: rusqlite::Error::ToSqlConversionFailure(Box::new(error)),
    })
}

/// Keys as they are stored.
fn keys(names: Vec<String>) -> Result<Vec<ThreadKey>, StoreError> {
    names.iter().map(|name| name.parse().map_err(StoreError::new)).collect()
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

    async fn has_message(&self, conversation: &ConversationKey, message: &MessageId) -> Result<bool, StoreError> {
        let (conversation, message) = (conversation.clone(), message.clone());
        self.executor.read(move |connection| sessions::has_message(connection, &conversation, &message)).await
    }

    async fn session(&self, key: &ThreadKey) -> Result<Option<SessionRecord>, StoreError> {
        let key = key.clone();
        self.executor.read(move |connection| sessions::session(connection, &key)).await
    }

    async fn sessions_with_work(&self) -> Result<Vec<ThreadKey>, StoreError> {
        keys(self.executor.read(|connection| sessions::with_work(connection, None)).await?)
    }

    async fn busy_sessions_in(&self, conversation: &ConversationKey) -> Result<Vec<ThreadKey>, StoreError> {
        let conversation = conversation.clone();
        keys(self.executor.read(move |connection| sessions::with_work(connection, Some(&conversation))).await?)
    }

    async fn threads_with_parts(&self) -> Result<Vec<ThreadKey>, StoreError> {
        keys(self.executor.read(outbox::threads_with_parts).await?)
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

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.executor.write(move |connection| journal::prune(connection, before)).await
    }

    async fn counts(&self) -> Result<StoreCounts, StoreError> {
        self.executor.read(people::counts).await
    }

    fn health(&self) -> watch::Receiver<PartHealth> {
        self.health.subscribe()
    }
}

//! The real store, in which each call can be late, fail, or be the broker's last.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
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
use broker_store::SqliteStore;
use tokio::sync::watch;

use crate::scenario::Call;
use crate::world::World;

/// Where the store is, from one broker to the next.
#[derive(Debug)]
pub enum Place {
    /// In memory: every change that was made is there.
    Memory(Arc<SqliteStore>),
    /// On a disk: after a crash there is what was written to it, and something that was half written.
    Disk {
        /// The folder of all copies.
        folder: tempfile::TempDir,
        /// The number of the copy in use.
        copy: u32,
    },
}

/// Why a run could not be made at all.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A file of the simulation.
    #[error("a file of the simulation ({0})")]
    File(#[from] std::io::Error),
    /// The store.
    #[error("the store cannot be opened ({0})")]
    Store(#[from] broker_store::OpenError),
}

fn database(folder: &Path, copy: u32) -> PathBuf {
    folder.join(format!("{copy}.sqlite"))
}

fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

impl Place {
    /// A store with nothing in it.
    pub fn new(disk: bool) -> Result<Self, PlaceError> {
        if disk {
            // Where there is one, a disk in memory: what matters is what is in the files.
            let memory = Path::new("/dev/shm");
            let folder = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
            return Ok(Self::Disk { folder, copy: 0 });
        }
        Ok(Self::Memory(SqliteStore::inline(Path::new(":memory:"))?))
    }

    /// Opens the store.
    pub fn open(&self) -> Result<Arc<SqliteStore>, PlaceError> {
        match self {
            Self::Memory(store) => Ok(Arc::clone(store)),
            Self::Disk { folder, copy } => Ok(SqliteStore::inline(&database(folder.path(), *copy))?),
        }
    }

    fn log_length(&self) -> u64 {
        match self {
            Self::Memory(_) => 0,
            Self::Disk { folder, copy } => {
                fs::metadata(log_of(&database(folder.path(), *copy))).map_or(0, |file| file.len())
            }
        }
    }

    /// The machine is switched off while the store is open: what is on the disk is taken over into a copy. Of a change that
    /// was being written, which nobody was told of, so many thousandths are there; behind it may stand anything.
    pub fn crash(&mut self, torn: Option<((u64, u64), u32)>) -> Result<(), PlaceError> {
        let Self::Disk { folder, copy } = self else { return Ok(()) };
        let (from, to) = (database(folder.path(), *copy), database(folder.path(), *copy + 1));
        fs::copy(&from, &to)?;
        if log_of(&from).exists() {
            fs::copy(log_of(&from), log_of(&to))?;
            if let Some(((before, after), thousandths)) = torn.filter(|((before, after), _)| after > before) {
                let kept = before + (after - before) * u64::from(thousandths) / 1000;
                let file = fs::OpenOptions::new().write(true).open(log_of(&to))?;
                file.set_len(kept)?;
                // A sector of something else.
                let mut file = fs::OpenOptions::new().append(true).open(log_of(&to))?;
                file.write_all(&[0xa5; 512])?;
            }
        }
        *copy += 1;
        Ok(())
    }
}

/// The store of one broker.
#[derive(Debug)]
pub struct SimStore {
    world: World,
    inner: Arc<SqliteStore>,
    place: Arc<Place>,
}

impl SimStore {
    /// The store of one broker.
    pub fn new(world: &World, inner: Arc<SqliteStore>, place: Arc<Place>) -> Self {
        Self { world: world.clone(), inner, place }
    }

    async fn read(&self) {
        self.world.enter(Call::Read, "").await;
    }

    /// A change begins; gives its number.
    async fn begin(&self, call: Call) -> Result<u32, StoreError> {
        let (count, fault) = self.world.enter(call, "").await;
        if fault.is_some() {
            self.world.lock().say(format!("{} {count} fails", call.name()));
            return Err(StoreError::new("the disk is full"));
        }
        Ok(count)
    }

    /// Makes a change: all of it or nothing, unless the machine is switched off in the middle.
    async fn change<T>(&self, call: Call, make: impl AsyncFnOnce(&SqliteStore) -> T) -> Result<(u32, T), StoreError> {
        let count = self.begin(call).await?;
        if self.world.torn(call, count) {
            if matches!(*self.place, Place::Disk { .. }) {
                let before = self.place.log_length();
                make(&self.inner).await;
                self.world.lock().facts.torn = Some((before, self.place.log_length()));
            }
            return self.world.never().await;
        }
        Ok((count, make(&self.inner).await))
    }
}

#[async_trait]
impl StateStore for SimStore {
    async fn accept(&self, batch: Vec<RawEnvelope>) -> Result<Vec<Accepted>, StoreError> {
        let (count, result) = self.change(Call::Accept, async |store| store.accept(batch).await).await?;
        self.world.leave(Call::Accept, count).await;
        result
    }

    async fn unread(&self, after: Option<JournalId>, limit: usize) -> Result<Vec<JournalRow>, StoreError> {
        // Asked for every few seconds, mostly for nothing: no place to end the broker at.
        self.inner.unread(after, limit).await
    }

    async fn settle(&self, ids: Vec<JournalId>, fate: JournalFate) -> Result<(), StoreError> {
        let (count, result) = self.change(Call::Write, async |store| store.settle(ids, fate).await).await?;
        self.world.leave(Call::Write, count).await;
        result
    }

    async fn take_unrouted(&self, thread: &ThreadKey, since: Timestamp) -> Result<Vec<JournalRow>, StoreError> {
        let (count, result) = self.change(Call::Write, async |store| store.take_unrouted(thread, since).await).await?;
        self.world.leave(Call::Write, count).await;
        result
    }

    async fn claim(&self, session: &ThreadKey, owner: &OwnerId) -> Result<(Fence, SessionRows), StoreError> {
        let (count, result) = self.change(Call::Write, async |store| store.claim(session, owner).await).await?;
        if let Ok((_, rows)) = &result {
            self.world.lock().facts.loaded(session, rows);
        }
        self.world.leave(Call::Write, count).await;
        result
    }

    async fn commit(&self, change: SessionCommit) -> Result<Revision, CommitError> {
        let facts = change.clone();
        let made = self.change(Call::Write, async |store| store.commit(change).await).await;
        let (count, result) = made.map_err(CommitError::Store)?;
        if result.is_ok() {
            let mut state = self.world.lock();
            let now = state.now();
            state.facts.committed(&facts, now);
            for row in &facts.inbox {
                let line =
                    format!("row {} ({}) of {} is {}", row.id, row.kind.as_str(), row.session, row.state.as_str());
                state.say(line);
            }
            for part in &facts.parts {
                state.say(format!("part {} ({}) of {} is planned", part.id, part.kind.as_str(), part.thread));
            }
        }
        self.world.leave(Call::Write, count).await;
        result
    }

    async fn known_message(
        &self,
        conversation: &ConversationKey,
        message: &MessageId,
    ) -> Result<Option<KnownMessage>, StoreError> {
        self.read().await;
        self.inner.known_message(conversation, message).await
    }

    async fn session(&self, key: &ThreadKey) -> Result<Option<SessionRecord>, StoreError> {
        self.read().await;
        self.inner.session(key).await
    }

    async fn sessions_with_work(&self) -> Result<Vec<ThreadKey>, StoreError> {
        self.read().await;
        self.inner.sessions_with_work().await
    }

    async fn busy_sessions_in(&self, conversation: &ConversationKey) -> Result<Vec<ThreadKey>, StoreError> {
        self.read().await;
        self.inner.busy_sessions_in(conversation).await
    }

    async fn active_sessions(&self, since: Timestamp, limit: usize) -> Result<Vec<ActiveSession>, StoreError> {
        self.inner.active_sessions(since, limit).await
    }

    async fn caught_up(&self, thread: &ThreadKey, up_to: ChatTime) -> Result<(), StoreError> {
        let (count, result) = self.change(Call::Write, async |store| store.caught_up(thread, up_to).await).await?;
        self.world.leave(Call::Write, count).await;
        result
    }

    async fn birth(&self) -> Result<Timestamp, StoreError> {
        // The database writes down the moment of its making by the system's clock, which is not the simulated one.
        Ok(Timestamp::default())
    }

    async fn threads_with_parts(&self) -> Result<Vec<ThreadKey>, StoreError> {
        self.read().await;
        self.inner.threads_with_parts().await
    }

    async fn open_parts(&self, thread: &ThreadKey, limit: usize) -> Result<Vec<PartRow>, StoreError> {
        self.read().await;
        self.inner.open_parts(thread, limit).await
    }

    async fn post(&self, post: &PostId) -> Result<Vec<PartRow>, StoreError> {
        self.read().await;
        self.inner.post(post).await
    }

    async fn change_parts(&self, changes: Vec<PartChange>) -> Result<bool, StoreError> {
        let facts = changes.clone();
        let (count, result) = self.change(Call::Write, async |store| store.change_parts(changes).await).await?;
        if result == Ok(true) {
            let mut state = self.world.lock();
            state.facts.changed(&facts);
            for change in &facts {
                let (from, to) = (change.expected.as_str(), change.row.state.as_str());
                state.say(format!("part {} is {to} (was {from})", change.row.id));
            }
        }
        self.world.leave(Call::Write, count).await;
        result
    }

    async fn person(&self, id: &PersonId) -> Result<Option<(Person, Timestamp)>, StoreError> {
        self.read().await;
        self.inner.person(id).await
    }

    async fn put_person(&self, person: Person, at: Timestamp) -> Result<(), StoreError> {
        let (count, result) = self.change(Call::Write, async |store| store.put_person(person, at).await).await?;
        self.world.leave(Call::Write, count).await;
        result
    }

    async fn prune(&self, _old: Old) -> Result<u64, StoreError> {
        // A run is shorter than anything is kept.
        Ok(0)
    }

    async fn counts(&self) -> Result<StoreCounts, StoreError> {
        self.inner.counts().await
    }

    fn health(&self) -> watch::Receiver<PartHealth> {
        self.inner.health()
    }
}

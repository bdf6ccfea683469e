//! A durable store that forgets everything it has in memory, all the time.

use std::fmt;

use async_trait::async_trait;
use tokio::sync::watch;

use super::Store;
use crate::chat::{ChatTime, ConversationKey, MessageId, Person, PersonId, RawEnvelope, ThreadKey};
use crate::clock::Timestamp;
use crate::health::PartHealth;
use crate::store::{
    Accepted, ActiveSession, CommitError, Fence, JournalFate, JournalId, JournalRow, KnownMessage, Old, OwnerId,
    PartChange, PartRow, PostId, Revision, SessionCommit, SessionRecord, SessionRows, StateStore, StoreCounts,
    StoreError,
};

/// Opens a store before each call and drops it after the call.
pub struct Reopened {
    open: Box<dyn Fn() -> Store + Send + Sync>,
    /// The health outlives each of the stores, and no longer changes.
    health: watch::Receiver<PartHealth>,
}

impl Reopened {
    /// A store that `open` opens, each time with what the last one left.
    pub fn new(open: impl Fn() -> Store + Send + Sync + 'static) -> Self {
        let health = open().health();
        Self { open: Box::new(open), health }
    }
}

impl fmt::Debug for Reopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reopened").finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl StateStore for Reopened {
    async fn accept(&self, batch: Vec<RawEnvelope>) -> Result<Vec<Accepted>, StoreError> {
        (self.open)().accept(batch).await
    }

    async fn unread(&self, after: Option<JournalId>, limit: usize) -> Result<Vec<JournalRow>, StoreError> {
        (self.open)().unread(after, limit).await
    }

    async fn settle(&self, ids: Vec<JournalId>, fate: JournalFate) -> Result<(), StoreError> {
        (self.open)().settle(ids, fate).await
    }

    async fn take_unrouted(&self, thread: &ThreadKey, since: Timestamp) -> Result<Vec<JournalRow>, StoreError> {
        (self.open)().take_unrouted(thread, since).await
    }

    async fn claim(&self, session: &ThreadKey, owner: &OwnerId) -> Result<(Fence, SessionRows), StoreError> {
        (self.open)().claim(session, owner).await
    }

    async fn commit(&self, change: SessionCommit) -> Result<Revision, CommitError> {
        (self.open)().commit(change).await
    }

    async fn known_message(
        &self,
        conversation: &ConversationKey,
        message: &MessageId,
    ) -> Result<Option<KnownMessage>, StoreError> {
        (self.open)().known_message(conversation, message).await
    }

    async fn session(&self, key: &ThreadKey) -> Result<Option<SessionRecord>, StoreError> {
        (self.open)().session(key).await
    }

    async fn sessions_with_work(&self) -> Result<Vec<ThreadKey>, StoreError> {
        (self.open)().sessions_with_work().await
    }

    async fn busy_sessions_in(&self, conversation: &ConversationKey) -> Result<Vec<ThreadKey>, StoreError> {
        (self.open)().busy_sessions_in(conversation).await
    }

    async fn active_sessions(&self, since: Timestamp, limit: usize) -> Result<Vec<ActiveSession>, StoreError> {
        (self.open)().active_sessions(since, limit).await
    }

    async fn caught_up(&self, thread: &ThreadKey, up_to: ChatTime) -> Result<(), StoreError> {
        (self.open)().caught_up(thread, up_to).await
    }

    async fn birth(&self) -> Result<Timestamp, StoreError> {
        (self.open)().birth().await
    }

    async fn threads_with_parts(&self) -> Result<Vec<ThreadKey>, StoreError> {
        (self.open)().threads_with_parts().await
    }

    async fn open_parts(&self, thread: &ThreadKey, limit: usize) -> Result<Vec<PartRow>, StoreError> {
        (self.open)().open_parts(thread, limit).await
    }

    async fn post(&self, post: &PostId) -> Result<Vec<PartRow>, StoreError> {
        (self.open)().post(post).await
    }

    async fn change_parts(&self, changes: Vec<PartChange>) -> Result<bool, StoreError> {
        (self.open)().change_parts(changes).await
    }

    async fn person(&self, id: &PersonId) -> Result<Option<(Person, Timestamp)>, StoreError> {
        (self.open)().person(id).await
    }

    async fn put_person(&self, person: Person, at: Timestamp) -> Result<(), StoreError> {
        (self.open)().put_person(person, at).await
    }

    async fn prune(&self, old: Old) -> Result<u64, StoreError> {
        (self.open)().prune(old).await
    }

    async fn counts(&self) -> Result<StoreCounts, StoreError> {
        (self.open)().counts().await
    }

    fn health(&self) -> watch::Receiver<PartHealth> {
        self.health.clone()
    }
}

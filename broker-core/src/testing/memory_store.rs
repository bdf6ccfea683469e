//! A store in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::agent::{InputId, TurnId};
use crate::chat::{ChatMessage, ChatTime, ConversationKey, MessageId, OpKey, Person, PersonId, RawEnvelope, ThreadKey};
use crate::clock::Timestamp;
use crate::health::PartHealth;
use crate::session::MAX_PARKED;
use crate::store::{
    Accepted, ActiveSession, CommitError, Fence, InboxKind, InboxRow, InboxState, JournalFate, JournalId, JournalRow,
    KnownMessage, Old, OwnerId, PartChange, PartRow, PartState, PostId, Revision, SEARCHED_AGAIN, SessionCommit,
    SessionRecord, SessionRows, StateStore, StoreCounts, StoreError, TurnRow,
};

/// What became of a journal row.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    Unread,
    Unrouted(ThreadKey),
    Unreadable,
    Settled,
}

#[derive(Debug)]
struct Envelope {
    envelope: RawEnvelope,
    mark: Mark,
}

#[derive(Debug, Default)]
struct Session {
    fence: Fence,
    revision: Revision,
    record: Option<SessionRecord>,
}

#[derive(Debug, Default)]
struct State {
    journal: BTreeMap<JournalId, Envelope>,
    /// The newest row there ever was: an id is never used twice, not even after the row was deleted.
    newest: u64,
    keys: HashMap<String, JournalId>,
    sessions: BTreeMap<ThreadKey, Session>,
    inbox: BTreeMap<InputId, InboxRow>,
    /// Which inbox row has a message.
    messages: HashMap<(ConversationKey, MessageId), InputId>,
    turns: HashMap<(ThreadKey, TurnId), TurnRow>,
    parts: BTreeMap<OpKey, PartRow>,
    people: HashMap<PersonId, (Person, Timestamp)>,
    caught_up: HashMap<ThreadKey, ChatTime>,
    is_full: bool,
}

/// A store in memory: the same rules as a durable one, without the disk.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    health: watch::Sender<PartHealth>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// Every row of the journal, whatever became of it.
    pub fn journal(&self) -> Vec<JournalRow> {
        let state = self.state();
        state.journal.iter().map(|(id, row)| JournalRow { id: *id, envelope: row.envelope.clone() }).collect()
    }

    /// An empty store.
    pub fn new() -> Self {
        Self { state: Mutex::default(), health: watch::Sender::new(PartHealth::well()) }
    }

    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is no room for any further step of a session.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// All inbox rows of a thread, by place, whatever their state.
    pub fn inbox(&self, thread: &ThreadKey) -> Vec<InboxRow> {
        let state = self.state();
        let mut rows: Vec<_> = state.inbox.values().filter(|row| row.session == *thread).cloned().collect();
        rows.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        rows
    }

    /// How many journal rows wait for their thread's mention.
    pub fn unrouted(&self) -> usize {
        self.state().journal.values().filter(|row| matches!(row.mark, Mark::Unrouted(_))).count()
    }
}

/// What makes a message one.
fn identity(message: &ChatMessage) -> (ConversationKey, MessageId) {
    (message.conversation.clone(), message.id.clone())
}

impl State {
    fn has_work(&self, key: &ThreadKey) -> bool {
        let running = self.sessions.get(key).and_then(|session| session.record.as_ref());
        running.is_some_and(|record| record.running_turn.is_some())
            || self
                .inbox
                .values()
                .any(|row| row.session == *key && row.state.is_open() && row.kind != InboxKind::Context)
    }

    fn parts_of(&self, keep: impl Fn(&PartRow) -> bool) -> Vec<PartRow> {
        let mut parts: Vec<_> = self.parts.values().filter(|part| keep(part)).cloned().collect();
        parts.sort_by_key(|part| (part.place, part.number));
        parts
    }

    fn rows(&self, key: &ThreadKey) -> SessionRows {
        let Some(session) = self.sessions.get(key) else { return SessionRows::default() };
        let of_session = || self.inbox.values().filter(|row| row.session == *key);
        let mut inbox: Vec<_> = of_session().filter(|row| row.state.is_open()).cloned().collect();
        inbox.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        let is_parked = |row: &&InboxRow| row.state == InboxState::Parked && row.kind == InboxKind::Message;
        let mut parked: Vec<_> = of_session().filter(is_parked).cloned().collect();
        parked.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        parked.drain(..parked.len().saturating_sub(MAX_PARKED));
        let given = of_session().filter(|row| row.kind == InboxKind::Message && row.given_to.is_some());
        let running = session.record.as_ref().and_then(|record| record.running_turn.clone());
        SessionRows {
            record: session.record.clone(),
            revision: session.revision,
            inbox,
            parked,
            newest_given: given.map(|row| row.at).max().unwrap_or(ChatTime::ZERO),
            turn: running.as_ref().and_then(|turn| self.turns.get(&(key.clone(), turn.clone())).cloned()),
            open_parts: self.parts_of(|part| part.thread == *key && part.state.is_open()).len(),
            turn_parts: match &running {
                Some(turn) => self.parts_of(|part| part.thread == *key && part.turn.as_ref() == Some(turn)),
                None => Vec::new(),
            },
        }
    }

    fn settle(&mut self, ids: &[JournalId], mark: &Mark) {
        for id in ids {
            if let Some(row) = self.journal.get_mut(id) {
                row.mark = mark.clone();
            }
        }
    }

    /// Why a step may not be made, looked at before anything is changed.
    fn objection(&self, change: &SessionCommit) -> Option<CommitError> {
        let own = |key: &ThreadKey| *key == change.key;
        if !(change.record.iter().all(|record| own(&record.key))
            && change.inbox.iter().all(|row| own(&row.session))
            && change.turns.iter().all(|turn| own(&turn.session))
            && change.parts.iter().all(|part| own(&part.thread)))
        {
            return Some(CommitError::Store(StoreError::new("the step brings a row of another session")));
        }
        let Some(session) = self.sessions.get(&change.key).filter(|session| session.fence == change.fence) else {
            return Some(CommitError::Fenced);
        };
        if session.revision != change.expected {
            return Some(CommitError::Stale { expected: change.expected, found: session.revision });
        }
        let mut new = HashSet::new();
        if change.parts.iter().any(|part| self.parts.contains_key(&part.id) || !new.insert(&part.id)) {
            return Some(CommitError::Store(StoreError::new("the step brings a part that is there already")));
        }
        None
    }

    fn put_inbox(&mut self, row: InboxRow) {
        if let Some(message) = row.message.as_ref().filter(|_| row.kind != InboxKind::Edit) {
            let known = self.messages.entry(identity(message)).or_insert_with(|| row.id.clone());
            if *known != row.id {
                return;
            }
        }
        self.inbox.insert(row.id.clone(), row);
    }

    fn prune_closed(&mut self, before: Timestamp) -> usize {
        let count = |state: &Self| state.inbox.len() + state.parts.len() + state.turns.len() + state.people.len();
        let all = count(self);
        let caught_up = &self.caught_up;
        self.inbox.retain(|_, row| {
            let read = caught_up.get(&row.session).copied().unwrap_or_default().minus(SEARCHED_AGAIN);
            let may_be_found = row.message.is_some() && row.kind != InboxKind::Edit && row.at >= read;
            row.state.is_open() || row.created_at >= before || may_be_found
        });
        let inbox = &self.inbox;
        self.messages.retain(|_, id| inbox.contains_key(id));
        self.parts.retain(|_, part| part.state.is_open() || part.created_at >= before);
        self.turns.retain(|_, turn| turn.ended.is_none_or(|(at, _)| at >= before));
        self.people.retain(|_, (_, at)| *at >= before);
        all - count(self)
    }

    fn apply(&mut self, change: SessionCommit) -> Result<Revision, CommitError> {
        if self.is_full {
            return Err(CommitError::Store(StoreError::new("the store in memory is full")));
        }
        if let Some(objection) = self.objection(&change) {
            return Err(objection);
        }
        let revision = Revision(change.expected.0 + change.steps);
        let session = self.sessions.entry(change.key.clone()).or_default();
        session.revision = revision;
        if let Some(record) = change.record {
            session.record = Some(record);
        }
        for row in change.inbox {
            self.put_inbox(row);
        }
        for message in change.withdrawn {
            let id = self.messages.get(&(change.key.conversation_key(), message));
            if let Some(row) = id.and_then(|id| self.inbox.get_mut(id)) {
                row.withdrawn = true;
            }
        }
        self.turns.extend(change.turns.into_iter().map(|turn| ((turn.session.clone(), turn.id.clone()), turn)));
        if change.drop_queued_parts {
            let open = self.parts.values_mut().filter(|part| part.thread == change.key);
            for part in open.filter(|part| part.state == PartState::Queued) {
                part.state = PartState::Dropped;
            }
        }
        self.parts.extend(change.parts.into_iter().map(|part| (part.id.clone(), part)));
        self.settle(&change.read, &Mark::Settled);
        Ok(revision)
    }
}

#[async_trait]
impl StateStore for MemoryStore {
    async fn accept(&self, batch: Vec<RawEnvelope>) -> Result<Vec<Accepted>, StoreError> {
        let mut state = self.state();
        let mut accepted = Vec::with_capacity(batch.len());
        for envelope in batch {
            if let Some(id) = state.keys.get(&envelope.key) {
                accepted.push(Accepted { id: *id, fresh: false });
                continue;
            }
            state.newest += 1;
            let id = JournalId(state.newest);
            state.keys.insert(envelope.key.clone(), id);
            state.journal.insert(id, Envelope { envelope, mark: Mark::Unread });
            accepted.push(Accepted { id, fresh: true });
        }
        Ok(accepted)
    }

    async fn unread(&self, after: Option<JournalId>, limit: usize) -> Result<Vec<JournalRow>, StoreError> {
        let state = self.state();
        let rows =
            state.journal.iter().filter(|(id, row)| row.mark == Mark::Unread && after.is_none_or(|after| **id > after));
        Ok(rows.take(limit).map(|(id, row)| JournalRow { id: *id, envelope: row.envelope.clone() }).collect())
    }

    async fn settle(&self, ids: Vec<JournalId>, fate: JournalFate) -> Result<(), StoreError> {
        let mark = match fate {
            JournalFate::Unrouted { thread } => Mark::Unrouted(thread),
            JournalFate::Unreadable { .. } => Mark::Unreadable,
            _ => Mark::Settled,
        };
        self.state().settle(&ids, &mark);
        Ok(())
    }

    async fn take_unrouted(&self, thread: &ThreadKey, since: Timestamp) -> Result<Vec<JournalRow>, StoreError> {
        let mut state = self.state();
        let wanted = Mark::Unrouted(thread.clone());
        let rows = state.journal.iter_mut().filter(|(_, row)| row.mark == wanted && row.envelope.received_at >= since);
        let taken = rows.map(|(id, row)| {
            row.mark = Mark::Unread;
            JournalRow { id: *id, envelope: row.envelope.clone() }
        });
        Ok(taken.collect())
    }

    async fn claim(&self, session: &ThreadKey, _owner: &OwnerId) -> Result<(Fence, SessionRows), StoreError> {
        let mut state = self.state();
        let entry = state.sessions.entry(session.clone()).or_default();
        entry.fence = Fence(entry.fence.0 + 1);
        let fence = entry.fence;
        Ok((fence, state.rows(session)))
    }

    async fn commit(&self, change: SessionCommit) -> Result<Revision, CommitError> {
        self.state().apply(change)
    }

    async fn known_message(
        &self,
        conversation: &ConversationKey,
        message: &MessageId,
    ) -> Result<Option<KnownMessage>, StoreError> {
        let state = self.state();
        let id = state.messages.get(&(conversation.clone(), message.clone()));
        let row = id.and_then(|id| state.inbox.get(id));
        Ok(row.map(|row| KnownMessage {
            kind: row.kind,
            state: row.state,
            withdrawn: row.withdrawn,
            given_to: row.given_to.clone(),
        }))
    }

    async fn session(&self, key: &ThreadKey) -> Result<Option<SessionRecord>, StoreError> {
        Ok(self.state().sessions.get(key).and_then(|session| session.record.clone()))
    }

    async fn sessions_with_work(&self) -> Result<Vec<ThreadKey>, StoreError> {
        let state = self.state();
        let shown = |key: &&ThreadKey| {
            let record = state.sessions.get(*key).and_then(|session| session.record.as_ref());
            record.is_some_and(|record| record.status_shown)
        };
        Ok(state.sessions.keys().filter(|key| state.has_work(key) || shown(key)).cloned().collect())
    }

    async fn busy_sessions_in(&self, conversation: &ConversationKey) -> Result<Vec<ThreadKey>, StoreError> {
        let state = self.state();
        let keys = state.sessions.keys().filter(|key| key.conversation_key() == *conversation && state.has_work(key));
        Ok(keys.cloned().collect())
    }

    async fn active_sessions(&self, since: Timestamp, limit: usize) -> Result<Vec<ActiveSession>, StoreError> {
        let state = self.state();
        let records = state.sessions.values().filter_map(|session| session.record.as_ref());
        let mut active: Vec<&SessionRecord> = records.filter(|record| record.last_activity >= since).collect();
        active.sort_by(|a, b| (b.last_activity, &a.key).cmp(&(a.last_activity, &b.key)));
        let place = |record: &SessionRecord| {
            let read = state.caught_up.get(&record.key).copied().unwrap_or_default();
            ActiveSession { key: record.key.clone(), began: record.watermark, caught_up: record.watermark.max(read) }
        };
        Ok(active.into_iter().take(limit).map(place).collect())
    }

    async fn caught_up(&self, thread: &ThreadKey, up_to: ChatTime) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.sessions.contains_key(thread) {
            let known = state.caught_up.entry(thread.clone()).or_default();
            *known = up_to.max(*known);
        }
        Ok(())
    }

    async fn birth(&self) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_millis(0))
    }

    async fn threads_with_parts(&self) -> Result<Vec<ThreadKey>, StoreError> {
        let mut threads: Vec<_> =
            self.state().parts.values().filter(|part| part.state.is_open()).map(|part| part.thread.clone()).collect();
        threads.sort();
        threads.dedup();
        Ok(threads)
    }

    async fn open_parts(&self, thread: &ThreadKey, limit: usize) -> Result<Vec<PartRow>, StoreError> {
        let mut parts = self.state().parts_of(|part| part.thread == *thread && part.state.is_open());
        parts.truncate(limit);
        Ok(parts)
    }

    async fn post(&self, post: &PostId) -> Result<Vec<PartRow>, StoreError> {
        let mut parts = self.state().parts_of(|part| part.post == *post);
        parts.sort_by_key(|part| part.number);
        Ok(parts)
    }

    async fn change_parts(&self, changes: Vec<PartChange>) -> Result<bool, StoreError> {
        let mut state = self.state();
        let holds =
            |change: &PartChange| state.parts.get(&change.row.id).is_some_and(|known| known.state == change.expected);
        if !changes.iter().all(holds) {
            return Ok(false);
        }
        state.parts.extend(changes.into_iter().map(|change| (change.row.id.clone(), change.row)));
        Ok(true)
    }

    async fn person(&self, id: &PersonId) -> Result<Option<(Person, Timestamp)>, StoreError> {
        Ok(self.state().people.get(id).cloned())
    }

    async fn put_person(&self, person: Person, at: Timestamp) -> Result<(), StoreError> {
        self.state().people.insert(person.id.clone(), (person, at));
        Ok(())
    }

    async fn prune(&self, old: Old) -> Result<u64, StoreError> {
        let mut state = self.state();
        let pruned = state.prune_closed(old.closed);
        let before = old.journal;
        let old: Vec<_> = state
            .journal
            .iter()
            .filter(|(_, row)| row.mark != Mark::Unread && row.envelope.received_at < before)
            .map(|(id, row)| (*id, row.envelope.key.clone()))
            .collect();
        for (id, key) in &old {
            state.journal.remove(id);
            state.keys.remove(key);
        }
        Ok(u64::try_from(pruned + old.len()).unwrap_or(u64::MAX))
    }

    async fn counts(&self) -> Result<StoreCounts, StoreError> {
        let state = self.state();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let marked = |mark: &Mark| count(state.journal.values().filter(|row| row.mark == *mark).count());
        Ok(StoreCounts {
            sessions: count(state.sessions.values().filter(|session| session.record.is_some()).count()),
            journal_unread: marked(&Mark::Unread),
            journal_unreadable: marked(&Mark::Unreadable),
            inbox_oldest: state.inbox.values().filter(|row| row.state.is_open()).map(|row| row.created_at).min(),
            parts_oldest: state.parts.values().filter(|part| part.state.is_open()).map(|part| part.created_at).min(),
            inbox_open: count(state.inbox.values().filter(|row| row.state.is_open()).count()),
            parts_open: count(state.parts.values().filter(|part| part.state.is_open()).count()),
        })
    }

    fn health(&self) -> watch::Receiver<PartHealth> {
        self.health.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::MemoryStore;
    use crate::store::StateStore;
    use crate::testing::store_suite;

    #[tokio::test]
    async fn it_is_a_store() {
        store_suite::all(async || Arc::new(MemoryStore::new()) as Arc<dyn StateStore>).await;
    }
}

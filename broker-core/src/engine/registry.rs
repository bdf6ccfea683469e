//! Which sessions are live, and how something reaches one.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

use super::door::{AskError, Once};
use super::{Shared, live, vital};
use crate::agent::AgentThreadId;
use crate::chat::{ChatTime, ConversationKey, ThreadKey};
use crate::clock::Timestamp;
use crate::sabotage::{Plant, planted};
use crate::session::SessionInput;
use crate::store::JournalId;
use crate::thread_tools::{ToolAnswer, ToolCommand};

/// Inputs that may wait for one session. Messages over it stay in the journal and are read again later.
const QUEUE: usize = 1024;

/// A session listens to the thread of the agent that it works in, and to the one that it worked in before: something may still
/// begin there.
const MAX_THREADS: usize = 2;

/// Something for a live session.
#[derive(Debug)]
pub(super) enum Letter {
    /// A message of the journal.
    Message(Box<live::Incoming>),
    /// An input for the machine.
    Input(Box<SessionInput>),
    /// An input of somebody who waits for it: answered once it is durable, with whether there is a session.
    Asked(Box<SessionInput>, oneshot::Sender<Result<bool, AskError>>),
    /// Somebody wrote `-stop` at the top level of the direct message that the session is in. Answered once it is durable, with
    /// whether there was something that had not been stopped by it before.
    Stop(ChatTime, oneshot::Sender<bool>),
    /// Somebody beside the agent asks for what its tools can do.
    Call(Box<Call>),
    /// Nothing but the wish that the session is live.
    Wake,
    /// Something that the session waits for has panicked: it begins anew from its rows.
    Anew,
}

/// A call of somebody beside the agent.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) command: ToolCommand,
    /// What its maker called it, so that it can be asked twice and is done once.
    pub(super) once: Option<Once>,
    pub(super) answer: oneshot::Sender<Result<ToolAnswer, AskError>>,
}

#[derive(Debug)]
struct Entry {
    letters: mpsc::Sender<Letter>,
    /// Tells a session that ended from the one that took its place.
    number: u64,
    load: Load,
    /// The threads of the agent that the session listens to; at most [`MAX_THREADS`].
    threads: Vec<AgentThreadId>,
}

/// What goes on in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Nothing is open.
    Quiet,
    /// Something waits.
    Open,
    /// The agent is at work, or about to be.
    AtWork,
}

#[derive(Debug, Default)]
struct Inner {
    /// In an order of its own, so that a run can be repeated.
    live: BTreeMap<ThreadKey, Entry>,
    threads: HashMap<AgentThreadId, ThreadKey>,
    /// Journal rows that are taken and not settled yet, each with the session that it was handed to.
    in_flight: BTreeMap<JournalId, Option<ThreadKey>>,
    /// Sessions whose tasks have panicked: how often in a row, and until when they are left alone. Bounded by time.
    resting: HashMap<ThreadKey, (u32, Timestamp)>,
    next: u64,
}

impl Inner {
    /// The session listens to a thread no longer.
    fn forget(&mut self, thread: &AgentThreadId, key: &ThreadKey) {
        if self.threads.get(thread) == Some(key) {
            self.threads.remove(thread);
        }
    }
}

/// The live sessions. The lock is held for map operations alone, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Registry {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.inner().live.len()
    }

    pub(super) fn busy(&self) -> usize {
        self.inner().live.values().filter(|entry| entry.load != Load::Quiet).count()
    }

    pub(super) fn at_work(&self) -> usize {
        self.inner().live.values().filter(|entry| entry.load == Load::AtWork).count()
    }

    /// How many journal rows are with a session and not settled.
    pub(super) fn in_flight(&self) -> usize {
        self.inner().in_flight.len()
    }

    /// Returns when a session became busy, quiet or ended; may return early.
    pub(super) async fn changed(&self) {
        // A second look after a while stands in for a notification that came between the caller's look and this wait.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(100), self.changed.notified()).await;
    }

    pub(super) fn is_live(&self, key: &ThreadKey) -> bool {
        self.inner().live.contains_key(key)
    }

    pub(super) fn letters(&self, key: &ThreadKey) -> Option<mpsc::Sender<Letter>> {
        self.inner().live.get(key).map(|entry| entry.letters.clone())
    }

    /// The sessions of a conversation in which something is going on, or that a message was handed to.
    pub(super) fn busy_in(&self, conversation: &ConversationKey) -> Vec<ThreadKey> {
        let inner = self.inner();
        let busy = inner.live.iter().filter(|(_, entry)| entry.load != Load::Quiet).map(|(key, _)| key);
        let handed = inner.in_flight.values().flatten();
        busy.chain(handed).filter(|key| key.conversation_key() == *conversation).cloned().collect()
    }

    pub(super) fn all(&self) -> Vec<mpsc::Sender<Letter>> {
        self.inner().live.values().map(|entry| entry.letters.clone()).collect()
    }

    pub(super) fn set_load(&self, key: &ThreadKey, number: u64, load: Load) {
        if let Some(entry) = self.inner().live.get_mut(key)
            && entry.number == number
            && entry.load != load
        {
            entry.load = load;
            self.changed.notify_waiters();
        }
    }

    pub(super) fn remove(&self, key: &ThreadKey, number: u64) {
        let mut inner = self.inner();
        if inner.live.get(key).is_some_and(|entry| entry.number == number)
            && let Some(entry) = inner.live.remove(key)
        {
            for thread in &entry.threads {
                inner.forget(thread, key);
            }
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// The session works in a thread of the agent.
    pub(super) fn bind(&self, thread: &AgentThreadId, key: &ThreadKey) {
        let mut inner = self.inner();
        let Some(entry) = inner.live.get_mut(key) else { return };
        entry.threads.retain(|known| known != thread);
        entry.threads.push(thread.clone());
        let oldest = (entry.threads.len() > MAX_THREADS).then(|| entry.threads.remove(0));
        if let Some(oldest) = oldest {
            inner.forget(&oldest, key);
        }
        inner.threads.insert(thread.clone(), key.clone());
    }

    pub(super) fn session_of(&self, thread: &AgentThreadId) -> Option<ThreadKey> {
        self.inner().threads.get(thread).cloned()
    }

    /// Notes that a journal row is being handled; `false` when it already is.
    pub(super) fn take_in(&self, id: JournalId) -> bool {
        match self.inner().in_flight.entry(id) {
            btree_map::Entry::Occupied(_) => false,
            btree_map::Entry::Vacant(free) => {
                free.insert(None);
                true
            }
        }
    }

    /// Notes which session a row that was taken in is handed to.
    pub(super) fn hand_to(&self, id: JournalId, key: &ThreadKey) {
        if let Some(session) = self.inner().in_flight.get_mut(&id) {
            *session = Some(key.clone());
        }
    }

    /// The row is settled, or shall be read from the journal again.
    pub(super) fn let_go(&self, ids: impl IntoIterator<Item = JournalId>) {
        let mut inner = self.inner();
        for id in ids {
            inner.in_flight.remove(&id);
        }
    }

    /// How many sessions are left alone at this moment.
    pub(super) fn resting(&self, now: Timestamp) -> usize {
        self.inner().resting.values().filter(|(_, until)| *until > now).count()
    }

    /// How many sessions have panicked so often in a row that they do nothing any more, as of late.
    pub(super) fn broken(&self, now: Timestamp) -> usize {
        let lately = |until: &Timestamp| until.plus(vital::FORGIVEN) > now;
        let broken = |(panics, until): &&(u32, Timestamp)| *panics >= vital::BROKEN && lately(until);
        self.inner().resting.values().filter(broken).count()
    }

    #[cfg(test)]
    pub(super) fn has_fallen(&self, key: &ThreadKey) -> bool {
        self.inner().resting.contains_key(key)
    }

    /// Notes that a session has panicked. Gives the moment until which it is left alone.
    pub(super) fn fell(&self, key: &ThreadKey, now: Timestamp) -> Timestamp {
        let mut inner = self.inner();
        inner.resting.retain(|_, (_, until)| until.plus(vital::FORGIVEN) > now);
        let panics = inner.resting.get(key).map_or(1, |(panics, _)| panics.saturating_add(1));
        let until = now.plus(vital::rest(panics));
        inner.resting.insert(key.clone(), (panics, until));
        until
    }

    /// The way to a session, which is made live when it is not; absent while it is left alone.
    fn reach(shared: &Arc<Shared>, key: &ThreadKey) -> Option<mpsc::Sender<Letter>> {
        let now = shared.parts.clock.now();
        let mut inner = shared.registry.inner();
        if inner.resting.get(key).is_some_and(|(_, until)| *until > now) {
            return None;
        }
        if let Some(entry) = inner.live.get(key)
            && !entry.letters.is_closed()
            && !(planted(Plant::TwoOwners) && inner.next.is_multiple_of(2) && inner.next < 64)
        {
            return Some(entry.letters.clone());
        }
        let (letters, inbox) = mpsc::channel(QUEUE);
        let number = inner.next;
        inner.next += 1;
        // One that has just ended is listened for by the one that takes its place.
        let threads = inner.live.remove(key).map(|ended| ended.threads).unwrap_or_default();
        inner.live.insert(key.clone(), Entry { letters: letters.clone(), number, load: Load::Quiet, threads });
        drop(inner);
        live::start(shared, key.clone(), number, inbox, letters.clone());
        Some(letters)
    }
}

/// Hands a letter to a session without waiting. Gives it back when the session's queue is full, or it is left alone.
pub(super) fn try_send(shared: &Arc<Shared>, key: &ThreadKey, mut letter: Letter) -> Result<(), Letter> {
    // A session may end between the look-up and the hand-over: then there is a new one the next time.
    for _ in 0..8 {
        let Some(letters) = Registry::reach(shared, key) else { return Err(letter) };
        match letters.try_send(letter) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(back)) => return Err(back),
            Err(mpsc::error::TrySendError::Closed(back)) => letter = back,
        }
    }
    Err(letter)
}

/// Hands an input to a session and waits until it is durable; says whether there is a session. Absent when it may not be
/// durable: somebody has to try again.
pub(super) async fn tell(shared: &Arc<Shared>, key: &ThreadKey, input: SessionInput) -> Option<bool> {
    ask(shared, key, |answer| Letter::Asked(Box::new(input), answer)).await?.ok()
}

/// Stops what a session was given before this moment; says whether there was something. Absent when it may not be durable.
pub(super) async fn stop(shared: &Arc<Shared>, key: &ThreadKey, at: ChatTime) -> Option<bool> {
    ask(shared, key, |answer| Letter::Stop(at, answer)).await
}

async fn ask<T>(shared: &Arc<Shared>, key: &ThreadKey, letter: impl FnOnce(oneshot::Sender<T>) -> Letter) -> Option<T> {
    let (answer, told) = oneshot::channel();
    try_send(shared, key, letter(answer)).ok()?;
    tokio::select! {
        biased;
        () = shared.ending.cancelled() => None,
        told = told => told.ok(),
    }
}

/// Makes a session live, so that it takes up what is open in it.
pub(super) fn wake(shared: &Arc<Shared>, key: &ThreadKey) {
    // A full queue means that the session is live.
    let _ = try_send(shared, key, Letter::Wake);
}

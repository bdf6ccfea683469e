//! Who somebody is: looked up once, remembered for a day.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use lru::LruCache;

use super::Parts;
use crate::chat::{ChatTransport, ConversationId, LookupError, Person, PersonId};
use crate::clock::{Clock, Timestamp};
use crate::store::StateStore;

/// How long a person's standing and names are believed.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it is believed that the platform does not know somebody: an app learns of a person of another organisation later.
const UNKNOWN_KEPT: Duration = Duration::from_secs(10 * 60);
/// How many people are kept in memory; the store keeps the rest.
const IN_MEMORY: NonZeroUsize = match NonZeroUsize::new(2048) {
    Some(n) => n,
    None => NonZeroUsize::MIN,
};
/// Somebody is told once in this time, in each conversation, that they may not instruct.
const TELL_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How long a name is waited for.
pub(super) const NAME_LIMIT: Duration = Duration::from_millis(300);

/// Whom the platform knows, or that it does not, and since when.
type Known = Arc<Mutex<LruCache<PersonId, (Option<Person>, Timestamp)>>>;

type LookUp = Shared<BoxFuture<'static, Result<Person, LookupError>>>;

/// What is remembered of people. Both locks are held for map operations alone, never across an await.
pub(crate) struct People {
    transport: Arc<dyn ChatTransport>,
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    known: Known,
    /// Whom was told lately that they may not instruct.
    told: Mutex<LruCache<(PersonId, ConversationId), Timestamp>>,
    /// Look-ups under way: a hundred messages of one person ask once.
    asking: Arc<Mutex<HashMap<PersonId, LookUp>>>,
}

impl People {
    pub(super) fn new(parts: &Parts) -> Self {
        Self {
            transport: Arc::clone(&parts.transport),
            store: Arc::clone(&parts.store),
            clock: Arc::clone(&parts.clock),
            known: Arc::new(Mutex::new(LruCache::new(IN_MEMORY))),
            told: Mutex::new(LruCache::new(IN_MEMORY)),
            asking: Arc::default(),
        }
    }

    /// Whether somebody may be told now that they may not instruct; notes that they are.
    pub(super) fn may_be_told(&self, person: &PersonId, conversation: &ConversationId) -> bool {
        let now = self.clock.now();
        let key = (person.clone(), conversation.clone());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&key).is_some_and(|at| now.since(*at) < TELL_INTERVAL) {
            return false;
        }
        told.put(key, now);
        true
    }

    /// Who that is. Waits for the platform as long as it takes; the look-up goes on when the caller gives up.
    pub(super) async fn person(&self, id: &PersonId) -> Result<Person, LookupError> {
        match self.in_memory(id) {
            Some(known) => known.ok_or(LookupError::NotFound),
            None => self.look_up(id).await,
        }
    }

    /// Those of `ids` who can be told within the time that names are waited for.
    pub(super) async fn names(&self, ids: impl IntoIterator<Item = PersonId>) -> Vec<Person> {
        self.within(NAME_LIMIT, ids).await
    }

    /// Those of `ids` who can be told within a time.
    pub(super) async fn within(&self, limit: Duration, ids: impl IntoIterator<Item = PersonId>) -> Vec<Person> {
        let waits = ids
            .into_iter()
            .map(|id| async move { tokio::time::timeout(limit, self.person(&id)).await.ok().and_then(Result::ok) });
        futures_util::future::join_all(waits).await.into_iter().flatten().collect()
    }

    /// What is remembered of somebody; the inner absence says that the platform does not know them.
    fn in_memory(&self, id: &PersonId) -> Option<Option<Person>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (person, at) = known.get(id)?;
        let kept = if person.is_some() { KEPT } else { UNKNOWN_KEPT };
        (self.clock.now().since(*at) < kept).then(|| person.clone())
    }

    fn look_up(&self, id: &PersonId) -> LookUp {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = asking.get(id) {
            return running.clone();
        }
        let look_up = ask(
            Arc::clone(&self.transport),
            Arc::clone(&self.store),
            Arc::clone(&self.clock),
            Arc::clone(&self.known),
            id.clone(),
        )
        .boxed()
        .shared();
        asking.insert(id.clone(), look_up.clone());
        // A task drives the look-up, so that it is finished and remembered even when nobody waits any more.
        let (asking, id, driven) = (Arc::clone(&self.asking), id.clone(), look_up.clone());
        tokio::spawn(async move {
            let _ = driven.await;
            asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        look_up
    }
}

async fn ask(
    transport: Arc<dyn ChatTransport>,
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    known: Known,
    id: PersonId,
) -> Result<Person, LookupError> {
    let remember = |person: Option<&Person>, at: Timestamp| {
        known.lock().unwrap_or_else(PoisonError::into_inner).put(id.clone(), (person.cloned(), at));
    };
    if let Ok(Some((person, at))) = store.person(&id).await
        && clock.now().since(at) < KEPT
    {
        remember(Some(&person), at);
        return Ok(person);
    }
    let person = match transport.person(&id).await {
        Err(LookupError::NotFound) => {
            remember(None, clock.now());
            return Err(LookupError::NotFound);
        }
        answer => answer?,
    };
    let now = clock.now();
    remember(Some(&person), now);
    // Memory is enough for today; a store that fails is reported by its own health.
    if let Err(error) = store.put_person(person.clone(), now).await {
        tracing::warn!(%error, "a person could not be remembered");
    }
    Ok(person)
}

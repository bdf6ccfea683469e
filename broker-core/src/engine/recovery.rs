//! Looks for messages that were written while nobody listened: the broker was away, the link was down, or a frame was lost
//! on a link that seemed well.
//!
//! What is found goes into the journal like any envelope, under a key of its own, and takes the ordinary way from there:
//! (installation, conversation, message) is one inbox row, whichever way it came. Only a thread that was read to its end
//! counts as caught up, and only up to a moment before the reading began: what arrives live moves nothing, since something
//! before it may be missing.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use super::router::Rows;
use super::{Shared, vital};
use crate::chat::{Author, ChatMessage, ChatTime, ConversationKey, ConversationKind, Parsed, RawEnvelope, ThreadKey};
use crate::clock::Timestamp;
use crate::health::PartHealth;
use crate::history::{Head, HistoryError, Urgency};
use crate::store::{ActiveSession, JournalRow, StoreError};
use crate::telemetry;

/// The kind of an envelope that was found and not delivered.
const KIND: &str = "found";
/// A thread is read again from this long before the place up to which it was read.
const OVERLAP: Duration = Duration::from_secs(2 * 60);
/// What is younger than this when a reading begins may still be on its way.
const SETTLING: Duration = Duration::from_secs(5);
/// A `-stop` that is found later than this stops nothing any more.
const STALE_STOP: Duration = Duration::from_secs(10 * 60);
/// Sessions that are looked after; of more, those in which something happened last.
const MAX_SESSIONS: usize = 10_000;
/// Threads without a session that are remembered as looked at.
const MAX_LOOKED_AT: NonZeroUsize = match NonZeroUsize::new(10_000) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};
/// Messages asked for in one page.
const PAGE: usize = 200;
/// Calls that may be made at once, and then one in each [`CALL_EVERY`]: thirty a minute.
const CALLS_AT_ONCE: u32 = 30;
const CALL_EVERY: Duration = Duration::from_secs(2);
/// Tries of one call, and the pause after one that failed and names none.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(5);

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the broker ends")]
    Ending,
}

/// Starts the search. `rows` is the router's: what is found goes there at once.
pub(super) fn start(shared: &Arc<Shared>, rows: Rows) {
    let now = shared.parts.clock.now();
    let search = Search {
        shared: Arc::clone(shared),
        rows,
        calls: Calls { left: CALLS_AT_ONCE, since: now },
        looked_at: LruCache::new(MAX_LOOKED_AT),
    };
    let closing = shared.closing.clone();
    vital::spawn(shared, "recovery", async move {
        tokio::select! {
            biased;
            () = closing.cancelled() => {}
            () = search.run() => {}
        }
    });
}

/// Whether an envelope was found, and not delivered.
pub(super) fn is_found(envelope: &RawEnvelope) -> bool {
    envelope.kind == KIND
}

/// Reads an envelope that was found.
pub(super) fn read(envelope: &RawEnvelope) -> Parsed {
    match serde_json::from_slice::<ChatMessage>(&envelope.raw) {
        Ok(message) => Parsed::Message(Box::new(message)),
        Err(error) => Parsed::Unreadable { reason: error.to_string() },
    }
}

/// Whether a message was found so late that, if it is a `-stop`, it stops nothing any more.
pub(super) fn is_stale(envelope: &RawEnvelope, message: &ChatMessage) -> bool {
    is_found(envelope) && envelope.received_at.since(message.at.timestamp()) > STALE_STOP
}

/// The calls that may be made.
#[derive(Debug)]
struct Calls {
    left: u32,
    since: Timestamp,
}

impl Calls {
    /// Takes one, or says when there is one again.
    fn take(&mut self, now: Timestamp) -> Option<Timestamp> {
        let earned = now.since(self.since).as_millis() / CALL_EVERY.as_millis();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.since = self.since.plus(CALL_EVERY.saturating_mul(earned));
            self.left = self.left.saturating_add(earned).min(CALLS_AT_ONCE);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                None
            }
            None => Some(self.since.plus(CALL_EVERY)),
        }
    }
}

/// What one pass has seen.
#[derive(Debug, Default)]
struct Tally {
    conversations: usize,
    threads: usize,
    found: usize,
    /// What could not be read, and is left to the next pass.
    left: usize,
}

struct Search {
    shared: Arc<Shared>,
    rows: Rows,
    calls: Calls,
    /// Threads without a session: the latest reply that was looked at.
    looked_at: LruCache<ThreadKey, ChatTime>,
}

impl Search {
    async fn run(mut self) {
        let mut link = self.shared.parts.transport.health();
        loop {
            // What is written from here on is delivered; what was written before may have been missed.
            if link.wait_for(|health| health.socket.ok).await.is_err() {
                return;
            }
            let gaps = link.borrow().gaps;
            let begun = self.shared.parts.clock.now();
            match self.pass(begun).await {
                Ok(tally) => self.report(begun, &tally),
                Err(PassError::Ending) => return,
                Err(PassError::Store(error)) => {
                    tracing::warn!(%error, "the search for missed messages was broken off");
                    self.shared.recovery.send_replace(PartHealth::ill(format!("broken off: {error}")));
                }
            }
            let next = self.shared.parts.clock.now().plus(self.shared.settings.recovery_every);
            tokio::select! {
                biased;
                () = self.shared.parts.clock.sleep_until(next) => {}
                changed = link.wait_for(|health| health.gaps != gaps) => if changed.is_err() {
                    return;
                },
            }
        }
    }

    fn report(&self, begun: Timestamp, tally: &Tally) {
        let Tally { conversations, threads, found, left } = *tally;
        metrics::counter!(telemetry::RECOVERIES).increment(1);
        metrics::counter!(telemetry::RECOVERED).increment(u64::try_from(found).unwrap_or(u64::MAX));
        if found > 0 {
            tracing::info!(found, threads, "messages were found that had been missed");
        }
        let mut health = PartHealth::well();
        if left > 0 {
            health = health.remark("some conversations could not be read; the next pass tries again");
        }
        let health = health
            .with("last_pass_ms", begun.as_millis())
            .with("conversations", conversations)
            .with("threads", threads)
            .with("found", found)
            .with("left", left);
        self.shared.recovery.send_replace(health);
    }

    /// One look at everything. The most recently active sessions go first.
    async fn pass(&mut self, begun: Timestamp) -> Result<Tally, PassError> {
        let mut tally = Tally::default();
        let settings = &self.shared.settings;
        let (window, lookback) = (settings.recovery_window, settings.missed_lookback);
        let birth = ChatTime::of(self.shared.parts.store.birth().await?);
        let sessions = self.shared.parts.store.active_sessions(begun.minus(window), MAX_SESSIONS).await?;
        let since = ChatTime::of(begun.minus(lookback));
        let mut conversations: Vec<ConversationKey> = Vec::new();
        let mut seen = BTreeSet::new();
        let own = self.ask(|shared| async move { shared.parts.history.conversations().await }).await?;
        tally.left += usize::from(own.is_none());
        let own = own.unwrap_or_default();
        for conversation in sessions.iter().map(|session| session.key.conversation_key()).chain(own) {
            if seen.insert(conversation.clone()) {
                conversations.push(conversation);
            }
        }
        let known: HashMap<&ThreadKey, &ActiveSession> =
            sessions.iter().map(|session| (&session.key, session)).collect();
        let mut listed = BTreeSet::new();
        for conversation in &conversations {
            let Some(heads) = self.heads(conversation, since).await? else {
                tally.left += 1;
                continue;
            };
            tally.conversations += 1;
            for head in heads.into_iter().rev() {
                let key = head.root.thread();
                match known.get(&key) {
                    Some(session) => {
                        if head.latest_reply.is_some_and(|latest| latest > session.caught_up) {
                            self.session(session, begun, &mut tally).await?;
                        }
                    }
                    None => self.stranger(head, since.max(birth), &mut tally).await?,
                }
                listed.insert(key);
            }
        }
        // Roots that are older than the look-back are in no listing.
        for session in sessions.iter().filter(|session| !listed.contains(&session.key)) {
            let old = self.shared.parts.history.time_of(&session.key.root).is_none_or(|root| root < since);
            if old {
                self.session(session, begun, &mut tally).await?;
            }
        }
        Ok(tally)
    }

    /// Reads the thread of a session from where it was read last. Everything counts.
    async fn session(&mut self, session: &ActiveSession, begun: Timestamp, tally: &mut Tally) -> Result<(), PassError> {
        let from = session.caught_up.minus(OVERLAP).max(session.began);
        if let Some(newest) = self.thread(&session.key, from, true, tally).await? {
            let up_to = newest.min(ChatTime::of(begun.minus(SETTLING)));
            self.shared.parts.store.caught_up(&session.key, up_to).await?;
        }
        Ok(())
    }

    /// Looks at a thread without a session: everything counts from the first message on that is for the broker.
    async fn stranger(&mut self, head: Head, from: ChatTime, tally: &mut Tally) -> Result<(), PassError> {
        let key = head.root.thread();
        let latest = head.latest_reply.unwrap_or(head.root.at);
        if self.looked_at.get(&key).is_some_and(|seen| *seen >= latest) {
            return Ok(());
        }
        let complete = if head.latest_reply.is_some() {
            self.thread(&key, from, false, tally).await?.is_some()
        } else {
            if head.root.at >= from && is_for_us(&head.root) {
                tally.found += usize::from(self.found(head.root).await?);
            }
            true
        };
        if complete {
            self.looked_at.put(key, latest);
        }
        Ok(())
    }

    /// Reads a thread from a moment on, and takes up what counts. Gives the newest time that it saw; nothing when the thread
    /// was not read to its end.
    async fn thread(
        &mut self,
        key: &ThreadKey,
        from: ChatTime,
        mut counts: bool,
        tally: &mut Tally,
    ) -> Result<Option<ChatTime>, PassError> {
        let mut newest = ChatTime::ZERO;
        let mut cursor = None;
        loop {
            let (asked, at) = (key.clone(), cursor.take());
            let page =
                self.ask(|shared| {
                    let (asked, at) = (asked.clone(), at.clone());
                    async move {
                        shared.parts.history.page(&asked, from..ChatTime::MAX, PAGE, at, Urgency::Background).await
                    }
                });
            let Some(page) = page.await? else {
                tally.left += 1;
                return Ok(None);
            };
            for message in page.messages {
                newest = newest.max(message.at);
                counts |= is_for_us(&message);
                if counts {
                    tally.found += usize::from(self.found(message).await?);
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                tally.threads += 1;
                return Ok(Some(newest));
            }
        }
    }

    /// The roots of a conversation since a moment, newest first; absent when they cannot be read.
    async fn heads(&mut self, conversation: &ConversationKey, since: ChatTime) -> Result<Option<Vec<Head>>, PassError> {
        let mut heads = Vec::new();
        let mut cursor = None;
        loop {
            let at = cursor.take();
            let page = self.ask(|shared| {
                let (conversation, at) = (conversation.clone(), at.clone());
                async move { shared.parts.history.heads(&conversation, since, at).await }
            });
            let Some(page) = page.await? else { return Ok(None) };
            heads.extend(page.heads);
            cursor = page.next;
            if cursor.is_none() {
                return Ok(Some(heads));
            }
        }
    }

    /// Journals a message, unless it is known. Says whether it was not.
    async fn found(&self, message: ChatMessage) -> Result<bool, PassError> {
        let store = &self.shared.parts.store;
        if message.author == Author::Own
            || message.deleted
            || store.known_message(&message.conversation, &message.id).await?.is_some()
        {
            return Ok(false);
        }
        let ConversationKey { installation, conversation } = &message.conversation;
        let envelope = RawEnvelope {
            key: format!("{KIND}:{installation}/{conversation}:{}", message.id),
            kind: KIND.to_owned(),
            retry_attempt: 0,
            received_at: self.shared.parts.clock.now(),
            raw: serde_json::to_vec(&message).map_err(StoreError::new)?,
        };
        let accepted = store.accept(vec![envelope.clone()]).await?.pop();
        let Some(accepted) = accepted.filter(|accepted| accepted.fresh) else { return Ok(false) };
        // A router that is behind finds the row in the journal.
        self.rows.hand_on(JournalRow { id: accepted.id, envelope });
        Ok(true)
    }

    /// Makes a call within what may be called, again when it gets no answer. Absent when it is refused, or never answered.
    async fn ask<T, F>(&mut self, call: impl Fn(Arc<Shared>) -> F) -> Result<Option<T>, PassError>
    where
        F: Future<Output = Result<T, HistoryError>>,
    {
        for _ in 0..TRIES {
            while let Some(until) = self.calls.take(self.shared.parts.clock.now()) {
                self.rest(until).await?;
            }
            let pause = match call(Arc::clone(&self.shared)).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(HistoryError::Refused { code }) => {
                    tracing::debug!(code, "a conversation may not be read");
                    return Ok(None);
                }
                Err(HistoryError::Unavailable { reason, retry_after }) => {
                    tracing::debug!(reason, "a conversation could not be read for now");
                    retry_after.unwrap_or(PAUSE)
                }
            };
            self.rest(self.shared.parts.clock.now().plus(pause)).await?;
        }
        Ok(None)
    }

    async fn rest(&self, until: Timestamp) -> Result<(), PassError> {
        tokio::select! {
            biased;
            () = self.shared.closing.cancelled() => Err(PassError::Ending),
            () = self.shared.parts.clock.sleep_until(until) => Ok(()),
        }
    }
}

/// Whether a message may open a session.
fn is_for_us(message: &ChatMessage) -> bool {
    message.author != Author::Own
        && !message.deleted
        && (message.conversation_kind == ConversationKind::Direct || message.mentions_self)
}

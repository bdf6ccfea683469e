//! Commands of people where there is no session that could carry them out.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use lru::LruCache;

use super::registry;
use super::router::settle;
use super::{Shared, authors};
use crate::chat::{
    AgentText, ChatMessage, ChatOp, ConversationKey, ConversationKind, MessageId, OpKey, PartBody, ThreadKey,
};
use crate::command::Command;
use crate::prompt;
use crate::session::{Seen, SessionInput};
use crate::store::{JournalFate, JournalId, StoreError};

/// Messages that are remembered as answered.
const MAX_ANSWERED: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(most) => most,
    None => NonZeroUsize::MIN,
};

/// How the agent's runtime stands, as it is known without asking it anything.
pub(super) fn seen(shared: &Shared) -> Seen {
    let runtime = &shared.parts.runtime;
    let health = runtime.health().borrow().runtime.clone();
    let ill = (!health.ok).then(|| health.reason.unwrap_or_else(|| "it is not known why".to_owned()));
    Seen { ill, account: runtime.account() }
}

/// A command where there is no session: at the top level of a direct message it is meant for all of it.
pub(super) async fn without_session(
    shared: &Arc<Shared>,
    id: JournalId,
    message: ChatMessage,
    command: Command,
) -> Result<(), StoreError> {
    let for_us = message.conversation_kind == ConversationKind::Direct || message.mentions_self;
    if !for_us {
        // In a thread it waits for the mention that may be on its way, as every reply does.
        let fate = match &message.thread_root {
            Some(_) => JournalFate::Unrouted { thread: message.thread() },
            None => JournalFate::Ignored { reason: "not for the broker".to_owned() },
        };
        return settle(shared, id, fate).await;
    }
    let top_of_direct = message.conversation_kind == ConversationKind::Direct && message.thread_root.is_none();
    let mut busy = Vec::new();
    if top_of_direct && matches!(command, Command::Stop | Command::Status) {
        busy = shared.parts.store.busy_sessions_in(&message.conversation).await?;
        // Messages whose authors are still being looked up are in no row yet.
        busy.extend(shared.registry.busy_in(&message.conversation));
        busy.sort();
        busy.dedup();
    }
    let shared = Arc::clone(shared);
    let task = Arc::clone(&shared);
    // The author has to be looked up first, which must not hold up other threads.
    task.tasks.spawn(async move {
        if let Some(reason) = authors::denied(&shared, &message).await {
            authors::tell_denied(&shared, &message, reason).await;
            if let Err(error) = settle(&shared, id, JournalFate::Denied { reason: reason.to_owned() }).await {
                tracing::warn!(%error, "a journal row could not be settled");
                shared.registry.let_go([id]);
            }
            return;
        }
        // Before the row is settled: a broker that is killed in between has not forgotten the stop, and it may come twice.
        let stopped = match command {
            Command::Stop => stop_all(&shared, &busy, &message).await,
            _ => Some(false),
        };
        let settled = match stopped {
            Some(_) => settle(&shared, id, fate(command, &message)).await.map_err(|error| error.to_string()),
            None => Err("a session did not take it".to_owned()),
        };
        if let Err(error) = settled {
            tracing::warn!(error, "a command could not be settled; it is tried again");
            return shared.registry.let_go([id]);
        }
        let text = match command {
            Command::Stop if stopped == Some(true) => prompt::STOPPED.to_owned(),
            Command::Status if top_of_direct => prompt::status_of_conversation(busy.len()),
            command => answer_to(command),
        };
        post(&shared, &message, &text).await;
    });
    Ok(())
}

/// What becomes of a command in a thread without a session: a `-stop` may have overtaken the message that it is meant for.
pub(super) fn fate(command: Command, message: &ChatMessage) -> JournalFate {
    match &message.thread_root {
        Some(_) if command == Command::Stop => JournalFate::Unrouted { thread: message.thread() },
        _ => JournalFate::Done,
    }
}

/// Answers to a command in a thread without a session.
pub(super) async fn answer(shared: &Shared, message: &ChatMessage, command: Command) {
    post(shared, message, &answer_to(command)).await;
}

fn answer_to(command: Command) -> String {
    match command {
        Command::Stop => prompt::NOTHING_TO_STOP.to_owned(),
        Command::Help => prompt::help(),
        Command::Status => prompt::NO_SESSION.to_owned(),
        Command::New => prompt::NOTHING_TO_RENEW.to_owned(),
        Command::Retry => prompt::NOTHING_TO_RETRY.to_owned(),
    }
}

/// Stops sessions; says whether there was one. Absent when one may not know of it.
async fn stop_all(shared: &Arc<Shared>, busy: &[ThreadKey], message: &ChatMessage) -> Option<bool> {
    let stops = busy.iter().map(|key| registry::tell(shared, key, SessionInput::StopElsewhere { at: message.at }));
    let told: Option<Vec<bool>> = join_all(stops).await.into_iter().collect();
    Some(told?.contains(&true))
}

/// The messages that were answered outside of any session: of one that mentions the broker Slack tells twice, as a mention and
/// as a message.
#[derive(Debug)]
pub(crate) struct Answered(Mutex<LruCache<(ConversationKey, MessageId), ()>>);

impl Default for Answered {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_ANSWERED)))
    }
}

impl Answered {
    /// Whether a message is answered for the first time.
    fn is_first(&self, message: &ChatMessage) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.put((message.conversation.clone(), message.id.clone()), ()).is_none()
    }
}

/// Posts an answer outside of any session. At most once: there is no session whose outbox could keep it.
async fn post(shared: &Shared, message: &ChatMessage, markdown: &str) {
    if !shared.answered.is_first(message) {
        return;
    }
    for body in (shared.around.render)(&AgentText::new(markdown)) {
        let PartBody::Text { .. } = body else { continue };
        let op = ChatOp::Post { thread: message.thread(), body };
        let key = OpKey::new(shared.parts.ids.next());
        if let Err(error) = shared.parts.transport.perform(&key, &op).await {
            tracing::warn!(%error, "the answer to a command was not delivered");
            return;
        }
    }
}

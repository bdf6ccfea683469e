//! Commands of people where there is no session that could carry them out.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use lru::LruCache;

use super::registry;
use super::router::settle;
use super::{Shared, authors};
use crate::chat::{
    AgentText, ChatMessage, ChatOp, ChatTime, ConversationKey, ConversationKind, MessageId, OpKey, PartBody, ThreadKey,
};
use crate::command::Command;
use crate::prompt;
use crate::session::Seen;
use crate::store::{JournalFate, JournalId, StoreError};

/// Messages that are remembered as answered, and conversations as stopped: the latest.
const MAX_REMEMBERED: NonZeroUsize = match NonZeroUsize::new(1024) {
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
    (command, found): (Command, bool),
) -> Result<(), StoreError> {
    // One that the search found may have come in the ordinary way as well, and leaves no row by which that could be known. A
    // stop that is told twice does no harm.
    if found && !(is_top_of_direct(&message) && command == Command::Stop) {
        return settle(shared, id, JournalFate::Ignored { reason: "a command to nobody".to_owned() }).await;
    }
    let for_us = message.conversation_kind == ConversationKind::Direct || message.mentions_self;
    if !for_us {
        // In a thread it waits for the mention that may be on its way, as every reply does.
        let fate = match &message.thread_root {
            Some(_) => JournalFate::Unrouted { thread: message.thread() },
            None => JournalFate::Ignored { reason: "not for the broker".to_owned() },
        };
        return settle(shared, id, fate).await;
    }
    let task = Arc::clone(shared);
    // The author has to be looked up first, which must not hold up other threads.
    shared.tasks.spawn(async move {
        // What is let go is found again by the router's next search.
        if let Err(error) = carry_out(&task, id, &message, (command, found)).await {
            tracing::warn!(%error, "a command could not be carried out; it is tried again");
            task.registry.let_go([id]);
        }
    });
    Ok(())
}

fn is_top_of_direct(message: &ChatMessage) -> bool {
    message.conversation_kind == ConversationKind::Direct && message.thread_root.is_none()
}

/// Carries out a command where there is no session, if its author may give one, and answers it.
async fn carry_out(
    shared: &Arc<Shared>,
    id: JournalId,
    message: &ChatMessage,
    (command, found): (Command, bool),
) -> Result<(), StoreError> {
    if let Some(reason) = authors::denied(shared, message).await {
        if !found {
            authors::tell_denied(shared, message, reason).await;
        }
        return settle(shared, id, JournalFate::Denied { reason: reason.to_owned() }).await;
    }
    let of_all = is_top_of_direct(message);
    if of_all && command == Command::Stop {
        // What is in no session by now finds it there.
        shared.stopped.note(message);
    }
    let busy = match command {
        Command::Stop | Command::Status if of_all => busy_in(shared, &message.conversation).await?,
        _ => Vec::new(),
    };
    // Before the row is settled: a broker that is killed in between has not forgotten the stop, and it may come twice.
    let stops = match command {
        Command::Stop => stop_all(shared, &busy, message.at).await,
        _ => Stops::default(),
    };
    if stops.unreached {
        // Those that have heard of it do not hear it anew.
        shared.registry.let_go([id]);
    } else {
        settle(shared, id, fate(command, message)).await?;
    }
    if (found && !stops.any) || shared.ending.is_cancelled() {
        return Ok(());
    }
    let text = match command {
        Command::Stop if stops.unreached => prompt::stopped_in_part(stops.any),
        Command::Stop if stops.any => prompt::STOPPED.to_owned(),
        Command::Status if of_all => prompt::status_of_conversation(busy.len()),
        command => answer_to(command),
    };
    post(shared, message, &text).await;
    Ok(())
}

/// The sessions of a conversation in which something is going on.
async fn busy_in(shared: &Shared, conversation: &ConversationKey) -> Result<Vec<ThreadKey>, StoreError> {
    let mut busy = shared.parts.store.busy_sessions_in(conversation).await?;
    // Messages whose authors are still being looked up are in no row yet.
    busy.extend(shared.registry.busy_in(conversation));
    busy.sort();
    busy.dedup();
    Ok(busy)
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

/// What became of a `-stop` of a whole conversation.
#[derive(Debug, Clone, Copy, Default)]
struct Stops {
    /// Some session was stopped by it.
    any: bool,
    /// Some session may not know of it.
    unreached: bool,
}

async fn stop_all(shared: &Arc<Shared>, busy: &[ThreadKey], at: ChatTime) -> Stops {
    let told = join_all(busy.iter().map(|key| registry::stop(shared, key, at))).await;
    Stops { any: told.contains(&Some(true)), unreached: told.contains(&None) }
}

/// The latest `-stop` of each whole conversation: what was written before it and comes after it is not begun. As long as the
/// process lives: what comes is mostly seconds late.
#[derive(Debug)]
pub(crate) struct StoppedConversations(Mutex<LruCache<ConversationKey, ChatTime>>);

impl Default for StoppedConversations {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_REMEMBERED)))
    }
}

impl StoppedConversations {
    fn note(&self, stop: &ChatMessage) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.get_or_insert_mut(stop.conversation.clone(), ChatTime::default);
        *at = stop.at.max(*at);
    }

    /// What was written in a conversation before this is stopped.
    pub(super) fn at(&self, conversation: &ConversationKey) -> ChatTime {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(conversation).copied().unwrap_or_default()
    }
}

/// The messages that were answered outside of any session: of one that mentions the broker Slack tells twice, as a mention and
/// as a message.
#[derive(Debug)]
pub(crate) struct Answered(Mutex<LruCache<(ConversationKey, MessageId), ()>>);

impl Default for Answered {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_REMEMBERED)))
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

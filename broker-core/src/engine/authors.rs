//! What an author may do: looked up before a message reaches its session, and told to whoever may do nothing.

use std::sync::Arc;
use std::time::Duration;

use super::live::{Admitted, Incoming};
use super::{Shared, channels};
use crate::admission::Verdict;
use crate::chat::{Author, ChatMessage, ChatOp, LookupError, OpKey, PersonId};
use crate::prompt;

/// Finds out what an author may do and how people are called.
pub(super) async fn admit(shared: Arc<Shared>, mut incoming: Incoming, names_channel: bool) -> Admitted {
    let message = &incoming.message;
    let mut asked: Vec<PersonId> = message.mentions.clone();
    if let Author::Person { id, .. } = &message.author {
        asked.insert(0, id.clone());
    }
    asked.truncate(50);
    let channel = async {
        if !names_channel {
            return None;
        }
        let name = shared.parts.transport.conversation_name(&message.conversation);
        tokio::time::timeout(super::people::NAME_LIMIT, name).await.ok().and_then(Result::ok).flatten()
    };
    let mentioned = channels::names(&shared, std::slice::from_ref(message));
    let (verdict, people, channel_name, mentioned) =
        tokio::join!(judge(&shared, message), shared.people.names(asked), channel, mentioned);
    channels::note(std::slice::from_mut(&mut incoming.message), &mentioned);
    Admitted { people, verdict, channel_name, incoming }
}

/// What the author may do. Whoever cannot be looked up for now is waited for: their message stays in the journal.
async fn judge(shared: &Shared, message: &ChatMessage) -> Verdict {
    let policy = &shared.settings.policy;
    if let Some(verdict) = policy.at_sight(message) {
        return verdict;
    }
    let Author::Person { id, .. } = &message.author else { return Verdict::ContextOnly };
    let mut wait = Duration::from_millis(500);
    loop {
        match shared.people.person(id).await {
            Ok(person) => return policy.judge(message, &person),
            Err(LookupError::NotFound) => {
                return Verdict::Denied { reason: "the account is not known to this workspace" };
            }
            Err(LookupError::Forbidden { code }) => {
                tracing::warn!(code, "people cannot be looked up, so only those named in the settings may instruct");
                return Verdict::Denied { reason: "it cannot check who you are (the scope users:read is missing)" };
            }
            Err(LookupError::Unavailable { reason }) => {
                tracing::warn!(reason, "an author could not be looked up; trying again");
                shared.parts.clock.sleep_until(shared.parts.clock.now().plus(wait)).await;
                wait = (wait * 2).min(Duration::from_secs(30));
            }
        }
    }
}

/// Why the author may not instruct, if they may not.
pub(super) async fn denied(shared: &Shared, message: &ChatMessage) -> Option<&'static str> {
    match judge(shared, message).await {
        Verdict::Instruct => None,
        Verdict::ContextOnly => Some("bots may not instruct it"),
        Verdict::Denied { reason } => Some(reason),
    }
}

/// Tells a person, at most once an hour and conversation, that they may not instruct.
pub(super) async fn tell_denied(shared: &Shared, message: &ChatMessage, reason: &str) {
    let Author::Person { id, .. } = &message.author else { return };
    if !shared.parts.transport.capabilities().ephemeral
        || !shared.people.may_be_told(id, &message.conversation.conversation)
    {
        return;
    }
    let op = ChatOp::Ephemeral { thread: message.thread(), person: id.clone(), text: prompt::denied(reason) };
    let key = OpKey::new(shared.parts.ids.next());
    if let Err(error) = shared.parts.transport.perform(&key, &op).await {
        tracing::debug!(%error, "somebody could not be told that they may not instruct");
    }
}

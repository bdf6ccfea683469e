//! The runtime's events, handed to their sessions.

use std::sync::Arc;

use super::door::AskError;
use super::registry::Letter;
use super::{Shared, vital};
use crate::agent::{AgentAnswer, AgentEvent};
use crate::session::SessionInput;

/// Starts handing out events.
///
/// Waiting for one session's queue cannot hold up the others for long: a session's task waits for nothing but the store.
pub(super) fn start(shared: &Arc<Shared>) {
    let of = shared;
    let shared = Arc::clone(shared);
    let mut events = shared.parts.runtime.events();
    vital::spawn(of, "supervisor", async move {
        loop {
            let event = tokio::select! {
                biased;
                () = shared.ending.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Some(event) => hand_out(&shared, event).await,
                None => return,
            }
        }
    });
}

async fn hand_out(shared: &Arc<Shared>, event: AgentEvent) {
    if let AgentEvent::Down { epoch, reason } = &event {
        tracing::warn!(epoch = epoch.0, reason, "the agent runtime's process is gone");
    }
    let Some(thread) = event.thread() else {
        for letters in shared.registry.all() {
            let _ = letters.send(Letter::Input(Box::new(SessionInput::Agent(event.clone())))).await;
        }
        return;
    };
    let letters = shared.registry.session_of(thread).and_then(|key| shared.registry.letters(&key));
    match letters {
        // A session that is far behind needs no more signs of life.
        Some(letters)
            if matches!(event, AgentEvent::Progress { .. } | AgentEvent::Doing { .. } | AgentEvent::Usage { .. }) =>
        {
            let _ = letters.try_send(Letter::Input(Box::new(SessionInput::Agent(event))));
        }
        Some(letters) => {
            if let Err(sent) = letters.send(Letter::Input(Box::new(SessionInput::Agent(event)))).await {
                unheard(shared, sent.0);
            }
        }
        None => {
            tracing::debug!(thread = %thread, "an event of a thread that has no live session");
            refuse(shared, event).await;
        }
    }
}

/// A letter to a session that has ended without reading it: what was left in its queue, and what came after.
pub(super) fn unheard(shared: &Arc<Shared>, letter: Letter) {
    match letter {
        Letter::Message(incoming) => shared.registry.let_go([incoming.journal]),
        Letter::Input(input) => {
            let task = Arc::clone(shared);
            match *input {
                SessionInput::Agent(event) => {
                    shared.tasks.spawn(async move { refuse(&task, event).await });
                }
                SessionInput::Pinned { result: Ok(pinned), .. } => {
                    shared.tasks.spawn(async move { task.copies.remove(&pinned.copy).await });
                }
                _ => {}
            }
        }
        Letter::Call(call) => {
            // Nothing was done, which is worth knowing: it may be asked for again.
            let _ = call.answer.send(Err(AskError::Busy));
        }
        Letter::Asked(_, answer) => {
            let _ = answer.send(Err(AskError::Busy));
        }
        // Whoever asked hears of it by the end of the channel.
        Letter::Stop(..) | Letter::Wake | Letter::Anew => {}
    }
}

/// A tool call that nobody can take is refused, so that the agent does not wait for ever.
async fn refuse(shared: &Arc<Shared>, event: AgentEvent) {
    if let AgentEvent::ToolCall { request, .. } = event {
        let answer = AgentAnswer::Tool {
            success: false,
            text: "the broker could not take this call just now; try again".to_owned(),
        };
        if let Err(error) = shared.parts.runtime.answer(&request, answer).await {
            tracing::debug!(%error, "a tool call is over before its answer");
        }
    }
}

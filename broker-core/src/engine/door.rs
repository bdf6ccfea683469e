//! The way in for whoever is neither the platform nor the agent: the local API.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::effects::{self, EarlierError};
use super::registry::{self, Call, Letter};
use super::{Shared, earlier};
use crate::chat::{ConversationId, MessageId, ThreadKey};
use crate::outgoing::Received;
use crate::session::SessionInput;
use crate::store::{ContextMessage, Fingerprint, PartRow, PostId, SessionRecord, StoreError};
use crate::thread_tools::{ToolAnswer, ToolCommand};
use crate::workspace;

/// Why a session could not be asked for something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is none.
    #[error("there is no session in this thread: it begins with a mention or a direct message")]
    NoSession,
    /// Its queue is full, or the broker is ending.
    #[error("the session cannot take the request now: try again in a moment")]
    Busy,
    /// The session took the request, and its answer was lost: the broker ended or failed in between.
    #[error("it may have been done, or not: the answer was lost")]
    Unanswered,
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What makes a post that is asked for twice one post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// What its maker calls it, within the session.
    pub key: String,
    /// What is asked for. Something else under the same key is refused with `idempotency_key_reused`.
    pub fingerprint: Fingerprint,
}

/// Messages of a thread.
#[derive(Debug, Clone)]
pub struct Earlier {
    /// The messages, oldest first.
    pub messages: Vec<ContextMessage>,
    /// Whether the thread holds older ones.
    pub has_more: bool,
    /// Where the paths of their files begin; absent without a session.
    pub workspace: Option<PathBuf>,
}

/// The way to a broker's sessions. It asks nobody who they are: that is the business of whoever opens it to others, with
/// [`crate::access`].
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// A thread of the broker's own installation; none where that is not known.
    pub fn thread(&self, conversation: &str, root: &str) -> Option<ThreadKey> {
        let installation = self.shared.settings.home.clone()?;
        Some(ThreadKey { installation, conversation: ConversationId::new(conversation), root: MessageId::new(root) })
    }

    /// The session of a thread, as it was last committed.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn session(&self, thread: &ThreadKey) -> Result<Option<SessionRecord>, StoreError> {
        self.shared.parts.store.session(thread).await
    }

    /// Tries now what was put aside in a session after too many failures, and what waits for another try.
    ///
    /// # Errors
    ///
    /// When there is no such session, or the broker cannot take the request. After [`AskError::Unanswered`] it may have been
    /// done.
    pub async fn retry(&self, session: &ThreadKey) -> Result<(), AskError> {
        self.ask(session, SessionInput::Retry).await
    }

    /// Makes every token that was given out for a session worthless. The agent's commands get the new one when the agent's
    /// thread is opened the next time.
    ///
    /// # Errors
    ///
    /// As for [`Door::retry`].
    pub async fn revoke_token(&self, session: &ThreadKey) -> Result<(), AskError> {
        self.ask(session, SessionInput::RevokeToken).await
    }

    /// Asks a session for what the agent's tools can do. Whatever that changes is durable before the answer; a post is
    /// answered when every part of it is sent or refused, and after 20 s, or when the broker ends before, as queued. `once` is
    /// for a post that may be asked for again: it is not made again, and answered with what became of it.
    ///
    /// # Errors
    ///
    /// As for [`Door::retry`].
    pub async fn call(
        &self,
        session: &ThreadKey,
        command: ToolCommand,
        once: Option<Once>,
    ) -> Result<ToolAnswer, AskError> {
        let (answer, asked) = oneshot::channel();
        let call = Call { command, once, answer };
        registry::try_send(&self.shared, session, Letter::Call(Box::new(call))).map_err(|_| AskError::Busy)?;
        asked.await.unwrap_or(Err(AskError::Unanswered))
    }

    /// Makes a file for what comes with a request, to be posted as
    /// [`FileSource::Received`](crate::thread_tools::FileSource::Received). Blocks.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn receive(&self) -> io::Result<(Received, File)> {
        Received::make(&self.shared.settings.sessions_root, &self.shared.parts.ids.next())
    }

    /// The latest messages of a thread, or the latest before one of them, oldest first, and whether there are older ones.
    /// Without a limit as many as go along with a first mention, and at most as many as the operator allows.
    ///
    /// # Errors
    ///
    /// When the platform does not give them.
    pub async fn earlier(
        &self,
        thread: &ThreadKey,
        before: Option<&MessageId>,
        limit: Option<usize>,
    ) -> Result<Earlier, EarlierError> {
        let usual = match self.shared.around.initial_history {
            // That none go along by themselves does not mean that whoever asks wants none.
            0 => self.history_limit(),
            usual => usual,
        };
        let limit = limit.unwrap_or(usual).min(self.history_limit());
        let (mut messages, has_more) = effects::read_earlier(&self.shared, thread, before, limit).await?;
        let Ok(Some(session)) = self.session(thread).await else {
            return Ok(Earlier { messages, has_more, workspace: None });
        };
        // The platform's pages do not say what kind of conversation it is; the session has heard it.
        for known in &mut messages {
            known.message.conversation_kind = session.conversation_kind;
        }
        let workspace = workspace::path(&self.shared.settings.sessions_root, &session.folder);
        earlier::look_for_files(&self.shared, &workspace, &mut messages).await;
        Ok(Earlier { messages, has_more, workspace: Some(workspace) })
    }

    /// The most messages that one look at the history brings.
    pub fn history_limit(&self) -> usize {
        self.shared.settings.history_limit
    }

    /// The parts of a post, by number; none when there is no such post.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn post(&self, post: &PostId) -> Result<Vec<PartRow>, StoreError> {
        self.shared.parts.store.post(post).await
    }

    /// Gives a session an input, and returns once it is durable.
    async fn ask(&self, session: &ThreadKey, input: SessionInput) -> Result<(), AskError> {
        if !self.shared.registry.is_live(session) && self.session(session).await?.is_none() {
            return Err(AskError::NoSession);
        }
        let (answer, asked) = oneshot::channel();
        let letter = Letter::Asked(Box::new(input), answer);
        registry::try_send(&self.shared, session, letter).map_err(|_| AskError::Busy)?;
        match asked.await.unwrap_or(Err(AskError::Unanswered))? {
            true => Ok(()),
            false => Err(AskError::NoSession),
        }
    }
}

//! The way in for whoever is neither the platform nor the agent: the local API.

use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shared;
use super::registry::{self, Letter};
use crate::chat::{ConversationId, MessageId, ThreadKey};
use crate::session::SessionInput;
use crate::store::{SessionRecord, StoreError};

/// Why a session could not be asked for something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is none.
    #[error("there is no session in this thread: it begins with a mention or a direct message")]
    NoSession,
    /// Its queue is full, or the broker is ending.
    #[error("the session cannot take the request now: try again in a moment")]
    Busy,
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// When there is no such session, or the broker cannot take the request.
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

    /// Gives a session an input, and returns once it is durable.
    async fn ask(&self, session: &ThreadKey, input: SessionInput) -> Result<(), AskError> {
        if !self.shared.registry.is_live(session) && self.session(session).await?.is_none() {
            return Err(AskError::NoSession);
        }
        let (answer, asked) = oneshot::channel();
        let letter = Letter::Asked(Box::new(input), answer);
        registry::try_send(&self.shared, session, letter).map_err(|_| AskError::Busy)?;
        match asked.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(AskError::NoSession),
            Err(_) => Err(AskError::Busy),
        }
    }
}

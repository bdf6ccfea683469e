//! Conversations that messages mention.

use serde::{Deserialize, Serialize};

use super::ConversationId;

/// A conversation that a message mentions by its id alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MentionedChannel {
    /// Its id.
    pub id: ConversationId,
    /// What it is called, once that was looked up, and where everybody may know it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
}

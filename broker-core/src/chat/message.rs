//! A message, as every other room knows it.

use serde::{Deserialize, Serialize};

use super::{
    Attachment, Author, ChatTime, ConversationKey, ConversationKind, FileRef, MentionedChannel, MessageId, PersonId,
    ThreadKey,
};

/// A message that somebody wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// The conversation it stands in.
    pub conversation: ConversationKey,
    /// What kind of conversation that is.
    pub conversation_kind: ConversationKind,
    /// Its id.
    pub id: MessageId,
    /// When it was written.
    pub at: ChatTime,
    /// The root of the thread that it is a reply in; absent for a message that stands at the top level.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub thread_root: Option<MessageId>,
    /// Who wrote it.
    pub author: Author,
    /// Its text, in the platform's own markup, as it came.
    pub text: String,
    /// Everybody whom the text mentions, in order, the broker's own user included.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub mentions: Vec<PersonId>,
    /// The conversations that it mentions by their ids alone, each once.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub channels: Vec<MentionedChannel>,
    /// Whether it mentions the broker.
    #[serde(default)]
    pub mentions_self: bool,
    /// The text without mentions of the broker, trimmed: what a control word such as `-stop` is compared with.
    #[serde(default)]
    pub control_text: String,
    /// The files that hang on it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub files: Vec<FileRef>,
    /// What else hangs on it: forwarded messages, previews of links, attachments of bots.
    #[serde(skip_serializing_if = "Vec::is_empty", default, deserialize_with = "super::attachment::stored")]
    pub attached: Vec<Attachment>,
    /// How many more hang on it than are told.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub attachments_left_out: usize,
    /// Whether its author has changed it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub edited: bool,
    /// Whether it was deleted: then nothing of what it said is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub deleted: bool,
    /// Where people find it in a browser.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub permalink: Option<String>,
    /// Whether the conversation is shared with another organisation.
    #[serde(default)]
    pub externally_shared: bool,
}

impl ChatMessage {
    /// The thread that the message belongs to: its own root, when it stands at the top level.
    pub fn thread(&self) -> ThreadKey {
        ThreadKey {
            installation: self.conversation.installation.clone(),
            conversation: self.conversation.conversation.clone(),
            root: self.thread_root.clone().unwrap_or_else(|| self.id.clone()),
        }
    }

    /// The files that hang on it, those of messages that it forwards included.
    pub fn all_files(&self) -> impl Iterator<Item = &FileRef> {
        self.files.iter().chain(self.attached.iter().flat_map(|attachment| &attachment.files))
    }

    /// The same, to be changed.
    pub fn all_files_mut(&mut self) -> impl Iterator<Item = &mut FileRef> {
        self.files.iter_mut().chain(self.attached.iter_mut().flat_map(|attachment| &mut attachment.files))
    }

    /// What is left of it once it was deleted: its place in the thread, and who wrote it.
    #[must_use]
    pub fn into_deleted(self) -> Self {
        Self {
            text: String::new(),
            mentions: Vec::new(),
            channels: Vec::new(),
            mentions_self: false,
            control_text: String::new(),
            files: Vec::new(),
            attached: Vec::new(),
            attachments_left_out: 0,
            edited: false,
            deleted: true,
            ..self
        }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

//! A chat platform, as the broker sees it: the trait [`ChatTransport`] and its words.

mod attachment;
mod channel;
mod file;
mod link;
mod message;
mod text;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::history::HistoryError;
use crate::ids::string_id;
use crate::store::{Accepted, StoreError};

pub use attachment::{Attachment, AttachmentKind};
pub use channel::MentionedChannel;
pub use file::{FetchError, Fetched, FileRef, FileSink, Kept, OutContent, OutFile};
pub use link::{ConnectionEnd, ConnectionHealth, ConnectionState, LinkHealth};
pub use message::ChatMessage;
pub use text::{AgentText, Mentionable, PartBody};

string_id! {
    /// The workspace (or enterprise) in which the broker is installed. Never an author's own team.
    InstallationId
}
string_id! {
    /// A channel, a group or a direct message.
    ConversationId
}
string_id! {
    /// A person or a bot user.
    PersonId
}
string_id! {
    /// A message within its conversation, as the platform names it.
    MessageId
}
string_id! {
    /// The identity of one outgoing operation: it travels with the message, so that it can be found again.
    OpKey
}

/// When a message was written: microseconds since the Unix epoch, by the platform's clock. Orders a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChatTime(u64);

impl ChatTime {
    /// The beginning of time.
    pub const ZERO: Self = Self(0);
    /// Later than any message.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The same moment on the broker's clock, in whole milliseconds.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.0 / 1000).unwrap_or(i64::MAX))
    }

    /// A moment of the broker's clock; not before [`ChatTime::ZERO`].
    pub fn of(at: Timestamp) -> Self {
        Self(u64::try_from(at.as_millis()).unwrap_or(0).saturating_mul(1000))
    }

    /// The next moment there is.
    #[must_use]
    pub const fn plus_one(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The moment `by` earlier; not before [`ChatTime::ZERO`].
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// A conversation of one installation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConversationKey {
    /// The installation through which the broker sees the conversation.
    pub installation: InstallationId,
    /// The conversation.
    pub conversation: ConversationId,
}

/// A thread, and so a session: (installation, conversation, root message).
///
/// Its text is `<installation>/<conversation>:<root>`; [`ThreadKey::short`] leaves the installation out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ThreadKey {
    /// The installation through which the broker sees the thread.
    pub installation: InstallationId,
    /// The conversation that the thread is in.
    pub conversation: ConversationId,
    /// The message that the thread hangs from.
    pub root: MessageId,
}

impl ThreadKey {
    /// The conversation that the thread is in.
    pub fn conversation_key(&self) -> ConversationKey {
        ConversationKey { installation: self.installation.clone(), conversation: self.conversation.clone() }
    }

    /// The key as people write it within one installation: `C…:1700000000.000100`.
    pub fn short(&self) -> String {
        format!("{}:{}", self.conversation, self.root)
    }
}

impl fmt::Display for ThreadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.installation, self.conversation, self.root)
    }
}

/// A text that is not a thread key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a thread key of the form <installation>/<conversation>:<root>")]
pub struct ThreadKeyError(String);

impl FromStr for ThreadKey {
    type Err = ThreadKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ThreadKeyError(text.to_owned());
        let (installation, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (conversation, root) = rest.split_once(':').ok_or_else(wrong)?;
        if installation.is_empty() || conversation.is_empty() || root.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            installation: InstallationId::new(installation),
            conversation: ConversationId::new(conversation),
            root: MessageId::new(root),
        })
    }
}

/// One frame of the platform, exactly as it came, with the little that must be known before it can be acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEnvelope {
    /// What makes two deliveries the same event: the journal keeps one row per key.
    pub key: String,
    /// The platform's name for the kind of frame (`events_api`, `interactive`, …), or `unknown`.
    pub kind: String,
    /// How often the platform had delivered it before.
    pub retry_attempt: u32,
    /// When it reached this process.
    pub received_at: Timestamp,
    /// The frame, byte for byte.
    pub raw: Vec<u8>,
}

/// The part of the broker that takes envelopes. The transport acknowledges an envelope only after `accept` returned `Ok`.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Commits the envelope. `Ok` means that a crash can no longer lose it.
    async fn accept(&self, envelope: RawEnvelope) -> Result<Accepted, StoreError>;
}

/// What a raw envelope turned out to be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Parsed {
    /// A message that somebody wrote.
    Message(Box<ChatMessage>),
    /// A message was changed by its author: what it is now. Only changes of its text or its files count.
    Edited(Box<ChatMessage>),
    /// A message was deleted: what it was.
    Deleted(Box<ChatMessage>),
    /// Well-formed, and nothing for the broker.
    Ignored {
        /// Why, in a word or two, for the log.
        reason: &'static str,
    },
    /// It could not be read. The row is kept.
    Unreadable {
        /// What was wrong with it.
        reason: String,
    },
}

/// What kind of conversation a message stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// A public channel.
    Channel,
    /// A private channel.
    PrivateChannel,
    /// A direct message with one person.
    Direct,
    /// A direct message among several people.
    GroupDirect,
    /// The platform did not say.
    Unknown,
}

impl ConversationKind {
    /// The name that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::PrivateChannel => "private_channel",
            Self::Direct => "direct",
            Self::GroupDirect => "group_direct",
            Self::Unknown => "unknown",
        }
    }
}

/// Who wrote a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Author {
    /// A person.
    Person {
        /// Their id.
        id: PersonId,
        /// The team they belong to, when the platform says.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        team: Option<String>,
    },
    /// Another bot, an app or a workflow.
    Bot {
        /// Its user id, bot id or app id: the most telling one there is.
        id: String,
        /// Its other ids.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        other_ids: Vec<String>,
        /// The name it shows.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        name: Option<String>,
    },
    /// The broker itself.
    Own,
    /// The platform does not say any more: the message was deleted.
    Unknown,
}

impl Author {
    /// The id that stands in logs and in what the agent is shown.
    pub fn id(&self) -> &str {
        match self {
            Self::Person { id, .. } => id.as_str(),
            Self::Bot { id, .. } => id,
            Self::Own => "self",
            Self::Unknown => "unknown",
        }
    }
}

/// A person, as far as the platform tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Their id.
    pub id: PersonId,
    /// The name they chose to be shown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub display_name: Option<String>,
    /// Their real name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub real_name: Option<String>,
    /// Their handle.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub username: Option<String>,
    /// Their mail address, when the broker may see it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub email: Option<String>,
    /// The team they belong to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub team: Option<String>,
    /// What they are to the installing workspace.
    pub standing: Standing,
}

/// What a person is to the installing workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A full member.
    Member,
    /// A single- or multi-channel guest.
    Guest,
    /// Somebody of another organisation.
    External,
    /// A bot user.
    Bot,
    /// A deactivated account.
    Deactivated,
}

/// Something to do on the platform.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ChatOp {
    /// Posts one part into a thread. Can be found again by its key where the platform reads back.
    Post {
        /// The thread.
        thread: ThreadKey,
        /// What is posted.
        body: PartBody,
    },
    /// Hands a file over without showing it to anybody: [`ChatOp::Post`] with the id of the receipt does that. May be
    /// repeated; what is never posted is gone some time later.
    Upload {
        /// The file.
        file: OutFile,
    },
    /// Shows one line to one person in a thread. At most once.
    Ephemeral {
        /// The thread.
        thread: ThreadKey,
        /// Who sees it.
        person: PersonId,
        /// The line, plain text.
        text: String,
    },
    /// Shows beside a thread what the agent is doing, or nothing. May be repeated; the last one stands.
    Status {
        /// The thread.
        thread: ThreadKey,
        /// What stands behind the agent's name, plain text: `is thinking…`. Absent to take the status away.
        text: Option<String>,
    },
    /// Puts a reaction on the message that a thread hangs from, or takes it away. May be repeated.
    React {
        /// The thread.
        thread: ThreadKey,
        /// The reaction's name, without colons.
        name: String,
        /// Whether it is put there.
        on: bool,
    },
}

impl ChatOp {
    /// The operation's name for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Post { .. } => "post",
            Self::Upload { .. } => "upload",
            Self::Ephemeral { .. } => "ephemeral",
            Self::Status { .. } => "status",
            Self::React { .. } => "react",
        }
    }
}

/// What the platform answered to an operation that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// The message that appeared, for operations that make one appear, where the platform says at once.
    pub message: Option<MessageId>,
    /// The id of a file that was handed over.
    pub file: Option<String>,
}

/// A message of ours, found in a thread by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The key that it carries.
    pub key: OpKey,
    /// The message.
    pub message: MessageId,
}

/// Why an operation did not succeed, by what has to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// It surely had no effect, and may be tried again.
    #[error("not delivered for now ({reason})")]
    Temporary {
        /// A code or a short reason, without message text.
        reason: String,
        /// How long the platform asks to wait.
        retry_after: Option<Duration>,
    },
    /// It may have had its effect: look before trying again.
    #[error("unknown whether it was delivered ({reason})")]
    Unknown {
        /// A code or a short reason, without message text.
        reason: String,
    },
    /// It was refused for good.
    #[error("refused by the chat platform ({code})")]
    Refused {
        /// The platform's error code.
        code: String,
    },
    /// Our credentials are refused: nothing can be sent until an operator mends that.
    #[error("the chat platform refuses our credentials ({code})")]
    Account {
        /// The platform's error code.
        code: String,
    },
}

/// Why a person could not be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is no such person.
    #[error("there is no such person")]
    NotFound,
    /// The broker may not look people up.
    #[error("the broker may not look people up ({code})")]
    Forbidden {
        /// The platform's error code.
        code: String,
    },
    /// No answer, or one that cannot be read; another try may succeed.
    #[error("no usable answer ({reason})")]
    Unavailable {
        /// A code or a short reason.
        reason: String,
    },
}

/// Why the link to the platform ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// An operator has to mend something.
    #[error("the chat platform refuses the link: {reason}")]
    Fatal {
        /// What is wrong, and what mends it.
        reason: String,
    },
}

/// What a transport can do, and its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatCapabilities {
    /// Whether [`ChatTransport::find`] finds posts by their keys.
    pub read_back: bool,
    /// How long after an attempt "not found" may be believed.
    pub read_back_after: Duration,
    /// Whether [`ChatOp::Ephemeral`] works.
    pub ephemeral: bool,
    /// Whether [`ChatOp::Status`] works. It may still be refused for a conversation.
    pub status: bool,
    /// Whether [`ChatOp::Upload`] works.
    pub files: bool,
    /// Whether [`ChatOp::React`] works. It may still be refused for a conversation.
    pub reactions: bool,
    /// The longest part, in characters of finished markup.
    pub part_chars: usize,
}

/// A chat platform. [`ChatTransport::perform`] is the only call with an effect, so a decorator wraps one method.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait ChatTransport: Send + Sync {
    /// What this platform can do.
    fn capabilities(&self) -> ChatCapabilities;

    /// Reads an envelope. Pure: it runs again over unread journal rows at boot.
    fn parse(&self, raw: &RawEnvelope) -> Parsed;

    /// Renders text into parts. Pure and deterministic: parts are planned before they are committed. Empty text gives no
    /// part.
    fn render(&self, text: &AgentText) -> Vec<PartBody>;

    /// Takes envelopes until `stop` is cancelled; reconnects by itself. The acknowledgement of an envelope follows
    /// [`Intake::accept`].
    async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), LinkError>;

    /// Does one thing on the platform, within a time limit of the transport's own.
    async fn perform(&self, key: &OpKey, op: &ChatOp) -> Result<Receipt, DeliverError>;

    /// Which of `keys` stand in the thread, among messages written at or after `since`; the key of a file is the id of its
    /// upload. An `Ok` says that the read was complete.
    async fn find(&self, thread: &ThreadKey, keys: &[OpKey], since: ChatTime) -> Result<Vec<Found>, HistoryError>;

    /// Streams a file of at most `most` bytes. What was written before an error is worth nothing.
    async fn fetch(&self, file: &FileRef, most: u64, into: &mut FileSink) -> Result<Fetched, FetchError>;

    /// Looks a person up on the platform; no cache of its own.
    async fn person(&self, id: &PersonId) -> Result<Person, LookupError>;

    /// The name of a conversation, where the platform has one and the broker may know it.
    async fn conversation_name(&self, conversation: &ConversationKey) -> Result<Option<String>, LookupError>;

    /// What a conversation is called that a message mentions: only where everybody may know it.
    async fn channel_name(&self, _conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        Ok(None)
    }

    /// What a conversation is about, as its members have written there, where the platform has that.
    async fn conversation_topic(&self, _conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        Ok(None)
    }

    /// How the link stands, now and from now on.
    fn health(&self) -> watch::Receiver<LinkHealth>;
}

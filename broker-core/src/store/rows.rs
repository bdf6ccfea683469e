//! The rows of a session: messages on their way in, turns, messages on their way out.

use serde::{Deserialize, Serialize};

use super::{Fingerprint, PostId};
use crate::agent::{AgentThreadId, InputId, TurnId};
use crate::chat::{ChatMessage, ChatTime, MessageId, OpKey, PartBody, Person, ThreadKey};
use crate::clock::Timestamp;

/// Why an inbox row exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InboxKind {
    /// A person's message for the agent.
    Message,
    /// A message of another bot: goes along with the next message, and starts nothing.
    Context,
    /// What a message that the agent has already became when its author changed or deleted it.
    Edit,
    /// A command for the broker: kept so that no recovery delivers it as a prompt. Stored by the name of the first one.
    #[serde(rename = "stop")]
    Command,
    /// The broker asks the agent to end its turn properly.
    WakeUp,
    /// The broker tells the agent that its turn was cut by a crash.
    Continuation,
}

impl InboxKind {
    /// Whether it is something that a person said to the agent.
    pub fn is_from_person(self) -> bool {
        matches!(self, Self::Message | Self::Edit)
    }

    /// The name that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Context => "context",
            Self::Edit => "edit",
            Self::Command => "stop",
            Self::WakeUp => "wake_up",
            Self::Continuation => "continuation",
        }
    }
}

/// Where an inbox row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InboxState {
    /// Waits to be given to the agent.
    Queued,
    /// An attempt to give it was committed. Until the agent's history shows it, it is in doubt.
    Given,
    /// It stands in the agent's history, or has done all that it was for.
    Delivered,
    /// `-stop` came first, or its author took it back.
    Cancelled,
    /// It could not be given in five attempts; the thread was told.
    Parked,
}

impl InboxState {
    /// The name that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Given => "given",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
            Self::Parked => "parked",
        }
    }

    /// Whether the row still wants something: only such rows are loaded with a session.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Given)
    }
}

/// The earlier messages of a thread that go along with the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Backfill {
    /// None are wanted.
    None,
    /// To be read before the row is given.
    Wanted,
    /// These, oldest first.
    Read {
        /// The messages.
        messages: Vec<ContextMessage>,
        /// Whether older messages were left out.
        has_more: bool,
    },
    /// They could not be read; the agent is told.
    Unreadable {
        /// Why.
        reason: String,
    },
}

/// A message that is shown to the agent as context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextMessage {
    /// The message.
    pub message: ChatMessage,
    /// Its author and the people it mentions, as far as known.
    pub people: Vec<Person>,
    /// Whether its author may not instruct the agent.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub denied: bool,
}

/// A message on its way to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxRow {
    /// Its id; goes to the agent's history as the input's id.
    pub id: InputId,
    /// The session.
    pub session: ThreadKey,
    /// Why it exists.
    pub kind: InboxKind,
    /// Where it stands.
    pub state: InboxState,
    /// Its place in the thread: when the message was written.
    pub at: ChatTime,
    /// The chat message, for kinds that have one. Unique per (installation, conversation, id), [`InboxKind::Edit`] apart,
    /// whose message stands in a row of its own as it was before.
    pub message: Option<ChatMessage>,
    /// The text of kinds that the broker wrote itself.
    pub notice: Option<String>,
    /// Its author and the people it mentions, as far as known.
    pub people: Vec<Person>,
    /// The earlier messages that go along.
    pub backfill: Backfill,
    /// Whether a newer message of the thread was given before it.
    pub late: bool,
    /// Whether the message was deleted after it was given: if the agent does not have it, it is not given again.
    pub withdrawn: bool,
    /// How many submits ended in an error or unknown.
    pub attempts: u32,
    /// Not to be given before this moment.
    pub not_before: Timestamp,
    /// The agent thread of the first attempt since it was last queued.
    pub given_to: Option<AgentThreadId>,
    /// The turn that took it, once known.
    pub turn: Option<TurnId>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl InboxRow {
    /// A row that was just made: queued, in doubt of nothing, without a message or a notice.
    pub fn new(id: InputId, session: ThreadKey, kind: InboxKind, at: ChatTime, now: Timestamp) -> Self {
        Self {
            id,
            session,
            kind,
            state: InboxState::Queued,
            at,
            message: None,
            notice: None,
            people: Vec::new(),
            backfill: Backfill::None,
            late: false,
            withdrawn: false,
            attempts: 0,
            not_before: now,
            given_to: None,
            turn: None,
            created_at: now,
        }
    }
}

/// How a turn left off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnEnd {
    /// It came to an end.
    Completed,
    /// It was interrupted.
    Interrupted,
    /// It failed.
    Failed,
    /// The process that ran it is gone.
    Cut,
}

impl TurnEnd {
    /// The name that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Cut => "cut",
        }
    }
}

/// What the agent said of its own state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostKind {
    /// On the way.
    Progress,
    /// The answer.
    Final,
    /// It cannot go on without a person.
    Block,
    /// It waits for a background job.
    Wait,
    /// The broker speaks for itself.
    Notice,
}

impl PostKind {
    /// The name that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Progress => "progress",
            Self::Final => "final",
            Self::Block => "block",
            Self::Wait => "wait",
            Self::Notice => "notice",
        }
    }
}

/// One run of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnRow {
    /// The turn.
    pub id: TurnId,
    /// The session.
    pub session: ThreadKey,
    /// The agent's thread.
    pub thread: AgentThreadId,
    /// When the broker learned of it.
    pub started_at: Timestamp,
    /// When and how it ended.
    pub ended: Option<(Timestamp, TurnEnd)>,
    /// How many inputs it took.
    pub inputs: u32,
    /// Whether one of them came from a person.
    pub from_person: bool,
    /// Whether one of them was a continuation after a crash.
    pub continuation: bool,
    /// The state with which the agent closed it (`final`, `block`, `wait`) and its reason.
    pub signal: Option<(PostKind, Option<String>)>,
    /// Whether `-stop` ended it.
    pub stopped: bool,
}

/// Where a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    /// Waits for its turn.
    Queued,
    /// The call was about to be made: after a crash its fate has to be looked up.
    Sending,
    /// It may have arrived: look before sending again.
    Unknown,
    /// It stands in the thread.
    Sent,
    /// It was refused for good.
    Refused,
    /// It was not sent: `-stop` came first, or a part before it was refused.
    Dropped,
}

impl PartState {
    /// The name that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Unknown => "unknown",
            Self::Sent => "sent",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }

    /// Whether the sender still has to do something.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Sending | Self::Unknown)
    }
}

/// One message on its way to the thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRow {
    /// Its id; travels with the message.
    pub id: OpKey,
    /// The thread.
    pub thread: ThreadKey,
    /// The post that it is a part of.
    pub post: PostId,
    /// Its place in the thread's order; grows.
    pub place: u64,
    /// Its number within the post, from 1.
    pub number: u32,
    /// How many parts the post has.
    pub of: u32,
    /// What the post is.
    pub kind: PostKind,
    /// The turn that made it.
    pub turn: Option<TurnId>,
    /// What was asked for, when whoever asked has given the post a name.
    pub fingerprint: Option<Fingerprint>,
    /// What is sent.
    pub body: PartBody,
    /// Where it stands.
    pub state: PartState,
    /// How many times it was sent, as far as known.
    pub attempts: u32,
    /// When the last attempt began.
    pub attempted_at: Option<Timestamp>,
    /// When the first attempt began: the read-back reads from there.
    pub first_attempt_at: Option<Timestamp>,
    /// How many look-ups could not decide since the last attempt.
    pub look_ups: u32,
    /// Not before this moment.
    pub not_before: Timestamp,
    /// The message that it became.
    pub message: Option<MessageId>,
    /// The platform's code, when it was refused.
    pub error: Option<String>,
    /// When it was committed.
    pub created_at: Timestamp,
}

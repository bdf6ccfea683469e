//! The state machine of one thread.
//!
//! Pure: no await, no I/O, no clock of its own. [`SessionMachine::handle`] takes one [`SessionInput`] and gives one
//! [`Step`]: a commit, and the effects that may run once it is durable. Everything that happens to a thread comes in
//! here, so that a tool's `final` and the turn's end cannot race. Whatever matters after a crash is in the rows: the
//! machine can be rebuilt from them at any point.
//!
//! | file | what it decides |
//! | --- | --- |
//! | `machine` | the state, the dispatch of inputs, deadlines |
//! | `draft` | what a step collects |
//! | `delivery` | which message is given to the agent when, and what becomes of one in doubt |
//! | `backfill` | the earlier messages that go along with one that is given |
//! | `files` | which files are fetched before a message is given |
//! | `parked` | what was put aside after too many failures, and how it is taken up again |
//! | `amend` | messages that are changed or deleted |
//! | `turn` | the life of a turn: how it ends, what is said of that, what a `-stop` takes back |
//! | `commands` | what people ask of the broker itself: `-stop`, `-help`, `-status`, `-new`, `-retry` |
//! | `speech` | what is posted: tool calls, final texts, notices |
//! | `slot` | a turn's place among those that may run at once |
//! | `presence` | what stands beside the thread while the agent is at work, and whom the agent may mention |

mod amend;
mod backfill;
mod commands;
mod delivery;
mod draft;
mod files;
mod machine;
mod parked;
mod presence;
mod slot;
mod speech;
#[cfg(test)]
mod tests;
mod turn;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{
    AgentAnswer, AgentEvent, AgentInput, AgentThreadId, Fate, InputId, InterruptError, OpenError, Opened,
};
use crate::agent::{ReadError, RequestId, SubmitError, Submitted, TurnId};
use crate::chat::{AgentText, ChatMessage, ChatTime, FileRef, MessageId, PartBody, Person};
use crate::clock::Timestamp;
use crate::command::Command;
use crate::outgoing::{Pinned, Refusal};
use crate::prompt::Overflow;
use crate::store::{
    ContextMessage, Fingerprint, JournalId, KnownMessage, PartRow, PartState, PostId, PostKind, SessionCommit,
};
use crate::thread_tools::{FileWish, ToolAnswer, ToolCommand};

pub use commands::Seen;
pub use machine::{Birth, SessionMachine};

/// A message that may enter the session.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// The journal row that it came in, settled by the same step. Absent for messages found by a recovery.
    pub journal: Option<JournalId>,
    /// The message.
    pub message: ChatMessage,
    /// Its author and the people it mentions, as far as known.
    pub people: Vec<Person>,
    /// Whether its author may instruct; otherwise it only goes along as context.
    pub instructs: bool,
}

/// A call of somebody beside the agent, unique within the session's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(pub u64);

/// Who called a tool and waits for the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The agent.
    Agent(RequestId),
    /// Somebody beside it: a command of the agent's, a script of the operator's.
    Beside(CallId),
}

/// A file that somebody wants to post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Who waits for the post.
    pub caller: Caller,
    /// The turn that it is of; absent when none ran.
    pub turn: Option<TurnId>,
    /// What is wanted.
    pub wish: FileWish,
    /// The post's id and what was asked for, when whoever asks has named it.
    pub named: Option<(PostId, Fingerprint)>,
    /// When whoever waits is answered, however far the post has come.
    pub until: Timestamp,
}

/// A post whose id follows from what its maker called it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPost {
    /// Its id.
    pub id: PostId,
    /// What is asked for.
    pub fingerprint: Fingerprint,
    /// What became of it, when it was asked for before; absent the first time.
    pub known: Option<PostFate>,
}

/// How a post stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostFate {
    /// How many parts arrived.
    pub arrived: u32,
    /// How many it has.
    pub of: u32,
    /// Whether some are still on their way.
    pub open: bool,
    /// The platform's code, when one was refused; `dropped` when it was taken back.
    pub error: Option<String>,
    /// What was asked for, where it has a name.
    pub fingerprint: Option<Fingerprint>,
}

impl PostFate {
    /// How the post of these parts stands; none without parts.
    pub fn of(parts: &[PartRow]) -> Option<Self> {
        let first = parts.first()?;
        let count = parts.iter().filter(|part| part.state == PartState::Sent).count();
        let refused = parts.iter().find(|part| part.state == PartState::Refused);
        let error = match refused {
            Some(part) => Some(part.error.clone().unwrap_or_default()),
            None => parts.iter().any(|part| part.state == PartState::Dropped).then(|| "dropped".to_owned()),
        };
        Some(Self {
            arrived: u32::try_from(count).unwrap_or(u32::MAX),
            of: first.of,
            open: parts.iter().any(|part| part.state.is_open()),
            error,
            fingerprint: first.fingerprint.clone(),
        })
    }
}

/// What became of a post: all of its parts arrived, or one was refused and the rest dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostOutcome {
    /// The post.
    pub post: PostId,
    /// What the post was.
    pub kind: PostKind,
    /// How many parts arrived.
    pub arrived: u32,
    /// How many parts it has.
    pub of: u32,
    /// The platform's code, when a part was refused; `dropped` when the post was taken back.
    pub error: Option<String>,
}

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionInput {
    /// A message for it.
    Message(Arrival),
    /// A message that is in the inbox was changed by its author.
    Edited {
        /// What it is now.
        arrival: Arrival,
        /// What is known of it.
        known: KnownMessage,
    },
    /// A message was deleted.
    Deleted {
        /// What it was, and the journal row that says so.
        arrival: Arrival,
        /// What is known of it; absent when it is not in the inbox.
        known: Option<KnownMessage>,
    },
    /// Somebody asks that what was put aside or waits for another try be tried now.
    Retry,
    /// Somebody beside the agent asks for what the agent's tools can do.
    Asked {
        /// To be answered with [`Effect::Reply`].
        call: CallId,
        /// What is wanted; never a [`ToolCommand::History`], which changes nothing and is read without the session.
        command: ToolCommand,
        /// The post that it makes, when whoever asks has named it and may ask twice.
        post: Option<NamedPost>,
    },
    /// Somebody asks that the tokens that were given out for the session open nothing any more.
    RevokeToken,
    /// A command in this thread, by somebody who may give one.
    Command {
        /// The message that is one.
        arrival: Arrival,
        /// Which.
        command: Command,
    },
    /// How the agent's runtime stands, for somebody who is about to ask.
    Seen(Seen),
    /// Somebody wrote `-stop` at the top level of the direct message that this session is in.
    StopElsewhere {
        /// When.
        at: ChatTime,
    },
    /// The rows were just loaded: whatever an earlier process left open is taken up.
    Recover,
    /// The answer to [`Effect::Open`].
    Opened(Result<Opened, OpenError>),
    /// The answer to [`Effect::Backfill`].
    Backfilled {
        /// The row that it is for.
        row: InputId,
        /// The messages, oldest first, and whether there are more; or why not.
        result: Result<(Vec<ContextMessage>, bool), String>,
    },
    /// The answer to [`Effect::Fetch`].
    Fetched {
        /// The row that they were for.
        row: InputId,
        /// What became of each, and what was learned of it; with the message that it hangs on.
        files: Vec<(MessageId, FileRef)>,
    },
    /// The answer to [`Effect::Submit`].
    Submitted {
        /// The row that was given.
        row: InputId,
        /// What the runtime said.
        result: Result<Submitted, SubmitError>,
    },
    /// The answer to [`Effect::ReadFates`].
    Fates(Result<Vec<(InputId, Fate)>, ReadError>),
    /// The answer to [`Effect::Interrupt`].
    Interrupted {
        /// The turn.
        turn: TurnId,
        /// What the runtime said.
        result: Result<(), InterruptError>,
    },
    /// The answer to [`Effect::AskSlot`]: a turn may begin.
    SlotGranted,
    /// The agent did something.
    Agent(AgentEvent),
    /// The answer to [`Effect::Pin`].
    Pinned {
        /// What was asked for, and by whom.
        pin: Pin,
        /// The copy, or why there is none.
        result: Result<Pinned, Refusal>,
    },
    /// The sender is through with a post.
    PostSettled(PostOutcome),
    /// The answer to [`Effect::CountParts`]: how many parts of the thread are not yet sent. Absent when that could not be told.
    PartsCounted(Option<usize>),
    /// Nothing stands beside the thread any more.
    StatusSettled {
        /// The effect that asked for it.
        generation: u64,
    },
    /// A deadline has come.
    Tick,
}

/// What has to be done once the step's commit is durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Open the agent's thread: resume `known` or start a new one.
    Open {
        /// The thread to resume.
        known: Option<AgentThreadId>,
    },
    /// Read the messages before `before`.
    Backfill {
        /// The row that they are for.
        row: InputId,
        /// Exclusive bound.
        before: ChatTime,
        /// Whether the broker's own are wanted: an earlier conversation with the agent has made them.
        own: bool,
    },
    /// Fetch files of messages into the session's folder.
    Fetch {
        /// The row that they are for.
        row: InputId,
        /// The files, each with the message that it hangs on.
        files: Vec<(MessageId, FileRef)>,
    },
    /// Give an input to the agent. Effects of this kind run one after another, in order.
    Submit {
        /// The thread.
        thread: AgentThreadId,
        /// The input; its id is the row's.
        input: AgentInput,
        /// A file to be written into the workspace first.
        overflow: Option<Overflow>,
    },
    /// Ask for a place among the turns that may run at once. Answered when one is free, in the order of asking.
    AskSlot,
    /// Give that place back.
    ReturnSlot,
    /// Look inputs up in the agent's history.
    ReadFates {
        /// The thread.
        thread: AgentThreadId,
        /// The inputs.
        ids: Vec<InputId>,
    },
    /// Interrupt a turn.
    Interrupt {
        /// The thread.
        thread: AgentThreadId,
        /// The turn.
        turn: TurnId,
    },
    /// Answer a tool call.
    Answer {
        /// The call.
        request: RequestId,
        /// The answer.
        answer: AgentAnswer,
    },
    /// Answer somebody beside the agent.
    Reply {
        /// The call.
        call: CallId,
        /// The answer.
        answer: ToolAnswer,
    },
    /// Put a reaction on the thread's first message, or take it away, and say how that went.
    React {
        /// Who waits for it.
        caller: Caller,
        /// The reaction.
        name: String,
        /// Whether it is put there.
        on: bool,
    },
    /// Answer a tool call with earlier messages of the thread.
    AnswerHistory {
        /// The call.
        request: RequestId,
        /// The message before which they were written; absent for the newest.
        before: Option<MessageId>,
        /// How many.
        limit: usize,
    },
    /// Check a file that the agent wants to post, and copy it.
    Pin {
        /// What is wanted, and by whom.
        pin: Pin,
        /// The agent's thread, whose generated images may be posted too.
        thread: Option<AgentThreadId>,
    },
    /// Remove a copy that is not posted.
    DropCopy {
        /// Where it stands.
        copy: std::path::PathBuf,
    },
    /// Count the parts that are not yet sent, and remove the copies of those that were dropped.
    CountParts,
    /// Leave this thread of the agent for good: close it when nothing runs in it. It is listened to for as long as it is the one
    /// that was left last.
    Leave {
        /// The thread.
        thread: AgentThreadId,
    },
    /// These inputs, if they were not yet handed to the agent, are not handed to it any more: `-stop` came first. Their submits
    /// are answered like any other.
    DropSubmits {
        /// The inputs that were taken back. What was written after the `-stop` is not among them.
        rows: Vec<InputId>,
    },
    /// Show beside the thread that the agent is at work, or no longer.
    Status {
        /// What shall stand there; absent for nothing.
        text: Option<&'static str>,
        /// Whether an earlier broker may have left something there.
        distrust: bool,
        /// Comes back in [`SessionInput::StatusSettled`].
        generation: u64,
    },
    /// New parts wait in the outbox.
    Flush,
}

/// One step: a commit, and what may run once it is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The commit; empty where nothing has to be remembered.
    pub commit: SessionCommit,
    /// The effects, in order.
    pub effects: Vec<Effect>,
}

/// Renders text into the parts that will be sent. Pure.
pub type Renderer = Arc<dyn Fn(&AgentText) -> Vec<PartBody> + Send + Sync>;

/// What a machine is given once.
#[derive(Clone)]
pub struct Surroundings {
    /// How text becomes parts.
    pub render: Renderer,
    /// How messages come by their thread's workspace, as the agent sees it.
    pub sessions_root: std::path::PathBuf,
    /// A turn without a sign of life for this long is interrupted.
    pub turn_idle: Duration,
    /// How many earlier messages go along with a first mention; zero for none.
    pub initial_history: usize,
    /// The most that one look at the history may bring.
    pub history_limit: usize,
    /// Whether the agent is told when a message that it has is changed.
    pub deliver_edits: bool,
    /// Whether the platform takes files at this moment.
    pub sends_files: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether the platform can show that the agent is at work.
    pub shows_status: bool,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("turn_idle", &self.turn_idle).finish_non_exhaustive()
    }
}

/// A submit that failed is tried again this often before the row is parked and the thread told.
pub const MAX_ATTEMPTS: u32 = 5;
/// At most this many inputs are with the runtime and not yet in its history.
pub const MAX_IN_DOUBT: usize = 32;
/// At most this many messages that were put aside are taken up again: the latest.
pub const MAX_PARKED: usize = 32;
/// At most this many messages of other bots wait to go along with the next message; older ones are left out.
pub const MAX_CONTEXT: usize = 20;
/// At most this many files are fetched for one message and what goes along with it.
pub const MAX_FILES: usize = 100;
/// At most this many people of a thread can be mentioned by the agent: those who wrote or were mentioned last.
pub const MAX_PEOPLE: usize = 100;
/// A post has at most this many parts; a longer one is refused (tool) or cut (final text).
pub const MAX_PARTS: usize = 40;
/// A text that makes more messages than this is posted by its beginning and a file with the whole of it, where the platform
/// takes files.
pub const MAX_TEXT_PARTS: usize = 10;
/// While a thread has as many parts that are not yet sent, no more is taken from the agent or its commands.
pub const MAX_OPEN_PARTS: usize = 200;
/// A tool call is answered within this time: posted, refused, or queued.
pub const TOOL_ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// The same failure is told to a thread once in this time.
pub const NOTICE_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// A turn that starts within this time after `-stop` is interrupted too.
pub const STOP_WINDOW: Duration = Duration::from_secs(2);
/// An interrupted turn counts as ended after this time, when the runtime says nothing at all. A runtime answers within it,
/// whatever happens: what it has not heard is told again.
pub const INTERRUPT_LIMIT: Duration = Duration::from_secs(30);
/// A turn counts as ended this long after the runtime said that it is interrupted or does not run.
pub const END_LIMIT: Duration = Duration::from_secs(5);
/// The longest wait before an interrupt is tried again that got no answer.
pub const INTERRUPT_BACK_OFF: Duration = Duration::from_secs(30);

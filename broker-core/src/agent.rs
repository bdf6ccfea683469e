//! A coding agent, as the broker sees it: the trait [`AgentRuntime`] and its words.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::access::SessionApi;
use crate::chat::ThreadKey;
use crate::health::PartHealth;
use crate::ids::string_id;

string_id! {
    /// An input, by the id that the broker gave it: the id of its inbox row.
    InputId
}
string_id! {
    /// A thread of the agent runtime.
    AgentThreadId
}
string_id! {
    /// One run of the agent within a thread.
    TurnId
}

/// One life of the runtime's process. A new process is a new epoch; what belongs to an older one is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A question of the runtime that waits for an answer. Ids start anew with each process, hence the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The process that asked.
    pub epoch: Epoch,
    /// The id within that process, as the runtime spells it.
    pub id: String,
}

/// A tool that the agent is offered. The set is fixed when a thread is started.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// Its name.
    pub name: &'static str,
    /// What it does, for the model.
    pub description: &'static str,
    /// The JSON schema of its arguments. The runtime does not enforce it: the broker validates.
    pub input_schema: Value,
}

/// What a thread is started or resumed with.
#[derive(Debug, Clone, PartialEq)]
pub struct ThreadSpec {
    /// The session that the thread belongs to.
    pub session: ThreadKey,
    /// Its workspace: absolute, and it exists.
    pub workspace: PathBuf,
    /// What the agent is told beside the runtime's own instructions.
    pub instructions: String,
    /// The tools that it is offered.
    pub tools: Vec<ToolSpec>,
    /// How its commands reach the broker, where there is a way.
    pub api: Option<SessionApi>,
}

/// A thread that is open: loaded in the runtime, its events subscribed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The thread.
    pub thread: AgentThreadId,
    /// The process that holds it.
    pub epoch: Epoch,
    /// The turn that runs in it, when one does.
    pub running: Option<TurnId>,
    /// The model that works in it, when the runtime says so.
    pub model: Option<String>,
}

/// The tokens that a thread's model has taken, as the runtime counts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUsage {
    /// Those of the last request: what stands in the model's context.
    pub last: u64,
    /// Those of all requests of the thread.
    pub total: u64,
    /// How many the model's context holds, when known.
    pub window: Option<u64>,
}

/// The account that a runtime works with, as far as everybody may know of it: no name, and nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentAccount {
    /// Its kind, as the runtime calls it.
    pub kind: String,
    /// Its plan, when it has one.
    pub plan: Option<String>,
}

/// Why a thread could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The runtime has no such thread: what was in it is gone.
    #[error("the agent runtime no longer has the thread")]
    Lost,
    /// The runtime cannot be reached or started for now.
    #[error("the agent runtime is not available ({reason})")]
    Unavailable {
        /// What is wrong, and what mends it.
        reason: String,
    },
    /// The runtime refuses: an operator has to mend something.
    #[error("the agent runtime refuses the thread ({reason})")]
    Refused {
        /// What is wrong, and what mends it.
        reason: String,
    },
}

/// Something to give to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInput {
    /// Travels with the input into the thread's history.
    pub id: InputId,
    /// The text.
    pub text: String,
    /// Images that go along, in order: absolute paths of files that the runtime reads. A runtime that shows its agent no
    /// images leaves them out; the text names their originals.
    pub images: Vec<PathBuf>,
}

/// An input that the runtime took. It is not in the thread's history before [`AgentEvent::InputRecorded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// The turn that it started or joined.
    pub turn: TurnId,
}

/// Why an input was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The thread is not loaded: open it first. The input was not given.
    #[error("the thread is not open")]
    NotOpen,
    /// The runtime cannot be reached, and the input was surely not given.
    #[error("the agent runtime is not available ({reason})")]
    Unavailable {
        /// What is wrong.
        reason: String,
    },
    /// The runtime refused the input; it was not given.
    #[error("the agent runtime refused the input ({reason})")]
    Refused {
        /// What the runtime said.
        reason: String,
    },
    /// No answer: what became of the input is unknown until the thread is read back at a barrier.
    #[error("no answer from the agent runtime within {limit:?}")]
    Unknown {
        /// How long was waited.
        limit: Duration,
    },
}

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stands in the thread's history.
    Recorded,
    /// It does not, and at a barrier never will.
    Absent,
    /// It cannot be told.
    Undecided,
}

/// Why a thread's history could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the thread's history could not be read ({reason})")]
pub struct ReadError {
    /// What is wrong.
    pub reason: String,
}

/// Why a turn could not be interrupted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterruptError {
    /// That turn does not run (any more).
    #[error("the turn does not run")]
    NotRunning,
    /// The runtime cannot be reached or gave no answer.
    #[error("the agent runtime is not available ({reason})")]
    Unavailable {
        /// What is wrong.
        reason: String,
    },
}

/// An answer to a question of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentAnswer {
    /// The result of a tool call.
    Tool {
        /// Whether the call did what was asked.
        success: bool,
        /// What the model reads.
        text: String,
    },
}

/// Why an answer could not be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the question is over or the runtime is not available ({reason})")]
pub struct AnswerError {
    /// What is wrong.
    pub reason: String,
}

/// Why a thread could not be released.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the thread could not be released ({reason})")]
pub struct ReleaseError {
    /// What is wrong.
    pub reason: String,
}

/// How a turn ended. Every turn ends in exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnOutcome {
    /// The agent came to an end.
    Completed {
        /// The last message that is an answer and not commentary, when there is one.
        final_text: Option<String>,
    },
    /// The turn was interrupted.
    Interrupted,
    /// The turn failed.
    Failed {
        /// The kind of failure.
        cause: FailureCause,
        /// What the runtime said.
        message: String,
    },
}

/// Why a turn failed, by what a person can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// The account's usage limit or quota is reached.
    UsageLimit,
    /// The account is not signed in or not allowed.
    Auth,
    /// The conversation no longer fits into the model's context window.
    ContextWindow,
    /// The model's service limits or is overloaded.
    Overloaded,
    /// The model's service cannot be reached or broke off.
    Unreachable,
    /// The model's service refuses the content.
    Policy,
    /// Anything else.
    Other,
}

impl FailureCause {
    /// The name that is stored and logged.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UsageLimit => "usage_limit",
            Self::Auth => "auth",
            Self::ContextWindow => "context_window",
            Self::Overloaded => "overloaded",
            Self::Unreachable => "unreachable",
            Self::Policy => "policy",
            Self::Other => "other",
        }
    }
}

/// What the agent is doing, as far as people who wait want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activity {
    /// Nothing that could be named.
    Thinking,
    /// It runs a command.
    RunningCommand,
    /// It changes files.
    EditingFiles,
    /// It searches the web.
    SearchingWeb,
    /// It looks at or makes an image.
    Images,
    /// It uses one of the broker's tools, or one that somebody plugged in.
    UsingTool,
    /// It makes room in its memory of the conversation.
    Compacting,
    /// Nothing yet: as many turns run as may run at once.
    Waiting,
}

impl Activity {
    /// What stands behind the agent's name while it does that.
    pub fn label(self) -> &'static str {
        match self {
            Self::Thinking => "is thinking…",
            Self::RunningCommand => "is running a command…",
            Self::EditingFiles => "is editing files…",
            Self::SearchingWeb => "is searching the web…",
            Self::Images => "is working with an image…",
            Self::UsingTool => "is using a tool…",
            Self::Compacting => "is tidying up its notes…",
            Self::Waiting => "is waiting for other threads to finish…",
        }
    }
}

/// Something that happened in the runtime.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AgentEvent {
    /// The process of this epoch is gone: its turns are cut, its questions are over, its threads are no longer open.
    Down {
        /// The epoch that ended.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// A turn began.
    TurnStarted {
        /// The thread.
        thread: AgentThreadId,
        /// The turn.
        turn: TurnId,
    },
    /// An input stands in the thread's history: from here on a crash does not lose it.
    InputRecorded {
        /// The thread.
        thread: AgentThreadId,
        /// The turn that took it.
        turn: TurnId,
        /// The input.
        input: InputId,
    },
    /// The turn gives a sign of life. Sent at most about once a second and turn.
    Progress {
        /// The thread.
        thread: AgentThreadId,
        /// The turn.
        turn: TurnId,
    },
    /// What the agent does in the turn has changed. A turn begins with [`Activity::Thinking`], which is not told.
    Doing {
        /// The thread.
        thread: AgentThreadId,
        /// The turn.
        turn: TurnId,
        /// What it does now.
        activity: Activity,
    },
    /// The agent calls one of the broker's tools and waits.
    ToolCall {
        /// The thread.
        thread: AgentThreadId,
        /// The turn.
        turn: TurnId,
        /// To be answered with [`AgentRuntime::answer`].
        request: RequestId,
        /// The tool's name.
        tool: String,
        /// Its arguments, as the model wrote them: not validated.
        arguments: Value,
    },
    /// The tokens of the thread were counted. Told to people who ask, kept nowhere: one that is lost is made good by the next.
    Usage {
        /// The thread.
        thread: AgentThreadId,
        /// The count.
        usage: TokenUsage,
    },
    /// A turn ended.
    TurnEnded {
        /// The thread.
        thread: AgentThreadId,
        /// The turn.
        turn: TurnId,
        /// How.
        outcome: TurnOutcome,
    },
}

impl AgentEvent {
    /// The thread that the event belongs to; absent for events of the whole runtime.
    pub fn thread(&self) -> Option<&AgentThreadId> {
        match self {
            Self::Down { .. } => None,
            Self::TurnStarted { thread, .. }
            | Self::InputRecorded { thread, .. }
            | Self::Progress { thread, .. }
            | Self::Doing { thread, .. }
            | Self::ToolCall { thread, .. }
            | Self::Usage { thread, .. }
            | Self::TurnEnded { thread, .. } => Some(thread),
        }
    }
}

/// What a runtime can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentCapabilities {
    /// An input given while a turn runs joins that turn.
    pub steer: bool,
    /// Inputs carry our ids into the history, so that their fate can be told.
    pub input_ids: bool,
    /// The agent can call the broker's tools.
    pub tools: bool,
}

/// How the runtime stands.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeHealth {
    /// Whether the agent answers.
    pub runtime: PartHealth,
    /// Whether the commands of the agent are confined as configured.
    pub sandbox: PartHealth,
}

/// A coding agent.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait AgentRuntime: Send + Sync {
    /// What this runtime can do.
    fn capabilities(&self) -> AgentCapabilities;

    /// Opens a thread: resumes `known`, or starts a new one. Starts the runtime's process when it does not run.
    ///
    /// A successful resume on a new process is a barrier: nothing that was given to an older process can still come in.
    async fn open(&self, spec: &ThreadSpec, known: Option<AgentThreadId>) -> Result<Opened, OpenError>;

    /// Gives an input to an open thread: it starts a turn or joins the one that runs.
    async fn submit(&self, thread: &AgentThreadId, input: &AgentInput) -> Result<Submitted, SubmitError>;

    /// Looks inputs up in the thread's history. "Absent" is final only at a barrier, which the caller has to know.
    async fn fate(&self, thread: &AgentThreadId, ids: &[InputId]) -> Result<Vec<(InputId, Fate)>, ReadError>;

    /// Interrupts a turn and ends the commands that it started. Answers within [`INTERRUPT_LIMIT`](crate::session::INTERRUPT_LIMIT),
    /// whatever happens: after that the turn is taken for ended.
    async fn interrupt(&self, thread: &AgentThreadId, turn: &TurnId) -> Result<(), InterruptError>;

    /// Answers a question of the runtime. An answer to a question that is over is dropped.
    async fn answer(&self, request: &RequestId, answer: AgentAnswer) -> Result<(), AnswerError>;

    /// Closes a thread that is idle; it can be opened again. One in which commands still run is not closed: that is an
    /// error, and they go on.
    async fn release(&self, thread: &AgentThreadId) -> Result<(), ReleaseError>;

    /// Where the images stand that agents have generated, where there is such a folder; it need not exist. Each thread's are
    /// in a folder below it with the thread's id.
    fn images_root(&self) -> Option<PathBuf>;

    /// Where the images stand that the agent of a thread has generated.
    fn images_folder(&self, thread: &AgentThreadId) -> Option<PathBuf> {
        let plain = thread.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        self.images_root().filter(|_| plain && !thread.as_str().is_empty()).map(|root| root.join(thread.as_str()))
    }

    /// The runtime's events, in order. Bounded; it has one taker, and every later call gets a closed channel.
    fn events(&self) -> mpsc::Receiver<AgentEvent>;

    /// How the runtime stands, now and from now on.
    fn health(&self) -> watch::Receiver<RuntimeHealth>;

    /// The account that it works with, as last known; asks nobody.
    fn account(&self) -> Option<AgentAccount> {
        None
    }

    /// Ends the runtime's process and everything that it started, within `limit`.
    async fn shutdown(&self, limit: Duration);
}

//! What happens in a run: drawn from a seed, and small enough to be read.

mod making;

use std::collections::BTreeSet;
use std::fmt;

use broker_core::command::Command;

/// A kind of call that the broker makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// An envelope is journalled.
    Accept,
    /// Any other change of the store.
    Write,
    /// A question to the store.
    Read,
    /// A message is posted.
    Post,
    /// A status or a reaction, or a line for one person.
    Status,
    /// A post is looked up.
    Find,
    /// A page of a thread is read.
    Page,
    /// A conversation's roots, or the conversations.
    Heads,
    /// A person is looked up.
    Person,
    /// The agent's thread is opened.
    Open,
    /// An input is given to the agent.
    Submit,
    /// The agent's history is read.
    Fate,
    /// A turn is interrupted.
    Interrupt,
    /// A tool call is answered.
    Answer,
    /// The agent's thread is closed.
    Release,
}

impl Call {
    /// Its name in the trace.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Write => "write",
            Self::Read => "read",
            Self::Post => "post",
            Self::Status => "status",
            Self::Find => "find",
            Self::Page => "page",
            Self::Heads => "heads",
            Self::Person => "person",
            Self::Open => "open",
            Self::Submit => "submit",
            Self::Fate => "fate",
            Self::Interrupt => "interrupt",
            Self::Answer => "answer",
            Self::Release => "release",
        }
    }

    /// Whether it goes to the store.
    pub fn is_of_store(self) -> bool {
        matches!(self, Self::Accept | Self::Write | Self::Read)
    }
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It takes so many milliseconds longer.
    Slow(u64),
    /// It fails and surely had no effect (a 429 with this many milliseconds to wait, a full disk, no process).
    Fails(u64),
    /// It has no effect, and the answer does not tell (a 5xx).
    Vanishes,
    /// It has its effect, and the answer is lost.
    AnswerLost,
    /// Its time limit passes, and it has its effect so many milliseconds after that.
    Late(u64),
    /// It is refused for good.
    Refused,
}

/// How the event of a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Once, after so many milliseconds.
    Once(u64),
    /// As two events, of which the second comes so much later.
    Twice(u64, u64),
    /// Once, and again under the same key after so many milliseconds.
    Again(u64, u64),
    /// Never: only the history holds it.
    Never,
}

/// Why a connection of the platform ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `warning` or `refresh_requested`: the next connection stands before this one ends.
    Refresh,
    /// The connection breaks.
    Broken,
    /// `too_many_websockets`: a new one after a pause.
    TooMany,
    /// `link_disabled`: none for a long while.
    Disabled,
    /// Nothing comes any more, and nothing says so.
    HalfOpen,
}

/// A step of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Somebody writes.
    Write {
        /// The message's number: its text names it.
        message: u32,
        /// The conversation.
        conversation: &'static str,
        /// The message that it replies to; absent for one at the top level.
        thread: Option<u32>,
        /// Who writes.
        author: &'static str,
        /// Whether it mentions the broker.
        mentions: bool,
        /// The command that it is, and nothing else.
        command: Option<Command>,
        /// How its event comes.
        delivery: Delivery,
    },
    /// A message is changed by its author.
    Edit {
        /// The message.
        message: u32,
        /// The command that it becomes, and nothing else.
        command: Option<Command>,
        /// How the event comes.
        delivery: Delivery,
    },
    /// A message is deleted.
    Delete {
        /// The message.
        message: u32,
        /// How the event comes.
        delivery: Delivery,
    },
    /// A connection of the platform ends.
    Disconnect {
        /// Which.
        socket: usize,
        /// Why.
        reason: Reason,
        /// How long until the next one stands, in milliseconds.
        gap: u64,
    },
    /// For a while all calls of a kind go wrong.
    Outage {
        /// The kind.
        call: Call,
        /// How.
        fault: Fault,
        /// How long, in milliseconds.
        millis: u64,
    },
    /// The agent's process dies.
    KillCodex,
    /// The agent's process does nothing for so long, or until it is replaced.
    HangCodex {
        /// How long, in milliseconds.
        millis: u64,
    },
    /// What the agent remembers of its threads is gone, once its process is.
    LoseThreads,
    /// The broker is ended in order, and another begins.
    Drain {
        /// After so many milliseconds.
        away: u64,
    },
}

/// How the broker ends without order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// At once. In the middle of writing a change, that change is on the disk to so many thousandths.
    Killed {
        /// The thousandths; absent to die between two calls only.
        torn: Option<u32>,
    },
}

/// A moment at which the broker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Before or after which of its calls.
    pub point: u32,
    /// How long until the next broker begins, in milliseconds.
    pub away: u64,
    /// How.
    pub manner: Manner,
}

/// What the agent does in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// It answers with its last text, after so many milliseconds.
    Answers(u64),
    /// It posts its answer with the tool.
    PostsFinal(u64),
    /// It posts something on the way, works, and answers.
    Reports(u64),
    /// It posts with the tool and answers with a text of several messages.
    Long(u64),
    /// It says nothing.
    Silent,
    /// It fails.
    Fails,
    /// It gives no sign of life any more.
    Hangs,
}

/// One thing that a scenario is made of: what is left out of it leaves all others as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Something happens at a time.
    Step {
        /// Milliseconds from the beginning.
        at: u64,
        /// What.
        what: What,
    },
    /// A call goes wrong.
    Fault {
        /// Which kind of call.
        call: Call,
        /// Which one of its kind, from 1.
        count: u32,
        /// How.
        fault: Fault,
    },
    /// The broker is killed.
    Crash(Crash),
    /// What the agent does in a turn, by its number from 1.
    Script {
        /// The turn.
        turn: u32,
        /// What it does.
        script: Script,
    },
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { at, what } => write!(f, "at {:>3}.{:03} s: {}", at / 1000, at % 1000, story(what)),
            Self::Fault { call, count, fault } => write!(f, "{} call {count}: {fault:?}", call.name()),
            Self::Crash(Crash { point, away, .. }) => {
                write!(f, "the broker is killed at the {point}th place and is away for {away} ms")
            }
            Self::Script { turn, script } => write!(f, "in turn {turn} the agent: {script:?}"),
        }
    }
}

fn story(what: &What) -> String {
    match what {
        What::Write { message, conversation, thread, author, mentions, command, delivery } => {
            let place = thread.map_or_else(|| conversation.to_string(), |root| format!("the thread of m{root}"));
            let what = match (command, mentions) {
                (Some(command), _) => format!("`-{}`", command.word()),
                (None, true) => format!("m{message}, which mentions the broker,"),
                (None, false) => format!("m{message}"),
            };
            format!("{author} writes {what} in {place}; its event: {delivery:?}")
        }
        What::Edit { message, command, delivery } => {
            let into = command.map(|command| format!(" into `-{}`", command.word())).unwrap_or_default();
            format!("m{message} is changed{into}; its event: {delivery:?}")
        }
        What::Delete { message, delivery } => format!("m{message} is deleted; its event: {delivery:?}"),
        What::Disconnect { socket, reason, gap } => format!("connection {socket} ends ({reason:?}) for {gap} ms"),
        What::Outage { call, fault, millis } => format!("for {millis} ms each {} call: {fault:?}", call.name()),
        What::KillCodex => "the agent's process is killed".to_owned(),
        What::HangCodex { millis } => format!("the agent's process hangs for {millis} ms"),
        What::LoseThreads => "what the agent remembers is lost".to_owned(),
        What::Drain { away } => format!("the broker is ended in order and is away for {away} ms"),
    }
}

/// A run, before it is run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where it comes from; the lengths of calls and the order of tasks come from it too.
    pub seed: u64,
    /// So many connections to the platform.
    pub sockets: usize,
    /// Whether the store is on a disk.
    pub disk: bool,
    /// So many turns run at once.
    pub turns: usize,
    /// How often what was missed is searched for, in milliseconds.
    pub search_every: u64,
    /// Whether every call of a kind takes the same time, so that runs can be compared by the clock.
    pub steady: bool,
    /// What goes wrong in one conversation, all the time.
    pub siege: Option<Siege>,
    /// What happens.
    pub items: Vec<Item>,
}

/// Everything that one conversation can do to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Siege {
    /// The conversation.
    pub conversation: &'static str,
    /// How each of its calls of a kind goes wrong.
    pub faults: Vec<(Call, Fault)>,
    /// What the agent does in all of its turns.
    pub script: Script,
}

#![forbid(unsafe_code)]
//! The rules of a bridge between chat threads and a coding agent: nothing lost, nothing doubled, never silently dead.
//!
//! There are no sockets, no SQL and no child processes in this crate. The world is reached through four traits, and
//! [`engine::Broker`] plugs four implementations together. This is a whole broker, on the in-memory ones of `testing`:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use broker_core::clock::SystemClock;
//! use broker_core::engine::{Broker, Parts, Settings};
//! use broker_core::ids::RandomIds;
//! use broker_core::testing::{MemoryChat, MemoryStore, ScriptedAgent};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let chat = MemoryChat::new();
//! let folder = tempfile::tempdir()?;
//! let parts = Parts {
//!     transport: Arc::new(chat.clone()),
//!     history: Arc::new(chat.clone()),
//!     runtime: Arc::new(ScriptedAgent::echo()),
//!     store: Arc::new(MemoryStore::new()),
//!     clock: Arc::new(SystemClock::new()),
//!     ids: Arc::new(RandomIds),
//! };
//! let settings = Settings::new(folder.path().join("sessions"), folder.path().join("repos"));
//! let broker = Broker::start(parts, settings).await?;
//!
//! let thread = chat.say("C-general", None, "U-ada", "@broker hello");
//! let posts = chat.wait_for_posts(&thread, 1, Duration::from_secs(5)).await;
//! assert!(posts.is_ok_and(|posts| posts[0].contains("hello")));
//!
//! broker.drain(Duration::from_secs(1)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//!
//! Two programs stand in the folder `examples/`, and the tests run them: `in_memory`, which is the one above, and `embed`, where
//! another service brings an agent of its own, some 200 lines that pass the conformance suite. Begin with the trait whose
//! world you have, leave the other three in memory, and let its suite in `testing` tell you what is missing. The rest
//! of this page is what the suites cannot tell: why it is like this.
//!
//! # Why one thread is one session
//!
//! A person reads one thread and believes that the agent in it knows what was said there, and nothing else. So a thread has
//! one agent thread, one workspace folder, one inbox and one outbox, and one task that alone may change them. That gives an
//! order without locks. A thread that is stuck holds up nobody else, and what can be reached from one thread is one thread's.
//! The price is that two threads share nothing but the clones of repositories.
//!
//! # Why commit comes before acknowledgement
//!
//! A platform delivers again what was not acknowledged, and forgets what was. A broker that acknowledges first loses what it
//! held when it dies in between, and nobody can tell. So [`chat::Intake::accept`] returns once the envelope is in the journal
//! *as it came*, and only then may a transport acknowledge. Nothing is parsed before that: a message that a parser trips over
//! is a row to look at and not a hole. What is delivered again meets the row of the first time, by its key.
//!
//! # Why the machine is pure
//!
//! What decides about a thread ([`session`], [`outbox`]) awaits nothing, reads no clock and does no I/O: an input goes in, one
//! [`store::SessionCommit`] and the effects that may follow it come out. The engine commits, and then runs the effects. So
//! "before" and "after" a crash are rows in a table, every order of events can be a test, and a restart is no special
//! case: the machine is made from its rows again, and goes on.
//!
//! # Why an input has an id
//!
//! A submit that was not answered may or may not have arrived. Giving it again may say it twice; not giving it may lose it;
//! waiting longer decides nothing. So each input carries the id of its inbox row *into the agent's own history*, and doubt is
//! decided by reading that history at a **barrier**: a moment after which nothing that was given earlier can still come in,
//! which is the end of the turn, or a resume in a new process. For the same reason each part of a post carries its id
//! to the platform, and one whose fate is unknown is looked up there before it is sent again.
//!
//! # Which trait, and what you promise with it
//!
//! **[`agent::AgentRuntime`]**, when you have another agent. You promise that an input given while a turn runs joins
//! that turn or is told as absent at its end; that [`InputRecorded`](agent::AgentEvent::InputRecorded) is sent only for what
//! would survive a crash of the agent, and that [`fate`](agent::AgentRuntime::fate) agrees with it; that each turn ends in
//! exactly one [`TurnEnded`](agent::AgentEvent::TurnEnded), in order with its other events; that
//! [`Down`](agent::AgentEvent::Down) is sent when a process is gone; and that
//! [`SubmitError::Unknown`](agent::SubmitError::Unknown) is the error whenever the input *could* have arrived.
//!
//! **[`chat::ChatTransport`]**, when people are somewhere else. You promise the order above (accept, then acknowledge); that
//! `parse` and `render` are pure, since both run again after a restart; that each operation leaves its
//! [`OpKey`](chat::OpKey) where [`find`](chat::ChatTransport::find) finds it; and that an `Ok` of `find` means that the look
//! was complete, because "not there" makes the broker send again. Text that a model wrote must never reach anybody by a control
//! sequence: [`mrkdwn`] is how that is done for Slack.
//!
//! **[`history::HistoryProvider`]** usually comes with the transport: the first mention inside a thread brings earlier messages
//! along, the agent may ask for more, and messages of which no event ever came are found there. You promise pages in the order
//! of time that leave nothing out.
//!
//! **[`store::StateStore`]**, when you have a database already. You promise that whatever changes something returns after it is
//! durable; that a [`SessionCommit`](store::SessionCommit) is all or nothing; and that a commit under a
//! [`Fence`](store::Fence) that is no longer the newest is refused, so that an owner that was believed dead changes nothing.
//!
//! [`clock::Clock`] and [`ids::IdSource`] are injected so that tests need not wait.
//!
//! # What happens at a crash
//!
//! Wherever the process dies, the next [`Broker::start`](engine::Broker::start) on the same store finds one of these:
//!
//! - *not committed*: it was not acknowledged either, so the platform delivers it again;
//! - *in the journal, not read*: it is parsed and routed now;
//! - *in the inbox, not given*: it is given when the session is loaded, which is at once when anything is open in it;
//! - *given, not known to be recorded*: the agent's thread is resumed, which is a barrier, and its history decides;
//! - *a turn that ran*: the agent is asked to go on, once; when that is cut too, the thread is told;
//! - *a part that was being sent*: it is looked up in the thread, and sent again only when it is not there.
//!
//! [`Broker::drain`](engine::Broker::drain) makes the first few of these rare and is not needed for any of them.

pub mod access;
pub mod admission;
pub mod agent;
pub mod attachments;
pub mod chat;
pub mod clock;
pub mod command;
pub mod engine;
pub mod health;
pub mod history;
pub mod ids;
pub mod mrkdwn;
pub mod outbox;
pub mod outgoing;
pub mod picture;
pub mod prompt;
pub mod sabotage;
pub mod session;
pub mod status;
pub mod store;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod thread_tools;
pub mod workspace;

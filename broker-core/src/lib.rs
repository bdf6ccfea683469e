#![forbid(unsafe_code)]
//! What a broker *is*: the bridge between a chat thread and a coding agent.
//!
//! One chat thread is one **session**: one agent thread, one isolated workspace, one inbox and one outbox. This crate
//! holds the rules that make such a bridge dependable (nothing lost, nothing doubled) and nothing else: no sockets, no
//! SQL, no child processes. The world is reached through four traits:
//!
//! * [`chat::ChatTransport`]: a chat platform,
//! * [`history::HistoryProvider`]: the messages it already holds,
//! * [`agent::AgentRuntime`]: a coding agent,
//! * [`store::StateStore`]: what survives a crash.
//!
//! [`engine::Broker`] plugs four implementations together. With the feature `testing`, the module `testing` has an in-memory
//! implementation of each and the conformance suites that every implementation passes.

pub mod admission;
pub mod agent;
pub mod chat;
pub mod clock;
pub mod engine;
pub mod health;
pub mod history;
pub mod ids;
pub mod mrkdwn;
pub mod outbox;
pub mod prompt;
pub mod session;
pub mod status;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod thread_tools;
pub mod workspace;

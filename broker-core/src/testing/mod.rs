//! In-memory implementations of the four traits, and a conformance suite for each.
//!
//! They are first class: the examples run on them, and they pass the same suites as the real ones.

pub mod agent_suite;
pub mod chat_suite;
pub mod memory_chat;
pub mod memory_store;
mod observer;
pub mod scripted_agent;
pub mod store_suite;

pub use memory_chat::MemoryChat;
pub use memory_store::MemoryStore;
pub(crate) use observer::observed;
pub use observer::{Observer, observe};
pub use scripted_agent::{Act, ScriptedAgent};

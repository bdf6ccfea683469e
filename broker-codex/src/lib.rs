#![forbid(unsafe_code)]
//! The broker's agent: one `codex app-server` process, spoken to over its stdin and stdout.
//!
//! [`Codex`] implements [`broker_core::agent::AgentRuntime`]. It starts the process, keeps it running, ends it with the
//! broker and ends at boot what a crashed broker left behind. A binary that is missing or an account that is not signed
//! in is not an error of [`Codex::start`]: it is health, with the mend, and heals without a restart of the broker.
//!
//! What an agent's commands can reach is decided here and nowhere else ([`CodexConfig`], the module `profile`): a
//! permission profile of ours is named in every start and resume of a thread, and a thread that comes back under
//! another one is refused before anything is given to it.
//!
//! The operator's `CODEX_HOME/config.toml` is never written: what the broker needs goes by `-c` on the command line and
//! by the `config` of each thread.
//!
//! Facts about the app-server stand beside the code that relies on them; they were measured with Codex 0.169.0.

mod auth;
mod board;
mod config;
mod connection;
mod environment;
mod events;
mod failure;
mod history;
mod launch;
mod orphans;
mod probe;
mod process;
mod profile;
mod questions;
mod rpc;
mod runtime;
mod supervisor;
mod threads;
mod wire;

pub use config::{ApprovalPolicy, CodexConfig, NotAChoice, SandboxMode, StartError};
pub use environment::{EnvPattern, EnvPatternError};
pub use runtime::Codex;

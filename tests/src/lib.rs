#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a harness fails by panicking, so that the test that uses it fails")]
//! Fakes of the outside world and the harness of the tests that span crates.
//!
//! - [`fake_slack`]: Slack's Web API and Socket Mode on the loopback, in Slack's own wire format, written longhand: nothing
//!   here passes through the broker's encoders or decoders, or a mistake would agree with itself.
//! - [`fake_model`]: the model behind Codex, as a Responses API over server-sent events, with scripted answers.
//! - [`codex_binary`]: the real Codex program that the end-to-end tests run.
//! - [`npm`]: packages that tests need, installed once.
//! - [`judge`]: mrkdwn as Slack shows it, compared with what the same text shows as HTML.
//! - [`broker_process`]: the real `broker` program on a folder of its own.
//! - [`traffic`]: conversations of which nothing may get lost and nothing may come twice, counted from the outside.
//! - [`mod@bench`]: how fast and how small the broker is.
//! - [`world`]: all of these, plugged together.
//!
//! Nothing waits for a fixed time: every wait is for a condition, with a limit, and panics with what it saw when the limit
//! is over.

pub mod bench;
pub mod broker_process;
pub mod codex_binary;
pub mod fake_model;
pub mod fake_slack;
pub mod http_client;
pub mod judge;
pub mod npm;
pub mod processes;
pub mod traffic;
mod watched;
mod wire;
pub mod world;

#![forbid(unsafe_code)]
//! Slack as a chat platform of the broker: [`Slack`] is a [`ChatTransport`](broker_core::chat::ChatTransport) and a
//! [`HistoryProvider`](broker_core::history::HistoryProvider).
//!
//! **Why an own socket.** Slack gives each event to one of the app's websockets and repeats what is not acknowledged. So
//! an acknowledgement has to mean "committed", and has to go out on the very socket that brought the event, also while
//! that socket is being replaced. The stock client of slack-morphism acknowledges what it could not parse, closes the
//! old socket before the new one stands and drops acknowledgements by that; the loop here commits every frame as raw
//! bytes first (`link`, `socket`), and parses later, from the journal (`parse`).
//!
//! **Why lenient parsing.** A field that is odd costs that field and not the message: `message` reads from plain JSON.
//!
//! **What may have happened.** A call that failed is sorted by whether it may have had its effect (`failure`), since that
//! decides between sending again and looking first. Every call has a time limit and goes through one limiter
//! (`limiter`).
//!
//! **What it needs.** [`SCOPES`] is the table of scopes, which `slack-app-manifest.yaml` repeats.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use broker_core::clock::SystemClock;
//! # use broker_slack::{Slack, SlackConfig};
//! # async fn example() -> Result<(), broker_slack::ConnectError> {
//! let config = SlackConfig::new("xapp-…".into(), "xoxb-…".into());
//! let slack = Slack::connect(config, Arc::new(SystemClock::new())).await?;
//! # Ok(()) }
//! ```

mod api;
mod attached;
mod blocks;
mod config;
mod envelope;
mod failure;
mod files;
mod history;
mod identity;
mod lenient;
mod limiter;
mod link;
mod message;
mod names;
mod parse;
mod people;
mod scopes;
mod slack;
mod socket;
mod status;
mod text;
mod ts;
mod upload;

pub use config::{ConnectError, DEFAULT_API_BASE, LinkLimits, SlackConfig};
pub use identity::Identity;
pub use scopes::{Need, SCOPES, Scope};
pub use slack::Slack;

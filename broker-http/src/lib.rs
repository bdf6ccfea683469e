#![forbid(unsafe_code)]
//! The broker's local HTTP surface.
//!
//! `GET /healthz` says that the process is alive, `GET /readyz` says of each [`Part`] whether it does its work, and why not;
//! the other routes act on one session, for whoever has its token. The server is reached by supervisors, by operators, by
//! the agents' commands and, on the same machine, by anything else, so it trusts nobody:
//!
//! * A browser that was led here is turned away: a request with an `Origin`, or with a `Host` that is not a name of this
//!   machine (DNS rebinding), is refused before it is routed.
//! * Nothing changes by a `GET`, and a `POST` has to be JSON and say so, which no web page can without asking first.
//! * A session's token opens that session's thread and nothing else ([`Access`]).
//! * Nobody can hold it: [`Limits`] bounds connections, requests, and the time of each.
//! * A part that hangs or panics is ill, and its neighbours still answer.
//!
//! Every refusal is JSON: `{"ok":false,"error":"<code>","message":"<what to do>"}`.
//!
//! ```no_run
//! use broker_core::health::PartHealth;
//! use broker_http::{Api, Part};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), broker_http::BindError> {
//! let listener = broker_http::bind("127.0.0.1", 3000).await?;
//! let api = Api::new(env!("CARGO_PKG_VERSION"), "127.0.0.1")
//!     .part(Part::asked("store", || async { PartHealth::well() }));
//! broker_http::serve(listener, api, CancellationToken::new()).await;
//! # Ok(())
//! # }
//! ```

mod abilities;
mod bind;
mod body;
mod connections;
mod content;
mod fields;
mod gate;
mod health;
mod hosts;
mod message;
mod openapi;
mod part;
mod refusal;
mod server;
mod sessions;

pub use bind::{BindError, bind};
pub use part::Part;
pub use server::{Api, Limits, serve};
pub use sessions::Access;

#![forbid(unsafe_code)]
//! A simulation of the broker.
//!
//! A seed gives a [`Scenario`](scenario::Scenario): what people write, what goes wrong, when the broker is killed. A run of it
//! drives the real engine with the real session and outbox machines over the real SQL, on one thread and a clock that moves
//! only when nothing is left to do, in a world ([`world`]) that holds a platform ([`slack`]) and an agent ([`codex`]). Then
//! everything that has to be true is looked at ([`judge`]). The same seed gives the same run, word for word, and a run in
//! which something is wrong is made as short as it can be ([`shrink`]).

pub mod codex;
pub mod facts;
pub mod judge;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod slack;
pub mod store;
pub mod world;

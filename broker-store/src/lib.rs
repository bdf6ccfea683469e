#![forbid(unsafe_code)]
//! [`StateStore`](broker_core::store::StateStore) on SQLite.
//!
//! One thread writes: it takes whatever waits, makes it one transaction, and answers everybody after the commit, so that a
//! hundred callers share one `fsync` (group commit). Each caller's change is a savepoint of its own and can fail alone. Two
//! more threads read. The journal is write-ahead (`WAL`) and every commit is on the disk before it is answered
//! (`synchronous=FULL`): a crash of the process or of the machine loses nothing that was answered.
//!
//! The same SQL also runs on the caller's own thread ([`SqliteStore::inline`]), for tests that must not depend on threads.
//!
//! The SQL stands in one file per area (`journal`, `inbox`, `turns`, `outbox`, `people`, `sessions`, `prune`) as plain functions over
//! a connection; who calls them, and on which thread, is the business of `writer`, `readers` and `inline`.

mod data_root;
mod group;
mod inbox;
mod inline;
mod install_key;
mod journal;
mod lookup;
mod outbox;
mod people;
mod prune;
mod pulse;
mod readers;
mod schema;
mod sessions;
mod sql;
mod store;
mod turns;
mod writer;

pub use data_root::{DataRoot, DataRootError};
pub use install_key::{KeyError, read_install_key};
pub use lookup::find_sessions;
pub use schema::OpenError;
pub use store::SqliteStore;

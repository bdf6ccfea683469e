//! Why the store did not do it.

use std::fmt;

use super::Revision;

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store failed ({reason})")]
pub struct StoreError {
    /// What is wrong, and what mends it.
    pub reason: String,
}

impl StoreError {
    /// An error with a reason.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string() }
    }
}

/// Why a step was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Another process owns the session by now.
    #[error("the session has another owner")]
    Fenced,
    /// The rows are not the ones that the step builds on.
    #[error("the session is at revision {found:?}, not at {expected:?}")]
    Stale {
        /// What the step builds on.
        expected: Revision,
        /// What is there.
        found: Revision,
    },
    /// The store failed; nothing was changed, and another try may succeed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

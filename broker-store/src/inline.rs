//! The same SQL on the caller's own thread, one call after another: for tests that must not depend on threads.

use std::sync::{Mutex, PoisonError};

use broker_core::health::PartHealth;
use broker_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::watch;

use crate::group::{self, Job, given_up};
use crate::pulse::Pulse;
use crate::sql::Sql;

/// One connection. The lock is never held across an await.
#[derive(Debug)]
pub(crate) struct Inline(Mutex<(Connection, Pulse)>);

impl Inline {
    pub(crate) fn new(connection: Connection, health: watch::Sender<PartHealth>) -> Self {
        Self(Mutex::new((connection, Pulse::new(health))))
    }

    /// Makes a change, as a group of its own.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (job, mut outcome) = Job::new(change);
        let (connection, pulse) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulse.beat(|| group::commit(connection, vec![job]));
        outcome.try_recv().map_err(|_| given_up())?
    }

    /// Answers a question.
    pub(crate) fn read<T>(&self, question: impl FnOnce(&Connection) -> Sql<T>) -> Result<T, StoreError> {
        let (connection, _) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(question(connection)?)
    }
}

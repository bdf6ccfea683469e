//! What the store says of itself: whether it commits, and how long that takes.

use std::time::Duration;

use broker_core::clock::{Clock, SystemClock, Timestamp};
use broker_core::health::PartHealth;
use broker_core::store::StoreError;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::group::Ended;

/// Watches commits and reports them.
#[derive(Debug)]
pub(crate) struct Pulse {
    health: watch::Sender<PartHealth>,
    clock: SystemClock,
    well: bool,
    /// When the last commit that succeeded ended, and how long it took.
    last: Option<(Timestamp, Duration)>,
}

impl Pulse {
    pub(crate) fn new(health: watch::Sender<PartHealth>) -> Self {
        Self { health, clock: SystemClock::new(), well: true, last: None }
    }

    pub(crate) fn is_well(&self) -> bool {
        self.well
    }

    /// Runs a commit, reports how it went, and answers its callers: who is told of a failure finds it in the health.
    pub(crate) fn beat(&mut self, commit: impl FnOnce() -> Ended) {
        let begun = Instant::now();
        let ended = commit();
        self.report(ended.health(), begun.elapsed());
        ended.answer();
    }

    fn report(&mut self, outcome: Result<(), StoreError>, took: Duration) {
        let was_well = std::mem::replace(&mut self.well, outcome.is_ok());
        let health = match outcome {
            Ok(()) => {
                self.last = Some((self.clock.now(), took));
                if !was_well {
                    tracing::info!("the store commits again");
                }
                PartHealth::well()
            }
            Err(error) => {
                if was_well {
                    tracing::error!(%error, "the store does not commit");
                }
                PartHealth::ill(error.reason)
            }
        };
        self.health.send_replace(match self.last {
            Some((at, took)) => health
                .with("last_commit_ms", at.as_millis())
                .with("last_commit_took_us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            None => health,
        });
    }
}

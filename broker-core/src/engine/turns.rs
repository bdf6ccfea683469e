//! How many turns run at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many turns run, and how many wait for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TurnCounts {
    /// Sessions that may run a turn now: those that do, and those about to begin one.
    pub active: usize,
    /// Sessions that wait for one of these to end.
    pub waiting: usize,
}

/// The places of turns. Given out in the order of asking; bounded by the number of live sessions.
#[derive(Debug)]
pub(crate) struct Turns {
    slots: Arc<Semaphore>,
    most: usize,
    waiting: AtomicUsize,
}

/// Counts one that waits for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    pub(super) fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self { slots: Arc::new(Semaphore::new(most)), most, waiting: AtomicUsize::new(0) }
    }

    /// Waits for a place; none is given out any more once the broker ends.
    pub(super) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// No further turn begins.
    pub(super) fn close(&self) {
        self.slots.close();
    }

    pub(super) fn counts(&self) -> TurnCounts {
        TurnCounts { active: self.most - self.slots.available_permits(), waiting: self.waiting.load(Ordering::Relaxed) }
    }
}

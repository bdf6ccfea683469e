//! One clock for several processes.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Since the machine was started: the same in every process.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Puts a moment of this process on that clock.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    here: Instant,
    there: Duration,
}

impl Shared {
    /// The two read at once.
    pub fn new() -> Self {
        Self { here: Instant::now(), there: monotonic() }
    }

    /// From a moment of this process to one of the shared clock; zero when that was before.
    pub fn since(&self, here: Instant, there: Duration) -> Duration {
        let begun = self.there + here.saturating_duration_since(self.here);
        there.saturating_sub(begun)
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

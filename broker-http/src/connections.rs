//! The connections that are open, and which of them go when there are too many.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long a connection that has to go is waited for before another one is chosen.
const EVICT_AGAIN: Duration = Duration::from_millis(100);

/// One connection.
#[derive(Debug)]
pub(crate) struct Seat {
    usage: Mutex<Usage>,
    /// Another one needs its place.
    gone: CancellationToken,
}

/// What a connection is used for.
#[derive(Debug)]
struct Usage {
    /// Requests that are being answered.
    requests: usize,
    /// Since when there has been none.
    idle_since: Instant,
}

impl Seat {
    fn new() -> Self {
        Self { usage: Mutex::new(Usage { requests: 0, idle_since: Instant::now() }), gone: CancellationToken::new() }
    }

    fn in_use(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While what this gives is held, a request is being answered.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.in_use().requests += 1;
        Busy(Arc::clone(self))
    }

    /// Whether a request is being answered.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_use().requests > 0
    }

    /// Returns when the connection has to go: it was without a request when it was chosen.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Since when it waits for a request; absent while it has one, and once it has to go.
    fn idle_since(&self) -> Option<Instant> {
        let in_use = self.in_use();
        (in_use.requests == 0 && !self.gone.is_cancelled()).then_some(in_use.idle_since)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Seat>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut in_use = self.0.in_use();
        in_use.requests -= 1;
        in_use.idle_since = Instant::now();
    }
}

/// As many connections as there are seats. Where all are taken the one that has waited longest without a request gives its
/// own up, so that clients that connect and say nothing keep nobody out.
#[derive(Debug)]
pub(crate) struct Seats {
    free: Arc<Semaphore>,
    /// In the order of their coming; at most as many as there are seats, and those that have just ended.
    taken: Mutex<VecDeque<Arc<Seat>>>,
}

impl Seats {
    pub(crate) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), taken: Mutex::default() }
    }

    /// A seat, which is free again when the permit is dropped.
    pub(crate) async fn take(&self) -> Option<(Arc<Seat>, OwnedSemaphorePermit)> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => loop {
                self.evict();
                // The one that was chosen may have been asked for something at that moment: then it is another's turn.
                if let Ok(free) = timeout(EVICT_AGAIN, Arc::clone(&self.free).acquire_owned()).await {
                    break free.ok()?;
                }
            },
        };
        let seat = Arc::new(Seat::new());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has gone is held by nobody else any more.
        taken.retain(|seat| Arc::strong_count(seat) > 1);
        taken.push_back(Arc::clone(&seat));
        Some((seat, permit))
    }

    fn evict(&self) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let here = taken.iter().filter(|seat| Arc::strong_count(seat) > 1);
        let longest = here.filter_map(|seat| Some((seat.idle_since()?, seat))).min_by_key(|(since, _)| *since);
        if let Some((_, seat)) = longest {
            seat.gone.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_that_waits_longest_without_a_request_goes() {
        let seats = Arc::new(Seats::new(4));
        let (first, _one) = seats.take().await.expect("a seat");
        let (active, _active) = seats.take().await.expect("a seat");
        let (second, two) = seats.take().await.expect("a seat");
        let (third, _three) = seats.take().await.expect("a seat");
        let _busy = first.busy();
        tokio::time::advance(std::time::Duration::from_secs(5)).await;
        // It is older than the second, and was asked something a moment ago.
        drop(active.busy());
        let more = tokio::spawn({
            let seats = Arc::clone(&seats);
            async move { seats.take().await.is_some() }
        });
        second.gone().await;
        assert!([first, active, third].iter().all(|seat| !seat.gone.is_cancelled()));
        drop((second, two));
        assert!(more.await.expect("no panic"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_asked_for_something_at_that_moment_stays_and_another_goes() {
        let seats = Arc::new(Seats::new(2));
        let (first, _one) = seats.take().await.expect("a seat");
        let (second, two) = seats.take().await.expect("a seat");
        let more = tokio::spawn({
            let seats = Arc::clone(&seats);
            async move { seats.take().await.is_some() }
        });
        first.gone().await;
        let _busy = first.busy();
        second.gone().await;
        drop((second, two));
        assert!(more.await.expect("no panic"));
    }
}

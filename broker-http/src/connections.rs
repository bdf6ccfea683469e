//! The connections that are open, and which of them go when there are too many.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// One connection.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Requests of it that are being answered.
    busy: AtomicUsize,
    /// Another one needs its place.
    gone: CancellationToken,
}

impl Seat {
    /// While what this gives is held, a request is being answered.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }

    /// Returns when the connection has to go.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Seat>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
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
            Err(_) => {
                self.evict();
                Arc::clone(&self.free).acquire_owned().await.ok()?
            }
        };
        let seat = Arc::new(Seat { busy: AtomicUsize::new(0), gone: CancellationToken::new() });
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has gone is held by nobody else any more.
        taken.retain(|seat| Arc::strong_count(seat) > 1);
        taken.push_back(Arc::clone(&seat));
        Some((seat, permit))
    }

    fn evict(&self) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |seat: &&Arc<Seat>| seat.busy.load(Ordering::Acquire) == 0 && !seat.gone.is_cancelled();
        if let Some(seat) = taken.iter().filter(|seat| Arc::strong_count(seat) > 1).find(idle) {
            seat.gone.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_that_waits_longest_without_a_request_goes() {
        let seats = Arc::new(Seats::new(3));
        let (first, _one) = seats.take().await.expect("a seat");
        let (second, two) = seats.take().await.expect("a seat");
        let (third, _three) = seats.take().await.expect("a seat");
        let _busy = first.busy();
        let more = tokio::spawn({
            let seats = Arc::clone(&seats);
            async move { seats.take().await.is_some() }
        });
        second.gone().await;
        assert!(!first.gone.is_cancelled() && !third.gone.is_cancelled());
        drop((second, two));
        assert!(more.await.expect("no panic"));
    }
}

//! A value that many may change and that a test can wait on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// A value behind a lock, with a bell that rings after each change. The lock is never held across an await.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    changes: watch::Sender<u64>,
}

impl<T> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changes: watch::Sender::new(0) }
    }

    /// Looks at the value.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the value and rings the bell.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        result
    }

    /// Changes the value; rings the bell when the second result says that something changed.
    pub(crate) fn change_if<R>(&self, change: impl FnOnce(&mut T) -> (R, bool)) -> R {
        let (result, changed) = change(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner));
        if changed {
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
        result
    }

    /// The bell.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until `look` finds something; `None` when the limit is over.
    pub(crate) async fn wait_for<R>(&self, look: impl Fn(&T) -> Option<R>, limit: Duration) -> Option<R> {
        let mut changes = self.changes();
        let found = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = self.read(&look) {
                    return found;
                }
                // The sender lives as long as `self`.
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(limit, found).await.ok()
    }
}

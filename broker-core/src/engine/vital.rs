//! Tasks without which a broker only seems to live: one that panics is told to whoever runs the broker.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use super::Shared;

/// Runs a task that must not be missing. A panic is a fault of the broker; what was committed is safe, and the next broker
/// goes on with it.
pub(super) fn spawn(shared: &Arc<Shared>, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    let told = Arc::clone(shared);
    shared.tasks.spawn(async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!(task = name, "a task that the broker cannot do without has panicked");
            told.broken.send_replace(Some(name));
        }
    });
}

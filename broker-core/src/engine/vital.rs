//! What becomes of a task that panics. Without some tasks a broker only seems to live: that is told to whoever runs it. The
//! task of a thread costs that thread a moment: it begins anew from its rows.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};

use super::Shared;
use crate::chat::ThreadKey;
use crate::telemetry;

/// The wait before the task of a thread begins anew, doubled with each panic.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// So many panics in a row are no mishap.
pub(super) const BROKEN: u32 = 4;
/// After so long without a panic the wait is the first one again.
pub(super) const FORGIVEN: Duration = Duration::from_secs(10 * 60);

/// Runs a task that must not be missing. A panic is a fault of the broker; what was committed is safe, and the next broker
/// goes on with it.
pub(super) fn spawn(shared: &Arc<Shared>, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    let (told, task) = (Arc::clone(shared), task.boxed());
    shared.tasks.spawn(async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!(task = name, "a task that the broker cannot do without has panicked");
            told.broken.send_replace(Some(name));
        }
    });
}

/// Runs a task of one thread to its end; `false` when it has panicked. Boxed, since a future that is handed on takes its room
/// anew with each hand.
pub(super) async fn ends(task: BoxFuture<'_, ()>, name: &'static str, thread: &ThreadKey) -> bool {
    let whole = AssertUnwindSafe(task).catch_unwind().await.is_ok();
    if !whole {
        metrics::counter!(telemetry::PANICS, "task" => name).increment(1);
        tracing::error!(task = name, session = %thread, "a task has panicked; it begins anew");
    }
    whole
}

/// How long a thread is left alone after so many panics.
pub(super) fn rest(panics: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << panics.saturating_sub(1).min(16)).min(LONGEST_REST)
}

/// Runs a task of one thread, again after every panic.
pub(super) async fn again<F>(shared: &Shared, name: &'static str, thread: &ThreadKey, task: impl Fn() -> F)
where
    F: Future<Output = ()> + Send,
{
    let clock = &shared.parts.clock;
    let mut panics = 0;
    loop {
        let begun = clock.now();
        if ends(task().boxed(), name, thread).await {
            return;
        }
        // What went well for long begins to count anew.
        panics = if clock.now().since(begun) > FORGIVEN { 1 } else { panics + 1 };
        tokio::select! {
            biased;
            () = shared.ending.cancelled() => return,
            () = shared.parts.clock.sleep_until(shared.parts.clock.now().plus(rest(panics))) => {}
        }
    }
}

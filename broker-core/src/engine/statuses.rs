//! Keeps what stands beside a thread true: one task per thread for which something is to be shown or taken away, which makes
//! its calls one after another. What is to be done next is decided in [`crate::status`].

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::Notify;

use super::registry::{self, Letter};
use super::{Shared, vital};
use crate::chat::{ChatCapabilities, ChatOp, ConversationKey, OpKey, ThreadKey};
use crate::clock::Timestamp;
use crate::session::SessionInput;
use crate::status::{Next, StatusCall, StatusLine, Way};

/// The reaction that stands in for a status.
const REACTION: &str = "eyes";
/// Conversations whose refusal of a status is remembered.
const MAX_REFUSALS: NonZeroUsize = match NonZeroUsize::new(4096) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};
/// How long it is remembered: an operator may have mended it since.
const REFUSAL_KEPT: Duration = Duration::from_secs(60 * 60);

/// What a session wants to be shown.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) text: Option<&'static str>,
    pub(super) distrust: bool,
    /// The session's number for it, from 1; 0 when no session asked.
    pub(super) generation: u64,
}

/// What a thread's task has not taken in yet.
#[derive(Debug, Default)]
struct Orders {
    wish: Option<Wish>,
    posted: bool,
    /// Whether a task has begun with this.
    begun: bool,
    notify: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// Bounded by the live sessions. In an order of its own, so that a run can be repeated.
    open: BTreeMap<ThreadKey, Orders>,
    /// The broker ends: nothing new is shown.
    closing: bool,
}

/// The threads beside which something stands. The locks are held for map operations alone, never across an await.
pub(crate) struct Statuses {
    lanes: Mutex<Lanes>,
    /// Where a status was refused, how it is shown instead, and since when.
    refusals: Mutex<LruCache<ConversationKey, (Way, Timestamp)>>,
    best: Way,
    left: Notify,
}

impl Statuses {
    pub(super) fn new(capabilities: ChatCapabilities) -> Self {
        let best = match capabilities {
            ChatCapabilities { status: true, .. } => Way::Status,
            ChatCapabilities { reactions: true, .. } => Way::Reaction,
            _ => Way::Nothing,
        };
        Self { lanes: Mutex::default(), refusals: Mutex::new(LruCache::new(MAX_REFUSALS)), best, left: Notify::new() }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, LruCache<ConversationKey, (Way, Timestamp)>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lanes().open.is_empty()
    }

    /// The broker has posted into a thread, which takes its status away.
    pub(super) fn posted(&self, thread: &ThreadKey) {
        if let Some(orders) = self.lanes().open.get_mut(thread) {
            orders.posted = true;
            orders.notify.notify_one();
        }
    }

    /// Takes everything away, and waits until nothing stands any more, at most `limit`.
    pub(super) async fn clear_all(&self, limit: Duration) {
        {
            let mut lanes = self.lanes();
            lanes.closing = true;
            for orders in lanes.open.values_mut() {
                let known = orders.wish.take();
                let generation = known.as_ref().map_or(0, |wish| wish.generation);
                let distrust = known.is_some_and(|wish| wish.distrust);
                orders.wish = Some(Wish { text: None, distrust, generation });
                orders.notify.notify_one();
            }
        }
        let empty = async {
            while !self.lanes().open.is_empty() {
                let _ = tokio::time::timeout(Duration::from_millis(50), self.left.notified()).await;
            }
        };
        if tokio::time::timeout(limit, empty).await.is_err() {
            tracing::warn!("a status is left standing; the next broker takes it away");
        }
    }

    /// How a conversation's status is shown.
    fn way(&self, conversation: &ConversationKey, now: Timestamp) -> Way {
        let mut refusals = self.refusals();
        match refusals.get(conversation) {
            Some((way, since)) if now.since(*since) < REFUSAL_KEPT => *way,
            _ => self.best,
        }
    }
}

/// Shows, or takes away, what a session wishes.
pub(super) fn show(shared: &Arc<Shared>, thread: &ThreadKey, wish: &Wish) {
    let mut lanes = shared.statuses.lanes();
    if lanes.closing {
        return;
    }
    if let Some(orders) = lanes.open.get_mut(thread) {
        let distrust = wish.distrust || orders.wish.as_ref().is_some_and(|known| known.distrust);
        orders.wish = Some(Wish { distrust, ..wish.clone() });
        orders.notify.notify_one();
        return;
    }
    let notify = Arc::new(Notify::new());
    let orders = Orders { wish: Some(wish.clone()), notify: Arc::clone(&notify), ..Orders::default() };
    lanes.open.insert(thread.clone(), orders);
    drop(lanes);
    let (tasks, shared, thread) = (&shared.tasks, Arc::clone(shared), thread.clone());
    tasks.spawn(async move {
        let task = || async {
            run(Arc::clone(&shared), thread.clone(), Arc::clone(&notify)).await;
        };
        vital::again(&shared, "status", &thread, task).await;
    });
}

/// Notes that the thread's task begins; says whether an earlier one did not come to its end.
fn take_fallen(shared: &Shared, thread: &ThreadKey) -> bool {
    shared.statuses.lanes().open.get_mut(thread).is_some_and(|orders| std::mem::replace(&mut orders.begun, true))
}

/// Takes in what has changed.
fn take_orders(shared: &Shared, thread: &ThreadKey, line: &mut StatusLine, generation: &mut u64) {
    let mut lanes = shared.statuses.lanes();
    let Some(orders) = lanes.open.get_mut(thread) else { return };
    if std::mem::take(&mut orders.posted) {
        line.posted();
    }
    if let Some(wish) = orders.wish.take() {
        // What the end of the broker asks for is no session's wish.
        if wish.generation > 0 {
            *generation = wish.generation;
        }
        line.want(wish.text);
        if wish.distrust {
            line.distrust();
        }
    }
}

/// Whether the task may end; not when a wish came meanwhile.
fn leave(shared: &Shared, thread: &ThreadKey) -> bool {
    let mut lanes = shared.statuses.lanes();
    if lanes.open.get(thread).is_some_and(|orders| orders.wish.is_some()) {
        return false;
    }
    lanes.open.remove(thread);
    drop(lanes);
    shared.statuses.left.notify_waiters();
    true
}

async fn run(shared: Arc<Shared>, thread: ThreadKey, notify: Arc<Notify>) {
    let conversation = thread.conversation_key();
    let clock = Arc::clone(&shared.parts.clock);
    let mut line = StatusLine::new(shared.statuses.way(&conversation, clock.now()), clock.now());
    let mut generation = 0;
    // One that panicked has left behind what stands there, and nobody knows what that is.
    if take_fallen(&shared, &thread) {
        line.distrust();
    }
    while !shared.ending.is_cancelled() {
        take_orders(&shared, &thread, &mut line, &mut generation);
        let until = match line.next(clock.now()) {
            Next::Call(call) => {
                perform(&shared, &thread, &mut line, call).await;
                continue;
            }
            Next::Wait(until) => Some(until),
            Next::Rest => None,
            // A line that is forgotten at once would let the next turn's first call follow on the heels of this one's last.
            Next::Settled { .. } if clock.now() < line.not_before() && !shared.statuses.lanes().closing => {
                Some(line.not_before())
            }
            Next::Settled { clean } => {
                if !leave(&shared, &thread) {
                    continue;
                }
                if clean {
                    let letter = Letter::Input(Box::new(SessionInput::StatusSettled { generation }));
                    // A session with a full queue remembers that something may stand, and looks again after a restart.
                    let _ = registry::try_send(&shared, &thread, letter);
                }
                return;
            }
        };
        tokio::select! {
            biased;
            () = shared.ending.cancelled() => {}
            () = notify.notified() => {}
            () = clock.sleep_until(until.unwrap_or_default()), if until.is_some() => {}
        }
    }
    leave(&shared, &thread);
}

async fn perform(shared: &Shared, thread: &ThreadKey, line: &mut StatusLine, call: StatusCall) {
    let op = match call {
        StatusCall::Set(text) => ChatOp::Status { thread: thread.clone(), text: Some(text.to_owned()) },
        StatusCall::Clear => ChatOp::Status { thread: thread.clone(), text: None },
        StatusCall::React => ChatOp::React { thread: thread.clone(), name: REACTION.to_owned(), on: true },
        StatusCall::Unreact => ChatOp::React { thread: thread.clone(), name: REACTION.to_owned(), on: false },
    };
    let key = OpKey::new(shared.parts.ids.next());
    let result = shared.parts.transport.perform(&key, &op).await;
    let now = shared.parts.clock.now();
    let before = line.way();
    line.answered(call, result.as_ref().map(|_| ()), now);
    if let Err(error) = &result {
        tracing::debug!(session = %thread, ?call, %error, "a status was not confirmed");
    }
    if line.way() != before {
        let conversation = thread.conversation_key();
        tracing::info!(session = %thread, way = ?line.way(), "a status is refused here; it is shown otherwise");
        shared.statuses.refusals().put(conversation, (line.way(), now));
    }
}

//! Sends what waits in the outbox: one task per thread with open parts, so that a slow thread delays no other. How many
//! calls are made at once is for the transport to say, which knows what a platform allows for which channel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::registry::{self, Letter};
use super::{Shared, vital};
use crate::chat::{ChatOp, ChatTime, DeliverError, ThreadKey};
use crate::clock::Timestamp;
use crate::health::PartHealth;
use crate::outbox::{self, Action};
use crate::session::{PostOutcome, SessionInput};
use crate::store::{PartChange, PartRow, PartState, StoreError};

/// Parts of one thread that are loaded at once.
const BATCH: usize = 64;
/// The read-back begins this long before the first attempt, since the platform's clock is not ours: ours may be fast by as much
/// as a wrong time zone makes of it, and a part that is not seen is sent again.
const CLOCK_SLACK: Duration = Duration::from_secs(24 * 60 * 60);

/// Threads with open parts: whether something was added since the thread's task last looked.
#[derive(Debug, Default)]
struct Lanes {
    open: HashMap<ThreadKey, (bool, Arc<Notify>)>,
    /// Parts for which a call is under way.
    calling: usize,
}

/// The sender's shared state. The lock is held for map operations alone, never across an await.
pub(crate) struct Sender {
    lanes: Mutex<Lanes>,
    idle: Notify,
    health: watch::Sender<PartHealth>,
}

impl Sender {
    pub(super) fn new() -> Self {
        Self { lanes: Mutex::default(), idle: Notify::new(), health: watch::Sender::new(PartHealth::well()) }
    }

    pub(super) fn health(&self) -> watch::Receiver<PartHealth> {
        self.health.subscribe()
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no call is under way, at most `limit`.
    pub(super) async fn settle(&self, limit: Duration) {
        let idle = async {
            while self.lanes().calling > 0 {
                let _ = tokio::time::timeout(Duration::from_millis(50), self.idle.notified()).await;
            }
        };
        if tokio::time::timeout(limit, idle).await.is_err() {
            tracing::warn!("a post is still on its way; the next broker looks it up");
        }
    }
}

/// A call that is under way, until it is dropped: also when it panics.
struct Calling<'a>(&'a Sender);

impl<'a> Calling<'a> {
    fn begin(sender: &'a Sender) -> Self {
        sender.lanes().calling += 1;
        Self(sender)
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        let mut lanes = self.0.lanes();
        lanes.calling = lanes.calling.saturating_sub(1);
        drop(lanes);
        self.0.idle.notify_waiters();
    }
}

/// Says that a thread has open parts.
pub(super) fn wake(shared: &Arc<Shared>, thread: &ThreadKey) {
    let tasks = &shared.tasks;
    let mut lanes = shared.sender.lanes();
    if let Some((dirty, notify)) = lanes.open.get_mut(thread) {
        *dirty = true;
        notify.notify_one();
        return;
    }
    let notify = Arc::new(Notify::new());
    lanes.open.insert(thread.clone(), (false, Arc::clone(&notify)));
    drop(lanes);
    let (shared, thread) = (Arc::clone(shared), thread.clone());
    let task = async move {
        vital::again(&shared, "sender", &thread, || run(Arc::clone(&shared), thread.clone(), Arc::clone(&notify)))
            .await;
    };
    tasks.spawn(task);
}

/// Whether the lane may end; not when something was added meanwhile.
fn leave(shared: &Shared, thread: &ThreadKey) -> bool {
    let mut lanes = shared.sender.lanes();
    if let Some((dirty, _)) = lanes.open.get_mut(thread)
        && *dirty
    {
        *dirty = false;
        return false;
    }
    lanes.open.remove(thread);
    true
}

async fn run(shared: Arc<Shared>, thread: ThreadKey, notify: Arc<Notify>) {
    let mut failures = 0u32;
    while !shared.ending.is_cancelled() {
        match advance(&shared, &thread, &notify).await {
            Ok(true) => failures = 0,
            Ok(false) => {
                if leave(&shared, &thread) {
                    return;
                }
            }
            Err(error) => {
                failures += 1;
                tracing::error!(session = %thread, %error, "the outbox could not be read or written; trying again");
                let wait = Duration::from_millis(200).saturating_mul(1 << failures.min(5));
                pause(&shared, &notify, shared.parts.clock.now().plus(wait), false).await;
            }
        }
    }
}

async fn pause(shared: &Shared, notify: &Notify, until: Timestamp, may_be_woken: bool) {
    tokio::select! {
        biased;
        () = shared.ending.cancelled() => {}
        () = shared.parts.clock.sleep_until(until) => {}
        () = notify.notified(), if may_be_woken => {}
    }
}

/// Brings the thread's first open part one step further. `false` when there is none after it.
async fn advance(shared: &Arc<Shared>, thread: &ThreadKey, notify: &Notify) -> Result<bool, StoreError> {
    let parts = shared.parts.store.open_parts(thread, BATCH).await?;
    let Some(part) = parts.first() else { return Ok(false) };
    let now = shared.parts.clock.now();
    let part = outbox::seen_at(part, now);
    match outbox::decide(&part, now) {
        Action::Wait(until) => pause(shared, notify, until, true).await,
        Action::Send => return Ok(!send(shared, &part).await? || parts.len() > 1),
        Action::Upload => upload(shared, &part, notify).await?,
        Action::LookUp => look_up(shared, &part).await?,
    }
    Ok(true)
}

/// Hands the file of a part over. A crash in the middle of it costs nothing but the time: nobody has seen it.
async fn upload(shared: &Arc<Shared>, part: &PartRow, notify: &Notify) -> Result<(), StoreError> {
    let Some(file) = part.body.to_upload().cloned() else { return Ok(()) };
    let op = ChatOp::Upload { file };
    let result = tokio::select! {
        biased;
        // It may take long, and the next broker begins anew.
        () = shared.ending.cancelled() => return Ok(()),
        result = shared.parts.transport.perform(&part.id, &op) => result,
        // A `-stop` does not wait for a large file, nor does its answer.
        () = taken_back(shared, part, notify) => return Ok(()),
    };
    if let Err(error) = &result {
        tracing::warn!(session = %part.thread, part = %part.id, %error, "a file could not be handed over");
        account_trouble(shared, error);
    }
    conclude(shared, part.state, outbox::uploaded(part, &result, shared.parts.clock.now())).await
}

/// Returns once the part is none that is to be sent. Looked at whenever something happens to the thread's outbox.
async fn taken_back(shared: &Shared, part: &PartRow, notify: &Notify) {
    loop {
        notify.notified().await;
        // What cannot be read is looked at again when the upload is over.
        if matches!(stands_as(shared, part, part.state).await, Ok(false)) {
            return;
        }
    }
}

/// Whether the part is in this state still.
async fn stands_as(shared: &Shared, part: &PartRow, state: PartState) -> Result<bool, StoreError> {
    let parts = shared.parts.store.post(&part.post).await?;
    Ok(parts.iter().any(|known| known.id == part.id && known.state == state))
}

/// Posts a part; whether it stands in the thread now.
async fn send(shared: &Arc<Shared>, part: &PartRow) -> Result<bool, StoreError> {
    let sending = outbox::sending(part, shared.parts.clock.now());
    // Of the sender and a `-stop` the first committed wins.
    if !change(shared, part.state, &sending).await? {
        return Ok(false);
    }
    let op = ChatOp::Post { thread: part.thread.clone(), body: part.body.clone() };
    let result = {
        let _calling = Calling::begin(&shared.sender);
        shared.parts.transport.perform(&part.id, &op).await
    };
    report(shared, part, &result);
    let row = outbox::sent(&sending, &result, shared.parts.clock.now());
    let over = row.state == PartState::Sent;
    conclude(shared, PartState::Sending, row).await?;
    Ok(over)
}

fn report(shared: &Shared, part: &PartRow, result: &Result<crate::chat::Receipt, DeliverError>) {
    match result {
        Ok(_) => {
            tracing::info!(session = %part.thread, part = %part.id, kind = part.kind.as_str(), "posted");
            shared.statuses.posted(&part.thread);
            shared.sender.health.send_if_modified(|health| {
                let changed = !health.ok;
                *health = PartHealth::well();
                changed
            });
        }
        Err(error) => {
            tracing::warn!(session = %part.thread, part = %part.id, %error, "a post was not confirmed");
            account_trouble(shared, error);
        }
    }
}

fn account_trouble(shared: &Shared, error: &DeliverError) {
    if let DeliverError::Account { code } = error {
        let reason = format!("Slack refuses our credentials ({code}); nothing is lost, posts wait");
        shared.sender.health.send_replace(PartHealth::ill(reason));
    }
}

async fn look_up(shared: &Arc<Shared>, part: &PartRow) -> Result<(), StoreError> {
    let capabilities = shared.parts.transport.capabilities();
    let begun = part.first_attempt_at.or(part.attempted_at).unwrap_or(part.created_at).minus(CLOCK_SLACK);
    let since = ChatTime::of(begun);
    let found = shared.parts.transport.find(&part.thread, &[outbox::sought(part)], since).await;
    let settle = capabilities.read_back.then_some(capabilities.read_back_after);
    let row = outbox::looked_up(part, &found, settle, shared.parts.clock.now());
    tracing::info!(session = %part.thread, part = %part.id, state = row.state.as_str(), "a post in doubt was looked up");
    conclude(shared, part.state, row).await
}

/// Writes down what became of a part. Where that fails the part stays as being sent, and is looked up.
pub(super) async fn conclude(shared: &Arc<Shared>, expected: PartState, row: PartRow) -> Result<(), StoreError> {
    if row.state == PartState::Refused {
        return refused(shared, expected, row).await;
    }
    if change(shared, expected, &row).await? && !row.state.is_open() {
        shared.copies.drop_of(&row.body).await;
        if row.state == PartState::Sent && row.number == row.of {
            arrived(shared, &row).await?;
        }
    }
    Ok(())
}

/// A part was refused for good: so are those after it, since a post with a hole is not continued. The session is told before
/// that is written down, because nobody looks at a part that is not open any more: whoever dies in between has people told
/// twice, and not never.
async fn refused(shared: &Arc<Shared>, expected: PartState, row: PartRow) -> Result<(), StoreError> {
    if !stands_as(shared, &row, expected).await? {
        // A `-stop` came first, and says what is to be said.
        return Ok(());
    }
    let error = Some(row.error.clone().unwrap_or_default());
    let settled = SessionInput::PostSettled(outcome(shared, &row, error).await?);
    if registry::tell(shared, &row.thread, settled).await.is_none() {
        return Err(StoreError::new("the session is too busy to hear what became of a post"));
    }
    // A `-stop` may drop the rest in the meantime: then there is less to change.
    loop {
        let parts = shared.parts.store.post(&row.post).await?;
        let rest = parts.into_iter().filter(|part| part.number > row.number && part.state == PartState::Queued);
        let dropped = rest
            .map(|part| PartChange { expected: PartState::Queued, row: PartRow { state: PartState::Dropped, ..part } });
        let mut changes: Vec<_> = dropped.collect();
        let bodies: Vec<_> = changes.iter().map(|change| change.row.body.clone()).chain([row.body.clone()]).collect();
        let alone = changes.is_empty();
        changes.insert(0, PartChange { expected, row: row.clone() });
        if shared.parts.store.change_parts(changes).await? || alone {
            for body in &bodies {
                shared.copies.drop_of(body).await;
            }
            return Ok(());
        }
    }
}

async fn outcome(shared: &Shared, last: &PartRow, error: Option<String>) -> Result<PostOutcome, StoreError> {
    // Most posts have one part, which is known.
    let parts = match last.of {
        1 => vec![last.clone()],
        _ => shared.parts.store.post(&last.post).await?,
    };
    let arrived = parts.iter().filter(|part| part.state == PartState::Sent).count();
    let arrived = u32::try_from(arrived).unwrap_or(u32::MAX);
    Ok(PostOutcome { post: last.post.clone(), kind: last.kind, arrived, of: last.of, error })
}

async fn change(shared: &Shared, expected: PartState, row: &PartRow) -> Result<bool, StoreError> {
    shared.parts.store.change_parts(vec![PartChange { expected, row: row.clone() }]).await
}

/// Tells the session that all of a post stands in the thread. That is of interest to a tool call that waits, and to nobody
/// once the session was put away.
async fn arrived(shared: &Arc<Shared>, last: &PartRow) -> Result<(), StoreError> {
    if !shared.registry.is_live(&last.thread) {
        return Ok(());
    }
    let outcome = outcome(shared, last, None).await?;
    let letter = Letter::Input(Box::new(SessionInput::PostSettled(outcome)));
    if registry::try_send(shared, &last.thread, letter).is_err() {
        tracing::warn!(session = %last.thread, "the session is too busy to hear what became of a post");
    }
    Ok(())
}

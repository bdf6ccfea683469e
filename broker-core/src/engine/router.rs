//! Reads journal rows and says which session they are for.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::live::Change;
use super::registry::{self, Letter};
use super::{Shared, commands, copies, files, live, recovery, vital};
use crate::chat::{ChatMessage, ConversationKind, Parsed, ThreadKey};
use crate::command::Command;
use crate::store::{JournalFate, JournalId, JournalRow, Old, StoreError};

/// Rows that may wait for the router. What is over it is found in the journal as soon as these are done.
pub(super) const QUEUE: usize = 1024;
/// How long a row is waited for when a later one is here already.
const GAP: Duration = Duration::from_millis(20);
/// How often the journal is searched for rows that nobody took.
pub(super) const SWEEP: Duration = Duration::from_secs(5);
/// Rows read from the journal at once.
const BATCH: usize = 256;
/// How often settled rows are deleted.
const PRUNE: Duration = Duration::from_secs(60 * 60);
/// What became of messages and posts is known for so long.
const CLOSED_KEPT: Duration = Duration::from_secs(60 * 24 * 60 * 60);

/// The way to the router.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    queue: mpsc::Sender<JournalRow>,
    /// There is more in the journal than went this way.
    more: Arc<Notify>,
}

impl Rows {
    /// Hands on a row of the journal. Never waits: the acknowledgement of what the row holds must not.
    pub(super) fn hand_on(&self, row: JournalRow) {
        if self.queue.try_send(row).is_err() {
            self.more.notify_one();
        }
    }
}

/// Starts the router. It begins with the rows that an earlier broker left unread.
pub(super) fn start(shared: &Arc<Shared>) -> Rows {
    let (queue, mut rows) = mpsc::channel(QUEUE);
    let more = Arc::new(Notify::new());
    let way = Rows { queue, more: Arc::clone(&more) };
    let of = shared;
    let shared = Arc::clone(shared);
    vital::spawn(of, "router", async move {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut prune = tokio::time::interval(PRUNE);
        prune.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut order = InOrder::default();
        // The latest row that a search of the journal has read: what is not after it may have been handled by now.
        let mut searched = None;
        loop {
            let patience = order.patience();
            tokio::select! {
                biased;
                () = shared.ending.cancelled() => return,
                // Before the rows: these may never end.
                _ = sweep.tick() => searched = searched.max(search(&shared, &mut order).await),
                _ = prune.tick() => drop(shared.tasks.spawn(prune_journal(Arc::clone(&shared)))),
                row = rows.recv() => match row {
                    Some(row) => order.push(row),
                    // The link is closed; sessions may still be at work.
                    None => return,
                },
                () = tokio::time::sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => {
                    order.give_up();
                }
                // Only reached when nothing waits in the queue.
                () = more.notified() => searched = searched.max(search(&shared, &mut order).await),
            }
            while let Some(row) = order.pop() {
                let may_be_old = Some(row.id) <= searched;
                route(&shared, row, may_be_old).await;
            }
        }
    });
    way
}

/// Brings rows back into the order of the journal. Envelopes that share a commit are answered at once, and whoever brought
/// one may hand it on before whoever brought the one before it.
#[derive(Debug, Default)]
struct InOrder {
    waiting: BTreeMap<JournalId, JournalRow>,
    /// The id that is to come next; absent before the first.
    next: Option<JournalId>,
    /// When the row that is missing is no longer waited for.
    until: Option<Instant>,
}

impl InOrder {
    fn push(&mut self, row: JournalRow) {
        self.waiting.insert(row.id, row);
        self.until.get_or_insert_with(|| Instant::now() + GAP);
    }

    /// The next row, unless one before it is still missing.
    fn pop(&mut self) -> Option<JournalRow> {
        let first = self.waiting.first_entry()?;
        if self.next.is_some_and(|next| *first.key() > next) {
            return None;
        }
        let row = first.remove();
        self.next = self.next.max(Some(JournalId(row.id.0 + 1)));
        self.until = None;
        Some(row)
    }

    /// Until when the row that is missing is waited for.
    fn patience(&mut self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        Some(*self.until.get_or_insert_with(|| Instant::now() + GAP))
    }

    /// Everything up to this row was found in the journal.
    fn searched(&mut self, last: JournalId) {
        self.next = self.next.max(Some(JournalId(last.0 + 1)));
    }

    /// Whatever is missing does not come this way: the search of the journal finds it.
    fn give_up(&mut self) {
        self.next = self.waiting.keys().next().copied();
        self.until = None;
    }
}

/// Takes up what the journal has. Gives the last row that was read.
async fn search(shared: &Arc<Shared>, order: &mut InOrder) -> Option<JournalId> {
    let last = sweep_journal(shared).await?;
    order.searched(last);
    Some(last)
}

/// Takes up rows that are unread and that no session has. Gives the last one that it has read.
async fn sweep_journal(shared: &Arc<Shared>) -> Option<JournalId> {
    let mut after = None;
    loop {
        match shared.parts.store.unread(after, BATCH).await {
            Ok(rows) => {
                let Some(last) = rows.last() else { return after };
                after = Some(last.id);
                for row in rows {
                    route(shared, row, true).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the journal could not be read");
                return after;
            }
        }
    }
}

async fn prune_journal(shared: Arc<Shared>) {
    let now = shared.parts.clock.now();
    let old = Old { journal: now.minus(shared.settings.journal_kept), closed: now.minus(CLOSED_KEPT) };
    match shared.parts.store.prune(old).await {
        Ok(0) => {}
        Ok(rows) => tracing::debug!(rows, "old rows were deleted"),
        Err(error) => tracing::warn!(%error, "old rows could not be deleted"),
    }
    copies::sweep(&shared).await;
    files::sweep(&shared).await;
}

/// Routes one row. A row that cannot be handled now stays unread, and the next sweep finds it.
///
/// One that `may_be_old` was read a while ago and may have been settled since. Whoever settles a row lets it go after that, so
/// the journal's word is believed once the row is taken in.
pub(super) async fn route(shared: &Arc<Shared>, row: JournalRow, may_be_old: bool) {
    let id = row.id;
    if !shared.registry.take_in(id) {
        return;
    }
    let handled = match may_be_old {
        true => match is_unread(shared, id).await {
            Ok(true) => handle(shared, row).await,
            Ok(false) => return shared.registry.let_go([id]),
            Err(error) => Err(error),
        },
        false => handle(shared, row).await,
    };
    if let Err(error) = handled {
        tracing::warn!(%error, "a journal row could not be handled; it is tried again");
        shared.registry.let_go([id]);
    }
}

async fn is_unread(shared: &Shared, id: JournalId) -> Result<bool, StoreError> {
    let before = id.0.checked_sub(1).map(JournalId);
    let first = shared.parts.store.unread(before, 1).await?;
    Ok(first.first().is_some_and(|row| row.id == id))
}

async fn handle(shared: &Arc<Shared>, row: JournalRow) -> Result<(), StoreError> {
    match parse(shared, &row) {
        Parsed::Message(message) => {
            let found = recovery::is_found(&row.envelope);
            if Command::read(&message).is_some() && recovery::is_stale(&row.envelope, &message) {
                let reason = "a command that was found too late".to_owned();
                return settle(shared, row.id, JournalFate::Ignored { reason }).await;
            }
            dispatch(shared, row.id, *message, found).await
        }
        Parsed::Edited(message) => amend(shared, row.id, *message, Change::Edit).await,
        Parsed::Deleted(message) => amend(shared, row.id, *message, Change::Deletion).await,
        Parsed::Ignored { reason } => settle(shared, row.id, JournalFate::Ignored { reason: reason.to_owned() }).await,
        Parsed::Unreadable { reason } => {
            tracing::warn!(kind = row.envelope.kind, reason, "an envelope could not be read; it is kept");
            settle(shared, row.id, JournalFate::Unreadable { reason }).await
        }
    }
}

/// Reads a row. Pure and total by contract; should it panic all the same, that costs one row and not the broker.
pub(super) fn parse(shared: &Shared, row: &JournalRow) -> Parsed {
    if recovery::is_found(&row.envelope) {
        return recovery::read(&row.envelope);
    }
    let parsed = catch_unwind(AssertUnwindSafe(|| shared.parts.transport.parse(&row.envelope)));
    parsed.unwrap_or_else(|_| Parsed::Unreadable { reason: "the reader panicked over it".to_owned() })
}

/// Settles a row that makes no inbox row.
pub(super) async fn settle(shared: &Shared, id: JournalId, fate: JournalFate) -> Result<(), StoreError> {
    shared.parts.store.settle(vec![id], fate).await?;
    shared.registry.let_go([id]);
    Ok(())
}

/// Hands a message to its session. One that was `found` may have come in the ordinary way as well.
async fn dispatch(shared: &Arc<Shared>, id: JournalId, message: ChatMessage, found: bool) -> Result<(), StoreError> {
    let key = message.thread();
    let command = Command::read(&message);
    let direct = message.conversation_kind == ConversationKind::Direct;
    let has_session = shared.registry.is_live(&key) || shared.parts.store.session(&key).await?.is_some();
    let opens = command.is_none() && (direct || message.mentions_self);
    if let Some(command) = command.filter(|_| !has_session) {
        return commands::without_session(shared, id, message, (command, found)).await;
    }
    if !has_session && !opens {
        let fate = match message.thread_root {
            Some(_) => JournalFate::Unrouted { thread: key },
            None => JournalFate::Ignored { reason: "not for the broker".to_owned() },
        };
        return settle(shared, id, fate).await;
    }
    let incoming = live::Incoming { journal: id, message, opens, command, found, change: Change::New };
    send(shared, &key, incoming);
    Ok(())
}

/// Hands a message that was changed or deleted to its session. Without one it waits, as a reply does, for the mention that
/// may be on its way; a change that is as young may be that mention itself.
async fn amend(shared: &Arc<Shared>, id: JournalId, message: ChatMessage, change: Change) -> Result<(), StoreError> {
    let key = message.thread();
    let has_session = shared.registry.is_live(&key) || shared.parts.store.session(&key).await?.is_some();
    let direct = message.conversation_kind == ConversationKind::Direct;
    let young = shared.parts.clock.now().since(message.at.timestamp()) < live::UNROUTED_KEPT;
    let is_command = Command::read(&message).is_some();
    let opens = change == Change::Edit && young && !is_command && (direct || message.mentions_self);
    if !has_session && !opens {
        let fate = match young {
            true => JournalFate::Unrouted { thread: key },
            false => JournalFate::Ignored { reason: "a change of nothing that is known".to_owned() },
        };
        return settle(shared, id, fate).await;
    }
    send(shared, &key, live::Incoming { journal: id, message, opens, command: None, found: false, change });
    Ok(())
}

fn send(shared: &Arc<Shared>, key: &ThreadKey, incoming: live::Incoming) {
    let id = incoming.journal;
    shared.registry.hand_to(id, key);
    let letter = Letter::Message(Box::new(incoming));
    if registry::try_send(shared, key, letter).is_err() {
        shared.registry.let_go([id]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::RawEnvelope;
    use crate::clock::Timestamp;

    fn row(id: u64) -> JournalRow {
        let envelope = RawEnvelope {
            key: id.to_string(),
            kind: String::new(),
            retry_attempt: 0,
            received_at: Timestamp::default(),
            raw: Vec::new(),
        };
        JournalRow { id: JournalId(id), envelope }
    }

    fn popped(order: &mut InOrder) -> Vec<u64> {
        std::iter::from_fn(|| order.pop()).map(|row| row.id.0).collect()
    }

    #[tokio::test]
    async fn rows_come_in_the_order_of_the_journal_and_a_gap_is_not_waited_for_for_long() {
        let mut order = InOrder::default();
        order.push(row(7));
        assert_eq!(popped(&mut order), [7]);
        for id in [10, 9, 11] {
            order.push(row(id));
        }
        assert!(popped(&mut order).is_empty(), "8 is missing");
        order.push(row(8));
        assert_eq!(popped(&mut order), [8, 9, 10, 11]);
        assert_eq!(order.patience(), None);
        order.push(row(13));
        assert!(order.patience().is_some());
        order.give_up();
        assert_eq!(popped(&mut order), [13]);
        order.push(row(12));
        assert_eq!(popped(&mut order), [12], "late is better than never");
        order.searched(JournalId(20));
        order.push(row(21));
        assert_eq!(popped(&mut order), [21], "what is before it was found");
    }
}

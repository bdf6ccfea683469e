//! What is remembered of a run for the judge, beside the state of the world.

use std::collections::{BTreeMap, BTreeSet};

use broker_core::agent::{AgentThreadId, InputId};
use broker_core::chat::{ChatTime, OpKey, PartBody, ThreadKey};
use broker_core::command::Command;
use broker_core::store::{InboxKind, InboxRow, InboxState, PartChange, PartRow, PartState, SessionCommit, SessionRows};

use crate::world::Names;

/// What a thread is told when its conversation with the agent is given up.
const RENEWED: &str = "fresh conversation with the agent";

/// A `-stop` that was made durable.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// In which session.
    pub session: ThreadKey,
    /// What was written before this is meant.
    pub before: ChatTime,
    /// When it was made durable, in milliseconds.
    pub when: u64,
}

/// A `-new` that was made durable.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// In which session.
    pub session: ThreadKey,
    /// When it was written.
    pub at: ChatTime,
    /// The agent's thread that was given up.
    pub left: Option<AgentThreadId>,
    /// When it was made durable, in milliseconds.
    pub when: u64,
}

/// An input that was about to be given.
#[derive(Debug, Clone)]
pub struct Given {
    /// When, in milliseconds.
    pub when: u64,
    /// Which.
    pub input: InputId,
    /// To which thread of the agent's.
    pub thread: AgentThreadId,
}

/// A part, and when it was planned.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The part, as it was changed last.
    pub part: PartRow,
    /// When it was planned, in milliseconds.
    pub when: u64,
}

/// What is remembered of a run.
#[derive(Debug, Default)]
pub struct Facts {
    /// The keys of the events whose acknowledgement went out.
    pub accepted: Names,
    /// When a post was about to be made.
    pub performed: Vec<(u64, OpKey)>,
    /// When each broker began, in milliseconds.
    pub begun: Vec<u64>,
    /// Every input that was about to be given.
    pub submitted: Vec<Given>,
    /// Posts that the platform refused.
    pub refused: BTreeSet<OpKey>,
    /// How long the broker is away after its end in order.
    pub away: u64,
    /// Rows that were made durable, as they were changed last.
    pub rows: BTreeMap<InputId, InboxRow>,
    /// Parts that were made durable.
    pub parts: BTreeMap<OpKey, Planned>,
    /// Every `-stop`.
    pub stops: Vec<Stopped>,
    /// Every `-new`.
    pub renewals: Vec<Renewed>,
    /// Inputs that were taken back when they were with the agent or on their way to it.
    pub taken_back: BTreeSet<InputId>,
    /// When inputs were taken back for good.
    pub cancelled: BTreeMap<InputId, u64>,
    /// When `-stop` or `-new` was handled, and in which session, whatever it took back.
    pub stop_rows: Vec<(ThreadKey, u64)>,
    /// The machines as they were after their last commits.
    pub machines: BTreeMap<ThreadKey, SessionRows>,
    /// What was seen to be wrong while the run went on.
    pub wrong: Vec<String>,
    /// How long the write-ahead log was before and after the change that is half written.
    pub torn: Option<(u64, u64)>,
    stopped_at: BTreeMap<ThreadKey, ChatTime>,
    agent_threads: BTreeMap<ThreadKey, AgentThreadId>,
}

impl Facts {
    /// A step of a session is durable.
    pub(crate) fn committed(&mut self, change: &SessionCommit, now: u64) {
        let thread = change.record.as_ref().and_then(|record| record.agent_thread.clone());
        let mut renewed = None;
        for row in &change.inbox {
            let known = self.rows.insert(row.id.clone(), row.clone());
            if row.state == InboxState::Cancelled && known.is_some_and(|known| known.state == InboxState::Given) {
                self.taken_back.insert(row.id.clone());
            }
            let command = row.message.as_ref().filter(|_| row.kind == InboxKind::Command).and_then(Command::read);
            if matches!(command, Some(Command::Stop | Command::New)) {
                self.stop_rows.push((change.key.clone(), now));
            }
            if command == Some(Command::New) {
                renewed = Some(row.at);
            }
            if row.state == InboxState::Cancelled {
                self.cancelled.entry(row.id.clone()).or_insert(now);
            }
        }
        // A message that becomes a `-new` leaves no row of a command, and is meant for all that is known.
        let mut said = change.parts.iter().map(|part| &part.body);
        let said = said.any(|body| matches!(body, PartBody::Text { markup } if markup.contains(RENEWED)));
        if said && renewed.is_none() {
            renewed = Some(ChatTime::from_micros(u64::MAX));
            self.stop_rows.push((change.key.clone(), now));
        }
        if let Some(at) = renewed {
            // One that came late gives nothing up.
            let left = self.agent_threads.get(&change.key).filter(|_| thread.is_none()).cloned();
            self.renewals.push(Renewed { session: change.key.clone(), at, left, when: now });
        }
        match thread {
            Some(thread) => drop(self.agent_threads.insert(change.key.clone(), thread)),
            None if change.record.is_some() => drop(self.agent_threads.remove(&change.key)),
            None => {}
        }
        if change.drop_queued_parts {
            for planned in self.parts.values_mut().filter(|planned| planned.part.thread == change.key) {
                if planned.part.state == PartState::Queued {
                    planned.part.state = PartState::Dropped;
                }
            }
        }
        for part in &change.parts {
            self.parts.insert(part.id.clone(), Planned { part: part.clone(), when: now });
        }
        if let Some(record) = &change.record {
            let known = self.stopped_at.entry(change.key.clone()).or_default();
            if record.stopped_at > *known {
                self.stop_rows.push((change.key.clone(), now));
                *known = record.stopped_at;
                self.stops.push(Stopped { session: change.key.clone(), before: record.stopped_at, when: now });
            }
        }
    }

    /// Parts were changed.
    pub(crate) fn changed(&mut self, changes: &[PartChange]) {
        for change in changes {
            if let Some(planned) = self.parts.get_mut(&change.row.id) {
                planned.part = change.row.clone();
            }
        }
    }

    /// Parts as they are stored.
    pub(crate) fn stored(&mut self, parts: Vec<PartRow>) {
        for part in parts {
            if let Some(planned) = self.parts.get_mut(&part.id) {
                planned.part = part;
            }
        }
    }

    /// A session was loaded: what is loaded is what the machine was, but for what is looked up beside it: the posts of its
    /// turn, and how many parts are open.
    pub(crate) fn loaded(&mut self, key: &ThreadKey, rows: &SessionRows) {
        // A change that was being written when the broker was killed may have become durable after all.
        for row in &rows.inbox {
            self.rows.insert(row.id.clone(), row.clone());
        }
        if let Some(thread) = rows.record.as_ref().and_then(|record| record.agent_thread.clone()) {
            self.agent_threads.insert(key.clone(), thread);
        }
        let Some(machine) = self.machines.get(key).filter(|machine| machine.revision == rows.revision) else { return };
        let loaded = SessionRows { turn_parts: Vec::new(), open_parts: 0, ..rows.clone() };
        if *machine != loaded {
            self.wrong.push(format!(
                "the machine of {key} is not what its rows say.\n  machine: {machine:?}\n  rows: {loaded:?}"
            ));
        }
    }
}

//! What is remembered of a run for the judge, beside the state of the world.

use std::collections::{BTreeMap, BTreeSet};

use broker_core::agent::InputId;
use broker_core::chat::{ChatTime, OpKey, ThreadKey};
use broker_core::store::{InboxKind, InboxRow, PartChange, PartRow, PartState, SessionCommit, SessionRows};

use crate::world::Names;

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
    /// When an input was about to be given.
    pub submitted: Vec<(u64, InputId)>,
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
    /// When `-stop` was handled, and in which session, whatever it took back.
    pub stop_rows: Vec<(ThreadKey, u64)>,
    /// The machines as they were after their last commits.
    pub machines: BTreeMap<ThreadKey, SessionRows>,
    /// What was seen to be wrong while the run went on.
    pub wrong: Vec<String>,
    /// How long the write-ahead log was before and after the change that is half written.
    pub torn: Option<(u64, u64)>,
    stopped_at: BTreeMap<ThreadKey, ChatTime>,
}

impl Facts {
    /// A step of a session is durable.
    pub(crate) fn committed(&mut self, change: &SessionCommit, now: u64) {
        for row in &change.inbox {
            if row.kind == InboxKind::Command {
                self.stop_rows.push((change.key.clone(), now));
            }
            self.rows.insert(row.id.clone(), row.clone());
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
        let Some(machine) = self.machines.get(key).filter(|machine| machine.revision == rows.revision) else { return };
        let loaded = SessionRows { turn_parts: Vec::new(), open_parts: 0, ..rows.clone() };
        if *machine != loaded {
            self.wrong.push(format!(
                "the machine of {key} is not what its rows say.\n  machine: {machine:?}\n  rows: {loaded:?}"
            ));
        }
    }
}

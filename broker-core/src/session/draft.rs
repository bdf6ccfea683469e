//! What a step collects.

use super::Effect;
use crate::chat::MessageId;
use crate::store::{InboxRow, JournalId, PartRow, TurnRow};

/// What one input changes, collected while it is handled.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) record: bool,
    pub(super) rows: Vec<InboxRow>,
    pub(super) turns: Vec<TurnRow>,
    pub(super) parts: Vec<PartRow>,
    pub(super) drop_queued_parts: bool,
    pub(super) withdrawn: Vec<MessageId>,
    pub(super) read: Vec<JournalId>,
    pub(super) effects: Vec<Effect>,
}

impl Draft {
    /// The row shall be stored as it is now; a later word on the same row replaces an earlier one.
    pub(super) fn row(&mut self, row: &InboxRow) {
        match self.rows.iter_mut().find(|known| known.id == row.id) {
            Some(known) => known.clone_from(row),
            None => self.rows.push(row.clone()),
        }
    }

    /// The turn shall be stored as it is now.
    pub(super) fn turn(&mut self, turn: &TurnRow) {
        match self.turns.iter_mut().find(|known| known.id == turn.id) {
            Some(known) => known.clone_from(turn),
            None => self.turns.push(turn.clone()),
        }
    }
}

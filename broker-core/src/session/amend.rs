//! Messages that their authors change or delete after they wrote them.
//!
//! Before it is given, a message simply is what it is now. Once the agent has it, or may have it, a change is a word of its
//! own and a deletion comes too late.

use super::machine::Draft;
use super::{Arrival, SessionMachine};
use crate::agent::InputId;
use crate::chat::{ChatMessage, ChatTime, MessageId};
use crate::clock::Timestamp;
use crate::command::Command;
use crate::store::{InboxKind, InboxRow, InboxState, JournalId, KnownMessage};

impl SessionMachine {
    /// A message that is in the inbox was changed by its author.
    pub(super) fn edited(&mut self, arrival: Arrival, known: KnownMessage, now: Timestamp, draft: &mut Draft) {
        draft.read.extend(arrival.journal);
        if let Some(command) = Command::read(&arrival.message).filter(|_| arrival.instructs) {
            return self.edited_to_command(command, &arrival.message, known, now, draft);
        }
        let id = arrival.message.id.clone();
        if let Some(index) = self.parked.iter().position(|row| is(row, &id)) {
            let row = &mut self.parked[index];
            (row.message, row.people) = (Some(arrival.message), arrival.people);
            draft.row(&self.parked[index]);
            if arrival.instructs {
                self.take_up_parked(1, now, draft);
            }
            return;
        }
        let open = self.inbox.iter().position(|row| is(row, &id));
        let mut told = known.state == InboxState::Delivered && known.kind == InboxKind::Message;
        if let Some(index) = open {
            let row = &mut self.inbox[index];
            // What may be with the agent already is told as a change too; it is given as it is now should it have to be
            // given again.
            told = row.kind == InboxKind::Message && row.state == InboxState::Given;
            (row.message, row.people) = (Some(arrival.message.clone()), arrival.people.clone());
            draft.row(&self.inbox[index]);
            let row = self.inbox[index].clone();
            self.meet(&row);
        }
        if told && arrival.instructs && self.around.deliver_edits {
            self.tell_edit(arrival, now, draft);
        }
    }

    /// A row that tells the agent what a message has become. One row tells of all changes that it has not been given yet.
    fn tell_edit(&mut self, arrival: Arrival, now: Timestamp, draft: &mut Draft) {
        self.record.last_activity = now;
        let waits = |row: &InboxRow| row.state == InboxState::Queued && is_edit_of(row, &arrival.message.id);
        if let Some(index) = self.inbox.iter().position(waits) {
            let row = &mut self.inbox[index];
            (row.message, row.people) = (Some(arrival.message), arrival.people);
            return draft.row(&self.inbox[index]);
        }
        let id = self.input_id(draft);
        let row = InboxRow {
            message: Some(arrival.message),
            people: arrival.people,
            ..InboxRow::new(id, self.key().clone(), InboxKind::Edit, ChatTime::of(now), now)
        };
        draft.row(&row);
        self.insert(row);
    }

    /// A message was deleted. `known` is absent for one that never came in.
    pub(super) fn deleted(
        &mut self,
        journal: Option<JournalId>,
        message: ChatMessage,
        known: Option<KnownMessage>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        draft.read.extend(journal);
        self.drop_edits(&message.id, draft);
        if let Some(index) = self.parked.iter().position(|row| is(row, &message.id)) {
            let mut row = self.parked.remove(index);
            row.state = InboxState::Cancelled;
            return draft.row(&row);
        }
        match self.inbox.iter().position(|row| is(row, &message.id)) {
            Some(index) if self.inbox[index].state == InboxState::Given => {
                self.inbox[index].withdrawn = true;
                draft.row(&self.inbox[index]);
            }
            Some(index) => drop(self.close(index, InboxState::Cancelled, draft)),
            // It overtook its message, which is then known to be nothing any more.
            None if known.is_none() && message.at > self.record.watermark => {
                let id = self.input_id(draft);
                draft.row(&gone(id, &message, now));
            }
            None => {}
        }
    }

    /// Changes that the agent need not be told: the message itself is given as it is now, or not at all.
    pub(super) fn drop_edits(&mut self, message: &MessageId, draft: &mut Draft) {
        let waits = |row: &InboxRow| row.state == InboxState::Queued && is_edit_of(row, message);
        while let Some(index) = self.inbox.iter().position(waits) {
            self.close(index, InboxState::Cancelled, draft);
        }
    }
}

/// Whether a row is the message itself.
fn is(row: &InboxRow, message: &MessageId) -> bool {
    row.kind != InboxKind::Edit && row.message.as_ref().is_some_and(|known| known.id == *message)
}

fn is_edit_of(row: &InboxRow, message: &MessageId) -> bool {
    row.kind == InboxKind::Edit && row.message.as_ref().is_some_and(|known| known.id == *message)
}

/// The row of a message that was deleted before it came.
fn gone(id: InputId, message: &ChatMessage, now: Timestamp) -> InboxRow {
    InboxRow {
        state: InboxState::Cancelled,
        withdrawn: true,
        message: Some(message.clone()),
        ..InboxRow::new(id, message.thread(), InboxKind::Message, message.at, now)
    }
}

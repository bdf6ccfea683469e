//! Messages that their authors change or delete after they wrote them.
//!
//! Before it is given, a message simply is what it is now. Once the agent has it, a change and a deletion are words of their
//! own.

use super::draft::Draft;
use super::{Arrival, SessionMachine};
use crate::agent::InputId;
use crate::chat::{ChatMessage, ChatTime, MessageId, Person};
use crate::clock::Timestamp;
use crate::command::Command;
use crate::store::{InboxKind, InboxRow, InboxState, KnownMessage};

impl SessionMachine {
    /// A message that is in the inbox was changed by its author.
    pub(super) fn edited(&mut self, arrival: Arrival, known: KnownMessage, now: Timestamp, draft: &mut Draft) {
        draft.read.extend(arrival.journal);
        if let Some(command) = Command::read(&arrival.message).filter(|_| arrival.instructs) {
            return self.edited_to_command(command, &arrival.message, known, now, draft);
        }
        if known.withdrawn {
            // The word of its deletion overtook that of the change.
            return;
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
        let mut told = self.is_with_agent(&known);
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
            self.tell_edit(arrival.message, arrival.people, now, draft);
        }
    }

    /// A row that tells the agent what a message has become. One row tells of all changes that it has not been given yet.
    fn tell_edit(&mut self, message: ChatMessage, people: Vec<Person>, now: Timestamp, draft: &mut Draft) {
        self.record.last_activity = now;
        let waits = |row: &InboxRow| row.state == InboxState::Queued && is_edit_of(row, &message.id);
        if let Some(index) = self.inbox.iter().position(waits) {
            let row = &mut self.inbox[index];
            (row.message, row.people) = (Some(message), people);
            return draft.row(&self.inbox[index]);
        }
        let id = self.input_id(draft);
        let row = InboxRow {
            message: Some(message),
            people,
            ..InboxRow::new(id, self.key().clone(), InboxKind::Edit, ChatTime::of(now), now)
        };
        draft.row(&row);
        self.insert(row);
    }

    /// A message was deleted. `known` is absent for one that never came in.
    pub(super) fn deleted(&mut self, arrival: Arrival, known: Option<KnownMessage>, now: Timestamp, draft: &mut Draft) {
        draft.read.extend(arrival.journal);
        let Arrival { message, people, .. } = arrival;
        let settled = known.clone().filter(|known| !known.state.is_open());
        if settled.as_ref().is_some_and(|known| known.withdrawn) {
            return;
        }
        self.withdraw(&message, known, now, draft);
        self.delete_from_backfills(&message.id, draft);
        if let Some(row) = self.inbox.iter_mut().find(|row| row.state == InboxState::Given && is(row, &message.id)) {
            // The agent is told once it turns out to have it.
            row.message = row.message.take().map(ChatMessage::into_deleted);
            draft.row(row);
        }
        if let Some(known) = settled.filter(|known| known.kind == InboxKind::Message) {
            draft.withdrawn.push(message.id.clone());
            if self.is_with_agent(&known) {
                self.tell_deletion(message, people, now, draft);
            }
        }
    }

    /// Whether the conversation that the agent is in has the message. One that was given up is told nothing any more, and the one
    /// after it has never heard of it.
    fn is_with_agent(&self, known: &KnownMessage) -> bool {
        known.kind == InboxKind::Message
            && known.state == InboxState::Delivered
            && known.given_to.is_some()
            && known.given_to == self.record.agent_thread
    }

    /// A message that the agent has was deleted.
    pub(super) fn tell_deletion(
        &mut self,
        message: ChatMessage,
        people: Vec<Person>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        // What it became before is nothing to tell any more, should the agent not have it.
        for row in self.inbox.iter_mut().filter(|row| row.state == InboxState::Given && is_edit_of(row, &message.id)) {
            row.withdrawn = true;
            draft.row(row);
        }
        if self.around.deliver_edits {
            self.tell_edit(message.into_deleted(), people, now, draft);
        }
    }

    /// Nobody wants a message to be given any more. `known` is absent for one that never came in.
    pub(super) fn withdraw(
        &mut self,
        message: &ChatMessage,
        known: Option<KnownMessage>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
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
                draft.row(&gone(id, message, now));
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

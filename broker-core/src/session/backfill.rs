//! The earlier messages of the thread that go along with one that is given.

use super::draft::Draft;
use super::{Effect, SessionMachine};
use crate::agent::InputId;
use crate::chat::MessageId;
use crate::store::{Backfill, ContextMessage, InboxKind, InboxState};

impl SessionMachine {
    /// The first message that waits brings the earlier ones along.
    pub(super) fn want_history(&mut self, draft: &mut Draft) {
        if self.around.initial_history == 0 {
            return;
        }
        let own = self.has_given();
        let Some(row) = self.inbox.iter_mut().find(|row| row.kind == InboxKind::Message) else { return };
        let is_reply = row.message.as_ref().is_some_and(|message| message.thread_root.is_some());
        if is_reply && row.backfill == Backfill::None {
            row.backfill = Backfill::Wanted;
            draft.row(row);
            draft.effects.push(Effect::Backfill { row: row.id.clone(), before: row.at, own });
        }
    }

    /// The earlier messages were read, or could not be.
    pub(super) fn backfilled(
        &mut self,
        id: &InputId,
        result: Result<(Vec<ContextMessage>, bool), String>,
        draft: &mut Draft,
    ) {
        if !self.inbox.iter().any(|row| row.id == *id) {
            return;
        }
        if let Ok((messages, _)) = &result {
            self.meet_earlier(messages);
        }
        let Some(row) = self.inbox.iter_mut().find(|row| row.id == *id) else { return };
        row.backfill = match result {
            Ok((messages, has_more)) => Backfill::Read { messages, has_more },
            Err(reason) => Backfill::Unreadable { reason },
        };
        draft.row(row);
        self.show_once(draft);
    }

    /// What waits to go along as a bot's message does not go along among the earlier ones as well.
    pub(super) fn show_once(&mut self, draft: &mut Draft) {
        let of_bots = self.inbox.iter().filter(|row| row.kind == InboxKind::Context);
        let of_bots: Vec<MessageId> = of_bots.filter_map(|row| Some(row.message.as_ref()?.id.clone())).collect();
        for row in self.inbox.iter_mut().filter(|row| row.state == InboxState::Queued) {
            let Backfill::Read { messages, .. } = &mut row.backfill else { continue };
            let all = messages.len();
            messages.retain(|earlier| !of_bots.contains(&earlier.message.id));
            if messages.len() < all {
                draft.row(row);
            }
        }
    }

    /// What goes along with a message that waits loses what it said.
    pub(super) fn delete_from_backfills(&mut self, message: &MessageId, draft: &mut Draft) {
        for row in self.inbox.iter_mut().filter(|row| row.state == InboxState::Queued) {
            let Backfill::Read { messages, .. } = &mut row.backfill else { continue };
            if let Some(known) =
                messages.iter_mut().find(|known| known.message.id == *message && !known.message.deleted)
            {
                known.message = known.message.clone().into_deleted();
                draft.row(row);
            }
        }
    }
}

//! Which files are fetched before a message is given.

use super::draft::Draft;
use super::{Effect, MAX_FILES, SessionMachine};
use crate::agent::InputId;
use crate::chat::{ChatMessage, FileRef, Kept, MessageId};
use crate::store::{Backfill, InboxRow, InboxState};

impl SessionMachine {
    /// Asks for the files of what waits. Of each row once at a time; what a change of its message brings is asked for after
    /// that.
    pub(super) fn fetch_files(&mut self, draft: &mut Draft) {
        for index in 0..self.inbox.len() {
            let row = &mut self.inbox[index];
            if row.state != InboxState::Queued || self.fetching.contains(&row.id) || has_its_files(row) {
                continue;
            }
            let mut wanted = Vec::new();
            let mut all = 0;
            let mut changed = false;
            for message in messages_mut(row) {
                let id = message.id.clone();
                for file in message.all_files_mut() {
                    all += 1;
                    if file.kept.is_some() {
                        continue;
                    }
                    if all > MAX_FILES {
                        file.kept = Some(Kept::Missing { reason: "too many files hang on these messages".to_owned() });
                        changed = true;
                    } else {
                        wanted.push((id.clone(), file.clone()));
                    }
                }
            }
            if changed {
                draft.row(row);
            }
            if !wanted.is_empty() {
                let row = row.id.clone();
                self.fetching.push(row.clone());
                draft.effects.push(Effect::Fetch { row, files: wanted });
            }
        }
    }

    /// Files were fetched, or could not be.
    pub(super) fn fetched(&mut self, id: &InputId, files: Vec<(MessageId, FileRef)>, draft: &mut Draft) {
        self.fetching.retain(|known| known != id);
        let Some(row) = self.inbox.iter_mut().find(|row| row.id == *id) else { return };
        for (message, file) in files {
            let of_message = messages_mut(row).filter(|known| known.id == message);
            for known in of_message.flat_map(ChatMessage::all_files_mut) {
                if known.id == file.id && known.kept.is_none() {
                    known.clone_from(&file);
                }
            }
        }
        draft.row(row);
    }
}

/// Whether of every file of a row it is known what became of it.
pub(super) fn has_its_files(row: &InboxRow) -> bool {
    messages(row).flat_map(ChatMessage::all_files).all(|file| file.kept.is_some())
}

/// The row's message, and the earlier ones that go along with it.
fn messages(row: &InboxRow) -> impl Iterator<Item = &ChatMessage> {
    let earlier = match &row.backfill {
        Backfill::Read { messages, .. } => messages.as_slice(),
        _ => &[],
    };
    row.message.iter().chain(earlier.iter().map(|earlier| &earlier.message))
}

fn messages_mut(row: &mut InboxRow) -> impl Iterator<Item = &mut ChatMessage> {
    let earlier = match &mut row.backfill {
        Backfill::Read { messages, .. } => messages.as_mut_slice(),
        _ => &mut [],
    };
    row.message.iter_mut().chain(earlier.iter_mut().map(|earlier| &mut earlier.message))
}

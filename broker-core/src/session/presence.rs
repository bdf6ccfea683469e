//! What stands beside the thread while the agent is at work, and whom the agent may mention.

use super::draft::Draft;
use super::machine::{Link, SessionMachine};
use super::{Effect, MAX_PEOPLE};
use crate::agent::{Activity, TurnId};
use crate::chat::{Author, Mentionable, Person, Standing};
use crate::clock::Timestamp;
use crate::store::{ContextMessage, InboxKind, InboxRow};

/// What was asked to be shown. Not in the rows, except for whether anything may stand at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Showing {
    /// What the agent does in the running turn; absent while it thinks.
    activity: Option<Activity>,
    /// What was asked for last.
    asked: Option<&'static str>,
    /// An earlier broker may have left something, and nothing was asked for since.
    pub(super) distrusted: bool,
    /// Counts what was asked for, to tell an answer to an older question.
    generation: u64,
}

impl SessionMachine {
    /// The agent does something else in the running turn.
    pub(super) fn doing(&mut self, turn: &TurnId, activity: Activity) {
        if self.turn.as_ref().is_some_and(|known| known.id == *turn) {
            self.showing.activity = Some(activity);
        }
    }

    /// What the agent does in the running turn; absent while it thinks.
    pub(super) fn activity(&self) -> Option<Activity> {
        self.showing.activity
    }

    /// A turn begins or ends.
    pub(super) fn idle_hands(&mut self) {
        self.showing.activity = None;
    }

    /// What should stand beside the thread now. A turn that has said its last word, or was stopped, shows nothing; neither
    /// does anything that waits for an agent which does not come up.
    fn status(&self, now: Timestamp) -> Option<&'static str> {
        if matches!(self.link, Link::Closed { failures: 1.., .. } | Link::Opening { failures: 1.. }) {
            return None;
        }
        if let Some(turn) = &self.turn {
            let over = turn.stopped || turn.signal.is_some();
            return (!over).then(|| self.showing.activity.unwrap_or(Activity::Thinking).label());
        }
        let waits = self.inbox.iter().any(|row| row.kind != InboxKind::Context);
        if self.tell_waiting_at().is_some_and(|at| at <= now) {
            return Some(Activity::Waiting.label());
        }
        waits.then(|| Activity::Thinking.label())
    }

    /// Asks for what has changed.
    pub(super) fn show_status(&mut self, now: Timestamp, draft: &mut Draft) {
        if !self.around.shows_status {
            return;
        }
        let text = self.status(now);
        if text == self.showing.asked && !self.showing.distrusted {
            return;
        }
        self.showing.asked = text;
        self.showing.generation += 1;
        let distrust = std::mem::take(&mut self.showing.distrusted);
        // Remembered before it is shown, so that whoever comes after a crash knows.
        if text.is_some() && !self.record.status_shown {
            self.record.status_shown = true;
            draft.record = true;
        }
        draft.effects.push(Effect::Status { text, distrust, generation: self.showing.generation });
    }

    /// When it is to be said that the session waits for others; absent once that stands there.
    pub(super) fn waiting_untold(&self) -> Option<Timestamp> {
        let told = !self.around.shows_status || self.showing.asked == Some(Activity::Waiting.label());
        self.tell_waiting_at().filter(|_| !told)
    }

    /// Nothing stands beside the thread any more.
    pub(super) fn status_settled(&mut self, generation: u64, draft: &mut Draft) {
        if generation == self.showing.generation && self.showing.asked.is_none() && self.record.status_shown {
            self.record.status_shown = false;
            draft.record = true;
        }
    }

    /// Remembers the people of a message that came.
    pub(super) fn meet(&mut self, row: &InboxRow) {
        let Some(message) = &row.message else { return };
        for person in &row.people {
            let wrote = matches!(&message.author, Author::Person { id, .. } if *id == person.id);
            // Whom a bot names is nobody of the thread yet.
            if wrote || row.kind == InboxKind::Message {
                self.know(person);
            }
        }
    }

    /// Remembers who wrote the earlier messages.
    pub(super) fn meet_earlier(&mut self, messages: &[ContextMessage]) {
        for ContextMessage { message, people, .. } in messages {
            let Author::Person { id: author, .. } = &message.author else { continue };
            for person in people.iter().filter(|person| person.id == *author) {
                self.know(person);
            }
        }
    }

    fn know(&mut self, person: &Person) {
        // A mention of a bot may wake it, and the two would talk for ever.
        if matches!(person.standing, Standing::Bot | Standing::Deactivated) {
            return;
        }
        let people = &mut self.record.people;
        people.retain(|known| known.id != person.id);
        if people.len() == MAX_PEOPLE {
            people.remove(0);
        }
        people.push(Mentionable::of(person));
    }
}

//! A turn's place among the turns that may run at once.
//!
//! An agent has room for so many turns. A session asks for a place before it gives what would begin a turn, and gives it
//! back when the turn is over. What joins a turn that runs needs none.

use std::time::Duration;

use super::draft::Draft;
use super::{Effect, SessionMachine};
use crate::clock::Timestamp;
use crate::store::{InboxKind, InboxState};

/// People are told beside the thread that it waits for other threads after this time.
const TELL_WAITING: Duration = Duration::from_secs(3);

/// Whether the session may begin a turn. Not in the rows: places are those of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// It has not asked.
    None,
    /// It waits, since then.
    Asked(Timestamp),
    /// It may.
    Held,
}

impl SessionMachine {
    /// Whether what waits may be given now, as far as the number of turns is concerned. Asks for a place when it may not.
    pub(super) fn has_slot(&mut self, now: Timestamp, draft: &mut Draft) -> bool {
        if self.turn.is_some() || self.slot == Slot::Held {
            return true;
        }
        if self.slot == Slot::None && self.next_due().is_some_and(|due| due <= now) {
            self.slot = Slot::Asked(now);
            draft.effects.push(Effect::AskSlot);
        }
        false
    }

    /// Whether the session waits for a place, so that nothing of it is due.
    pub(super) fn awaits_slot(&self) -> bool {
        self.turn.is_none() && matches!(self.slot, Slot::Asked(_))
    }

    /// A place is free.
    pub(super) fn slot_granted(&mut self) {
        self.slot = Slot::Held;
    }

    /// Gives the place back unless a turn runs or may be about to begin. A process that is gone runs no turns; one that
    /// lives runs them on, even if the way to this thread is lost.
    pub(super) fn return_slot(&mut self, draft: &mut Draft) {
        let begins = self.inbox.iter().any(|row| row.state == InboxState::Given);
        let needed = self.given_in.is_some() && (self.turn.is_some() || begins);
        if self.slot == Slot::Held && !needed {
            self.slot = Slot::None;
            draft.effects.push(Effect::ReturnSlot);
        }
    }

    /// When people are to be told that the session waits for others. Not once what waited was taken back: the place that was
    /// asked for is given back when it comes.
    pub(super) fn tell_waiting_at(&self) -> Option<Timestamp> {
        let waits = self.inbox.iter().any(|row| row.kind != InboxKind::Context);
        match self.slot {
            Slot::Asked(since) if self.turn.is_none() && waits => Some(since.plus(TELL_WAITING)),
            _ => None,
        }
    }
}

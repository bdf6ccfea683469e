//! Messages that were put aside after too many failures, and how they are taken up again.

use super::delivery::FORGOTTEN_AFTER;
use super::draft::Draft;
use super::machine::{Barrier, Link};
use super::{MAX_ATTEMPTS, MAX_PARKED, SessionMachine};
use crate::clock::Timestamp;
use crate::store::{InboxKind, InboxRow, InboxState};

impl SessionMachine {
    /// Puts a message aside. Of more than [`MAX_PARKED`] the oldest are not taken up again by themselves.
    pub(super) fn put_aside(&mut self, row: InboxRow) {
        // What a `-stop` has covered is not taken up by itself either.
        if row.kind != InboxKind::Message || row.at < self.record.stopped_at {
            return;
        }
        let place = self.parked.partition_point(|known| (known.at, &known.id) < (row.at, &row.id));
        self.parked.insert(place, row);
        if self.parked.len() > MAX_PARKED {
            self.parked.remove(0);
        }
    }

    /// Somebody asks that everything be tried again now.
    pub(super) fn retry(&mut self, now: Timestamp, draft: &mut Draft) {
        self.take_up_parked(MAX_ATTEMPTS, now, draft);
        for row in self.inbox.iter_mut().filter(|row| row.state == InboxState::Queued && row.not_before > now) {
            row.not_before = now;
            draft.row(row);
        }
        if let Link::Closed { retry_at, .. } = &mut self.link {
            *retry_at = now.min(*retry_at);
        }
    }

    /// Takes up what was put aside, for so many more tries. What the agent may have is looked up before it is given again.
    pub(super) fn take_up_parked(&mut self, tries: u32, now: Timestamp, draft: &mut Draft) {
        for mut row in std::mem::take(&mut self.parked) {
            row.attempts = MAX_ATTEMPTS.saturating_sub(tries);
            row.turn = None;
            if row.given_to.is_some() && row.given_to == self.record.agent_thread {
                row.state = InboxState::Given;
                row.not_before = now.plus(FORGOTTEN_AFTER);
                self.asked.push(row.id.clone());
            } else {
                row.state = InboxState::Queued;
                row.not_before = now;
            }
            draft.row(&row);
            self.insert(row);
        }
    }

    /// Whether a row was taken up and is looked up before it is given, if it is.
    pub(super) fn is_asked(&self, row: &InboxRow) -> bool {
        let settling = self.settling.iter().flat_map(|settling| &settling.ids);
        self.asked.contains(&row.id)
            || settling.into_iter().any(|(id, barrier)| *id == row.id && *barrier == Barrier::Asked)
    }

    /// The conversation in which they would be looked up is given up: what was taken up waits for the next one.
    pub(super) fn wait_again(&mut self, now: Timestamp, draft: &mut Draft) {
        for index in 0..self.inbox.len() {
            if self.inbox[index].state == InboxState::Given && self.is_asked(&self.inbox[index]) {
                let row = &mut self.inbox[index];
                (row.state, row.not_before) = (InboxState::Queued, now);
                draft.row(row);
                let id = &row.id;
                self.asked.retain(|asked| asked != id);
            }
        }
    }

    /// Looks up what was taken up and may be with the agent.
    pub(super) fn settle_asked(&mut self, draft: &mut Draft) {
        if self.settling.is_some() || self.asked.is_empty() || !matches!(self.link, Link::Open { .. }) {
            return;
        }
        let mut ids = std::mem::take(&mut self.asked);
        ids.retain(|id| self.inbox.iter().any(|row| row.id == *id && row.state == InboxState::Given));
        self.settle(Barrier::Asked, ids, draft);
    }
}

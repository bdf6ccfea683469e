//! Which message is given to the agent when, and what becomes of one in doubt.

use std::time::Duration;

use super::draft::Draft;
use super::files::has_its_files;
use super::machine::{Barrier, Link, Settling, back_off};
use super::{Effect, MAX_ATTEMPTS, MAX_IN_DOUBT, SessionMachine};
use crate::agent::{AgentInput, Epoch, Fate, InputId, OpenError, Opened, ReadError, SubmitError, Submitted, TurnId};
use crate::clock::Timestamp;
use crate::prompt::{self, Composed};
use crate::sabotage::{Plant, planted};
use crate::store::{Backfill, InboxKind, InboxRow, InboxState, PostKind, TurnEnd};

/// The longest wait between two tries to open the agent's thread.
const OPEN_BACK_OFF: Duration = Duration::from_secs(60);
/// The thread is told that the agent cannot be reached after this many tries.
pub(super) const TELL_AFTER: u32 = 4;
/// An input that got no answer is looked up after this time, when no barrier has decided it before.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(5 * 60);
/// Inputs in doubt whose fate cannot be read this often are parked, and the thread is told.
const MAX_READS: u32 = 5;

impl SessionMachine {
    /// Whether the agent's thread has to be open: something is to be given, or something is in doubt.
    pub(super) fn wants_agent(&self) -> bool {
        self.turn.is_some()
            || self.inbox.iter().any(|row| row.kind != InboxKind::Context && row.backfill != Backfill::Wanted)
    }

    /// When the next row may be given that has to wait.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        if self.in_doubt() >= MAX_IN_DOUBT {
            return None;
        }
        let next = self.inbox.iter().find(|row| row.kind != InboxKind::Context && row.state == InboxState::Queued)?;
        let index = self.inbox.iter().position(|row| row.id == next.id)?;
        self.is_complete(index).then_some(next.not_before)
    }

    /// Whether what goes along with a row is there: earlier messages, files, those of its context included.
    fn is_complete(&self, index: usize) -> bool {
        self.inbox[index].backfill != Backfill::Wanted
            && has_its_files(&self.inbox[index])
            && self.context_of(index).all(|context| has_its_files(&self.inbox[context]))
    }

    /// Does what can be done now: opens the thread, gives what waits.
    pub(super) fn pump(&mut self, now: Timestamp, draft: &mut Draft) {
        self.settle_asked(draft);
        self.fetch_files(draft);
        match &self.link {
            Link::Closed { retry_at, failures } if *retry_at <= now && self.wants_agent() => {
                draft.effects.push(Effect::Open { known: self.record.agent_thread.clone() });
                self.link = Link::Opening { failures: *failures };
            }
            Link::Open { epoch, .. } if self.may_give() => {
                let epoch = *epoch;
                if self.has_slot(now, draft) {
                    self.give(epoch, now, draft);
                }
            }
            _ => {}
        }
    }

    /// Whether a row may be given now. While a turn is being stopped, whatever is given would be stopped with it.
    pub(super) fn may_give(&self) -> bool {
        self.settling.is_none()
            && self.interrupting.is_none()
            && self.stop_until.is_none()
            && self.knowledge.leaving.is_none()
    }

    /// Gives the rows that wait, smallest place first. A row that cannot be given yet holds up those behind it.
    fn give(&mut self, epoch: Epoch, now: Timestamp, draft: &mut Draft) {
        let Link::Open { thread, .. } = &self.link else { return };
        let thread = thread.clone();
        let mut in_doubt = self.in_doubt();
        for index in 0..self.inbox.len() {
            let row = &self.inbox[index];
            if row.kind == InboxKind::Context || row.state == InboxState::Given {
                continue;
            }
            if !self.is_complete(index) || row.not_before > now || in_doubt >= MAX_IN_DOUBT {
                return;
            }
            in_doubt += 1;
            let row = &mut self.inbox[index];
            row.state = InboxState::Given;
            row.given_to = Some(thread.clone());
            row.turn = None;
            // When it counts as forgotten, should nobody ever answer.
            row.not_before = now.plus(FORGOTTEN_AFTER);
            if row.kind == InboxKind::Message {
                row.late = row.at < self.newest_given;
                self.newest_given = self.newest_given.max(row.at);
            }
            draft.row(&self.inbox[index]);
            self.given_in = Some(epoch);
            for context in self.context_of(index).collect::<Vec<_>>() {
                // What comes in after this goes along with the next message.
                self.inbox[context].given_to = Some(thread.clone());
                draft.row(&self.inbox[context]);
            }
            let Composed { text, overflow, images } = self.compose(index);
            let input = AgentInput { id: self.inbox[index].id.clone(), text, images };
            self.unanswered.insert(input.id.clone());
            draft.effects.push(Effect::Submit { thread: thread.clone(), input, overflow });
        }
    }

    fn in_doubt(&self) -> usize {
        self.inbox.iter().filter(|row| row.state == InboxState::Given).count()
    }

    fn compose(&self, index: usize) -> Composed {
        let row = &self.inbox[index];
        if let Some(notice) = &row.notice {
            return Composed { text: notice.clone(), ..Composed::default() };
        }
        let context: Vec<InboxRow> = self.context_of(index).map(|index| self.inbox[index].clone()).collect();
        prompt::message(row, &context, &self.workspace())
    }

    /// The context rows that go along with a row: those since the open row before it.
    fn context_of(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let start = self.inbox[..index]
            .iter()
            .rposition(|row| row.kind == InboxKind::Message)
            .map_or(0, |previous| previous + 1);
        (start..index).filter(|index| self.inbox[*index].kind == InboxKind::Context)
    }

    /// An input stands in the agent's history.
    pub(super) fn recorded(&mut self, turn: &TurnId, input: &InputId, now: Timestamp, draft: &mut Draft) {
        self.adopt(turn, now, draft);
        if !self.record.agent_confirmed {
            self.record.agent_confirmed = true;
            draft.record = true;
        }
        let Some(index) = self.inbox.iter().position(|row| row.id == *input) else {
            return self.stop_taken_back(input, now, draft);
        };
        let row = self.delivered(index, turn, now, draft);
        self.count_input(row.kind, draft);
        if row.kind.is_from_person() {
            // What was said before is no answer to this.
            self.unsignal(draft);
        }
        self.record.last_activity = now;
    }

    /// Marks a row and the context that went along with it as delivered.
    fn delivered(&mut self, index: usize, turn: &TurnId, now: Timestamp, draft: &mut Draft) -> InboxRow {
        let went_along = |index: &usize| self.inbox[*index].given_to.is_some();
        let context: Vec<InputId> =
            self.context_of(index).filter(went_along).map(|index| self.inbox[index].id.clone()).collect();
        self.inbox[index].turn = Some(turn.clone());
        // It was taken back for the broker's sake (it became a command), and the agent has it after all.
        let deleted = self.inbox[index].message.as_ref().is_some_and(|message| message.deleted);
        self.inbox[index].withdrawn &= deleted;
        let row = self.close(index, InboxState::Delivered, draft);
        for id in context {
            if let Some(index) = self.inbox.iter().position(|row| row.id == id) {
                self.close(index, InboxState::Delivered, draft);
            }
        }
        let here = row.kind == InboxKind::Message && row.given_to == self.record.agent_thread;
        if let Some(message) = row.message.as_ref().filter(|_| deleted && here) {
            self.tell_deletion(message.clone(), row.people.clone(), now, draft);
        }
        row
    }

    /// The runtime answered to a submit.
    pub(super) fn submitted(
        &mut self,
        id: &InputId,
        result: Result<Submitted, SubmitError>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        self.unanswered.remove(id);
        // Replies and events come on different ways: while another turn is not known to have ended, the word that this one
        // began is still to come.
        if let Ok(Submitted { turn }) = &result
            && self.turn.is_none()
        {
            self.adopt(turn, now, draft);
        }
        // A row that is no longer here was cancelled or is already in the history.
        let Some(index) = self.inbox.iter().position(|row| row.id == *id && row.state == InboxState::Given) else {
            return;
        };
        if result.is_ok() {
            self.unavailable = 0;
        }
        match result {
            Ok(Submitted { turn }) => {
                self.inbox[index].turn = Some(turn.clone());
                draft.row(&self.inbox[index]);
                if self.ended.contains(&turn) {
                    self.settle_ended(&turn, draft);
                }
            }
            Err(error @ (SubmitError::NotOpen | SubmitError::Unavailable { .. })) => {
                self.not_taken(index, &error, now, draft);
                // What is being looked up stays so: the read is answered in any case, and asked again once the way is open.
                if matches!(self.link, Link::Open { .. }) {
                    self.link = Link::Closed { retry_at: now, failures: 0 };
                }
            }
            Err(SubmitError::Refused { reason }) => self.again(index, &reason, now, draft),
            Err(SubmitError::Unknown { .. }) => {
                self.inbox[index].attempts += 1;
                draft.row(&self.inbox[index]);
                if planted(Plant::ScanWithoutBarrier) {
                    self.settle(Barrier::TurnEnded, vec![id.clone()], draft);
                }
            }
        }
    }

    /// Inputs whose submit got no answer and which no turn has taken.
    pub(super) fn forgotten(&self) -> impl Iterator<Item = &InboxRow> {
        self.inbox.iter().filter(|row| row.state == InboxState::Given && row.turn.is_none() && row.attempts > 0)
    }

    /// Looks up inputs that no barrier will ever decide, because the runtime lives on and forgot them.
    pub(super) fn settle_forgotten(&mut self, now: Timestamp, draft: &mut Draft) {
        if self.settling.is_some() {
            return;
        }
        let ids = self.forgotten().filter(|row| row.not_before <= now).map(|row| row.id.clone()).collect();
        self.settle(Barrier::Missing, ids, draft);
    }

    /// The runtime takes nothing for now: the row waits again. That says nothing of the row, so it is no try of it.
    fn not_taken(&mut self, index: usize, error: &SubmitError, now: Timestamp, draft: &mut Draft) {
        if !self.unavailable_counted {
            self.unavailable_counted = true;
            self.unavailable = self.unavailable.saturating_add(1);
            if self.unavailable == TELL_AFTER {
                self.notify("runtime", &prompt::runtime_unavailable(&error.to_string()), now, draft);
            }
        }
        let wait = back_off(self.unavailable, OPEN_BACK_OFF);
        if self.inbox[index].attempts >= MAX_ATTEMPTS {
            // Else it would be parked for a fault that is not its own.
            self.inbox[index].attempts = MAX_ATTEMPTS - 1;
        }
        self.queue_or_park(index, "the agent runtime was not available", (now, wait), draft);
    }

    /// A row was surely not given: it waits again, or is parked after too many tries.
    fn again(&mut self, index: usize, reason: &str, now: Timestamp, draft: &mut Draft) {
        self.inbox[index].attempts += 1;
        let wait = back_off(self.inbox[index].attempts, OPEN_BACK_OFF);
        self.queue_or_park(index, reason, (now, wait), draft);
    }

    /// Whether nobody wants a row given again that was not taken: its message was deleted, or a `-stop` came after it.
    fn is_taken_back(&self, row: &InboxRow) -> bool {
        row.withdrawn || (row.kind == InboxKind::Message && row.at < self.record.stopped_at)
    }

    fn queue_or_park(&mut self, mut index: usize, reason: &str, (now, wait): (Timestamp, Duration), draft: &mut Draft) {
        if self.is_taken_back(&self.inbox[index]) {
            self.close(index, InboxState::Cancelled, draft);
            return;
        }
        // It is given as it is now: there is no change to tell.
        let message = self.inbox[index].message.as_ref().map(|message| message.id.clone());
        if let Some(message) = message.filter(|_| self.inbox[index].kind == InboxKind::Message) {
            let id = self.inbox[index].id.clone();
            self.drop_edits(&message, draft);
            let Some(moved) = self.inbox.iter().position(|row| row.id == id) else { return };
            index = moved;
        }
        let row = &mut self.inbox[index];
        let attempts = row.attempts;
        if attempts < MAX_ATTEMPTS {
            row.state = InboxState::Queued;
            row.turn = None;
            row.not_before = now.plus(wait);
            draft.row(&self.inbox[index]);
            return;
        }
        let row = self.close(index, InboxState::Parked, draft);
        // The person's own message is with the agent when one of ours is parked: it stays without an answer all the same.
        let notice = match row.kind {
            InboxKind::Continuation => Some(prompt::cut_again()),
            InboxKind::WakeUp => Some(prompt::silent_end()),
            kind => kind.is_from_person().then(|| prompt::parked(attempts, reason)),
        };
        if let Some(notice) = notice {
            self.post(PostKind::Notice, &notice, now, draft);
        }
        self.put_aside(row);
    }

    /// Reads the fate of what was given to a turn that has ended and did not show up in it.
    pub(super) fn settle_ended(&mut self, turn: &TurnId, draft: &mut Draft) {
        let ids: Vec<InputId> = self
            .inbox
            .iter()
            .filter(|row| row.state == InboxState::Given && row.turn.as_ref() == Some(turn))
            .map(|row| row.id.clone())
            .collect();
        self.settle(Barrier::TurnEnded, ids, draft);
    }

    pub(super) fn settle(&mut self, barrier: Barrier, ids: Vec<InputId>, draft: &mut Draft) {
        let Link::Open { thread, .. } = &self.link else { return };
        if ids.is_empty() {
            return;
        }
        match &mut self.settling {
            Some(settling) => {
                // A read is under way: these are read after it.
                for id in ids {
                    if !settling.ids.iter().any(|(known, _)| *known == id) {
                        settling.ids.push((id, barrier));
                    }
                }
            }
            None => {
                draft.effects.push(Effect::ReadFates { thread: thread.clone(), ids: ids.clone() });
                let ids = ids.into_iter().map(|id| (id, barrier)).collect();
                self.settling = Some(Settling { barrier, ids, failures: 0, retry_at: None });
            }
        }
    }

    /// The fates were read, or could not be.
    pub(super) fn fates(&mut self, result: Result<Vec<(InputId, Fate)>, ReadError>, now: Timestamp, draft: &mut Draft) {
        let Some(mut settling) = self.settling.take() else { return };
        let mut recorded = Vec::new();
        // A read that failed leaves every id undecided.
        for (id, fate) in result.unwrap_or_default() {
            if fate == Fate::Undecided {
                continue;
            }
            let Some(place) = settling.ids.iter().position(|(known, _)| *known == id) else { continue };
            let (_, barrier) = settling.ids.remove(place);
            if let Some(kind) = self.decide(&id, fate, barrier, now, draft) {
                recorded.push(kind);
            }
        }
        if settling.barrier == Barrier::Reopened && settling.ids.is_empty() {
            self.after_cut(&recorded, now, draft);
        }
        if settling.ids.is_empty() {
            return;
        }
        settling.failures += 1;
        if settling.failures >= MAX_READS {
            self.park_undecided(&settling, &recorded, now, draft);
        } else {
            settling.retry_at = Some(now.plus(back_off(settling.failures, Duration::from_secs(30))));
            self.settling = Some(settling);
        }
    }

    /// Decides one input in doubt. Returns its kind when it turned out to stand in the history.
    fn decide(
        &mut self,
        id: &InputId,
        fate: Fate,
        barrier: Barrier,
        now: Timestamp,
        draft: &mut Draft,
    ) -> Option<InboxKind> {
        let index = self.inbox.iter().position(|row| row.id == *id && row.state == InboxState::Given)?;
        if fate == Fate::Recorded {
            let turn = self.inbox[index].turn.clone().or_else(|| self.record.running_turn.clone());
            let turn = turn.unwrap_or_else(|| TurnId::new("unknown"));
            let row = self.delivered(index, &turn, now, draft);
            if barrier == Barrier::Reopened {
                self.count_input(row.kind, draft);
                if row.kind.is_from_person() {
                    // The word of it never came, so it was taken after whatever the turn is known to have said.
                    self.unsignal(draft);
                }
            }
            self.record.agent_confirmed = true;
            return Some(row.kind);
        }
        let row = &mut self.inbox[index];
        let reason = if barrier == Barrier::Missing {
            row.attempts = MAX_ATTEMPTS;
            "the agent runtime gave no answer, so it may have it or not"
        } else if barrier == Barrier::Asked {
            "it is not in the agent's history"
        } else {
            // One that was accepted and is not there counts too: else an input that ends each turn before it is taken would
            // be given for ever. One whose submit failed was counted then.
            row.attempts += u32::from(row.turn.is_some());
            "the agent runtime accepted it and did not take it"
        };
        // The first time is most likely a steer that came a moment too late: that is given at once.
        let wait = if row.attempts > 1 && barrier != Barrier::Asked {
            back_off(row.attempts, OPEN_BACK_OFF)
        } else {
            Duration::ZERO
        };
        self.queue_or_park(index, reason, (now, wait), draft);
        None
    }

    fn park_undecided(&mut self, settling: &Settling, recorded: &[InboxKind], now: Timestamp, draft: &mut Draft) {
        for (id, _) in &settling.ids {
            if let Some(index) = self.inbox.iter().position(|row| row.id == *id) {
                self.inbox[index].attempts = MAX_ATTEMPTS;
                let reason = "the agent's history could not be read, so it may have it or not";
                self.queue_or_park(index, reason, (now, Duration::ZERO), draft);
            }
        }
        if settling.barrier == Barrier::Reopened {
            self.after_cut(recorded, now, draft);
        }
    }

    /// Reads again after a read that failed.
    pub(super) fn retry_settling(&mut self, now: Timestamp, draft: &mut Draft) {
        let Link::Open { thread, .. } = &self.link else { return };
        if let Some(settling) = &mut self.settling
            && settling.retry_at.is_some_and(|at| at <= now)
        {
            settling.retry_at = None;
            let ids = settling.ids.iter().map(|(id, _)| id.clone()).collect();
            draft.effects.push(Effect::ReadFates { thread: thread.clone(), ids });
        }
    }

    /// The thread is open, or is not.
    pub(super) fn opened(&mut self, result: Result<Opened, OpenError>, now: Timestamp, draft: &mut Draft) {
        let Link::Opening { failures } = self.link else { return };
        match result {
            Ok(opened) => self.open_succeeded(opened, now, draft),
            Err(OpenError::Lost) => self.history_is_lost(now, draft),
            Err(OpenError::Unavailable { reason }) => {
                let failures = failures + 1;
                self.link = Link::Closed { retry_at: now.plus(back_off(failures, OPEN_BACK_OFF)), failures };
                if failures == TELL_AFTER {
                    self.notify("runtime", &prompt::runtime_unavailable(&reason), now, draft);
                }
            }
            Err(OpenError::Refused { reason }) => {
                let failures = failures + 1;
                self.link = Link::Closed { retry_at: now.plus(back_off(failures + 3, OPEN_BACK_OFF)), failures };
                self.notify("runtime", &prompt::runtime_unavailable(&reason), now, draft);
            }
        }
    }

    fn open_succeeded(&mut self, opened: Opened, now: Timestamp, draft: &mut Draft) {
        let known = self.record.agent_thread.as_ref() == Some(&opened.thread);
        // One that is being left was forgotten already.
        if !known && self.knowledge.leaving.is_none() {
            self.record.agent_thread = Some(opened.thread.clone());
            self.record.agent_confirmed = false;
            draft.record = true;
        }
        self.unavailable_counted = false;
        self.knowledge.model = opened.model;
        let new_process = self.given_in != Some(opened.epoch);
        self.link = Link::Open { thread: opened.thread, epoch: opened.epoch };
        self.progress_at = now;
        if !new_process {
            // Turns may have ended meanwhile, when their inputs could not be looked for.
            for turn in self.ended.clone() {
                self.settle_ended(&turn, draft);
            }
            self.interrupt_stopped(now, draft);
            return;
        }
        self.given_in = None;
        self.forget_process();
        // A process that has just begun runs nothing: this one has lived on.
        if let Some(running) = &opened.running {
            self.adopt(running, now, draft);
            self.expect_no_answer(draft);
            self.interrupt_stopped(now, draft);
            return;
        }
        // Whatever was given before is looked up now, this too.
        self.asked.clear();
        let in_doubt: Vec<InputId> =
            self.inbox.iter().filter(|row| row.state == InboxState::Given).map(|row| row.id.clone()).collect();
        if in_doubt.is_empty() {
            self.after_cut(&[], now, draft);
        } else {
            self.settle(Barrier::Reopened, in_doubt, draft);
        }
    }

    /// The process lives on, and the answers to what was given in it went to a machine that is no more: what no turn is
    /// known to have taken is looked up when it was not heard of for long.
    fn expect_no_answer(&mut self, draft: &mut Draft) {
        let unanswered =
            |row: &&mut InboxRow| row.state == InboxState::Given && row.turn.is_none() && row.attempts == 0;
        for row in self.inbox.iter_mut().filter(unanswered) {
            row.attempts = 1;
            draft.row(row);
        }
    }

    /// The runtime no longer has the thread.
    fn history_is_lost(&mut self, now: Timestamp, draft: &mut Draft) {
        let confirmed = self.record.agent_confirmed;
        self.record.agent_thread = None;
        self.record.agent_confirmed = false;
        draft.record = true;
        self.link = Link::Closed { retry_at: now, failures: 0 };
        self.given_in = None;
        let given = |row: &InboxRow| row.state == InboxState::Given;
        while let Some(index) = self.inbox.iter().position(|row| given(row) && self.is_taken_back(row)) {
            self.close(index, InboxState::Cancelled, draft);
        }
        for row in self.inbox.iter_mut().filter(|row| given(row)) {
            row.state = InboxState::Queued;
            row.turn = None;
            row.not_before = now;
            draft.row(row);
        }
        // Whoever has lost everything need not be told what became of some of it.
        let past =
            |row: &InboxRow| row.kind == InboxKind::Edit || row.message.as_ref().is_some_and(|message| message.deleted);
        while let Some(index) = self.inbox.iter().position(past) {
            self.close(index, InboxState::Cancelled, draft);
        }
        if let Some(turn) = self.turn.take() {
            self.end_turn(turn, TurnEnd::Cut, now, draft);
        }
        // A thread that is not known to hold anything has lost nothing: it is started anew without a word.
        if !confirmed {
            return;
        }
        self.post(PostKind::Notice, &prompt::history_lost(), now, draft);
        let own = self.has_given();
        let next = self.inbox.iter_mut().find(|row| row.kind == InboxKind::Message);
        if let Some(row) = next
            && self.around.initial_history > 0
        {
            row.backfill = Backfill::Wanted;
            draft.row(row);
            draft.effects.push(Effect::Backfill { row: row.id.clone(), before: row.at, own });
        }
    }

    /// The runtime's process is gone. What was given to it is decided when the thread is open again in a new one.
    pub(super) fn down(&mut self, epoch: Epoch, now: Timestamp) {
        self.given_in.take_if(|given_in| *given_in == epoch);
        if !matches!(&self.link, Link::Open { epoch: open, .. } if *open == epoch) {
            return;
        }
        self.link = Link::Closed { retry_at: now, failures: 0 };
        self.forget_process();
    }

    /// What was under way with a process that is gone is over.
    fn forget_process(&mut self) {
        self.drop_agent_calls();
        self.settling = None;
        self.interrupting = None;
        self.presumed_ended = None;
        self.stop_until = None;
    }
}

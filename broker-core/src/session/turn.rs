//! The life of a turn: how it begins, how it ends and what is said of that, what a `-stop` takes back.

use super::delivery::TELL_AFTER;
use super::draft::Draft;
use super::machine::{Barrier, Link, PendingCall, back_off};
use super::speech::answer;
use super::{END_LIMIT, Effect, INTERRUPT_BACK_OFF, STOP_WINDOW, SessionMachine};
use crate::agent::{InputId, InterruptError, TurnId, TurnOutcome};
use crate::chat::ChatTime;
use crate::clock::Timestamp;
use crate::prompt;
use crate::sabotage::{Plant, planted};
use crate::store::{InboxKind, InboxRow, InboxState, PostKind, TurnEnd, TurnRow};
use crate::thread_tools::ToolAnswer;

/// What of a conversation is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakeBack {
    /// Everything that was said: a `-stop`.
    All,
    /// What the agent has or is being given. What waits is not given to it, but to whoever comes after it: a `-new`.
    UnderWay,
}

/// What a `-stop` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// There was something, and it was taken back.
    All,
    /// There was nothing.
    Nothing,
    /// Only what people have asked for since.
    TooLate,
}

impl Stopped {
    /// What the thread is told.
    pub(super) const fn notice(self) -> &'static str {
        match self {
            Self::All => prompt::STOPPED,
            Self::Nothing => prompt::NOTHING_TO_STOP,
            Self::TooLate => prompt::STOP_CAME_LATE,
        }
    }
}

impl SessionMachine {
    /// A turn is known to run.
    pub(super) fn adopt(&mut self, turn: &TurnId, now: Timestamp, draft: &mut Draft) {
        let revived = self.turn.is_none() && self.presumed_ended.take_if(|presumed| presumed == turn).is_some();
        if revived {
            self.ended.retain(|ended| ended != turn);
        }
        if self.ended.contains(turn) || self.turn.as_ref().is_some_and(|known| known.id == *turn) {
            return;
        }
        // The runtime runs one turn at a time: an older one has ended without a word.
        if let Some(older) = self.turn.take() {
            let id = older.id.clone();
            self.end_turn(older, TurnEnd::Cut, now, draft);
            self.settle_ended(&id, draft);
        }
        let thread = match (&self.link, &self.record.agent_thread) {
            (Link::Open { thread, .. }, _) | (_, Some(thread)) => thread.clone(),
            _ => return,
        };
        let stopped = revived || self.stop_until.is_some_and(|until| until > now);
        let row = TurnRow {
            id: turn.clone(),
            session: self.key().clone(),
            thread,
            started_at: now,
            ended: None,
            inputs: 0,
            from_person: false,
            continuation: false,
            signal: None,
            stopped,
        };
        draft.turn(&row);
        self.turn = Some(row);
        self.presumed_ended = None;
        self.turn_posts.clear();
        self.idle_hands();
        self.record.running_turn = Some(turn.clone());
        self.progress_at = now;
        if stopped {
            self.interrupt(turn, false, now, draft);
        }
    }

    /// Counts an input of the running turn.
    pub(super) fn count_input(&mut self, kind: InboxKind, draft: &mut Draft) {
        if let Some(turn) = &mut self.turn {
            turn.inputs += 1;
            turn.from_person |= kind.is_from_person();
            turn.continuation |= kind == InboxKind::Continuation;
            draft.turn(turn);
        }
    }

    /// Writes down how a turn left off.
    pub(super) fn end_turn(&mut self, mut turn: TurnRow, end: TurnEnd, now: Timestamp, draft: &mut Draft) {
        turn.ended = Some((now, end));
        draft.turn(&turn);
        self.remember_ended(&turn.id);
        self.interrupting.take_if(|known| known.turn == turn.id);
        self.idle_hands();
        if self.record.running_turn.as_ref() == Some(&turn.id) {
            self.record.running_turn = None;
        }
        self.record.last_activity = now;
        self.drop_agent_calls();
    }

    /// A turn has ended.
    pub(super) fn turn_ended(&mut self, id: &TurnId, outcome: TurnOutcome, now: Timestamp, draft: &mut Draft) {
        if self.ended.contains(id) {
            self.presumed_ended.take_if(|presumed| presumed == id);
            return;
        }
        self.adopt(id, now, draft);
        let Some(turn) = self.turn.take() else { return };
        let idle = self.interrupting.as_ref().is_some_and(|known| known.turn == *id && known.idle);
        let end = match &outcome {
            TurnOutcome::Completed { .. } => TurnEnd::Completed,
            TurnOutcome::Interrupted => TurnEnd::Interrupted,
            TurnOutcome::Failed { .. } => TurnEnd::Failed,
        };
        self.end_turn(turn.clone(), end, now, draft);
        // Others wait as well: a session that has more to say asks again.
        self.return_slot(draft);
        self.settle_ended(id, draft);
        match outcome {
            TurnOutcome::Completed { final_text } => self.completed(&turn, final_text, now, draft),
            TurnOutcome::Failed { cause, message } => {
                self.notify(cause.as_str(), &prompt::failed(cause, &message), now, draft);
            }
            TurnOutcome::Interrupted if turn.stopped => {}
            TurnOutcome::Interrupted if idle => {
                let minutes = self.around.turn_idle.as_secs() / 60;
                self.notify("idle", &prompt::idle(minutes), now, draft);
            }
            TurnOutcome::Interrupted => self.notify("interrupted", &prompt::interrupted(), now, draft),
        }
    }

    fn completed(&mut self, turn: &TurnRow, final_text: Option<String>, now: Timestamp, draft: &mut Draft) {
        if turn.signal.is_some() || turn.stopped {
            return;
        }
        if let Some(text) = final_text
            && !text.trim().is_empty()
        {
            // Text that is nothing but comments renders to nothing, which is silence too.
            if self.post_for(PostKind::Final, &text, Some(turn.id.clone()), now, draft) {
                return;
            }
        }
        // A silent end. Whoever wrote in the meantime wakes the agent anyway, and a turn that took nothing owes nothing.
        let somebody_waits = self.inbox.iter().any(|row| row.kind.is_from_person());
        if somebody_waits || turn.inputs == 0 {
            return;
        }
        if turn.from_person || turn.continuation {
            self.notice_row(InboxKind::WakeUp, prompt::wake_up().to_owned(), now, draft);
        } else {
            self.notify("silent_end", &prompt::silent_end(), now, draft);
        }
    }

    /// The process that ran the turn is gone, and what it had taken is known: the agent goes on once, or the thread is
    /// told.
    pub(super) fn after_cut(&mut self, recorded: &[InboxKind], now: Timestamp, draft: &mut Draft) {
        let turn = self.turn.take();
        let had_input = !recorded.is_empty() || turn.as_ref().is_some_and(|turn| turn.inputs > 0);
        let closed = turn.as_ref().is_some_and(|turn| turn.signal.is_some() || turn.stopped);
        let continuation =
            recorded.contains(&InboxKind::Continuation) || turn.as_ref().is_some_and(|turn| turn.continuation);
        if let Some(turn) = turn {
            self.end_turn(turn, TurnEnd::Cut, now, draft);
        }
        self.record.running_turn = None;
        if !had_input || closed {
            return;
        }
        if continuation {
            self.post(PostKind::Notice, &prompt::cut_again(), now, draft);
            return;
        }
        let posts: Vec<String> =
            self.turn_posts.drain(..).filter(|post| post.arrived).map(|post| post.beginning).collect();
        self.notice_row(InboxKind::Continuation, prompt::continuation(&posts), now, draft);
    }

    /// The runtime answered to an interrupt. The end of the turn is its own event, or a deadline stands in for it.
    pub(super) fn interrupted(
        &mut self,
        turn: &TurnId,
        result: Result<(), InterruptError>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let Some(known) = self.interrupting.as_mut().filter(|known| known.turn == *turn && !known.unheard) else {
            return;
        };
        match result {
            // Mostly the process is about to be replaced, and the turn is cut then. But one may live on, and the agent would be
            // at work on what a person has stopped.
            Err(InterruptError::Unavailable { reason }) => {
                known.unheard = true;
                known.failures = known.failures.saturating_add(1);
                known.until = now.plus(back_off(known.failures, INTERRUPT_BACK_OFF));
                if known.failures == TELL_AFTER {
                    self.notify("interrupt", &prompt::not_interrupted(&reason), now, draft);
                }
            }
            // The word of its end is on its way, if it is not here already.
            Ok(()) | Err(InterruptError::NotRunning) => known.until = known.until.min(now.plus(END_LIMIT)),
        }
    }

    /// Interrupts a turn that gives no sign of life, and ends one that does not report its end.
    pub(super) fn watch_turn(&mut self, now: Timestamp, draft: &mut Draft) {
        match self.interrupting.take_if(|known| known.until <= now) {
            // Without a way to the agent it is told once there is one.
            Some(known) if known.unheard => {
                self.interrupt(&known.turn, known.idle, now, draft);
                if let Some(again) = &mut self.interrupting {
                    again.failures = known.failures;
                }
            }
            Some(late) => {
                self.interrupting = Some(late.clone());
                self.turn_ended(&late.turn, TurnOutcome::Interrupted, now, draft);
                self.interrupting = None;
                self.presumed_ended = Some(late.turn);
            }
            None => {}
        }
        let idle_at = self.progress_at.plus(self.around.turn_idle);
        if let Some(turn) = &self.turn
            && !self.agent_waits()
            && self.interrupting.is_none()
            && idle_at <= now
        {
            let id = turn.id.clone();
            self.interrupt(&id, true, now, draft);
        }
    }

    /// Whether a turn runs, or the agent is being given something that may begin one.
    pub(super) fn is_under_way(&self) -> bool {
        let given = |row: &InboxRow| row.state == InboxState::Given && !self.is_asked(row);
        self.turn.is_some() || self.inbox.iter().any(given)
    }

    /// Takes back what was said before `at` and not yet answered: all of it, or what is under way.
    ///
    /// A `-stop` that comes late finds the agent at work on what was written after it. What runs then is not meant by it, nor
    /// is what it has said: only what no turn is known to have from before is taken back.
    pub(super) fn take_back(&mut self, what: TakeBack, at: ChatTime, now: Timestamp, draft: &mut Draft) -> Stopped {
        let late = self.newest_given > at;
        let all = what == TakeBack::All;
        if all {
            self.record.stopped_at = self.record.stopped_at.max(at);
        }
        // What a turn that is over has said is not under way.
        let speech = all || self.is_under_way();
        self.record.last_activity = now;
        draft.record = true;
        draft.drop_queued_parts = speech && !late;
        if !all {
            self.wait_again(now, draft);
        }
        let mut starting = Vec::new();
        let mut any = self.turn.is_some() && !late;
        let mut index = 0;
        while index < self.inbox.len() {
            let row = &self.inbox[index];
            let waits = row.turn.is_none();
            let meant = match row.kind {
                InboxKind::Context => false,
                // What was written after the `-stop` is not meant by it, even if it came first.
                InboxKind::Message => row.at < at && (waits || !late) && (all || row.state == InboxState::Given),
                _ => !late,
            };
            let forgotten = planted(Plant::StopForgetsQueue) && row.state == InboxState::Queued;
            if !meant || forgotten {
                index += 1;
                continue;
            }
            any = true;
            if row.state == InboxState::Given {
                starting.push(row.id.clone());
            }
            self.close(index, InboxState::Cancelled, draft);
        }
        let (meant, kept): (Vec<_>, Vec<_>) = self.parked.drain(..).partition(|row| all && row.at < at);
        self.parked = kept;
        for row in meant {
            any = true;
            draft.row(&InboxRow { state: InboxState::Cancelled, ..row });
        }
        if let Some(settling) = &mut self.settling {
            settling.ids.retain(|(id, _)| self.inbox.iter().any(|row| row.id == *id && row.state == InboxState::Given));
        }
        let emptied = self.settling.take_if(|settling| settling.ids.is_empty());
        // Nothing is left to wait for before it is said how the turn left off that was cut.
        let is_cut = emptied.is_some_and(|settling| settling.barrier == Barrier::Reopened);
        if late {
            if is_cut {
                self.after_cut(&[], now, draft);
            }
            if !starting.is_empty() {
                self.remember_taken_back(&starting);
                draft.effects.push(Effect::DropSubmits { rows: starting });
            }
            return match (any, self.is_at_work()) {
                (true, _) => Stopped::All,
                (false, true) => Stopped::TooLate,
                (false, false) => Stopped::Nothing,
            };
        }
        if speech {
            self.refuse_calls(draft);
        }
        if !starting.is_empty() {
            self.remember_taken_back(&starting);
            draft.effects.push(Effect::DropSubmits { rows: starting });
            self.stop_until = Some(now.plus(STOP_WINDOW));
        }
        if let Some(turn) = &mut self.turn {
            turn.stopped = true;
            draft.turn(turn);
        }
        if is_cut {
            self.after_cut(&[], now, draft);
        } else {
            self.interrupt_stopped(now, draft);
        }
        if any { Stopped::All } else { Stopped::Nothing }
    }

    /// The turn has taken what a `-stop` took back while it was on its way, and has nothing else to do.
    pub(super) fn stop_taken_back(&mut self, input: &InputId, now: Timestamp, draft: &mut Draft) {
        let Some(place) = self.taken_back.iter().position(|id| id == input) else { return };
        self.taken_back.remove(place);
        let others = self.inbox.iter().any(|row| row.state == InboxState::Given);
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.inputs == 0 && !turn.stopped && !others) {
            turn.stopped = true;
            draft.turn(turn);
            self.interrupt_stopped(now, draft);
        }
    }

    /// A turn that was stopped while there was no way to it is interrupted once there is one.
    pub(super) fn interrupt_stopped(&mut self, now: Timestamp, draft: &mut Draft) {
        if let Some(turn) = self.turn.as_ref().filter(|turn| turn.stopped) {
            let id = turn.id.clone();
            self.interrupt(&id, false, now, draft);
        }
    }

    /// Answers those who wait for posts that were taken back. What was being sent already may arrive.
    fn refuse_calls(&mut self, draft: &mut Draft) {
        for PendingCall { caller, post, .. } in self.calls.drain(..) {
            answer(caller, ToolAnswer::refused("stopped", prompt::stopped_while_posting(&post)), draft);
        }
    }
}

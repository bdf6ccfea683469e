//! What people ask of the broker itself: `-stop`, `-help`, `-status`, `-new`, `-retry`.
//!
//! Each leaves a row, so that no recovery takes it for a message, and its answer is planned in the same step: it is done
//! once, whatever happens in between.

use super::draft::Draft;
use super::machine::Link;
use super::slot::Slot;
use super::speech::answer;
use super::turn::TakeBack;
use super::{Arrival, Caller, Effect, SessionMachine};
use crate::agent::{Activity, AgentAccount, AgentEvent, AgentThreadId, TokenUsage};
use crate::chat::{ChatMessage, ChatTime};
use crate::clock::Timestamp;
use crate::command::Command;
use crate::prompt::{self, Reach, Run, Standing};
use crate::store::{InboxKind, InboxRow, InboxState, KnownMessage, PostKind, TurnEnd};
use crate::thread_tools::ToolAnswer;

/// How the agent's runtime stands, as somebody just saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Why it does not answer, when it does not.
    pub ill: Option<String>,
    /// The account that it works with, when known.
    pub account: Option<AgentAccount>,
}

/// What is known of the agent for the sake of people who ask. Not in the rows: it is told again, or is not known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Knowledge {
    pub(super) seen: Seen,
    pub(super) model: Option<String>,
    usage: Option<TokenUsage>,
    /// A conversation that is given up, once nothing is under way in it. The rows have forgotten it already.
    pub(super) leaving: Option<AgentThreadId>,
    /// The one that was given up last: a turn may still begin in it.
    left: Option<AgentThreadId>,
}

impl SessionMachine {
    /// A person asks for something.
    pub(super) fn commanded(&mut self, arrival: Arrival, command: Command, now: Timestamp, draft: &mut Draft) {
        draft.read.extend(arrival.journal);
        let at = arrival.message.at;
        let id = self.input_id(draft);
        let row = InboxRow {
            state: InboxState::Delivered,
            message: Some(arrival.message),
            people: arrival.people,
            ..InboxRow::new(id, self.key().clone(), InboxKind::Command, at, now)
        };
        draft.row(&row);
        self.carry_out(command, at, now, draft);
    }

    /// A message became a command. One that was a command before has been carried out; but whoever makes a `-stop` of it
    /// means a stop.
    pub(super) fn edited_to_command(
        &mut self,
        command: Command,
        message: &ChatMessage,
        known: KnownMessage,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let was_command = known.kind == InboxKind::Command;
        match command {
            Command::Stop => {}
            _ if was_command => return,
            // It is nothing for the agent any more, in no conversation.
            Command::Help | Command::Status | Command::Retry | Command::New => {
                self.withdraw(message, Some(known), now, draft);
            }
        }
        // Up to everything that is known: the broker's clock says nothing of what comes next.
        let rows = self.inbox.iter().filter(|row| row.kind == InboxKind::Message).map(|row| row.at);
        let newest = rows.chain([message.at, self.newest_given]).max().unwrap_or_default();
        self.carry_out(command, newest.plus_one(), now, draft);
    }

    fn carry_out(&mut self, command: Command, at: ChatTime, now: Timestamp, draft: &mut Draft) {
        self.record.last_activity = now;
        draft.record = true;
        let said = match command {
            Command::Stop => self.take_back(TakeBack::All, at, now, draft).notice().to_owned(),
            Command::Help => prompt::help(),
            Command::Status => prompt::status(&self.standing(now)),
            Command::New => self.begin_anew(at, now, draft),
            Command::Retry => match self.retriable(now) {
                0 => prompt::NOTHING_TO_RETRY.to_owned(),
                messages => {
                    self.retry(now, draft);
                    prompt::retried(messages)
                }
            },
        };
        self.post(PostKind::Notice, &said, now, draft);
    }

    /// How many messages a retry would move.
    fn retriable(&self, now: Timestamp) -> usize {
        let failing = matches!(self.link, Link::Closed { failures: 1.., retry_at } if retry_at > now);
        let waits = |row: &&InboxRow| {
            row.kind.is_from_person() && (failing || (row.state == InboxState::Queued && row.not_before > now))
        };
        self.parked.len() + self.inbox.iter().filter(waits).count()
    }

    /// The runtime as somebody just saw it.
    pub(super) fn saw(&mut self, seen: Seen) {
        self.knowledge.seen = seen;
    }

    /// The runtime counted tokens.
    pub(super) fn counted(&mut self, usage: TokenUsage) {
        self.knowledge.usage = Some(usage);
    }

    fn standing(&self, now: Timestamp) -> Standing {
        let given = self.inbox.iter().any(|row| row.state == InboxState::Given);
        let run = match (&self.turn, self.slot) {
            (Some(turn), _) if turn.stopped => Run::Stopping,
            (Some(turn), _) => {
                Run::Turn(now.since(turn.started_at), self.activity().unwrap_or(Activity::Thinking).label())
            }
            (None, Slot::Asked(since)) if self.wants_agent() => Run::WaitsForOthers(now.since(since)),
            (None, _) if given => Run::Begins,
            (None, _) => Run::None,
        };
        let reach = match &self.link {
            Link::Open { .. } => Reach::Open,
            Link::Closed { failures: 0, .. } => Reach::AtRest,
            Link::Closed { failures, retry_at } => Reach::Failing(*failures, retry_at.since(now)),
            Link::Opening { .. } => Reach::Opening,
        };
        Standing {
            run,
            waiting: self.inbox.iter().filter(|row| row.kind.is_from_person()).count(),
            parked: self.parked.len(),
            files: self.fetching.len() + self.pins,
            reach,
            ill: self.knowledge.seen.ill.clone(),
            model: self.knowledge.model.clone(),
            usage: self.knowledge.usage.clone(),
            account: self.knowledge.seen.account.clone(),
            folder: self.record.folder.clone(),
        }
    }

    /// Gives the agent's conversation up: what runs is stopped, and whatever is given next begins another one.
    fn begin_anew(&mut self, at: ChatTime, now: Timestamp, draft: &mut Draft) -> String {
        let ran = self.is_under_way();
        if self.newest_given > at && ran {
            return prompt::NEW_CAME_LATE.to_owned();
        }
        self.take_back(TakeBack::UnderWay, at, now, draft);
        let stopped = if ran { format!("{} ", prompt::STOPPED) } else { String::new() };
        let Some(thread) = self.record.agent_thread.take() else {
            return format!("{stopped}{}", prompt::NOTHING_TO_RENEW);
        };
        self.record.agent_confirmed = false;
        self.knowledge.leaving = Some(thread);
        // What the broker had to say in that conversation has no sense in another one.
        let of_broker = |row: &InboxRow| !matches!(row.kind, InboxKind::Message | InboxKind::Context);
        while let Some(index) = self.inbox.iter().position(of_broker) {
            self.close(index, InboxState::Cancelled, draft);
        }
        self.want_history(draft);
        let waiting = self.inbox.iter().filter(|row| row.kind == InboxKind::Message).count() + self.parked.len();
        format!("{stopped}{}", prompt::begun_anew(waiting))
    }

    /// Leaves the conversation that was given up, once what ran in it has ended and what was on its way to it has arrived:
    /// until then its events mean something.
    pub(super) fn leave(&mut self, now: Timestamp, draft: &mut Draft) {
        if self.knowledge.leaving.is_none() {
            return;
        }
        match &self.link {
            Link::Opening { .. } => return,
            Link::Open { .. } => {
                let given = self.inbox.iter().any(|row| row.state == InboxState::Given);
                let stopping = self.interrupting.is_some() || self.stop_until.is_some();
                // What was taken back on its way there may begin a turn all the same.
                let on_its_way = given || !self.unanswered.is_empty();
                if self.turn.is_some() || stopping || self.settling.is_some() || on_its_way {
                    return;
                }
                self.link = Link::Closed { retry_at: now, failures: 0 };
            }
            Link::Closed { .. } => {}
        }
        let Some(thread) = self.knowledge.leaving.take() else { return };
        if let Some(turn) = self.turn.take() {
            self.end_turn(turn, TurnEnd::Cut, now, draft);
        }
        (self.given_in, self.settling, self.interrupting, self.stop_until) = (None, None, None, None);
        self.presumed_ended = None;
        self.asked.clear();
        self.turn_posts.clear();
        self.knowledge.usage = None;
        self.knowledge.left = Some(thread.clone());
        draft.effects.push(Effect::Leave { thread });
    }

    /// Whether an event is of another conversation than the session's. What still happens in one that was given up is ended.
    pub(super) fn is_foreign(&self, event: &AgentEvent, draft: &mut Draft) -> bool {
        let Some(thread) = event.thread() else { return false };
        let open = matches!(&self.link, Link::Open { thread: open, .. } if open == thread);
        let ours =
            [&self.record.agent_thread, &self.knowledge.leaving].into_iter().flatten().any(|known| known == thread);
        if open || ours {
            return false;
        }
        if let AgentEvent::ToolCall { request, .. } = event {
            let refused = ToolAnswer::refused("stopped", prompt::STOPPED_BY_PERSON);
            answer(Caller::Agent(request.clone()), refused, draft);
        }
        // As often as it shows that it runs: nobody waits for the end of it.
        if let AgentEvent::TurnStarted { turn, .. }
        | AgentEvent::InputRecorded { turn, .. }
        | AgentEvent::ToolCall { turn, .. } = event
            && self.knowledge.left.as_ref() == Some(thread)
        {
            draft.effects.push(Effect::Interrupt { thread: thread.clone(), turn: turn.clone() });
        }
        true
    }
}

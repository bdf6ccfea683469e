//! The state of a session, the dispatch of inputs, and deadlines.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::commands::Knowledge;
use super::delivery::FORGOTTEN_AFTER;
use super::draft::Draft;
use super::presence::Showing;
use super::slot::Slot;
use super::turn::TakeBack;
use super::{
    Arrival, Caller, Effect, INTERRUPT_LIMIT, MAX_CONTEXT, MAX_IN_DOUBT, PostOutcome, SessionInput, Step, Surroundings,
};
use crate::agent::{AgentEvent, AgentThreadId, Epoch, InputId, TurnId};
use crate::chat::{Author, ChatTime, PersonId, ThreadKey};
use crate::clock::Timestamp;
use crate::store::{
    Backfill, Fence, Fingerprint, InboxKind, InboxRow, InboxState, PartState, PostId, Revision, SessionCommit,
    SessionId, SessionRecord, SessionRows, TurnRow,
};

/// The link to the agent's thread.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Link {
    /// Not open. To be opened when there is something to give, not before `retry_at`.
    Closed { retry_at: Timestamp, failures: u32 },
    /// An open is under way.
    Opening { failures: u32 },
    /// Open in the process of this epoch.
    Open { thread: AgentThreadId, epoch: Epoch },
}

/// What made it possible to decide what became of inputs in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Barrier {
    /// The thread was resumed in a new process.
    Reopened,
    /// The turn that they were given to has ended.
    TurnEnded,
    /// None came in time: what is not in the history now may still come in, and is not given again.
    Missing,
    /// A person wants it given again, long after it was: whatever was on its way has arrived or never will.
    Asked,
}

/// Inputs in doubt whose fate is being read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settling {
    /// What opened this: once all is decided after [`Barrier::Reopened`], the turn that was cut is continued.
    pub(super) barrier: Barrier,
    /// The inputs, each with what makes its fate known.
    pub(super) ids: Vec<(InputId, Barrier)>,
    pub(super) failures: u32,
    /// Absent while a read is under way.
    pub(super) retry_at: Option<Timestamp>,
}

/// A tool call that waits for its post.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PendingCall {
    pub(super) caller: Caller,
    pub(super) post: PostId,
    pub(super) until: Timestamp,
}

/// A turn that was told to stop.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Interrupting {
    pub(super) turn: TurnId,
    /// When it counts as ended; when it is told again, if it did not hear.
    pub(super) until: Timestamp,
    /// The watchdog did it, not a person.
    pub(super) idle: bool,
    /// The runtime did not hear of it.
    pub(super) unheard: bool,
    /// How often it was tried in vain.
    pub(super) failures: u32,
}

/// A post of the running turn: what an agent is reminded of after a crash.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TurnPost {
    pub(super) post: PostId,
    pub(super) beginning: String,
    /// Whether it stands in the thread or is on its way there.
    pub(super) arrived: bool,
}

/// What a session is born with.
#[derive(Debug, Clone, PartialEq)]
pub struct Birth {
    /// Its id.
    pub id: SessionId,
    /// The name of its folder below the sessions root.
    pub folder: String,
    /// The conversation's name, when known.
    pub channel_name: Option<String>,
    /// What was written before this is stopped: nothing, or a `-stop` of the whole conversation that came before the session.
    pub stopped_at: ChatTime,
}

/// The state machine of one thread. See the [module](super).
#[derive(Debug, Clone)]
pub struct SessionMachine {
    pub(super) around: Arc<Surroundings>,
    pub(super) fence: Fence,
    pub(super) revision: Revision,
    pub(super) record: SessionRecord,
    /// Open rows, by (place, id).
    pub(super) inbox: Vec<InboxRow>,
    /// Messages that were put aside, by (place, id): at most [`MAX_PARKED`](super::MAX_PARKED).
    pub(super) parked: Vec<InboxRow>,
    pub(super) newest_given: ChatTime,
    pub(super) turn: Option<TurnRow>,
    // What follows is not in the rows: it is either rebuilt by `Recover` or dies with the runtime's process.
    pub(super) turn_posts: Vec<TurnPost>,
    pub(super) link: Link,
    /// The process that the inputs in doubt were given to; absent once it is gone, and for what an earlier broker gave.
    pub(super) given_in: Option<Epoch>,
    /// How many times in a row the runtime took nothing after the thread had been opened.
    pub(super) unavailable: u32,
    /// Whether this time is counted: all that is given at once fails together.
    pub(super) unavailable_counted: bool,
    pub(super) settling: Option<Settling>,
    /// Rows whose files are being fetched: some of the inbox.
    pub(super) fetching: Vec<InputId>,
    /// What was put aside, is taken up again, and has to be looked up before it is given: some of the inbox.
    pub(super) asked: Vec<InputId>,
    /// Turns that ended lately, so that a late word of them starts nothing. Bounded.
    pub(super) ended: VecDeque<TurnId>,
    /// Inputs that a `-stop` took back after they were handed over: a turn that begins with one is stopped too. Bounded.
    pub(super) taken_back: VecDeque<InputId>,
    /// Inputs whose submits are not answered yet, taken back or not. Bounded by what is given within the time of one call.
    pub(super) unanswered: BTreeSet<InputId>,
    pub(super) calls: Vec<PendingCall>,
    /// Named posts whose files are being copied, and who asked for them again meanwhile.
    pub(super) pinning: BTreeMap<PostId, (Fingerprint, Vec<Caller>)>,
    /// How many files are being copied.
    pub(super) pins: usize,
    /// How many parts are not yet sent, as far as it is known here. What is dropped makes it too high, what was sent before the
    /// machine was loaded too low, until it is counted.
    pub(super) open_parts: usize,
    /// While they are being counted: how many were planned since.
    pub(super) planned_since_count: Option<usize>,
    /// Posts that were refused lately: the store says so a moment after the session heard of it. Bounded.
    pub(super) refused: VecDeque<PostOutcome>,
    pub(super) interrupting: Option<Interrupting>,
    /// The turn that counted as ended without a word of its end, as long as none has begun after it.
    pub(super) presumed_ended: Option<TurnId>,
    pub(super) stop_until: Option<Timestamp>,
    pub(super) progress_at: Timestamp,
    pub(super) slot: Slot,
    pub(super) showing: Showing,
    pub(super) knowledge: Knowledge,
}

impl SessionMachine {
    /// The machine of a session that exists.
    pub fn load(around: Arc<Surroundings>, fence: Fence, mut rows: SessionRows, now: Timestamp) -> Option<Self> {
        let mut record = rows.record?;
        let stopped_at = record.stopped_at;
        // The clock may have been set back since the rows were written: nothing waits for a time that it has yet to reach.
        for row in &mut rows.inbox {
            let latest = if row.created_at > now { now } else { now.plus(FORGOTTEN_AFTER) };
            row.not_before = row.not_before.min(latest);
        }
        record.last_notice.take_if(|(_, at)| *at > now);
        let turn_posts = rows
            .turn_parts
            .iter()
            .filter(|part| part.number == 1)
            .map(|part| TurnPost {
                post: part.post.clone(),
                beginning: super::speech::beginning(&part.body),
                arrived: !matches!(part.state, PartState::Refused | PartState::Dropped),
            })
            .collect();
        Some(Self {
            turn: rows.turn,
            turn_posts,
            inbox: rows.inbox,
            // Older ones than those that were held here were parked when a `-stop` took these back: it meant all.
            parked: rows.parked.into_iter().filter(|row| row.at >= stopped_at).collect(),
            newest_given: rows.newest_given,
            open_parts: rows.open_parts,
            ..Self::bare(around, fence, rows.revision, record, now)
        })
    }

    /// The machine of a session that begins with this message. Nothing is stored before the message is handled.
    pub fn begin(around: Arc<Surroundings>, fence: Fence, birth: Birth, first: &Arrival, now: Timestamp) -> Self {
        let message = &first.message;
        let record = SessionRecord {
            key: message.thread(),
            id: birth.id,
            channel_name: birth.channel_name,
            conversation_kind: message.conversation_kind,
            started_by: match &message.author {
                Author::Person { id, .. } => id.clone(),
                other => PersonId::new(other.id()),
            },
            started_with: message.id.clone(),
            folder: birth.folder,
            agent_thread: None,
            agent_confirmed: false,
            running_turn: None,
            watermark: message.at,
            stopped_at: birth.stopped_at,
            last_notice: None,
            people: Vec::new(),
            status_shown: false,
            next_number: 1,
            token_generation: 1,
            created_at: now,
            last_activity: now,
        };
        Self::bare(around, fence, Revision::default(), record, now)
    }

    fn bare(
        around: Arc<Surroundings>,
        fence: Fence,
        revision: Revision,
        record: SessionRecord,
        now: Timestamp,
    ) -> Self {
        Self {
            around,
            fence,
            revision,
            record,
            inbox: Vec::new(),
            parked: Vec::new(),
            newest_given: ChatTime::ZERO,
            turn: None,
            turn_posts: Vec::new(),
            link: Link::Closed { retry_at: now, failures: 0 },
            given_in: None,
            unavailable: 0,
            unavailable_counted: false,
            settling: None,
            fetching: Vec::new(),
            asked: Vec::new(),
            ended: VecDeque::new(),
            taken_back: VecDeque::new(),
            unanswered: BTreeSet::new(),
            calls: Vec::new(),
            pinning: BTreeMap::new(),
            pins: 0,
            open_parts: 0,
            planned_since_count: None,
            refused: VecDeque::new(),
            interrupting: None,
            presumed_ended: None,
            stop_until: None,
            progress_at: now,
            slot: Slot::None,
            showing: Showing::default(),
            knowledge: Knowledge::default(),
        }
    }

    /// The session's record, as the last step left it.
    pub fn record(&self) -> &SessionRecord {
        &self.record
    }

    /// The session's workspace.
    pub fn workspace(&self) -> PathBuf {
        crate::workspace::path(&self.around.sessions_root, &self.record.folder)
    }

    /// What would be loaded if the process ended now: the machine rebuilt from it does the same.
    pub fn rows(&self) -> SessionRows {
        SessionRows {
            record: Some(self.record.clone()),
            revision: self.revision,
            inbox: self.inbox.clone(),
            parked: self.parked.clone(),
            newest_given: self.newest_given,
            turn: self.turn.clone(),
            turn_parts: Vec::new(),
            // How many there are changes beside the machine: it is told.
            open_parts: 0,
        }
    }

    /// Whether a turn runs.
    pub fn is_running(&self) -> bool {
        self.turn.is_some()
    }

    /// Whether a turn runs, or what may have begun one is with the runtime. Without a way to it nobody is at work: what was
    /// cut is decided when there is one again.
    pub fn is_at_work(&self) -> bool {
        matches!(self.link, Link::Open { .. })
            && (self.turn.is_some() || self.inbox.iter().any(|row| row.state == InboxState::Given))
    }

    /// Whether nothing is open: the machine may be put away until the next input.
    pub fn is_quiet(&self) -> bool {
        self.turn.is_none()
            && self.settling.is_none()
            && self.calls.is_empty()
            && self.pins == 0
            && self.inbox.iter().all(|row| row.kind == InboxKind::Context)
            && !matches!(self.link, Link::Opening { .. })
    }

    /// Takes one input. The step's commit has to be durable before its effects run and before the next input is handled.
    pub fn handle(&mut self, input: SessionInput, now: Timestamp) -> Step {
        let mut draft = Draft::default();
        self.dispatch(input, now, &mut draft);
        self.leave(now, &mut draft);
        self.pump(now, &mut draft);
        self.return_slot(&mut draft);
        self.show_status(now, &mut draft);
        self.finish(draft)
    }

    fn dispatch(&mut self, input: SessionInput, now: Timestamp, draft: &mut Draft) {
        match input {
            SessionInput::Message(arrival) => self.message(arrival, now, draft),
            SessionInput::Edited { arrival, known } => self.edited(arrival, known, now, draft),
            SessionInput::Deleted { arrival, known } => self.deleted(arrival, known, now, draft),
            SessionInput::Retry => self.retry(now, draft),
            SessionInput::Asked { call, command, post } => self.asked(call, command, post, now, draft),
            SessionInput::RevokeToken => {
                self.record.token_generation += 1;
                draft.record = true;
            }
            SessionInput::Command { arrival, command } => self.commanded(arrival, command, now, draft),
            SessionInput::Seen(seen) => self.saw(seen),
            // It comes again when another session could not be told of it.
            SessionInput::StopElsewhere { at } if at <= self.record.stopped_at => {}
            SessionInput::StopElsewhere { at } => {
                self.take_back(TakeBack::All, at, now, draft);
            }
            SessionInput::Recover => self.recover(now, draft),
            SessionInput::Opened(result) => self.opened(result, now, draft),
            SessionInput::Backfilled { row, result } => self.backfilled(&row, result, draft),
            SessionInput::Fetched { row, files } => self.fetched(&row, files, draft),
            SessionInput::Submitted { row, result } => self.submitted(&row, result, now, draft),
            SessionInput::Fates(result) => self.fates(result, now, draft),
            SessionInput::Interrupted { turn, result } => self.interrupted(&turn, result, now, draft),
            SessionInput::SlotGranted => self.slot_granted(),
            SessionInput::Agent(event) => self.agent(event, now, draft),
            SessionInput::Pinned { pin, result } => self.pinned(pin, result, now, draft),
            SessionInput::PartsCounted(count) => self.parts_counted(count),
            SessionInput::PostSettled(outcome) => self.post_settled(&outcome, now, draft),
            SessionInput::StatusSettled { generation } => self.status_settled(generation, draft),
            SessionInput::Tick => self.tick(now, draft),
        }
    }

    fn agent(&mut self, event: AgentEvent, now: Timestamp, draft: &mut Draft) {
        if self.is_foreign(&event, draft) {
            return;
        }
        self.progress_at = now;
        match event {
            AgentEvent::Down { epoch, .. } => self.down(epoch, now),
            AgentEvent::TurnStarted { turn, .. } => self.adopt(&turn, now, draft),
            AgentEvent::InputRecorded { turn, input, .. } => self.recorded(&turn, &input, now, draft),
            AgentEvent::Progress { .. } => {}
            AgentEvent::Usage { usage, .. } => self.counted(usage),
            AgentEvent::Doing { turn, activity, .. } => self.doing(&turn, activity),
            AgentEvent::ToolCall { turn, request, tool, arguments, .. } => {
                self.tool_call(&turn, request, &tool, &arguments, now, draft);
            }
            AgentEvent::TurnEnded { turn, outcome, .. } => self.turn_ended(&turn, outcome, now, draft),
        }
    }

    fn finish(&mut self, draft: Draft) -> Step {
        let mut commit = SessionCommit::empty(self.record.key.clone(), self.fence, self.revision);
        commit.inbox = draft.rows;
        commit.turns = draft.turns;
        commit.parts = draft.parts;
        commit.drop_queued_parts = draft.drop_queued_parts;
        commit.withdrawn = draft.withdrawn;
        let mut effects = draft.effects;
        if draft.drop_queued_parts && self.open_parts > 0 {
            self.count_parts(&mut effects);
        }
        commit.read = draft.read;
        if draft.record || !commit.is_empty() {
            commit.record = Some(self.record.clone());
            self.revision = Revision(self.revision.0 + 1);
        }
        Step { commit, effects }
    }

    /// A number that is unique within the session, for an id.
    pub(super) fn number(&mut self, draft: &mut Draft) -> u64 {
        let number = self.record.next_number;
        self.record.next_number += 1;
        draft.record = true;
        number
    }

    /// The id of a new row for the agent.
    pub(super) fn input_id(&mut self, draft: &mut Draft) -> InputId {
        let number = self.number(draft);
        InputId::new(format!("{}-i{number}", self.record.id))
    }

    fn message(&mut self, arrival: Arrival, now: Timestamp, draft: &mut Draft) {
        draft.read.extend(arrival.journal);
        let message = arrival.message;
        let first = self.revision == Revision::default();
        // A conversation that the agent has lost begins anew with what Slack knows of it.
        let anew = self.record.agent_thread.is_none() && !self.inbox.iter().any(|row| row.kind == InboxKind::Message);
        let kind = if arrival.instructs { InboxKind::Message } else { InboxKind::Context };
        // A `-stop` that was written later has already covered it.
        let stopped = message.at < self.record.stopped_at;
        let wants_history =
            arrival.instructs && (first || anew) && message.thread_root.is_some() && self.around.initial_history > 0;
        let (id, at, own) = (self.input_id(draft), message.at, self.has_given());
        let row = InboxRow {
            state: if stopped { InboxState::Cancelled } else { InboxState::Queued },
            people: arrival.people,
            backfill: if wants_history { Backfill::Wanted } else { Backfill::None },
            message: Some(message),
            ..InboxRow::new(id.clone(), self.record.key.clone(), kind, at, now)
        };
        self.record.last_activity = now;
        self.meet(&row);
        draft.row(&row);
        if stopped {
            return;
        }
        if kind == InboxKind::Message {
            // Perhaps what stood in the way is gone.
            self.take_up_parked(1, now, draft);
        }
        if wants_history {
            draft.effects.push(Effect::Backfill { row: id, before: row.at, own });
        }
        self.insert(row);
        if kind == InboxKind::Context {
            self.trim_context(draft);
            self.show_once(draft);
        }
    }

    /// Whether the agent was given something before.
    pub(super) fn has_given(&self) -> bool {
        self.newest_given > ChatTime::ZERO
    }

    /// Puts an open row into its place.
    pub(super) fn insert(&mut self, row: InboxRow) {
        let place = self.inbox.partition_point(|known| (known.at, &known.id) < (row.at, &row.id));
        self.inbox.insert(place, row);
    }

    fn trim_context(&mut self, draft: &mut Draft) {
        let waiting = self.inbox.iter().filter(|row| row.kind == InboxKind::Context).count();
        if waiting > MAX_CONTEXT
            && let Some(index) = self.inbox.iter().position(|row| row.kind == InboxKind::Context)
        {
            self.close(index, InboxState::Cancelled, draft);
        }
    }

    /// Moves a row to a state in which it wants nothing more.
    pub(super) fn close(&mut self, index: usize, state: InboxState, draft: &mut Draft) -> InboxRow {
        let mut row = self.inbox.remove(index);
        row.state = state;
        draft.row(&row);
        row
    }

    /// A row of the broker's own for the agent.
    pub(super) fn notice_row(&mut self, kind: InboxKind, text: String, now: Timestamp, draft: &mut Draft) {
        let at = match kind {
            // What was cut comes before anything that was said since.
            InboxKind::Continuation => ChatTime::ZERO,
            _ => ChatTime::of(now),
        };
        let id = self.input_id(draft);
        let row = InboxRow { notice: Some(text), ..InboxRow::new(id, self.record.key.clone(), kind, at, now) };
        draft.row(&row);
        self.insert(row);
    }

    fn recover(&mut self, now: Timestamp, draft: &mut Draft) {
        let own = self.has_given();
        self.progress_at = now;
        self.showing.distrusted = self.record.status_shown;
        for row in &self.inbox {
            if row.backfill == Backfill::Wanted {
                draft.effects.push(Effect::Backfill { row: row.id.clone(), before: row.at, own });
            }
        }
    }

    fn tick(&mut self, now: Timestamp, draft: &mut Draft) {
        self.answer_late_calls(now, draft);
        self.watch_turn(now, draft);
        self.retry_settling(now, draft);
        self.settle_forgotten(now, draft);
        if self.stop_until.is_some_and(|until| until <= now) {
            self.stop_until = None;
        }
    }

    /// When [`SessionInput::Tick`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        let link = match &self.link {
            Link::Closed { retry_at, .. } if self.wants_agent() => Some(*retry_at),
            _ => None,
        };
        let row = match &self.link {
            Link::Open { .. } if self.may_give() && !self.awaits_slot() => self.next_due(),
            _ => None,
        };
        let open = matches!(self.link, Link::Open { .. });
        let idle = (open && self.turn.is_some() && !self.agent_waits() && self.interrupting.is_none())
            .then(|| self.progress_at.plus(self.around.turn_idle));
        let forgotten = match self.settling {
            None if open => self.forgotten().map(|row| row.not_before).min(),
            _ => None,
        };
        let settling = self.settling.as_ref().and_then(|settling| settling.retry_at).filter(|_| open);
        let interrupting = self.interrupting.as_ref().map(|interrupting| interrupting.until);
        let call = self.calls.iter().map(|call| call.until).min();
        let waiting = self.waiting_untold();
        let all = [link, row, idle, forgotten, settling, interrupting, call, waiting, self.stop_until];
        all.into_iter().flatten().min()
    }

    /// Whether a call of the agent's own waits for its answer.
    pub(super) fn agent_waits(&self) -> bool {
        self.calls.iter().any(|call| matches!(call.caller, Caller::Agent(_)))
    }

    /// Forgets the agent's calls: the turn or the process that made them is gone.
    pub(super) fn drop_agent_calls(&mut self) {
        self.calls.retain(|call| matches!(call.caller, Caller::Beside(_)));
    }

    /// Remembers a turn that is over; only the latest few, since a word of an older one cannot come any more.
    pub(super) fn remember_ended(&mut self, turn: &TurnId) {
        if self.ended.len() == 8 {
            self.ended.pop_front();
        }
        self.ended.push_back(turn.clone());
    }

    /// Remembers what was taken back after it was handed over.
    pub(super) fn remember_taken_back(&mut self, ids: &[InputId]) {
        self.taken_back.extend(ids.iter().cloned());
        let beyond = self.taken_back.len().saturating_sub(MAX_IN_DOUBT);
        self.taken_back.drain(..beyond);
    }

    /// Begins to interrupt a turn.
    pub(super) fn interrupt(&mut self, turn: &TurnId, idle: bool, now: Timestamp, draft: &mut Draft) {
        if self.interrupting.as_ref().is_some_and(|known| known.turn == *turn && !known.unheard) {
            return;
        }
        if let Link::Open { thread, .. } = &self.link {
            draft.effects.push(Effect::Interrupt { thread: thread.clone(), turn: turn.clone() });
            let until = now.plus(INTERRUPT_LIMIT);
            self.interrupting = Some(Interrupting { turn: turn.clone(), until, idle, unheard: false, failures: 0 });
        }
    }

    /// The key of the thread.
    pub(super) fn key(&self) -> &ThreadKey {
        &self.record.key
    }
}

/// The wait before the n-th further try: 0.5 s doubling, at most `most`.
pub(super) fn back_off(failures: u32, most: Duration) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most)
}

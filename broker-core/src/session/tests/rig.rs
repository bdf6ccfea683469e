//! A session's machine with a clock and a store of its own: after every step it is rebuilt from what was committed and
//! compared.

use super::*;

/// A machine, a clock, and what was committed.
pub(super) struct Rig {
    pub(super) machine: SessionMachine,
    pub(super) around: Arc<Surroundings>,
    pub(super) now: Timestamp,
    pub(super) record: Option<crate::store::SessionRecord>,
    pub(super) revision: Revision,
    pub(super) inbox: BTreeMap<InputId, InboxRow>,
    pub(super) turns: BTreeMap<TurnId, TurnRow>,
    pub(super) parts: Vec<PartRow>,
    pub(super) effects: Vec<Effect>,
    /// What shall stand beside the thread; the last word with its number.
    pub(super) statuses: Vec<Option<&'static str>>,
    pub(super) asked: u64,
    pub(super) slots_free: bool,
}

pub(super) fn arrival(second: u64, text: &str, root: Option<&str>) -> Arrival {
    let at = ChatTime::from_micros(second * 1_000_000);
    let message = ChatMessage {
        conversation: ConversationKey {
            installation: InstallationId::new("T"),
            conversation: ConversationId::new("C"),
        },
        conversation_kind: ConversationKind::Channel,
        id: MessageId::new(second.to_string()),
        at,
        thread_root: root.map(MessageId::new),
        author: Author::Person { id: PersonId::new("U1"), team: None },
        text: text.to_owned(),
        mentions: Vec::new(),
        channels: Vec::new(),
        mentions_self: root.is_none(),
        control_text: text.to_owned(),
        files: Vec::new(),
        attached: Vec::new(),
        attachments_left_out: 0,
        edited: false,
        deleted: false,
        permalink: None,
        externally_shared: false,
    };
    Arrival { journal: None, message, people: Vec::new(), instructs: true }
}

pub(super) fn around() -> Arc<Surroundings> {
    let render = |text: &AgentText| {
        // Here a bar divides the parts of a post.
        let parts = text.markdown().split('|').filter(|part| !part.trim().is_empty());
        parts.map(|part| PartBody::Text { markup: part.to_owned() }).collect()
    };
    Arc::new(Surroundings {
        render: Arc::new(render),
        sessions_root: PathBuf::from("/data/sessions"),
        turn_idle: Duration::from_secs(900),
        initial_history: 8,
        history_limit: 50,
        deliver_edits: true,
        sends_files: Arc::new(|| false),
        shows_status: true,
    })
}

impl Rig {
    /// A session that was just begun by a mention at second 100; its thread is not open yet.
    pub(super) fn begun() -> Self {
        let now = Timestamp::from_millis(1_000_000);
        let around = around();
        let birth =
            Birth { id: SessionId::new("s"), folder: "f".to_owned(), channel_name: None, stopped_at: ChatTime::ZERO };
        let first = arrival(100, "hello", None);
        let machine = SessionMachine::begin(Arc::clone(&around), Fence(1), birth, &first, now);
        let mut rig = Self {
            machine,
            around,
            now,
            record: None,
            revision: Revision(0),
            inbox: BTreeMap::new(),
            turns: BTreeMap::new(),
            parts: Vec::new(),
            effects: Vec::new(),
            statuses: Vec::new(),
            asked: 0,
            slots_free: true,
        };
        rig.step(SessionInput::Message(first));
        rig
    }

    /// The same with its thread open and the first message given and recorded in a turn `t1`.
    pub(super) fn running() -> Self {
        let mut rig = Self::begun();
        rig.open(1);
        rig.accept("s-i1", "t1");
        rig.record("s-i1", "t1");
        rig
    }

    pub(super) fn step(&mut self, input: SessionInput) -> Vec<Effect> {
        let Step { commit, effects } = self.machine.handle(input, self.now);
        if !commit.is_empty() {
            assert_eq!(commit.expected, self.revision, "each step builds on the one before");
            self.revision = Revision(self.revision.0 + 1);
            if commit.drop_queued_parts {
                for part in self.parts.iter_mut().filter(|part| part.state == PartState::Queued) {
                    part.state = PartState::Dropped;
                }
            }
            self.record = commit.record.or(self.record.take());
            self.inbox.extend(commit.inbox.into_iter().map(|row| (row.id.clone(), row)));
            let is_own = |row: &&mut InboxRow| row.kind != InboxKind::Edit;
            for row in self.inbox.values_mut().filter(is_own) {
                row.withdrawn |= row.message.as_ref().is_some_and(|message| commit.withdrawn.contains(&message.id));
            }
            self.turns.extend(commit.turns.into_iter().map(|row| (row.id.clone(), row)));
            self.parts.extend(commit.parts);
        }
        self.compare();
        self.cannot_spin();
        let mut effects = self.look_at_status(effects);
        self.effects.extend(effects.clone());
        let asks = effects.contains(&Effect::AskSlot);
        // How many turns run at once has tests of its own too.
        effects.retain(|effect| !matches!(effect, Effect::AskSlot | Effect::ReturnSlot));
        if asks && self.slots_free {
            effects.extend(self.step(SessionInput::SlotGranted));
        }
        effects
    }

    /// What stands beside the thread has tests of its own: the others look at the rest.
    pub(super) fn look_at_status(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let is_status = |effect: &Effect| matches!(effect, Effect::Status { .. });
        let (statuses, rest): (Vec<_>, Vec<_>) = effects.into_iter().partition(is_status);
        for status in statuses {
            let Effect::Status { text, generation, .. } = status else { continue };
            self.statuses.push(text);
            self.asked = generation;
            let remembered = self.record.as_ref().is_some_and(|record| record.status_shown);
            assert!(text.is_none() || remembered, "what is shown has to be known after a crash");
        }
        rest
    }

    /// A deadline that has come is one at which something happens: else the task around the machine would spin.
    pub(super) fn cannot_spin(&self) {
        let Some(deadline) = self.machine.deadline().filter(|deadline| *deadline <= self.now) else { return };
        let mut copy = self.machine.clone();
        let Step { commit, effects } = copy.handle(SessionInput::Tick, self.now);
        let still = copy.deadline().is_some_and(|deadline| deadline <= self.now);
        assert!(!commit.is_empty() || !effects.is_empty() || !still, "nothing happens at {deadline:?}");
    }

    pub(super) fn rows(&self) -> SessionRows {
        let mut inbox: Vec<_> = self.inbox.values().filter(|row| row.state.is_open()).cloned().collect();
        inbox.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        let mut parked: Vec<_> = self.inbox.values().filter(|row| row.state == InboxState::Parked).cloned().collect();
        parked.retain(|row| row.kind == InboxKind::Message);
        parked.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        let given = self.inbox.values().filter(|row| row.kind == InboxKind::Message && row.given_to.is_some());
        let turn = self.record.as_ref().and_then(|record| record.running_turn.as_ref());
        SessionRows {
            record: self.record.clone(),
            revision: self.revision,
            inbox,
            parked,
            newest_given: given.map(|row| row.at).max().unwrap_or_default(),
            turn: turn.and_then(|id| self.turns.get(id).cloned()),
            turn_parts: Vec::new(),
            open_parts: 0,
        }
    }

    pub(super) fn compare(&self) {
        let rebuilt = SessionMachine::load(Arc::clone(&self.around), Fence(1), self.rows(), self.now).unwrap();
        assert_eq!(rebuilt.rows(), self.machine.rows(), "the machine rebuilt from its rows is the machine");
    }

    /// The broker crashes and starts anew: the machine is rebuilt from its rows, in another epoch.
    pub(super) fn crash(&mut self) -> Vec<Effect> {
        let mut rows = self.rows();
        let turn = rows.turn.as_ref().map(|turn| turn.id.clone());
        rows.turn_parts = self.parts.iter().filter(|part| part.turn.is_some() && part.turn == turn).cloned().collect();
        self.machine = SessionMachine::load(Arc::clone(&self.around), Fence(1), rows, self.now).unwrap();
        self.step(SessionInput::Recover)
    }

    pub(super) fn open(&mut self, epoch: u64) -> Vec<Effect> {
        let opened = Opened { thread: AgentThreadId::new("th"), epoch: Epoch(epoch), running: None, model: None };
        self.step(SessionInput::Opened(Ok(opened)))
    }

    pub(super) fn accept(&mut self, row: &str, turn: &str) -> Vec<Effect> {
        let result = Ok(Submitted { turn: TurnId::new(turn) });
        self.step(SessionInput::Submitted { row: InputId::new(row), result })
    }

    pub(super) fn record(&mut self, row: &str, turn: &str) {
        let event = AgentEvent::InputRecorded {
            thread: AgentThreadId::new("th"),
            turn: TurnId::new(turn),
            input: InputId::new(row),
        };
        self.step(SessionInput::Agent(event));
    }

    pub(super) fn end(&mut self, turn: &str, outcome: TurnOutcome) -> Vec<Effect> {
        let (thread, turn) = (AgentThreadId::new("th"), TurnId::new(turn));
        self.step(SessionInput::Agent(AgentEvent::TurnEnded { thread, turn, outcome }))
    }

    pub(super) fn finish(&mut self, turn: &str, text: Option<&str>) -> Vec<Effect> {
        self.end(turn, TurnOutcome::Completed { final_text: text.map(str::to_owned) })
    }

    pub(super) fn say(&mut self, second: u64, text: &str) -> Vec<Effect> {
        self.step(SessionInput::Message(arrival(second, text, Some("100"))))
    }

    pub(super) fn stop(&mut self, second: u64) -> Vec<Effect> {
        self.step(SessionInput::Command { arrival: arrival(second, "-stop", Some("100")), command: Command::Stop })
    }

    pub(super) fn tool(&mut self, id: &str, tool: &str, arguments: serde_json::Value) -> Vec<Effect> {
        self.step(SessionInput::Agent(AgentEvent::ToolCall {
            thread: AgentThreadId::new("th"),
            turn: TurnId::new("t1"),
            request: RequestId { epoch: Epoch(1), id: id.to_owned() },
            tool: tool.to_owned(),
            arguments,
        }))
    }

    pub(super) fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now = self.now.plus(time);
        self.step(SessionInput::Tick)
    }

    pub(super) fn state(&self, row: &str) -> InboxState {
        self.inbox[&InputId::new(row)].state
    }

    pub(super) fn posted(&self) -> Vec<(PostKind, String)> {
        let text = |part: &PartRow| match &part.body {
            PartBody::Text { markup } => markup.clone(),
            PartBody::File { file } => format!("(file {}) {}", file.name, file.comment),
        };
        self.parts.iter().filter(|part| part.state != PartState::Dropped).map(|part| (part.kind, text(part))).collect()
    }
}

/// The names of the inputs that effects give to the agent.
pub(super) fn given(effects: &[Effect]) -> Vec<String> {
    let names = effects.iter().filter_map(|effect| match effect {
        Effect::Submit { input, .. } => Some(input.id.to_string()),
        _ => None,
    });
    names.collect()
}

pub(super) fn answers(effects: &[Effect]) -> Vec<(bool, String)> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::Answer { answer: AgentAnswer::Tool { success, text }, .. } => Some((*success, text.clone())),
        _ => None,
    });
    all.collect()
}

pub(super) fn fates(list: &[(&str, Fate)]) -> SessionInput {
    SessionInput::Fates(Ok(list.iter().map(|(id, fate)| (InputId::new(*id), *fate)).collect()))
}

pub(super) fn has_interrupt(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Interrupt { .. }))
}

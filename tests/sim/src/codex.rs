//! An agent runtime by the measured rules of Codex.
//!
//! What is given to a running turn is in no list before the turn takes it, and gone when the turn is interrupted before. It
//! is durable when its item is completed, and not earlier. A turn that is begun while one runs joins it. A thread is not
//! durable before its first item. One process writes a thread, also one that its broker has left and that is about to end.
//! A process that hangs is replaced, and what was written to it may still come in until then.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use broker_core::agent::{
    AgentAnswer, AgentCapabilities, AgentEvent, AgentInput, AgentRuntime, AgentThreadId, AnswerError, Epoch,
    FailureCause, Fate, InputId, InterruptError, OpenError, Opened, ReadError, ReleaseError, RequestId, RuntimeHealth,
    SubmitError, Submitted, ThreadSpec, TurnId, TurnOutcome,
};
use broker_core::chat::ThreadKey;
use broker_core::health::PartHealth;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use crate::facts::Given;
use crate::scenario::{Call, Fault, Script};
use crate::world::{Event, State, World};

/// The time limit of a request.
const LIMIT: u64 = 30_000;
/// A process that hangs is replaced after this time.
const REPLACED: u64 = 45_000;
/// How long a resume waits for the writer of an older process.
const WRITER_PATIENCE: u64 = 5_000;
/// How long an open waits for a process that is being started.
const START_PATIENCE: u64 = 20_000;

/// A message in the agent's history.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The input.
    pub input: AgentInput,
    /// When, in milliseconds.
    pub at: u64,
    /// The turn that took it.
    pub turn: TurnId,
}

/// A thread of the agent.
#[derive(Debug, Clone)]
pub struct Thread {
    /// The session that it was started for.
    pub session: ThreadKey,
    /// What stands in its history.
    pub history: Vec<Recorded>,
    /// Whether it can be resumed no more.
    pub lost: bool,
    process: Option<u64>,
    loaded: bool,
    pending: Vec<AgentInput>,
    running: Option<TurnId>,
}

/// What a turn does next.
#[derive(Debug, Clone)]
enum Act {
    Begin,
    Take,
    Work(u64),
    Tool(&'static str, String),
    End(TurnOutcome),
    Hang,
}

/// A turn of the agent.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Its thread.
    pub thread: AgentThreadId,
    /// How it ended and when; absent while it runs, or when its process died.
    pub ended: Option<(u64, TurnOutcome)>,
    process: u64,
    acts: Vec<Act>,
    begun: bool,
    question: Option<RequestId>,
    over: bool,
}

#[derive(Debug)]
struct Process {
    life: u32,
    epoch: Epoch,
    alive: bool,
    hangs_until: u64,
}

/// Something that happens in the agent's process by itself.
#[derive(Debug, Clone)]
pub enum CodexEvent {
    /// A process answers.
    Up(u32),
    /// A process ends.
    Gone(u64, &'static str),
    /// An input that was written to a process arrives.
    Arrive(u64, u32, AgentThreadId, AgentInput),
    /// The process answers to it.
    Reply(u64, u32, Result<Submitted, SubmitError>),
    /// A turn goes on.
    Go(TurnId),
    /// The process tells of something.
    Tell(u64, Box<AgentEvent>),
}

/// The agent.
#[derive(Debug, Default)]
pub struct Codex {
    /// What the agent does in a turn, by its number.
    pub scripts: BTreeMap<u32, Script>,
    /// Every thread.
    pub threads: BTreeMap<AgentThreadId, Thread>,
    /// Every turn.
    pub turns: BTreeMap<TurnId, Turn>,
    processes: BTreeMap<u64, Process>,
    current: Option<u64>,
    epochs: u64,
    waiting: BTreeMap<u32, (u64, oneshot::Sender<Result<Submitted, SubmitError>>)>,
    events: Option<mpsc::Sender<AgentEvent>>,
    told_until: u64,
    read_until: BTreeMap<u64, u64>,
    count: u64,
    numbers: u32,
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a turn of {}", self.thread)
    }
}

fn completed(text: &str) -> Act {
    Act::End(TurnOutcome::Completed { final_text: Some(text.to_owned()) })
}

impl State {
    /// A broker begins: it starts a process of its own.
    fn boot_codex(&mut self, events: mpsc::Sender<AgentEvent>) {
        self.codex.events = Some(events);
        self.codex.epochs = 0;
        self.codex.told_until = 0;
        let wait = 50 + self.draw("boot", u64::from(self.life), 800);
        self.after(wait, Event::Codex(CodexEvent::Up(self.life)));
    }

    /// The broker is gone: its process ends when it notices that.
    pub(crate) fn leave_codex(&mut self, at_once: bool) {
        self.codex.events = None;
        self.codex.waiting.clear();
        if let Some(process) = self.codex.current.take() {
            let linger = if at_once { 0 } else { self.draw("linger", process, 4_000) };
            self.after(linger, Event::Codex(CodexEvent::Gone(process, "its broker is gone")));
        }
    }

    pub(crate) fn kill_codex(&mut self, why: &'static str) {
        if let Some(process) = self.codex.current {
            self.codex_event(CodexEvent::Gone(process, why));
        }
    }

    pub(crate) fn hang_codex(&mut self, millis: u64) {
        let now = self.now();
        let Some(id) = self.codex.current else { return };
        let Some(process) = self.codex.processes.get_mut(&id) else { return };
        process.hangs_until = now + millis;
        self.say(format!("### the agent's process hangs for {millis} ms"));
        if millis >= REPLACED {
            self.after(REPLACED, Event::Codex(CodexEvent::Gone(id, "it hung and was replaced")));
        }
    }

    pub(crate) fn lose_threads(&mut self) {
        self.say("### what the agent remembers is lost".to_owned());
        for thread in self.codex.threads.values_mut().filter(|thread| !thread.history.is_empty()) {
            thread.lost = true;
        }
        self.kill_codex("its memory is lost");
    }

    fn alive(&self, process: u64) -> bool {
        self.codex.processes.get(&process).is_some_and(|process| process.alive)
    }

    /// When a process goes on, if it hangs.
    fn hangs(&self, process: u64) -> Option<u64> {
        let until = self.codex.processes.get(&process)?.hangs_until;
        (until > self.now()).then_some(until)
    }

    /// Tells the broker of something, in order and a little later.
    fn tell(&mut self, process: u64, event: AgentEvent) {
        self.codex.count += 1;
        let late = self.draw("event", self.codex.count, 15);
        self.codex.told_until = self.codex.told_until.max(self.now() + late);
        let at = self.codex.told_until;
        self.at(at, Event::Codex(CodexEvent::Tell(process, Box::new(event))));
    }

    pub(crate) fn codex_event(&mut self, event: CodexEvent) {
        match event {
            CodexEvent::Up(life) => {
                if life == self.life && self.codex.events.is_some() && self.codex.current.is_none() {
                    self.codex.epochs += 1;
                    let (id, epoch) = (self.codex.processes.len() as u64 + 1, Epoch(self.codex.epochs));
                    self.codex.processes.insert(id, Process { life, epoch, alive: true, hangs_until: 0 });
                    self.codex.current = Some(id);
                    self.say(format!("the agent's process {id} answers"));
                }
            }
            CodexEvent::Gone(id, why) => self.process_gone(id, why),
            CodexEvent::Arrive(process, call, thread, input) => {
                if let Some(until) = self.hangs(process) {
                    self.at(until, Event::Codex(CodexEvent::Arrive(process, call, thread, input)));
                } else if self.alive(process) {
                    let result = self.arrive(process, &thread, &input);
                    let wait = 1 + self.draw("reply", u64::from(call), 12);
                    self.after(wait, Event::Codex(CodexEvent::Reply(process, call, result)));
                }
            }
            CodexEvent::Reply(process, call, result) => {
                if let Some(until) = self.hangs(process) {
                    self.at(until, Event::Codex(CodexEvent::Reply(process, call, result)));
                } else if let Some((_, waiting)) = self.codex.waiting.remove(&call).filter(|_| self.alive(process)) {
                    // A caller that gave up hears nothing.
                    let _ = waiting.send(result);
                }
            }
            CodexEvent::Go(turn) => self.go(&turn),
            CodexEvent::Tell(process, event) => {
                let ours = self.codex.processes.get(&process).is_some_and(|process| process.life == self.life);
                let down = matches!(*event, AgentEvent::Down { .. });
                let heard = event.thread().is_none_or(|thread| {
                    self.codex
                        .threads
                        .get(thread)
                        .is_some_and(|thread| thread.loaded && thread.process == Some(process))
                });
                if ours
                    && (down || (heard && self.alive(process)))
                    && let Some(events) = &self.codex.events
                {
                    let _ = events.try_send(*event);
                }
            }
        }
    }

    fn process_gone(&mut self, id: u64, why: &str) {
        let Some(process) = self.codex.processes.get_mut(&id).filter(|process| process.alive) else { return };
        process.alive = false;
        process.hangs_until = 0;
        let (epoch, life) = (process.epoch, process.life);
        self.say(format!("### the agent's process {id} is gone: {why}"));
        for thread in self.codex.threads.values_mut().filter(|thread| thread.process == Some(id)) {
            thread.process = None;
            thread.loaded = false;
            thread.pending.clear();
            thread.running = None;
            thread.lost |= thread.history.is_empty();
        }
        for turn in self.codex.turns.values_mut().filter(|turn| turn.process == id) {
            turn.over = true;
        }
        self.codex.waiting.retain(|_, (process, _)| *process != id);
        if self.codex.current == Some(id) {
            self.codex.current = None;
        }
        if life == self.life && self.codex.events.is_some() {
            self.tell(id, AgentEvent::Down { epoch, reason: why.to_owned() });
            let wait = 100 + self.draw("boot", id << 16, 1_500);
            self.after(wait, Event::Codex(CodexEvent::Up(life)));
        }
    }

    fn arrive(&mut self, process: u64, thread: &AgentThreadId, input: &AgentInput) -> Result<Submitted, SubmitError> {
        let Some(known) = self.codex.threads.get_mut(thread).filter(|known| known.process == Some(process)) else {
            return Err(SubmitError::NotOpen);
        };
        known.pending.push(input.clone());
        if let Some(turn) = known.running.clone() {
            self.say(format!("input {} joins {turn}", input.id));
            return Ok(Submitted { turn });
        }
        self.codex.numbers += 1;
        let number = self.codex.numbers;
        let turn = TurnId::new(format!("turn{number}"));
        known.running = Some(turn.clone());
        let conversation = known.session.conversation.clone();
        let besieged = self.script_in(conversation.as_str());
        self.say(format!("input {} begins {turn}", input.id));
        let script = self.codex.scripts.get(&number).copied().or(besieged).unwrap_or(Script::Answers(80));
        let row = Turn {
            thread: thread.clone(),
            ended: None,
            process,
            acts: acts(number, script),
            begun: false,
            question: None,
            over: false,
        };
        self.codex.turns.insert(turn.clone(), row);
        let wait = 2 + self.draw("begin", u64::from(number), 15);
        self.after(wait, Event::Codex(CodexEvent::Go(turn.clone())));
        Ok(Submitted { turn })
    }

    fn go(&mut self, id: &TurnId) {
        let Some(turn) = self.codex.turns.get_mut(id).filter(|turn| !turn.over && turn.question.is_none()) else {
            return;
        };
        let (process, thread) = (turn.process, turn.thread.clone());
        if let Some(until) = self.hangs(process) {
            return self.at(until, Event::Codex(CodexEvent::Go(id.clone())));
        }
        let Some(turn) = self.codex.turns.get_mut(id) else { return };
        if turn.acts.is_empty() {
            return;
        }
        let act = turn.acts.remove(0);
        self.codex.count += 1;
        let count = self.codex.count;
        let mut wait = 1 + self.draw("act", count, 20);
        match act {
            Act::Begin => {
                if let Some(turn) = self.codex.turns.get_mut(id) {
                    turn.begun = true;
                }
                self.tell(process, AgentEvent::TurnStarted { thread, turn: id.clone() });
            }
            Act::Take => {
                if self.record(process, &thread, id) {
                    self.again(id, Act::Take);
                }
            }
            Act::Work(millis) => wait += millis,
            Act::Tool(kind, text) => {
                let epoch = self.codex.processes.get(&process).map_or(Epoch(0), |process| process.epoch);
                let request = RequestId { epoch, id: format!("q{count}") };
                if let Some(turn) = self.codex.turns.get_mut(id) {
                    turn.question = Some(request.clone());
                }
                let arguments = json!({"text": text, "kind": kind});
                let tool = "post".to_owned();
                self.tell(process, AgentEvent::ToolCall { thread, turn: id.clone(), request, tool, arguments });
                return;
            }
            Act::End(outcome) => {
                let waits = self.codex.threads.get(&thread).is_some_and(|thread| !thread.pending.is_empty());
                // What came in since is taken, but for the moment in which the turn no longer looks.
                if waits && matches!(outcome, TurnOutcome::Completed { .. }) && self.draw("race", count, 10) > 0 {
                    self.again(id, Act::End(outcome));
                    self.again(id, Act::Work(60));
                    self.again(id, Act::Take);
                } else {
                    return self.end(id, outcome);
                }
            }
            Act::Hang => return,
        }
        self.after(wait, Event::Codex(CodexEvent::Go(id.clone())));
    }

    fn again(&mut self, id: &TurnId, act: Act) {
        if let Some(turn) = self.codex.turns.get_mut(id) {
            turn.acts.insert(0, act);
        }
    }

    /// Takes one input into the history: from here on it is durable. Says whether there was one.
    fn record(&mut self, process: u64, thread: &AgentThreadId, turn: &TurnId) -> bool {
        let at = self.now();
        let Some(known) = self.codex.threads.get_mut(thread).filter(|known| !known.pending.is_empty()) else {
            return false;
        };
        let input = known.pending.remove(0);
        known.history.push(Recorded { input: input.clone(), at, turn: turn.clone() });
        self.say(format!("input {} stands in the history of {thread} ({turn})", input.id));
        let (thread, turn, input) = (thread.clone(), turn.clone(), input.id);
        self.tell(process, AgentEvent::InputRecorded { thread, turn, input });
        true
    }

    fn end(&mut self, id: &TurnId, outcome: TurnOutcome) {
        let now = self.now();
        let Some(turn) = self.codex.turns.get_mut(id).filter(|turn| !turn.over) else { return };
        turn.over = true;
        turn.question = None;
        turn.ended = Some((now, outcome.clone()));
        let (process, thread) = (turn.process, turn.thread.clone());
        if let Some(known) = self.codex.threads.get_mut(&thread) {
            known.running = None;
            known.pending.clear();
        }
        self.say(format!("{id} ends: {outcome:?}"));
        self.tell(process, AgentEvent::TurnEnded { thread, turn: id.clone(), outcome });
    }

    /// Whether anything is still going on in the agent.
    pub(crate) fn agent_works(&self) -> bool {
        self.codex.turns.values().any(|turn| !turn.over)
    }
}

fn acts(number: u32, script: Script) -> Vec<Act> {
    let answer = format!("[f{number}] the answer");
    let mut acts = vec![Act::Begin, Act::Take];
    match script {
        Script::Answers(millis) => acts.extend([Act::Work(millis), Act::Take, completed(&answer)]),
        Script::PostsFinal(millis) => {
            acts.extend([Act::Work(millis), Act::Take, Act::Tool("final", answer), Act::Work(30)]);
            acts.push(Act::End(TurnOutcome::Completed { final_text: None }));
        }
        Script::Reports(millis) => {
            acts.push(Act::Tool("progress", format!("[p{number}] on it")));
            acts.extend([Act::Work(millis), Act::Take, completed(&answer)]);
        }
        Script::Long(millis) => {
            let paragraph =
                "a line of some length that fills the message well beyond the half of it, and a little more";
            let text = format!("{answer}\n\n{paragraph}\n\n{paragraph} again\n\n{paragraph} and again");
            acts.push(Act::Tool("progress", format!("[p{number}] on it\n\n{paragraph}\n\n{paragraph}")));
            acts.extend([Act::Work(millis), Act::Take, completed(&text)]);
        }
        Script::Silent => acts.push(Act::End(TurnOutcome::Completed { final_text: None })),
        Script::Fails => {
            let (cause, message) = (FailureCause::Overloaded, "at capacity".to_owned());
            acts.extend([Act::Work(50), Act::End(TurnOutcome::Failed { cause, message })]);
        }
        Script::Hangs => acts.push(Act::Hang),
    }
    acts
}

/// The broker's way to the agent.
#[derive(Debug)]
pub struct SimCodex {
    world: World,
    health: watch::Sender<RuntimeHealth>,
    limit: u64,
}

impl SimCodex {
    /// The way of one broker.
    pub fn new(world: &World) -> Self {
        let health = RuntimeHealth { runtime: PartHealth::well(), sandbox: PartHealth::well() };
        Self { world: world.clone(), health: watch::Sender::new(health), limit: LIMIT }
    }

    /// A request reaches the process: it waits while that hangs. Nothing when there is none, it dies or time runs out.
    async fn reach(&self, patience: u64) -> Option<u64> {
        let (begun, process) = {
            let state = self.world.lock();
            (state.now(), state.codex.current?)
        };
        loop {
            let wait = {
                let state = self.world.lock();
                if !state.alive(process) || state.codex.current != Some(process) {
                    return None;
                }
                // It reads its requests in the order in which they were written.
                let read = state.codex.read_until.get(&process).copied().filter(|at| *at > state.now());
                match state.hangs(process).max(read) {
                    None => return Some(process),
                    Some(_) if state.now() >= begun + patience => return None,
                    Some(until) => (until - state.now()).min(500),
                }
            };
            self.world.sleep(wait).await;
        }
    }

    /// The conversation that a thread is for.
    fn about(&self, thread: &AgentThreadId) -> String {
        let state = self.world.lock();
        let known = state.codex.threads.get(thread);
        known.map(|thread| thread.session.conversation.to_string()).unwrap_or_default()
    }

    /// A request that may go wrong before it reaches the process.
    async fn request(&self, call: Call, about: &str) -> (u32, Result<u64, String>) {
        let (count, fault) = self.world.enter(call, about).await;
        let latency = 1 + self.world.lock().draw(call.name(), u64::from(count) << 32, 20);
        self.world.sleep(latency).await;
        match fault {
            Some(Fault::Slow(millis)) => self.world.sleep(millis.min(20_000)).await,
            Some(Fault::Fails(_) | Fault::Refused | Fault::Vanishes | Fault::AnswerLost | Fault::Late(_)) => {
                let mut state = self.world.lock();
                state.say(format!("{} {count} goes wrong", call.name()));
                // A process that does not interrupt does nothing else either, and is replaced.
                if call == Call::Interrupt
                    && let Some(process) = state.codex.current
                {
                    state.after(1_000, Event::Codex(CodexEvent::Gone(process, "it does not answer")));
                }
                drop(state);
                self.world.tell();
                return (count, Err("it was refused".to_owned()));
            }
            None => {}
        }
        let process = self.reach(self.limit).await.ok_or_else(|| "there is no process".to_owned());
        (count, process)
    }

    fn open_now(
        &self,
        process: u64,
        spec: &ThreadSpec,
        known: Option<&AgentThreadId>,
    ) -> Option<Result<Opened, OpenError>> {
        let mut state = self.world.lock();
        let epoch = state.codex.processes.get(&process)?.epoch;
        let id = match known {
            Some(id) => id.clone(),
            None => {
                let id = AgentThreadId::new(format!("thread{}", state.codex.threads.len() + 1));
                let session = spec.session.clone();
                let (history, pending) = (Vec::new(), Vec::new());
                let thread =
                    Thread { session, history, lost: false, process: None, loaded: true, pending, running: None };
                state.codex.threads.insert(id.clone(), thread);
                id
            }
        };
        let writer = state.codex.threads.get(&id).and_then(|thread| thread.process);
        if writer.is_some_and(|writer| writer != process) {
            return None;
        }
        let Some(thread) = state.codex.threads.get_mut(&id).filter(|thread| !thread.lost) else {
            return Some(Err(OpenError::Lost));
        };
        thread.process = Some(process);
        thread.loaded = true;
        let running = thread.running.clone();
        state.say(format!("{id} is open in process {process}"));
        Some(Ok(Opened { thread: id, epoch, running, model: None }))
    }
}

fn unavailable() -> OpenError {
    OpenError::Unavailable { reason: "there is no process".to_owned() }
}

#[async_trait]
impl AgentRuntime for SimCodex {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities { steer: true, input_ids: true, tools: true }
    }

    async fn open(&self, spec: &ThreadSpec, known: Option<AgentThreadId>) -> Result<Opened, OpenError> {
        let begun = self.world.lock().now();
        while self.world.lock().codex.current.is_none() {
            if self.world.lock().now() > begun + START_PATIENCE {
                return Err(unavailable());
            }
            self.world.sleep(50).await;
        }
        let (count, process) = self.request(Call::Open, spec.session.conversation.as_str()).await;
        let Ok(process) = process else { return Err(unavailable()) };
        let asked = self.world.lock().now();
        let result = loop {
            if !self.world.lock().alive(process) {
                break Err(unavailable());
            }
            if let Some(result) = self.open_now(process, spec, known.as_ref()) {
                break result;
            }
            // It already has an active writer.
            if self.world.lock().now() > asked + WRITER_PATIENCE {
                break Err(unavailable());
            }
            self.world.sleep(200).await;
        };
        self.world.leave(Call::Open, count).await;
        if !self.world.lock().alive(process) {
            return Err(unavailable());
        }
        result
    }

    async fn submit(&self, thread: &AgentThreadId, input: &AgentInput) -> Result<Submitted, SubmitError> {
        let (count, fault) = self.world.enter(Call::Submit, &self.about(thread)).await;
        let reason = || "there is no process".to_owned();
        let answered = {
            let mut state = self.world.lock();
            let now = state.now();
            state.facts.submitted.push(Given { when: now, input: input.id.clone(), thread: thread.clone() });
            let Some(process) = state.codex.current else { return Err(SubmitError::Unavailable { reason: reason() }) };
            match fault {
                Some(Fault::Fails(_)) => return Err(SubmitError::Unavailable { reason: reason() }),
                Some(Fault::Refused) => return Err(SubmitError::Refused { reason: "it is refused".to_owned() }),
                _ => {}
            }
            if let Some(fault) = fault {
                state.say(format!("submit {count} of {} goes wrong: {fault:?}", input.id));
            }
            let mut wait = 1 + state.draw("arrive", u64::from(count), 12);
            // A process that is slow to read: the answer does not come in time, and the input comes in later.
            match fault {
                Some(Fault::Slow(millis)) => wait += millis.min(25_000),
                Some(Fault::Late(millis)) => wait += LIMIT + millis,
                Some(Fault::Vanishes) => wait += LIMIT + 500,
                _ => {}
            }
            // A process reads its requests in the order in which they were written.
            let at = (now + wait).max(state.codex.read_until.get(&process).copied().unwrap_or_default());
            state.codex.read_until.insert(process, at);
            // No call has the number 0: nobody hears that answer.
            let call = if fault == Some(Fault::AnswerLost) { 0 } else { count };
            let arrive = CodexEvent::Arrive(process, call, thread.clone(), input.clone());
            state.at(at, Event::Codex(arrive));
            let (sender, answered) = oneshot::channel();
            state.codex.waiting.insert(count, (process, sender));
            answered
        };
        self.world.tell();
        let answer = tokio::time::timeout(Duration::from_millis(LIMIT), answered).await.ok().and_then(Result::ok);
        self.world.leave(Call::Submit, count).await;
        answer.unwrap_or(Err(SubmitError::Unknown { limit: Duration::from_millis(LIMIT) }))
    }

    async fn fate(&self, thread: &AgentThreadId, ids: &[InputId]) -> Result<Vec<(InputId, Fate)>, ReadError> {
        let (_, process) = self.request(Call::Fate, &self.about(thread)).await;
        process.map_err(|reason| ReadError { reason })?;
        let mut state = self.world.lock();
        let history = state.codex.threads.get(thread).map(|thread| thread.history.clone()).unwrap_or_default();
        let fate = |id: &InputId| {
            if history.iter().any(|recorded| recorded.input.id == *id) { Fate::Recorded } else { Fate::Absent }
        };
        let fates: Vec<_> = ids.iter().map(|id| (id.clone(), fate(id))).collect();
        let told: Vec<String> = fates.iter().map(|(id, fate)| format!("{id} {fate:?}")).collect();
        state.say(format!("the history of {thread} is read: {}", told.join(", ")));
        Ok(fates)
    }

    async fn interrupt(&self, thread: &AgentThreadId, turn: &TurnId) -> Result<(), InterruptError> {
        let (count, process) = self.request(Call::Interrupt, &self.about(thread)).await;
        process.map_err(|reason| InterruptError::Unavailable { reason })?;
        for _ in 0..80 {
            {
                let mut state = self.world.lock();
                let running = state.codex.threads.get(thread).and_then(|thread| thread.running.clone());
                if running.as_ref() != Some(turn) {
                    return Err(InterruptError::NotRunning);
                }
                if state.codex.turns.get(turn).is_some_and(|turn| turn.begun) {
                    state.say(format!("{turn} is interrupted"));
                    state.end(turn, TurnOutcome::Interrupted);
                    break;
                }
            }
            self.world.sleep(25).await;
        }
        self.world.tell();
        self.world.leave(Call::Interrupt, count).await;
        Ok(())
    }

    async fn answer(&self, request: &RequestId, _answer: AgentAnswer) -> Result<(), AnswerError> {
        let (_, process) = self.request(Call::Answer, "").await;
        let process = process.map_err(|reason| AnswerError { reason })?;
        let mut state = self.world.lock();
        let asks = |turn: &Turn| turn.process == process && turn.question.as_ref() == Some(request);
        let Some((id, turn)) = state.codex.turns.iter_mut().find(|(_, turn)| asks(turn)) else {
            return Err(AnswerError { reason: "nobody waits for it".to_owned() });
        };
        turn.question = None;
        let id = id.clone();
        state.after(2, Event::Codex(CodexEvent::Go(id)));
        drop(state);
        self.world.tell();
        Ok(())
    }

    async fn release(&self, thread: &AgentThreadId) -> Result<(), ReleaseError> {
        let (_, process) = self.request(Call::Release, &self.about(thread)).await;
        process.map_err(|reason| ReleaseError { reason })?;
        let mut state = self.world.lock();
        if let Some(thread) = state.codex.threads.get_mut(thread) {
            thread.loaded = false;
        }
        Ok(())
    }

    fn images_root(&self) -> Option<PathBuf> {
        None
    }

    fn events(&self) -> mpsc::Receiver<AgentEvent> {
        let (events, taker) = mpsc::channel(4096);
        self.world.lock().boot_codex(events);
        self.world.tell();
        taker
    }

    fn health(&self) -> watch::Receiver<RuntimeHealth> {
        self.health.subscribe()
    }

    async fn shutdown(&self, _limit: Duration) {
        self.world.lock().leave_codex(true);
    }
}

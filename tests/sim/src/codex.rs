//! An agent runtime by the measured rules of Codex.
//!
//! What is given to a running turn is in no list before the turn takes it, and gone when the turn is interrupted before. It
//! is durable when its item is completed, and not earlier. A turn that is begun while one runs joins it. A thread is not
//! durable before its first item. One process writes a thread, also one that its broker has left and that is about to end.
//! A process that hangs is replaced, and what was written to it may still come in until then.

mod runtime;

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

pub use runtime::SimCodex;

/// The time limit of a request.
const LIMIT: u64 = 30_000;
/// The time limit of a request that costs the process nothing.
const CHEAP_LIMIT: u64 = 10_000;
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

//! An agent without a model: it watches over a release, one turn at a time, and is all that an agent has to be to the core.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::agent::{
    AgentAnswer, AgentCapabilities, AgentEvent, AgentInput, AgentRuntime, AgentThreadId, AnswerError, Epoch,
    FailureCause, Fate, InputId, InterruptError, OpenError, Opened, ReadError, ReleaseError, RequestId, RuntimeHealth,
    SubmitError, Submitted, ThreadSpec, TurnId, TurnOutcome,
};
use broker_core::health::PartHealth;
use serde_json::json;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// This agent lives and dies with the process that embeds it, so there is one epoch. Threads that are to survive a restart
/// would be written to a disk, and each start would be an epoch of its own.
const EPOCH: Epoch = Epoch(1);

#[derive(Default)]
struct Thread {
    /// What was taken, in order. The broker asks for it when it is in doubt.
    history: Vec<InputId>,
    /// What was given and not yet taken; an interrupt drops it, and it is told as absent.
    pending: VecDeque<AgentInput>,
    running: Option<Turn>,
    open: bool,
}

struct Turn {
    id: TurnId,
    interrupted: bool,
    /// Something was given, or the turn was interrupted.
    moved: Arc<Notify>,
}

#[derive(Default)]
struct State {
    threads: HashMap<AgentThreadId, Thread>,
    questions: HashMap<RequestId, oneshot::Sender<AgentAnswer>>,
    /// The last number that was given to a thread, a turn or a question.
    last: u64,
}

/// What a turn does next.
enum Step {
    Take(AgentInput),
    Wait(Arc<Notify>),
    End(TurnOutcome),
}

/// The agent; clones are the same one.
#[derive(Clone)]
pub(crate) struct ReleaseDesk {
    state: Arc<Mutex<State>>,
    events: mpsc::Sender<AgentEvent>,
    taker: Arc<Mutex<Option<mpsc::Receiver<AgentEvent>>>>,
    health: Arc<watch::Sender<RuntimeHealth>>,
}

impl ReleaseDesk {
    /// A desk without threads.
    pub(crate) fn new() -> Self {
        // When nobody takes the events, turns wait at the 64th: nothing piles up.
        let (events, taker) = mpsc::channel(64);
        let health = RuntimeHealth { runtime: PartHealth::well(), sandbox: PartHealth::well() };
        Self {
            state: Arc::default(),
            events,
            taker: Arc::new(Mutex::new(Some(taker))),
            health: Arc::new(watch::Sender::new(health)),
        }
    }

    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn, from its begin to its end. It alone sends the turn's events, so that they are in order.
    async fn run(self, thread: AgentThreadId, turn: TurnId) {
        let _ = self.events.send(AgentEvent::TurnStarted { thread: thread.clone(), turn: turn.clone() }).await;
        let mut outcome = None;
        loop {
            match self.step(&thread, &mut outcome) {
                Step::Take(input) => {
                    let (text, input) = (input.text.to_lowercase(), input.id);
                    let event = AgentEvent::InputRecorded { thread: thread.clone(), turn: turn.clone(), input };
                    let _ = self.events.send(event).await;
                    outcome = self.answer_to(&text, &thread, &turn).await;
                }
                Step::Wait(moved) => moved.notified().await,
                Step::End(outcome) => {
                    let _ = self.events.send(AgentEvent::TurnEnded { thread, turn, outcome }).await;
                    return;
                }
            }
        }
    }

    /// Decided under the lock: what is given before a turn ends is taken by that turn, and what comes after starts another.
    fn step(&self, thread: &AgentThreadId, outcome: &mut Option<TurnOutcome>) -> Step {
        let mut state = self.state();
        let known = state.threads.entry(thread.clone()).or_default();
        let interrupted = known.running.as_ref().is_none_or(|turn| turn.interrupted);
        if interrupted {
            known.pending.clear();
        } else if let Some(input) = known.pending.pop_front() {
            known.history.push(input.id.clone());
            return Step::Take(input);
        }
        match (&known.running, interrupted.then_some(TurnOutcome::Interrupted).or(outcome.take())) {
            (Some(turn), None) => Step::Wait(Arc::clone(&turn.moved)),
            (_, end) => {
                known.running = None;
                Step::End(end.unwrap_or(TurnOutcome::Interrupted))
            }
        }
    }

    /// What the desk makes of a message; none when the turn waits for another one.
    async fn answer_to(&self, text: &str, thread: &AgentThreadId, turn: &TurnId) -> Option<TurnOutcome> {
        let says = |text: &str| Some(TurnOutcome::Completed { final_text: Some(text.to_owned()) });
        if text.contains("is green") {
            says("CI is **green**: 1.4 goes out.")
        } else if text.contains("ship") {
            None
        } else if text.contains("roll back") {
            let message = "the build host does not answer".to_owned();
            Some(TurnOutcome::Failed { cause: FailureCause::Unreachable, message })
        } else if text.contains("announce") {
            self.post("1.4 is *out*, see [the notes](https://example.com/1.4).", thread, turn).await;
            says("Announced.")
        } else {
            says("I know `ship`, `announce` and `roll back`.")
        }
    }

    /// Calls the broker's tool `post` and waits for the answer, or for the interrupt.
    async fn post(&self, text: &str, thread: &AgentThreadId, turn: &TurnId) {
        let (sender, mut answer) = oneshot::channel();
        let (request, moved) = {
            let mut state = self.state();
            state.last += 1;
            let request = RequestId { epoch: EPOCH, id: state.last.to_string() };
            state.questions.insert(request.clone(), sender);
            let running = state.threads.get(thread).and_then(|known| known.running.as_ref());
            (request, running.map(|turn| Arc::clone(&turn.moved)).unwrap_or_default())
        };
        let arguments = json!({ "text": text });
        let (thread, turn, tool) = (thread.clone(), turn.clone(), "post".to_owned());
        let call = AgentEvent::ToolCall { thread: thread.clone(), turn, request: request.clone(), tool, arguments };
        let _ = self.events.send(call).await;
        while !self.is_interrupted(&thread) {
            tokio::select! {
                _ = &mut answer => break,
                // What was given meanwhile is taken by the next step.
                () = moved.notified() => {}
            }
        }
        self.state().questions.remove(&request);
    }

    fn is_interrupted(&self, thread: &AgentThreadId) -> bool {
        let state = self.state();
        state.threads.get(thread).and_then(|known| known.running.as_ref()).is_none_or(|turn| turn.interrupted)
    }
}

#[async_trait::async_trait]
impl AgentRuntime for ReleaseDesk {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities { steer: true, input_ids: true, tools: true }
    }

    async fn open(&self, _spec: &ThreadSpec, known: Option<AgentThreadId>) -> Result<Opened, OpenError> {
        let mut state = self.state();
        state.last += 1;
        let fresh = AgentThreadId::new(format!("release-{}", state.last));
        let thread = match known {
            Some(known) if state.threads.contains_key(&known) => known,
            Some(_) => return Err(OpenError::Lost),
            None => fresh,
        };
        let entry = state.threads.entry(thread.clone()).or_default();
        entry.open = true;
        let running = entry.running.as_ref().map(|turn| turn.id.clone());
        Ok(Opened { thread, epoch: EPOCH, running, model: None })
    }

    async fn submit(&self, thread: &AgentThreadId, input: &AgentInput) -> Result<Submitted, SubmitError> {
        let mut state = self.state();
        state.last += 1;
        let id = TurnId::new(format!("turn-{}", state.last));
        let known = state.threads.get_mut(thread).filter(|known| known.open).ok_or(SubmitError::NotOpen)?;
        known.pending.push_back(input.clone());
        if let Some(turn) = &known.running {
            turn.moved.notify_one();
            return Ok(Submitted { turn: turn.id.clone() });
        }
        known.running = Some(Turn { id: id.clone(), interrupted: false, moved: Arc::default() });
        tokio::spawn(self.clone().run(thread.clone(), id.clone()));
        Ok(Submitted { turn: id })
    }

    async fn fate(&self, thread: &AgentThreadId, ids: &[InputId]) -> Result<Vec<(InputId, Fate)>, ReadError> {
        let state = self.state();
        let history = state.threads.get(thread).map(|known| known.history.as_slice()).unwrap_or_default();
        let fate = |id: &InputId| if history.contains(id) { Fate::Recorded } else { Fate::Absent };
        Ok(ids.iter().map(|id| (id.clone(), fate(id))).collect())
    }

    async fn interrupt(&self, thread: &AgentThreadId, turn: &TurnId) -> Result<(), InterruptError> {
        let mut state = self.state();
        let running = state.threads.get_mut(thread).and_then(|known| known.running.as_mut());
        let running = running.filter(|running| running.id == *turn).ok_or(InterruptError::NotRunning)?;
        running.interrupted = true;
        running.moved.notify_one();
        Ok(())
    }

    async fn answer(&self, request: &RequestId, answer: AgentAnswer) -> Result<(), AnswerError> {
        let over = || AnswerError { reason: "the call is over".to_owned() };
        let question = self.state().questions.remove(request);
        question.ok_or_else(over)?.send(answer).map_err(|_| over())
    }

    async fn release(&self, thread: &AgentThreadId) -> Result<(), ReleaseError> {
        if let Some(known) = self.state().threads.get_mut(thread) {
            known.open = false;
        }
        Ok(())
    }

    fn images_root(&self) -> Option<std::path::PathBuf> {
        None
    }

    fn events(&self) -> mpsc::Receiver<AgentEvent> {
        let taken = self.taker.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| mpsc::channel(1).1)
    }

    fn health(&self) -> watch::Receiver<RuntimeHealth> {
        self.health.subscribe()
    }

    // There is no process to end, and the tasks end with the service's own runtime.
    async fn shutdown(&self, _limit: Duration) {}
}

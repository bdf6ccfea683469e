//! An agent that does what a script says.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::agent::{
    AgentAnswer, AgentCapabilities, AgentEvent, AgentInput, AgentRuntime, AgentThreadId, AnswerError, Epoch,
    FailureCause, Fate, InputId, InterruptError, OpenError, Opened, ReadError, ReleaseError, RequestId, RuntimeHealth,
    SubmitError, Submitted, ThreadSpec, TurnId, TurnOutcome,
};
use crate::health::PartHealth;

/// Something that the agent does in a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Calls a tool and waits for the answer.
    Tool {
        /// The tool.
        name: String,
        /// Its arguments.
        arguments: Value,
    },
    /// Waits until [`ScriptedAgent::resume`] is called (or the turn is interrupted).
    Pause,
    /// Ends the turn with this text.
    Finish(Option<String>),
    /// Ends the turn with a failure.
    Fail(FailureCause, String),
}

/// What the agent does when an input starts a turn. What joins a running turn adds nothing to it.
type Script = Arc<dyn Fn(&AgentInput) -> Vec<Act> + Send + Sync>;

#[derive(Debug, Default)]
struct Thread {
    history: Vec<InputId>,
    /// Accepted and not yet consumed: lost when the turn is interrupted or the process dies.
    pending: Vec<AgentInput>,
    running: Option<TurnId>,
    loaded: bool,
}

#[derive(Debug, Default)]
struct State {
    epoch: u64,
    threads: HashMap<AgentThreadId, Thread>,
    given: Vec<AgentInput>,
    specs: Vec<ThreadSpec>,
    next: u64,
    questions: HashMap<RequestId, oneshot::Sender<AgentAnswer>>,
    answers: Vec<AgentAnswer>,
    open_errors: VecDeque<OpenError>,
    submit_errors: VecDeque<SubmitError>,
}

/// An agent that does what a script says, by the rules that were measured on a real one: a turn that is joined takes the
/// input at its next step, an interrupt drops what was not yet taken, a crash keeps what was recorded.
///
/// Clones share one agent.
#[derive(Clone)]
pub struct ScriptedAgent {
    state: Arc<Mutex<State>>,
    script: Script,
    events: mpsc::Sender<AgentEvent>,
    taker: Arc<Mutex<Option<mpsc::Receiver<AgentEvent>>>>,
    resumes: Arc<watch::Sender<u64>>,
    health: Arc<watch::Sender<RuntimeHealth>>,
}

impl fmt::Debug for ScriptedAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedAgent").finish_non_exhaustive()
    }
}

impl ScriptedAgent {
    /// An agent that answers each input that starts a turn as `script` says. A script without an end finishes silently.
    pub fn new(script: impl Fn(&AgentInput) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let (events, taker) = mpsc::channel(1024);
        let health = RuntimeHealth { runtime: PartHealth::well(), sandbox: PartHealth::well() };
        Self {
            state: Arc::default(),
            script: Arc::new(script),
            events,
            taker: Arc::new(Mutex::new(Some(taker))),
            resumes: Arc::new(watch::Sender::new(0)),
            health: Arc::new(watch::Sender::new(health)),
        }
    }

    /// An agent whose final text repeats what it was told.
    pub fn echo() -> Self {
        Self::new(|input| vec![Act::Finish(Some(format!("you said: {}", input.text)))])
    }

    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that was given to it, in order.
    pub fn given(&self) -> Vec<AgentInput> {
        self.state().given.clone()
    }

    /// The answers that its tool calls got, in order.
    pub fn answers(&self) -> Vec<AgentAnswer> {
        self.state().answers.clone()
    }

    /// What threads were opened with, in order.
    pub fn opened_with(&self) -> Vec<ThreadSpec> {
        self.state().specs.clone()
    }

    /// What stands in a thread's history.
    pub fn history(&self, thread: &AgentThreadId) -> Vec<InputId> {
        self.state().threads.get(thread).map(|thread| thread.history.clone()).unwrap_or_default()
    }

    /// How many threads are open.
    pub fn open_threads(&self) -> usize {
        self.state().threads.values().filter(|thread| thread.loaded).count()
    }

    /// Makes the next `open` fail.
    pub fn fail_open(&self, error: OpenError) {
        self.state().open_errors.push_back(error);
    }

    /// Makes the next `submit` fail. With [`SubmitError::Unknown`] the input is lost.
    pub fn fail_submit(&self, error: SubmitError) {
        self.state().submit_errors.push_back(error);
    }

    /// Lets every turn that stands at [`Act::Pause`] go on.
    pub fn resume(&self) {
        self.resumes.send_modify(|count| *count += 1);
    }

    /// The same agent for the next broker: what was recorded is there, its events have a new taker.
    #[must_use]
    pub fn successor(&self) -> Self {
        let (events, taker) = mpsc::channel(1024);
        Self { events, taker: Arc::new(Mutex::new(Some(taker))), ..self.clone() }
    }

    /// The process dies and comes back: recorded inputs stay, everything else is gone.
    pub async fn crash(&self) {
        let epoch = {
            let mut state = self.state();
            let epoch = Epoch(state.epoch);
            state.epoch += 1;
            state.questions.clear();
            state.threads.retain(|_, thread| !thread.history.is_empty());
            for thread in state.threads.values_mut() {
                thread.loaded = false;
                thread.running = None;
                thread.pending.clear();
            }
            epoch
        };
        let _ = self.events.send(AgentEvent::Down { epoch, reason: "it crashed".to_owned() }).await;
    }

    fn is_current(&self, thread: &AgentThreadId, turn: &TurnId) -> bool {
        self.state().threads.get(thread).is_some_and(|thread| thread.running.as_ref() == Some(turn))
    }

    /// Takes what is pending into the history.
    async fn record(&self, thread: &AgentThreadId, turn: &TurnId) {
        loop {
            let input = {
                let mut state = self.state();
                let Some(known) = state.threads.get_mut(thread).filter(|known| known.running.as_ref() == Some(turn))
                else {
                    return;
                };
                if known.pending.is_empty() {
                    return;
                }
                let input = known.pending.remove(0);
                known.history.push(input.id.clone());
                input
            };
            let event =
                AgentEvent::InputRecorded { thread: thread.clone(), turn: turn.clone(), input: input.id.clone() };
            let _ = self.events.send(event).await;
        }
    }

    async fn run(self, thread: AgentThreadId, turn: TurnId, script: Vec<Act>) {
        let _ = self.events.send(AgentEvent::TurnStarted { thread: thread.clone(), turn: turn.clone() }).await;
        self.record(&thread, &turn).await;
        let mut outcome = TurnOutcome::Completed { final_text: None };
        for act in script {
            match act {
                Act::Finish(final_text) => {
                    outcome = TurnOutcome::Completed { final_text };
                    break;
                }
                Act::Fail(cause, message) => {
                    outcome = TurnOutcome::Failed { cause, message };
                    break;
                }
                Act::Pause => {
                    let mut resumes = self.resumes.subscribe();
                    let ended = async {
                        while self.is_current(&thread, &turn) {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    };
                    tokio::select! {
                        _ = resumes.changed() => {}
                        () = ended => return,
                    }
                }
                Act::Tool { name, arguments } => {
                    if !self.call(&thread, &turn, name, arguments).await {
                        return;
                    }
                }
            }
            self.record(&thread, &turn).await;
        }
        self.finish(&thread, &turn, outcome).await;
    }

    /// Calls a tool; `false` when the turn is over before the answer.
    async fn call(&self, thread: &AgentThreadId, turn: &TurnId, tool: String, arguments: Value) -> bool {
        let (sender, answer) = oneshot::channel();
        let request = {
            let mut state = self.state();
            state.next += 1;
            let request = RequestId { epoch: Epoch(state.epoch), id: state.next.to_string() };
            state.questions.insert(request.clone(), sender);
            request
        };
        let (thread, turn) = (thread.clone(), turn.clone());
        let _ = self.events.send(AgentEvent::ToolCall { thread, turn, request, tool, arguments }).await;
        match answer.await {
            Ok(answer) => {
                self.state().answers.push(answer);
                true
            }
            Err(_) => false,
        }
    }

    async fn finish(&self, thread: &AgentThreadId, turn: &TurnId, outcome: TurnOutcome) {
        loop {
            self.record(thread, turn).await;
            let mut state = self.state();
            let Some(known) = state.threads.get_mut(thread).filter(|known| known.running.as_ref() == Some(turn)) else {
                return;
            };
            // What came in since the last look is taken first: nothing is left behind by a turn that completes.
            if known.pending.is_empty() {
                known.running = None;
                break;
            }
        }
        let event = AgentEvent::TurnEnded { thread: thread.clone(), turn: turn.clone(), outcome };
        let _ = self.events.send(event).await;
    }
}

#[async_trait]
impl AgentRuntime for ScriptedAgent {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities { steer: true, input_ids: true, tools: true }
    }

    async fn open(&self, spec: &ThreadSpec, known: Option<AgentThreadId>) -> Result<Opened, OpenError> {
        let mut state = self.state();
        if let Some(error) = state.open_errors.pop_front() {
            return Err(error);
        }
        state.specs.push(spec.clone());
        let epoch = Epoch(state.epoch);
        let thread = match known {
            Some(thread) if state.threads.contains_key(&thread) => thread,
            Some(_) => return Err(OpenError::Lost),
            None => {
                state.next += 1;
                AgentThreadId::new(format!("thread-{}", state.next))
            }
        };
        let known = state.threads.entry(thread.clone()).or_default();
        known.loaded = true;
        Ok(Opened { thread, epoch, running: known.running.clone(), model: None })
    }

    async fn submit(&self, thread: &AgentThreadId, input: &AgentInput) -> Result<Submitted, SubmitError> {
        let (turn, starts) = {
            let mut state = self.state();
            if let Some(error) = state.submit_errors.pop_front() {
                return Err(error);
            }
            state.next += 1;
            let fresh = TurnId::new(format!("turn-{}", state.next));
            let Some(known) = state.threads.get_mut(thread).filter(|known| known.loaded) else {
                return Err(SubmitError::NotOpen);
            };
            known.pending.push(input.clone());
            let starts = known.running.is_none();
            let turn = known.running.get_or_insert(fresh).clone();
            state.given.push(input.clone());
            (turn, starts)
        };
        if starts {
            let script = (self.script)(input);
            tokio::spawn(self.clone().run(thread.clone(), turn.clone(), script));
        }
        Ok(Submitted { turn })
    }

    async fn fate(&self, thread: &AgentThreadId, ids: &[InputId]) -> Result<Vec<(InputId, Fate)>, ReadError> {
        let history = self.history(thread);
        let fate = |id: &InputId| if history.contains(id) { Fate::Recorded } else { Fate::Absent };
        Ok(ids.iter().map(|id| (id.clone(), fate(id))).collect())
    }

    async fn interrupt(&self, thread: &AgentThreadId, turn: &TurnId) -> Result<(), InterruptError> {
        {
            let mut state = self.state();
            let Some(known) = state.threads.get_mut(thread).filter(|known| known.running.as_ref() == Some(turn)) else {
                return Err(InterruptError::NotRunning);
            };
            known.running = None;
            known.pending.clear();
            state.questions.clear();
        }
        let event =
            AgentEvent::TurnEnded { thread: thread.clone(), turn: turn.clone(), outcome: TurnOutcome::Interrupted };
        let _ = self.events.send(event).await;
        Ok(())
    }

    async fn answer(&self, request: &RequestId, answer: AgentAnswer) -> Result<(), AnswerError> {
        let question = self.state().questions.remove(request);
        let over = || AnswerError { reason: "the call is over".to_owned() };
        question.ok_or_else(over)?.send(answer).map_err(|_| over())
    }

    async fn release(&self, thread: &AgentThreadId) -> Result<(), ReleaseError> {
        if let Some(known) = self.state().threads.get_mut(thread) {
            known.loaded = false;
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

    async fn shutdown(&self, _limit: Duration) {}
}

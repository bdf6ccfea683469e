//! [`Demo`]: an agent runtime without a model, for a first look at the broker.
//!
//! It keeps the promises of a runtime all the same: an input is recorded once, on the disk before that is told, its threads
//! survive a restart, and what was accepted and not yet recorded is gone with an interrupt or a crash.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::agent::{
    Activity, AgentAnswer, AgentCapabilities, AgentEvent, AgentInput, AgentRuntime, AgentThreadId, AnswerError, Epoch,
    FailureCause, Fate, InputId, InterruptError, OpenError, Opened, ReadError, ReleaseError, RequestId, RuntimeHealth,
    SubmitError, Submitted, ThreadSpec, TurnId, TurnOutcome,
};
use broker_core::health::PartHealth;
use broker_core::ids::IdSource;
use serde_json::{Value, json};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::script::{self, Act};

/// Events that wait for the engine; beyond that, turns wait.
const MAX_EVENTS: usize = 256;
/// Inputs that wait in a running turn; beyond that, they are refused for now.
const MAX_STEERS: usize = 64;
/// Lines of the history's file that are read back; older inputs are of no interest to anybody.
const MAX_LINES: usize = 20_000;
/// How long the answer to a tool call is waited for; the broker answers within 20 s.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How long the end of a turn is waited for before it is looked at again.
const CLOSING_LIMIT: Duration = Duration::from_millis(20);
/// Signs of life while it works.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Thread {
    recorded: HashSet<InputId>,
    loaded: bool,
    run: Option<Run>,
}

/// A turn that runs.
#[derive(Debug)]
struct Run {
    turn: TurnId,
    steers: VecDeque<AgentInput>,
    stop: CancellationToken,
    /// It takes nothing more: its end is about to be told, and the next turn begins after that.
    closing: bool,
}

#[derive(Debug, Default)]
struct State {
    threads: HashMap<AgentThreadId, Thread>,
    calls: HashMap<RequestId, oneshot::Sender<AgentAnswer>>,
}

/// See the module's documentation.
pub(crate) struct Demo {
    /// Turns outlive the call that begins them.
    me: Weak<Self>,
    state: Mutex<State>,
    history: tokio::sync::Mutex<File>,
    ids: Arc<dyn IdSource>,
    events: mpsc::Sender<AgentEvent>,
    taker: Mutex<Option<mpsc::Receiver<AgentEvent>>>,
    health: watch::Sender<RuntimeHealth>,
    turns: TaskTracker,
    /// Tells that a turn has ended.
    ended: Notify,
}

impl Demo {
    /// The demo whose threads are kept in a file.
    pub(crate) async fn open(file: PathBuf, ids: Arc<dyn IdSource>) -> std::io::Result<Arc<Self>> {
        let text = match tokio::fs::read_to_string(&file).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let lines: Vec<&str> = text.lines().collect();
        let mut state = State::default();
        for line in &lines[lines.len().saturating_sub(MAX_LINES)..] {
            // A line that was torn by a crash was never told of.
            if let Some((thread, input)) = line.split_once(' ') {
                let thread = state.threads.entry(AgentThreadId::new(thread)).or_default();
                thread.recorded.insert(InputId::new(input));
            }
        }
        let mut history = OpenOptions::new().create(true).append(true).mode(0o600).open(file).await?;
        if !text.is_empty() && !text.ends_with('\n') {
            history.write_all(b"\n").await?;
        }
        let (events, taker) = mpsc::channel(MAX_EVENTS);
        let health = RuntimeHealth {
            runtime: PartHealth::well().remark("the scripted demo agent"),
            sandbox: PartHealth::well().remark("the demo agent runs no commands"),
        };
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            state: Mutex::new(state),
            history: tokio::sync::Mutex::new(history),
            ids,
            events,
            taker: Mutex::new(Some(taker)),
            health: watch::Sender::new(health),
            turns: TaskTracker::new(),
            ended: Notify::new(),
        }))
    }

    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(&self, event: AgentEvent) {
        // Nobody listens any more: the broker ends.
        let _ = self.events.send(event).await;
    }

    /// Writes an input into the history, then tells of it.
    async fn record(&self, thread: &AgentThreadId, turn: &TurnId, input: &InputId) -> std::io::Result<()> {
        let mut history = self.history.lock().await;
        history.write_all(format!("{thread} {input}\n").as_bytes()).await?;
        history.flush().await?;
        history.sync_data().await?;
        drop(history);
        if let Some(known) = self.state().threads.get_mut(thread) {
            known.recorded.insert(input.clone());
        }
        let (thread, turn, input) = (thread.clone(), turn.clone(), input.clone());
        self.tell(AgentEvent::InputRecorded { thread, turn, input }).await;
        Ok(())
    }

    /// Adds an input to the turn that runs, or begins one; nothing while a turn is about to end.
    fn join_or_begin(&self, thread: &AgentThreadId, input: &AgentInput) -> Result<Option<Submitted>, SubmitError> {
        let demo = self.me.upgrade().ok_or(SubmitError::NotOpen)?;
        let mut state = self.state();
        let known = state.threads.get_mut(thread).filter(|known| known.loaded).ok_or(SubmitError::NotOpen)?;
        match &mut known.run {
            Some(run) if run.closing || run.stop.is_cancelled() => Ok(None),
            Some(run) if run.steers.len() == MAX_STEERS => {
                Err(SubmitError::Unavailable { reason: "the demo agent is busy".to_owned() })
            }
            Some(run) => {
                run.steers.push_back(input.clone());
                Ok(Some(Submitted { turn: run.turn.clone() }))
            }
            None => {
                let (turn, stop) = (TurnId::new(self.ids.next()), CancellationToken::new());
                let run = Run { turn: turn.clone(), steers: VecDeque::new(), stop: stop.clone(), closing: false };
                known.run = Some(run);
                self.turns.spawn(Turn { demo, thread: thread.clone(), turn: turn.clone(), stop }.run(input.clone()));
                Ok(Some(Submitted { turn }))
            }
        }
    }

    /// The next input of a turn that runs; without one, the turn is over from here on.
    fn next_steer(&self, thread: &AgentThreadId, ends: bool) -> Option<AgentInput> {
        let mut state = self.state();
        let known = state.threads.get_mut(thread)?;
        let run = known.run.as_mut()?;
        let steer = run.steers.pop_front();
        run.closing = steer.is_none() && ends;
        steer
    }
}

/// A turn while it runs.
struct Turn {
    demo: Arc<Demo>,
    thread: AgentThreadId,
    turn: TurnId,
    stop: CancellationToken,
}

impl Turn {
    async fn run(self, first: AgentInput) {
        let (thread, turn) = (self.thread.clone(), self.turn.clone());
        self.demo.tell(AgentEvent::TurnStarted { thread: thread.clone(), turn: turn.clone() }).await;
        let stop = self.stop.clone();
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => TurnOutcome::Interrupted,
            outcome = self.live(first) => outcome,
        };
        // In one moment: whoever hears of the end finds the thread idle, and the next turn begins after it.
        let place = self.demo.events.reserve().await;
        let mut state = self.demo.state();
        if let Some(known) = state.threads.get_mut(&thread) {
            known.run = None;
        }
        if let Ok(place) = place {
            place.send(AgentEvent::TurnEnded { thread, turn, outcome });
        }
        drop(state);
        self.demo.ended.notify_waiters();
    }

    async fn live(&self, first: AgentInput) -> TurnOutcome {
        let mut input = first;
        let mut said: Vec<String> = Vec::new();
        loop {
            if let Err(error) = self.demo.record(&self.thread, &self.turn, &input.id).await {
                let message = format!("the demo agent cannot write its history: {error}");
                return TurnOutcome::Failed { cause: FailureCause::Other, message };
            }
            for act in script::acts(&script::words(&input.text)) {
                match self.act(act).await {
                    Ok(text) => said.extend(text),
                    Err(message) => return TurnOutcome::Failed { cause: FailureCause::Other, message },
                }
            }
            // What was said in the last moment is answered in the same turn, behind this answer.
            match self.demo.next_steer(&self.thread, true) {
                Some(steer) => input = steer,
                None => {
                    let final_text = (!said.is_empty()).then(|| said.join("\n\n"));
                    return TurnOutcome::Completed { final_text };
                }
            }
        }
    }

    /// Does one thing. Gives the text that ends the turn, if it is that.
    async fn act(&self, act: Act) -> Result<Option<String>, String> {
        match act {
            Act::Doing(activity) => self.doing(activity).await,
            Act::Work(time) => self.work(time).await?,
            Act::Call { tool, arguments } => drop(self.call(tool, arguments).await),
            Act::TellHistory => {
                let answer = self.call("broker", json!({"action": "history"})).await;
                return Ok(Some(script::history(&answer)));
            }
            Act::Finish(text) => return Ok(Some(text)),
            Act::Silent => {}
            Act::Fail(message) => return Err(message.to_owned()),
        }
        Ok(None)
    }

    async fn doing(&self, activity: Activity) {
        let (thread, turn) = (self.thread.clone(), self.turn.clone());
        self.demo.tell(AgentEvent::Doing { thread, turn, activity }).await;
    }

    /// Takes its time, and notes what is said meanwhile.
    async fn work(&self, time: Duration) -> Result<(), String> {
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(PROGRESS_EVERY.min(time)).await;
            let (thread, turn) = (self.thread.clone(), self.turn.clone());
            self.demo.tell(AgentEvent::Progress { thread, turn }).await;
            while let Some(steer) = self.demo.next_steer(&self.thread, false) {
                let recorded = self.demo.record(&self.thread, &self.turn, &steer.id).await;
                recorded.map_err(|error| format!("the demo agent cannot write its history: {error}"))?;
                let text = script::noted(&script::words(&steer.text));
                self.call("post", json!({"text": text, "kind": "progress"})).await;
            }
        }
        Ok(())
    }

    /// Calls a tool of the broker, and waits for its answer.
    async fn call(&self, tool: &str, arguments: Value) -> String {
        let request = RequestId { epoch: Epoch(1), id: self.demo.ids.next() };
        let (answer, answered) = oneshot::channel();
        self.demo.state().calls.insert(request.clone(), answer);
        let event = AgentEvent::ToolCall {
            thread: self.thread.clone(),
            turn: self.turn.clone(),
            request: request.clone(),
            tool: tool.to_owned(),
            arguments,
        };
        self.demo.tell(event).await;
        let answer = tokio::time::timeout(CALL_LIMIT, answered).await;
        self.demo.state().calls.remove(&request);
        match answer {
            Ok(Ok(AgentAnswer::Tool { text, .. })) => text,
            _ => String::new(),
        }
    }
}

#[async_trait]
impl AgentRuntime for Demo {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities { steer: true, input_ids: true, tools: true }
    }

    async fn open(&self, _spec: &ThreadSpec, known: Option<AgentThreadId>) -> Result<Opened, OpenError> {
        let mut state = self.state();
        let thread = known.unwrap_or_else(|| AgentThreadId::new(format!("demo-{}", self.ids.next())));
        let is_known = state.threads.contains_key(&thread);
        // A thread of another runtime, or one that never held anything: the broker starts anew.
        if !is_known && !thread.as_str().starts_with("demo-") {
            return Err(OpenError::Lost);
        }
        let entry = state.threads.entry(thread.clone()).or_default();
        entry.loaded = true;
        let running = entry.run.as_ref().map(|run| run.turn.clone());
        Ok(Opened { thread, epoch: Epoch(1), running, model: None })
    }

    async fn submit(&self, thread: &AgentThreadId, input: &AgentInput) -> Result<Submitted, SubmitError> {
        loop {
            if let Some(submitted) = self.join_or_begin(thread, input)? {
                return Ok(submitted);
            }
            // A second look after a while stands in for an end that was told between the first one and this wait.
            let _ = tokio::time::timeout(CLOSING_LIMIT, self.ended.notified()).await;
        }
    }

    async fn fate(&self, thread: &AgentThreadId, ids: &[InputId]) -> Result<Vec<(InputId, Fate)>, ReadError> {
        let state = self.state();
        let known = state.threads.get(thread);
        let fate = |id: &InputId| match known {
            Some(known) if known.recorded.contains(id) => Fate::Recorded,
            _ => Fate::Absent,
        };
        Ok(ids.iter().map(|id| (id.clone(), fate(id))).collect())
    }

    async fn interrupt(&self, thread: &AgentThreadId, turn: &TurnId) -> Result<(), InterruptError> {
        let state = self.state();
        let run = state.threads.get(thread).and_then(|known| known.run.as_ref());
        match run.filter(|run| run.turn == *turn && !run.stop.is_cancelled()) {
            Some(run) => {
                run.stop.cancel();
                Ok(())
            }
            None => Err(InterruptError::NotRunning),
        }
    }

    async fn answer(&self, request: &RequestId, answer: AgentAnswer) -> Result<(), AnswerError> {
        let over = || AnswerError { reason: "the call is over".to_owned() };
        let call = self.state().calls.remove(request);
        call.ok_or_else(over)?.send(answer).map_err(|_| over())
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

    async fn shutdown(&self, limit: Duration) {
        for known in self.state().threads.values() {
            if let Some(run) = &known.run {
                run.stop.cancel();
            }
        }
        self.turns.close();
        let _ = tokio::time::timeout(limit, self.turns.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use broker_core::ids::RandomIds;
    use broker_core::testing::agent_suite::{self, AgentBench, AgentTexts};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_demo_passes_the_suite() {
        let folder = tempfile::tempdir().unwrap();
        let demo = Demo::open(folder.path().join("demo"), Arc::new(RandomIds)).await.unwrap();
        let texts = AgentTexts {
            finish: "hello".to_owned(),
            hold: "count".to_owned(),
            fail: "fail".to_owned(),
            tool: "state".to_owned(),
        };
        let mut bench = AgentBench::new(demo, texts, folder.path());
        agent_suite::all(&mut bench).await;
    }

    #[tokio::test]
    async fn its_threads_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("demo");
        std::fs::write(&file, "demo-1 input-1\ndemo-1 input-2\ndemo-2 inp").unwrap();
        let demo = Demo::open(file, Arc::new(RandomIds)).await.unwrap();
        let ids = ["input-1", "input-2", "input-3"].map(InputId::new);
        let fates = demo.fate(&AgentThreadId::new("demo-1"), &ids).await.unwrap();
        let fates: Vec<Fate> = fates.into_iter().map(|(_, fate)| fate).collect();
        assert_eq!(fates, [Fate::Recorded, Fate::Recorded, Fate::Absent]);
    }
}

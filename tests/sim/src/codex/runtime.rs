//! The broker's way to the agent, and what its calls do.

use super::*;

/// The broker's way to the agent.
#[derive(Debug)]
pub struct SimCodex {
    world: World,
    health: watch::Sender<RuntimeHealth>,
}

impl SimCodex {
    /// The way of one broker.
    pub fn new(world: &World) -> Self {
        let health = RuntimeHealth { runtime: PartHealth::well(), sandbox: PartHealth::well() };
        Self { world: world.clone(), health: watch::Sender::new(health) }
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
            Some(Fault::Slow(millis)) if call == Call::Interrupt => self.world.sleep(millis.min(CHEAP_LIMIT)).await,
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
        let patience = if call == Call::Interrupt { CHEAP_LIMIT } else { LIMIT };
        let process = self.reach(patience).await.ok_or_else(|| "there is no process".to_owned());
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

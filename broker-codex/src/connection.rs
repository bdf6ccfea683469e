//! One life of the app-server: its epoch, the conversation with it, and what is known of its turns.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::agent::{AgentAnswer, AgentEvent, AgentThreadId, Epoch, RequestId, TurnId};
use broker_core::clock::{Clock, Timestamp};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::board::Board;
use crate::events::Turns;
use crate::questions::{self, Questions, ToolCall};
use crate::rpc::{CallError, Inbound, Rpc};
use crate::wire::clip;

/// Notifications of an unexpected shape that are logged per process; the rest is only counted.
const MAX_COMPLAINTS: u64 = 20;

/// One life of the app-server.
pub(crate) struct Connection {
    pub(crate) epoch: Epoch,
    pub(crate) rpc: Rpc,
    clock: Arc<dyn Clock>,
    board: Arc<Board>,
    events: mpsc::Sender<AgentEvent>,
    state: Mutex<State>,
    /// A turn ended.
    turn_ended: Notify,
    /// The account changed.
    account_changed: Notify,
}

#[derive(Default)]
struct State {
    turns: Turns,
    questions: Questions,
    last_answer: Option<Timestamp>,
    complaints: u64,
    /// Threads that were opened and not released.
    open: HashSet<AgentThreadId>,
    /// When something was last asked of it, the looks whether it lives apart; absent until then.
    used: Option<Instant>,
}

impl Connection {
    /// A life that begins.
    pub(crate) fn new(
        epoch: Epoch,
        rpc: Rpc,
        clock: Arc<dyn Clock>,
        board: Arc<Board>,
        events: mpsc::Sender<AgentEvent>,
    ) -> Self {
        Self {
            epoch,
            rpc,
            clock,
            board,
            events,
            state: Mutex::default(),
            turn_ended: Notify::new(),
            account_changed: Notify::new(),
        }
    }

    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the process last answered anything.
    pub(crate) fn last_answer(&self) -> Option<Timestamp> {
        self.state().last_answer
    }

    /// Something is asked of it.
    pub(crate) fn used(&self) {
        self.state().used = Some(Instant::now());
    }

    /// A thread is open in it.
    pub(crate) fn opened_thread(&self, thread: &AgentThreadId) {
        self.state().open.insert(thread.clone());
    }

    /// For how long nothing was asked of it since `start`; zero while a thread is open in it.
    pub(crate) fn idle_for(&self, start: Instant) -> Duration {
        let state = self.state();
        if state.open.is_empty() { state.used.unwrap_or(start).elapsed() } else { Duration::ZERO }
    }

    /// Waits until the app-server says that its account changed.
    pub(crate) async fn account_changed(&self) {
        self.account_changed.notified().await;
    }

    /// A turn that was found running when its thread was opened.
    pub(crate) fn found_running(&self, thread: &AgentThreadId, turn: &TurnId) {
        self.state().turns.found(thread, turn);
    }

    /// Events of this thread no longer come.
    pub(crate) fn forget_thread(&self, thread: &AgentThreadId) {
        let mut state = self.state();
        state.open.remove(thread);
        state.turns.forget_thread(thread);
        state.questions.forget_thread(thread);
    }

    /// Whether the end of a turn was seen, not long ago.
    pub(crate) fn has_ended(&self, turn: &TurnId) -> bool {
        self.state().turns.has_ended(turn)
    }

    /// Waits until the end of a turn was seen, at most for `limit`.
    pub(crate) async fn ended(&self, turn: &TurnId, limit: Duration) {
        let wait = async {
            loop {
                let next = self.turn_ended.notified();
                tokio::pin!(next);
                // Registered before the look, so that no end falls between the two.
                next.as_mut().enable();
                if self.has_ended(turn) {
                    return;
                }
                next.await;
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
    }

    /// Answers a question. `false` when it is over.
    pub(crate) async fn answer(&self, key: &str, answer: &AgentAnswer) -> Result<bool, CallError> {
        let Some(message) = self.state().questions.answer(key, answer) else { return Ok(false) };
        self.rpc.send(&message).await.map(|()| true)
    }

    /// Hands events on. Signs of life are dropped when nobody keeps up, everything else waits.
    async fn emit(&self, events: Vec<AgentEvent>) {
        for event in events {
            match self.events.try_send(event) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(AgentEvent::Progress { .. } | AgentEvent::Usage { .. })) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.rpc.set_stalled(true);
                    let _ = self.events.send(event).await;
                    self.rpc.set_stalled(false);
                }
            }
        }
    }

    fn complain(&self, method: &str, error: &serde_json::Error) {
        let count = {
            let mut state = self.state();
            state.complaints += 1;
            state.complaints
        };
        if count <= MAX_COMPLAINTS {
            tracing::warn!(method = clip(method), %error, count, "a message of Codex has an unexpected shape");
        }
    }

    /// What concerns the process and no turn.
    fn take_note(&self, method: &str, params: &RawValue) {
        let field = |name: &str| {
            let value = serde_json::from_str::<Value>(params.get()).unwrap_or_default();
            value[name].as_str().map(clip)
        };
        match method {
            "configWarning" => {
                let summary = field("summary").unwrap_or_default();
                let text = field("details").map_or(summary.clone(), |details| format!("{summary} {details}"));
                // The bundled one is used instead: no news to an operator whose sandbox works.
                if summary.contains("bubblewrap") {
                    tracing::debug!(text, "Codex warns about its surroundings");
                } else {
                    tracing::warn!(text, "Codex warns about its configuration; see config.toml in CODEX_HOME");
                    self.board.change(|facts| facts.warning = Some(text));
                }
            }
            "warning" => tracing::warn!(text = field("message"), "Codex warns"),
            "account/updated" => self.account_changed.notify_one(),
            _ => {}
        }
    }
}

#[async_trait]
impl Inbound for Connection {
    async fn notification(&self, method: &str, params: &RawValue) {
        self.take_note(method, params);
        let (result, ended) = {
            let mut state = self.state();
            if method == "serverRequest/resolved" {
                let value: Value = serde_json::from_str(params.get()).unwrap_or_default();
                state.questions.resolved(&value["requestId"]);
            }
            let result = state.turns.read(method, params.get(), Instant::now());
            let mut ended = false;
            for event in result.iter().flatten() {
                if let AgentEvent::TurnEnded { turn, .. } = event {
                    state.questions.turn_ended(turn);
                    ended = true;
                }
            }
            (result, ended)
        };
        match result {
            Ok(events) => self.emit(events).await,
            Err(error) => self.complain(method, &error),
        }
        if ended {
            self.turn_ended.notify_waiters();
        }
    }

    async fn request(&self, id: Value, method: &str, params: &RawValue) {
        let refusal = if method == "item/tool/call" {
            match serde_json::from_str::<ToolCall>(params.get()) {
                Ok(call) => {
                    let key = self.state().questions.add(&id, &call);
                    match key {
                        Some(key) => {
                            let request = RequestId { epoch: self.epoch, id: key };
                            let (thread, turn) = (AgentThreadId::new(call.thread_id), TurnId::new(call.turn_id));
                            let (tool, arguments) = (call.tool, call.arguments);
                            self.emit(vec![AgentEvent::ToolCall { thread, turn, request, tool, arguments }]).await;
                            return;
                        }
                        None => questions::error(&id, "too many tool calls wait for an answer; try again later"),
                    }
                }
                Err(error) => {
                    self.complain(method, &error);
                    questions::error(&id, "the tool call could not be read")
                }
            }
        } else {
            tracing::info!(method = clip(method), "Codex asks what nobody can be asked; refused");
            questions::refusal(&id, method)
        };
        let _ = self.rpc.send(&refusal).await;
    }

    fn answered(&self) {
        let now = self.clock.now();
        self.state().last_answer = Some(now);
    }
}

//! [`Codex`]: the broker's requests, in the app-server's words.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::agent::{
    AgentAccount, AgentAnswer, AgentCapabilities, AgentEvent, AgentInput, AgentRuntime, AgentThreadId, AnswerError,
    Fate, InputId, InterruptError, OpenError, Opened, ReadError, ReleaseError, RequestId, RuntimeHealth, SubmitError,
    Submitted, ThreadSpec, TurnId,
};
use broker_core::clock::Clock;
use broker_core::session::INTERRUPT_LIMIT;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::board::Board;
use crate::config::{CodexConfig, SandboxMode, StartError};
use crate::connection::Connection;
use crate::history;
use crate::process::{GRACE, private_folder, private_folder_within};
use crate::profile::{Profile, WORKSPACE};
use crate::rpc::CallError;
use crate::supervisor::{Line, Supervisor};
use crate::threads;

/// Events that wait for the engine. When there are more, reading from Codex waits.
const MAX_EVENTS: usize = 4096;

/// The time limit of requests that reach the model's side of Codex.
const LIMIT: Duration = Duration::from_secs(30);

/// The time limit of requests that cost the app-server nothing.
const CHEAP_LIMIT: Duration = Duration::from_secs(10);

/// Threads opened and inputs given at once. Under a permission profile Codex runs a sandboxed helper for each (measured with
/// 0.169.0: some 70 ms of processor time): more of them at once would only make each of them late, and the look whether the
/// process lives with them.
const MAX_HEAVY: usize = 8;

/// How long `open` waits for a process that is being started.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How long an interrupt waits for the turn to begin: right after `turn/start` it cannot be interrupted yet (measured:
/// 5 to 15 ms).
const BEGIN_PATIENCE: Duration = Duration::from_secs(2);
const BEGIN_PAUSE: Duration = Duration::from_millis(25);

// `interrupt` says how it went before the session believes that the turn has ended all the same.
const _: () = {
    let longest = 2 * (BEGIN_PATIENCE.as_secs() + CHEAP_LIMIT.as_secs());
    assert!(longest < INTERRUPT_LIMIT.as_secs(), "an interrupt that is not heard would not be repeated");
};

/// The agent runtime on `codex app-server`.
///
/// Dropping it ends the process; [`AgentRuntime::shutdown`] also waits for that.
pub struct Codex {
    profile: Arc<Profile>,
    board: Arc<Board>,
    line: watch::Receiver<Line>,
    grace: Arc<Mutex<Duration>>,
    taker: Mutex<Option<mpsc::Receiver<AgentEvent>>>,
    heavy: Semaphore,
    /// Wakes a process that rests.
    wanted: Arc<Notify>,
    supervisor: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl std::fmt::Debug for Codex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codex").finish_non_exhaustive()
    }
}

impl Codex {
    /// Prepares the folders and begins to start Codex; does not wait until it runs.
    ///
    /// To be called within a tokio runtime, and by one broker per data root: what an earlier one left running there is
    /// ended.
    ///
    /// # Errors
    ///
    /// When a folder cannot be prepared. That Codex cannot run is not an error but health.
    pub async fn start(config: CodexConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StartError> {
        let (config, profile) = prepare(config).await?;
        if profile.mode == SandboxMode::DangerFullAccess {
            tracing::warn!(
                "CODEX_SANDBOX=danger-full-access: agents can read and change everything that the broker can, its \
                 tokens included"
            );
        }
        if config.api_key.is_some() && config.auth_json.is_some() {
            tracing::warn!("OPENAI_API_KEY is not used for Codex: CODEX_AUTH_JSON_PATH is set too and goes first");
        }
        let wanted = Arc::new(Notify::new());
        let (events, taker) = mpsc::channel(MAX_EVENTS);
        let (line, watched) = watch::channel(Line::Soon);
        let stop = CancellationToken::new();
        let board = Arc::new(Board::new());
        let (profile, grace) = (Arc::new(profile), Arc::new(Mutex::new(GRACE)));
        let supervisor = Supervisor {
            profile: Arc::clone(&profile),
            search_path: config.env.get("PATH").cloned(),
            bin: config.bin,
            api_key: config.api_key,
            auth_json: config.auth_json,
            clock,
            board: Arc::clone(&board),
            events,
            line,
            stop: stop.clone(),
            grace: Arc::clone(&grace),
            quiet: Arc::default(),
            idle_end: config.idle_end,
            wanted: Arc::clone(&wanted),
        };
        Ok(Arc::new(Self {
            profile,
            board,
            line: watched,
            grace,
            taker: Mutex::new(Some(taker)),
            heavy: Semaphore::new(MAX_HEAVY),
            wanted,
            supervisor: tokio::sync::Mutex::new(Some(tokio::spawn(supervisor.run()))),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        }))
    }

    /// The process that answers; wakes one that rests, and waits for one that is being started.
    async fn connection(&self) -> Result<Arc<Connection>, String> {
        let mut line = self.line.clone();
        if matches!(*line.borrow(), Line::Resting) {
            self.wanted.notify_one();
        }
        let settles = line.wait_for(|line| !matches!(line, Line::Soon | Line::Resting));
        match timeout(START_PATIENCE, settles).await {
            Ok(Ok(line)) => match &*line {
                Line::Up(connection) => {
                    connection.used();
                    Ok(Arc::clone(connection))
                }
                Line::Down(reason) => Err(reason.clone()),
                Line::Soon | Line::Resting => Err("Codex is starting".to_owned()),
            },
            Ok(Err(_)) => Err("the broker is ending".to_owned()),
            Err(_) => Err(format!("Codex did not start within {START_PATIENCE:?}")),
        }
    }

    /// The process that answers right now.
    fn current(&self) -> Result<Arc<Connection>, String> {
        match &*self.line.borrow() {
            Line::Up(connection) => {
                connection.used();
                Ok(Arc::clone(connection))
            }
            Line::Soon => Err("Codex is being started".to_owned()),
            Line::Resting => Err("Codex rests".to_owned()),
            Line::Down(reason) => Err(reason.clone()),
        }
    }

    /// The real path of a session's workspace, with its temporary folder made: without that every command would fail.
    async fn workspace(&self, path: &Path) -> Result<PathBuf, OpenError> {
        let given = path.to_path_buf();
        let work = move || {
            private_folder(&given)?;
            private_folder_within(&given, ".tmp")?;
            given.canonicalize()
        };
        let unavailable = |error: String| OpenError::Unavailable {
            reason: format!("the workspace {} cannot be prepared ({error})", path.display()),
        };
        let made = tokio::task::spawn_blocking(work).await.map_err(|error| unavailable(error.to_string()))?;
        let real = made.map_err(|error| unavailable(error.to_string()))?;
        if self.profile.mode == SandboxMode::ReadOnly && real.file_name().is_none_or(|name| name != WORKSPACE) {
            let reason = format!("a read-only workspace has to be called `{WORKSPACE}`, unlike {}", real.display());
            return Err(OpenError::Refused { reason });
        }
        Ok(real)
    }

    /// Ends what a turn left running: an interrupt alone turns its command into a background terminal.
    async fn clean(connection: &Connection, thread: &AgentThreadId) {
        let params = json!({"threadId": thread.as_str()});
        let result: Result<Value, CallError> =
            connection.rpc.call("thread/backgroundTerminals/clean", params, CHEAP_LIMIT).await;
        if let Err(error) = result {
            tracing::warn!(thread = %thread, %error, "commands of an interrupted turn may still run");
        }
    }
}

async fn prepare(config: CodexConfig) -> Result<(CodexConfig, Profile), StartError> {
    let work = move || Profile::prepare(&config).map(|profile| (config, profile));
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StartError::Folder { path: PathBuf::new(), source: std::io::Error::other(error) }),
    }
}

fn not_given(error: CallError) -> SubmitError {
    match error {
        CallError::Gone { written: true, .. } => SubmitError::Unknown { limit: LIMIT },
        CallError::Unanswered { written: true, limit } => SubmitError::Unknown { limit },
        // It was done, whatever the answer was.
        CallError::Unreadable(_) => SubmitError::Unknown { limit: LIMIT },
        CallError::Gone { reason, .. } => SubmitError::Unavailable { reason },
        error @ CallError::Unanswered { .. } => SubmitError::Unavailable { reason: error.to_string() },
        CallError::Refused(error) if error.says("thread not found") || error.says("not loaded") => SubmitError::NotOpen,
        CallError::Refused(error) if error.is_overload() => SubmitError::Unavailable { reason: error.to_string() },
        // While the history is compacted a turn takes nothing.
        CallError::Refused(error) if error.says("not steerable") || error.says("cannot accept") => {
            SubmitError::Unavailable { reason: error.to_string() }
        }
        CallError::Refused(error) => SubmitError::Refused { reason: error.to_string() },
    }
}

#[async_trait]
impl AgentRuntime for Codex {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities { steer: true, input_ids: true, tools: true }
    }

    async fn open(&self, spec: &ThreadSpec, known: Option<AgentThreadId>) -> Result<Opened, OpenError> {
        let workspace = self.workspace(&spec.workspace).await?;
        // The semaphore is never closed.
        let _turn = self.heavy.acquire().await;
        let connection = self.connection().await.map_err(|reason| OpenError::Unavailable { reason })?;
        let loaded = threads::open(&connection.rpc, &self.profile, spec, &workspace, known.as_ref()).await?;
        if let Err(reason) = self.profile.check(loaded.permissions.as_deref()) {
            tracing::error!(thread = %loaded.thread, reason, "a thread was opened under permissions that are not ours");
            let params = json!({"threadId": loaded.thread.as_str()});
            let _: Result<Value, CallError> = connection.rpc.call("thread/unsubscribe", params, CHEAP_LIMIT).await;
            return Err(OpenError::Refused { reason });
        }
        connection.opened_thread(&loaded.thread);
        if let Some(turn) = &loaded.running {
            connection.found_running(&loaded.thread, turn);
        }
        Ok(Opened { thread: loaded.thread, epoch: connection.epoch, running: loaded.running, model: loaded.model })
    }

    async fn submit(&self, thread: &AgentThreadId, input: &AgentInput) -> Result<Submitted, SubmitError> {
        #[derive(Deserialize)]
        struct Answer {
            turn: Turn,
        }
        #[derive(Deserialize)]
        struct Turn {
            id: String,
        }
        let _turn = self.heavy.acquire().await;
        let connection = self.current().map_err(|reason| SubmitError::Unavailable { reason })?;
        let text = std::iter::once(json!({"type": "text", "text": input.text, "text_elements": []}));
        let images = input.images.iter().map(|path| json!({"type": "localImage", "path": path}));
        let params = json!({
            "threadId": thread.as_str(),
            "input": text.chain(images).collect::<Vec<_>>(),
            "clientUserMessageId": input.id.as_str(),
        });
        // On a thread that is busy this joins the running turn and answers with that turn's id.
        let answer: Answer = connection.rpc.call("turn/start", params, LIMIT).await.map_err(not_given)?;
        Ok(Submitted { turn: TurnId::new(answer.turn.id) })
    }

    async fn fate(&self, thread: &AgentThreadId, ids: &[InputId]) -> Result<Vec<(InputId, Fate)>, ReadError> {
        let connection = self.current().map_err(|reason| ReadError { reason })?;
        let fates = history::fates(&connection.rpc, thread, ids).await;
        fates.map_err(|error| ReadError { reason: error.to_string() })
    }

    async fn interrupt(&self, thread: &AgentThreadId, turn: &TurnId) -> Result<(), InterruptError> {
        let connection = self.current().map_err(|reason| InterruptError::Unavailable { reason })?;
        let deadline = Instant::now() + BEGIN_PATIENCE;
        loop {
            let params = json!({"threadId": thread.as_str(), "turnId": turn.as_str()});
            let result: Result<Value, CallError> = connection.rpc.call("turn/interrupt", params, CHEAP_LIMIT).await;
            match result {
                Ok(_) => break,
                Err(CallError::Refused(error)) if error.says("no active turn") => {
                    if connection.has_ended(turn) || Instant::now() >= deadline {
                        return Err(InterruptError::NotRunning);
                    }
                    sleep(BEGIN_PAUSE).await;
                }
                Err(CallError::Refused(error)) if error.says("expected active turn") || error.says("not found") => {
                    return Err(InterruptError::NotRunning);
                }
                Err(error) => return Err(InterruptError::Unavailable { reason: error.to_string() }),
            }
        }
        // Only now the command has become a background terminal.
        connection.ended(turn, BEGIN_PATIENCE).await;
        Self::clean(&connection, thread).await;
        Ok(())
    }

    async fn answer(&self, request: &RequestId, answer: AgentAnswer) -> Result<(), AnswerError> {
        let connection = self.current().map_err(|reason| AnswerError { reason })?;
        let over = |reason: &str| AnswerError { reason: reason.to_owned() };
        if connection.epoch != request.epoch {
            return Err(over("the process that asked is gone"));
        }
        match connection.answer(&request.id, &answer).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(over("nobody waits for it any more")),
            Err(error) => Err(over(&error.to_string())),
        }
    }

    async fn release(&self, thread: &AgentThreadId) -> Result<(), ReleaseError> {
        #[derive(Deserialize)]
        struct Terminals {
            data: Vec<Value>,
        }
        // Without a process nothing is loaded.
        let Ok(connection) = self.current() else { return Ok(()) };
        let params = json!({"threadId": thread.as_str()});
        // A minute after the last subscriber has left, Codex unloads a thread and kills what runs in it (measured).
        let method = "thread/backgroundTerminals/list";
        let terminals: Result<Terminals, CallError> = connection.rpc.call(method, params.clone(), CHEAP_LIMIT).await;
        let terminals = terminals.map_err(|error| ReleaseError { reason: error.to_string() })?;
        if !terminals.data.is_empty() {
            return Err(ReleaseError { reason: format!("{} commands run in it", terminals.data.len()) });
        }
        let result: Result<Value, CallError> = connection.rpc.call("thread/unsubscribe", params, CHEAP_LIMIT).await;
        connection.forget_thread(thread);
        result.map(drop).map_err(|error| ReleaseError { reason: error.to_string() })
    }

    /// Codex keeps them by thread, and tells its model where.
    fn images_root(&self) -> Option<std::path::PathBuf> {
        Some(self.profile.codex_home.join("generated_images"))
    }

    fn events(&self) -> mpsc::Receiver<AgentEvent> {
        let taken = self.taker.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| mpsc::channel(1).1)
    }

    fn health(&self) -> watch::Receiver<RuntimeHealth> {
        self.board.watch()
    }

    fn account(&self) -> Option<AgentAccount> {
        self.board.account()
    }

    async fn shutdown(&self, limit: Duration) {
        // By itself, by SIGTERM, by SIGKILL: a third each.
        *self.grace.lock().unwrap_or_else(PoisonError::into_inner) = GRACE.min(limit / 3);
        self.stop.cancel();
        let mut supervisor = self.supervisor.lock().await;
        if let Some(task) = supervisor.as_mut() {
            if timeout(limit, &mut *task).await.is_err() {
                // Dropping the process kills it.
                task.abort();
                tracing::warn!(?limit, "Codex could not be ended in time and is killed");
            }
            *supervisor = None;
        }
    }
}

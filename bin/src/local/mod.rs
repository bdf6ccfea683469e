//! A chat in the terminal, on the same engine, store and agent as on Slack: a first answer without a Slack app.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `terminal` | the chat platform whose one person types here |
//! | `log` | what was said, kept in a file |
//! | `input` | what can be typed |
//! | `screen` | what is shown |
//! | `plain` | text from elsewhere, as it may reach a terminal |
//! | `demo`, `script` | the agent where there is no Codex |

mod demo;
mod input;
mod log;
mod plain;
mod screen;
mod script;
mod terminal;

use std::collections::VecDeque;
use std::io::{BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker_codex::Codex;
use broker_core::agent::AgentRuntime;
use broker_core::chat::InstallationId;
use broker_core::clock::{Clock, SystemClock};
use broker_core::engine::{Broker, Parts, Settings};
use broker_core::ids::RandomIds;
use broker_store::SqliteStore;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::run;
use crate::signals::Signals;
use demo::Demo;
use input::Input;
use screen::{Screen, Show};
use terminal::Terminal;

/// Messages of a thread that are shown when it is looked at.
const SHOWN: usize = 6;
/// How long the agent's process may take to end.
const AGENT_LIMIT: Duration = Duration::from_secs(5);

/// How long what is still to be shown may take when the chat ends.
const SCREEN_LIMIT: Duration = Duration::from_secs(2);

/// Where the chat keeps what is its own: apart from what belongs to Slack, and below the same lock.
pub(crate) fn folder(config: &Config) -> PathBuf {
    config.folders.data_root.join("local")
}

/// Where its log is: nothing but the conversation is written to the terminal.
pub(crate) fn logs(config: &Config) -> PathBuf {
    config.folders.log_dir.clone().unwrap_or_else(|| folder(config).join("logs"))
}

/// Whether somebody may be at the other end of standard input: a terminal, a pipe or a file.
pub(crate) fn somebody_types() -> bool {
    use rustix::fs::{FileType, fstat};
    let stdin = std::io::stdin();
    let kind = fstat(&stdin).map(|stat| FileType::from_raw_mode(stat.st_mode));
    stdin.is_terminal() || matches!(kind, Ok(FileType::Fifo | FileType::RegularFile))
}

/// Chats until the input ends or a signal comes.
pub(crate) async fn chat(config: &Config) -> Result<(), Failure> {
    let mut signals = Signals::listen()
        .map_err(|error| Failure::new(Exit::Internal, format!("signals cannot be listened to ({error})")))?;
    // The lock of the whole: a broker on Slack and this chat would end each other's Codex.
    let _root = run::take_root(config.folders.data_root.clone()).await?;
    let (_local, store) = run::open_store(folder(config)).await?;
    let gone = CancellationToken::new();
    let cannot = |what: &str, error: std::io::Error| Failure::new(Exit::CannotCreate, format!("{what}: {error}"));
    let (screen, painter) =
        Screen::open(gone.clone()).map_err(|error| cannot("the screen cannot be written to", error))?;
    let lines =
        input::lines(BufReader::new(std::io::stdin())).map_err(|error| cannot("the input cannot be read", error))?;
    let chat = Chat::open(config, screen, Arc::clone(&store)).await?;
    let talk = async {
        chat.greet(config).await;
        chat.talk(lines).await;
    };
    let ended = tokio::select! {
        () = gone.cancelled() => None,
        stop = signals.next() => Some(stop),
        () = talk => None,
    };
    let end = async {
        let grace = if ended.is_some() { config.grace } else { Duration::ZERO };
        if ended.is_some() {
            let note = chat.screen.note("ending; what was said is kept (a second signal ends at once)");
            // Nobody may be reading any more.
            let _ = tokio::time::timeout(SCREEN_LIMIT, note).await;
        }
        chat.drain(grace).await;
        run::close(store).await;
        // The screen ends when nobody has anything more to show, or never, when nobody reads that.
        let _ = tokio::time::timeout(SCREEN_LIMIT, tokio::task::spawn_blocking(move || painter.join())).await;
    };
    tokio::select! {
        () = end => Ok(()),
        again = signals.next() => std::process::exit(again.exit_code()),
    }
}

struct Chat {
    terminal: Arc<Terminal>,
    screen: Screen,
    store: Arc<SqliteStore>,
    runtime: Arc<dyn AgentRuntime>,
    clock: Arc<dyn Clock>,
    broker: Broker,
    /// Whether the lines are typed, one after another, by a person.
    typed: bool,
    /// Why it is the demo agent, when it is.
    no_codex: Option<String>,
}

impl Chat {
    async fn open(config: &Config, screen: Screen, store: Arc<SqliteStore>) -> Result<Self, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let root = folder(config);
        let cannot = |error: std::io::Error| Failure::new(Exit::CannotCreate, format!("{}: {error}", root.display()));
        let terminal =
            Terminal::open(root.join("chat.jsonl"), screen.clone(), Arc::clone(&store) as _, Arc::clone(&clock));
        let terminal = terminal.await.map_err(cannot)?;
        let no_codex = why_no_codex(config);
        let runtime: Arc<dyn AgentRuntime> = match &no_codex {
            None => Codex::start(run::codex_config(config, root.join("sessions")), Arc::clone(&clock))
                .await
                .map_err(|error| Failure::new(Exit::CannotCreate, error))?,
            Some(_) => Demo::open(root.join("demo-agent"), Arc::new(RandomIds)).await.map_err(cannot)?,
        };
        let settings = Settings {
            home: Some(InstallationId::new(terminal::INSTALLATION)),
            history_limit: config.history_limit,
            turn_idle: config.codex.turn_idle,
            max_active_turns: config.codex.max_active_turns,
            ..Settings::new(root.join("sessions"), config.folders.repos_root.clone())
        };
        let parts = Parts {
            transport: Arc::clone(&terminal) as _,
            history: Arc::clone(&terminal) as _,
            runtime: Arc::clone(&runtime),
            store: Arc::clone(&store) as _,
            clock: Arc::clone(&clock),
            ids: Arc::new(RandomIds),
        };
        let broker = Broker::start(parts, settings)
            .await
            .map_err(|error| Failure::new(Exit::Io, format!("what an earlier chat left cannot be read: {error}")))?;
        let typed = std::io::stdin().is_terminal();
        Ok(Self { terminal, screen, store, runtime, clock, broker, typed, no_codex })
    }

    /// Says what this is, and where it goes on.
    async fn greet(&self, config: &Config) {
        let agent = match &self.no_codex {
            None => "The agent is Codex.".to_owned(),
            Some(why) => format!("The agent is a scripted demo and says so: {why}."),
        };
        self.screen.note(agent).await;
        if self.screen.is_terminal() {
            let kept = format!(
                "SLACK_APP_TOKEN and SLACK_BOT_TOKEN are not set, so this is a chat in the terminal, kept in {}. /help \
                 shows what can be typed.",
                folder(config).display()
            );
            self.screen.note(kept).await;
            if let Some(thread) = self.terminal.current() {
                self.look_at(thread).await;
            }
        }
        self.screen.show(Show::Prompt).await;
    }

    /// Reads lines until they end, and waits until everything is answered.
    ///
    /// From a pipe the lines are all there at once: each waits until the one before is answered, unless it is `-stop`. At a
    /// terminal a line goes out when it is typed, also into a turn that runs.
    async fn talk(&self, mut lines: mpsc::Receiver<String>) {
        let mut waiting: VecDeque<Input> = VecDeque::new();
        let (mut open, mut at_work) = (true, false);
        loop {
            while let Some(next) = waiting.pop_front_if(|next| !at_work || next.is_urgent()) {
                let quits = next == Input::Quit;
                at_work |= self.obey(next).await && !self.typed;
                if quits {
                    return self.answered().await;
                }
            }
            if !open && waiting.is_empty() {
                return self.answered().await;
            }
            tokio::select! {
                line = lines.recv(), if open && waiting.len() < 64 => match line {
                    Some(line) => waiting.push_back(Input::parse(&line)),
                    None => open = false,
                },
                () = self.answered(), if at_work => at_work = false,
            }
        }
    }

    /// Returns when everything that was said is answered.
    async fn answered(&self) {
        self.terminal.delivered().await;
        if let Err(error) = self.broker.idle().await {
            tracing::warn!(%error, "it cannot be told whether everything is answered");
        }
    }

    /// Does what a line asks for. Says whether it was a message.
    async fn obey(&self, input: Input) -> bool {
        let said = matches!(input, Input::Say(_));
        match input {
            Input::Say(text) => {
                // What is typed stands on the terminal already.
                if !(self.typed && self.screen.is_terminal()) {
                    self.screen.show(Show::Message { from: "you".to_owned(), text: text.clone() }).await;
                }
                if let Err(error) = self.terminal.say(&text).await {
                    let what = format!("that could not be kept, and was not sent ({error}): is the disk full?");
                    self.screen.note(what).await;
                }
            }
            Input::New => {
                self.terminal.look_at(None);
                self.screen.note("The next message begins a new thread.").await;
            }
            Input::Threads => self.list().await,
            Input::Thread(number) => {
                match number.checked_sub(1).and_then(|index| self.terminal.threads().get(index).cloned()) {
                    Some(root) => {
                        self.terminal.look_at(Some(root.at));
                        self.look_at(root.at).await;
                    }
                    None => self.screen.note(format!("there is no thread {number}; /threads lists them")).await,
                }
            }
            Input::Help => self.screen.note(input::HELP).await,
            Input::Wrong(why) => self.screen.note(why).await,
            Input::Quit | Input::Empty => {}
        }
        self.screen.show(Show::Prompt).await;
        said
    }

    async fn list(&self) {
        let threads = self.terminal.threads();
        if threads.is_empty() {
            return self.screen.note("There is no thread yet: write something.").await;
        }
        let current = self.terminal.current();
        let mut lines = Vec::new();
        for (index, root) in threads.iter().enumerate() {
            let mark = if current == Some(root.at) { "*" } else { " " };
            let count = self.terminal.messages(root.at).len();
            let (text, ago) = (plain::one_line(&root.text, 50), terminal::ago(root.at, self.clock.now()));
            let messages = if count == 1 { "message" } else { "messages" };
            lines.push(format!("{mark} {:>3}  {text}  ({count} {messages}, {ago})", index + 1));
        }
        self.screen.note(lines.join("\n")).await;
    }

    /// Shows the latest messages of a thread.
    async fn look_at(&self, thread: u64) {
        let messages = self.terminal.messages(thread);
        let threads = self.terminal.threads();
        let left_out = messages.len().saturating_sub(SHOWN);
        if left_out > 0 {
            self.screen.note(format!("({left_out} earlier messages)")).await;
        }
        for entry in &messages[left_out..] {
            self.screen.show(terminal::shown(entry, Some(thread), &threads)).await;
        }
    }

    async fn drain(self, grace: Duration) {
        self.broker.drain(grace).await;
        self.runtime.shutdown(AGENT_LIMIT).await;
        drop(self.store);
    }
}

/// Why Codex cannot be the agent: no program, or no login of our own. The operator's own Codex is never used.
fn why_no_codex(config: &Config) -> Option<String> {
    let codex = &config.codex;
    if !is_there(&codex.bin, codex.env.get("PATH").map(String::as_str)) {
        return Some(format!("there is no `{}` (CODEX_BIN)", codex.bin.display()));
    }
    let logged_in =
        codex.api_key.is_some() || codex.auth_json.is_some() || config.folders.codex_home.join("auth.json").is_file();
    (!logged_in).then(|| {
        "Codex has no login here; OPENAI_API_KEY, CODEX_AUTH_JSON_PATH or an auth.json in CODEX_HOME gives it one"
            .to_owned()
    })
}

/// Whether a program is there: at its path, or on the search path when it is a bare name.
fn is_there(program: &Path, search: Option<&str>) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    search.is_some_and(|search| std::env::split_paths(search).any(|folder| folder.join(program).is_file()))
}

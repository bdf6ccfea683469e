//! Keeping the app-server running: one task owns its process, from start to end, over and over.

use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker_core::agent::{AgentEvent, Epoch};
use broker_core::clock::Clock;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::auth::{self, Account};
use crate::board::{Board, Stage};
use crate::connection::Connection;
use crate::events::NOT_WANTED;
use crate::launch;
use crate::orphans::Orphans;
use crate::probe;
use crate::process::{self, Launch, Process};
use crate::profile::Profile;
use crate::rpc::{CallError, Rpc};

/// The time limit of the first requests of a process.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The time limit of requests that cost the app-server nothing.
const CHEAP_LIMIT: Duration = Duration::from_secs(10);

/// The time limit of the look whether a silent process still lives.
const PULSE_LIMIT: Duration = Duration::from_secs(5);

/// How often a process is looked after that nobody complains about.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How often the sandbox is tried again while it fails.
const PROBE_AGAIN: Duration = Duration::from_secs(60);

/// The pauses between starts that come to nothing.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row, up to which the pause is so short (2 s) that whoever needs the process waits for it.
const PATIENT_FAILURES: u32 = 3;

/// A process that lived so long was a good start.
const GOOD_LIFE: Duration = Duration::from_secs(60);

/// What may be had at the moment.
#[derive(Clone)]
pub(crate) enum Line {
    /// A process is being started, or will be very soon.
    Soon,
    /// One answers.
    Up(Arc<Connection>),
    /// None, because nobody needed one. Who does says so.
    Resting,
    /// None, for a while.
    Down(String),
}

/// What the supervisor works with.
pub(crate) struct Supervisor {
    pub(crate) profile: Arc<Profile>,
    pub(crate) bin: PathBuf,
    pub(crate) search_path: Option<String>,
    pub(crate) api_key: Option<SecretString>,
    pub(crate) auth_json: Option<PathBuf>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) board: Arc<Board>,
    pub(crate) events: mpsc::Sender<AgentEvent>,
    pub(crate) line: watch::Sender<Line>,
    pub(crate) stop: CancellationToken,
    /// How long ending the process may take, set by a shutdown.
    pub(crate) grace: Arc<std::sync::Mutex<Duration>>,
    /// Held while the sandbox is tried and while orphans are looked for: a trial in between would pass for one.
    pub(crate) quiet: Arc<tokio::sync::Mutex<()>>,
    /// A process of which nothing was asked for so long is ended.
    pub(crate) idle_end: Duration,
    /// Told when somebody needs a process that rests.
    pub(crate) wanted: Arc<Notify>,
}

/// How a life of the process is over.
enum Over {
    /// It was not needed.
    Unneeded,
    /// This happened.
    Trouble(String),
}

impl Over {
    fn why(self) -> String {
        match self {
            Self::Unneeded => "nothing was asked of it".to_owned(),
            Self::Trouble(reason) => reason,
        }
    }
}

/// What calls for a look at a process.
enum Cause {
    /// A request stayed unanswered.
    Suspicion,
    /// Nothing but time.
    Beat,
    /// Its account changed.
    Account,
}

/// A process that answers.
struct Running {
    process: Process,
    connection: Arc<Connection>,
    pipes: tokio::task::JoinHandle<()>,
    words: tokio::task::JoinHandle<()>,
}

impl Supervisor {
    /// Runs until it is told to stop; the process is then ended.
    pub(crate) async fn run(self) {
        let orphans = Orphans::new(&self.profile.data_root);
        self.sweep(&orphans).await;
        let probing = self.spawn_probe();
        let (mut epoch, mut failures, mut rests) = (0, 0_u32, 0);
        while !self.stop.is_cancelled() {
            epoch += 1;
            self.board.change(|facts| {
                facts.stage = Stage::Starting;
                (facts.epoch, facts.restarts, facts.failures) = (epoch, epoch - 1 - rests, failures);
            });
            self.line.send_replace(Line::Soon);
            let started = Instant::now();
            let over = self.live(Epoch(epoch), &orphans).await;
            if self.stop.is_cancelled() {
                break;
            }
            let reason = match over {
                Over::Trouble(reason) => reason,
                Over::Unneeded => {
                    (failures, rests) = (0, rests + 1);
                    self.rest().await;
                    continue;
                }
            };
            failures = if started.elapsed() >= GOOD_LIFE { 1 } else { failures.saturating_add(1) };
            self.pause(failures, reason).await;
        }
        probing.abort();
        self.line.send_replace(Line::Down("the broker is ending".to_owned()));
        self.board.change(|facts| facts.stage = Stage::Ended);
    }

    /// Waits until somebody needs a process.
    async fn rest(&self) {
        self.board.change(|facts| facts.stage = Stage::Resting);
        self.line.send_replace(Line::Resting);
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.wanted.notified() => {}
        }
    }

    /// One life, from the search for the program to the end of the process. Returns why it ended.
    async fn live(&self, epoch: Epoch, orphans: &Orphans) -> Over {
        let started = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Over::Trouble("the broker is ending".to_owned()),
            started = self.start(epoch, orphans) => started,
        };
        let mut running = match started {
            Ok(running) => running,
            Err(reason) => return Over::Trouble(reason),
        };
        let pid = running.process.pid();
        tracing::info!(pid, epoch = epoch.0, "Codex answers");
        self.line.send_replace(Line::Up(Arc::clone(&running.connection)));
        let over = self.watch(&mut running).await;
        // Nobody gets the connection any more before its end is told.
        self.line.send_replace(Line::Soon);
        let unneeded = matches!(over, Over::Unneeded);
        let reason = over.why();
        let how = self.end(running, orphans, &reason).await;
        let reason = if how == reason { reason } else { format!("{reason}; {how}") };
        if self.stop.is_cancelled() {
            tracing::info!(pid, how, "Codex was ended");
        } else {
            if unneeded {
                tracing::info!(pid, epoch = epoch.0, "Codex was ended, since nothing was asked of it");
            } else {
                tracing::warn!(pid, epoch = epoch.0, reason, "Codex is gone");
            }
            let _ = self.events.send(AgentEvent::Down { epoch, reason: reason.clone() }).await;
        }
        if unneeded { Over::Unneeded } else { Over::Trouble(reason) }
    }

    async fn start(&self, epoch: Epoch, orphans: &Orphans) -> Result<Running, String> {
        let launch = self.prepare().await?;
        let failed = |error: std::io::Error| format!("{} cannot be started ({error})", launch.program.display());
        let (process, pipes) = Process::spawn(&launch).map_err(failed)?;
        orphans.note(process.pid()).await;
        let (rpc, ends) = Rpc::new(pipes.stdout, pipes.stdin);
        let (clock, board) = (Arc::clone(&self.clock), Arc::clone(&self.board));
        let connection = Arc::new(Connection::new(epoch, rpc, clock, board, self.events.clone()));
        let board = Arc::clone(&self.board);
        board.change(|facts| (facts.pid, facts.last_words, facts.warning) = (Some(process.pid()), None, None));
        let last = move |words| board.change(|facts| facts.last_words = Some(words));
        let mut running = Running {
            process,
            pipes: tokio::spawn(ends.run(Arc::clone(&connection) as _)),
            words: tokio::spawn(process::log_stderr(pipes.stderr, last)),
            connection,
        };
        let greeted = tokio::select! {
            greeted = self.greet(&running.connection) => greeted,
            how = running.process.wait() => Err(how),
        };
        match greeted {
            Ok(()) => Ok(running),
            Err(reason) => {
                let how = self.end(running, orphans, &reason).await;
                Err(if how == reason { reason } else { format!("{reason}; {how}") })
            }
        }
    }

    /// Finds the program and brings the account's file over.
    async fn prepare(&self) -> Result<Launch, String> {
        let (bin, search) = (self.bin.clone(), self.search_path.clone());
        let (profile, source) = (Arc::clone(&self.profile), self.auth_json.clone());
        let work = move || {
            let trouble = source.and_then(|source| auth::bring_over(&source, &profile.codex_home).err());
            let program = launch::find(&bin, search.as_deref())?;
            // Over stdio alone: an agent's shell with network could drive any other listener.
            let arguments = std::iter::once("app-server".into()).chain(profile.flags()).collect();
            let (env, cwd) = (profile.codex_env().clone(), profile.codex_home.clone());
            Ok((Launch { program, arguments, env, cwd }, trouble))
        };
        let result: Result<_, launch::LaunchError> =
            tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
        let (launch, trouble) = result.map_err(|error| error.to_string())?;
        if let Some(error) = &trouble {
            tracing::warn!(%error, "CODEX_AUTH_JSON_PATH was not taken over");
        }
        self.board.change(|facts| facts.auth_trouble = trouble.map(|error| error.to_string()));
        Ok(launch)
    }

    /// The first words with a new process.
    async fn greet(&self, connection: &Connection) -> Result<(), String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Greeting {
            user_agent: String,
        }
        let params = json!({
            "clientInfo": {"name": "slack-codex-broker", "title": "Slack Codex broker", "version": env!("CARGO_PKG_VERSION")},
            "capabilities": {"experimentalApi": true, "optOutNotificationMethods": NOT_WANTED},
        });
        let told = |error: CallError| error.to_string();
        let rpc = &connection.rpc;
        let greeting: Greeting = rpc.call("initialize", params, START_LIMIT).await.map_err(told)?;
        rpc.send(&json!({"method": "initialized"})).await.map_err(told)?;
        if let (Some(key), None) = (&self.api_key, &self.auth_json) {
            let params = json!({"type": "apiKey", "apiKey": key.expose_secret()});
            let result: Result<Value, CallError> = rpc.call("account/login/start", params, START_LIMIT).await;
            // The words of a refusal could repeat the key.
            let trouble = result.err().map(|error| match error {
                CallError::Refused(_) => {
                    "Codex refuses the login with OPENAI_API_KEY; look for forced_login_method in its config.toml"
                        .to_owned()
                }
                error => format!("the login with OPENAI_API_KEY failed ({error})"),
            });
            if let Some(trouble) = &trouble {
                tracing::warn!(trouble, "Codex is not logged in");
            }
            self.board.change(|facts| facts.auth_trouble = trouble);
        }
        self.board.change(|facts| (facts.stage, facts.version) = (Stage::Up, Some(greeting.user_agent)));
        self.look_at_account(connection).await;
        Ok(())
    }

    async fn look_at_account(&self, connection: &Connection) {
        let answer: Result<Value, CallError> = connection.rpc.call("account/read", json!({}), CHEAP_LIMIT).await;
        let account = match answer {
            Ok(answer) => Account::of(&answer),
            Err(error) => Account::Unknown(Some(error.to_string())),
        };
        self.board.change(|facts| facts.account = account);
    }

    /// Looks after a process until it is to be replaced; says why.
    async fn watch(&self, running: &mut Running) -> Over {
        let ending = || Over::Trouble("the broker is ending".to_owned());
        let start = Instant::now();
        let Running { process, connection, .. } = running;
        let mut beat = tokio::time::interval(HEARTBEAT.min(self.idle_end));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let cause = tokio::select! {
                biased;
                () = self.stop.cancelled() => return ending(),
                how = process.wait() => return Over::Trouble(how),
                reason = connection.rpc.closed() => return Over::Trouble(reason),
                () = connection.rpc.suspicion() => Cause::Suspicion,
                () = connection.account_changed() => Cause::Account,
                _ = beat.tick() => Cause::Beat,
            };
            let silent = tokio::select! {
                biased;
                () = self.stop.cancelled() => return ending(),
                // The beat's own request is the more patient one: it must not hold up a complaint.
                () = connection.rpc.suspicion() => !self.pulse(connection, PULSE_LIMIT).await,
                silent = self.is_silent(connection, &cause) => silent,
            };
            // A reader that waits for the consumer of events reads no answers either.
            if silent && !connection.rpc.is_stalled() && !connection.rpc.is_closed() {
                let reason = format!("it answered neither a request nor a second one within {PULSE_LIMIT:?}");
                return Over::Trouble(reason);
            }
            if connection.idle_for(start) >= self.idle_end {
                return Over::Unneeded;
            }
        }
    }

    async fn is_silent(&self, connection: &Connection, cause: &Cause) -> bool {
        match cause {
            Cause::Suspicion => !self.pulse(connection, PULSE_LIMIT).await,
            Cause::Beat => self.heartbeat(connection).await,
            Cause::Account => {
                self.look_at_account(connection).await;
                false
            }
        }
    }

    /// Whether nothing answers, as seen without anybody's complaint.
    async fn heartbeat(&self, connection: &Connection) -> bool {
        let alive = self.pulse(connection, START_LIMIT).await || self.pulse(connection, PULSE_LIMIT).await;
        let missing = self.board.change(|facts| matches!(facts.account, Account::Missing | Account::Unknown(Some(_))));
        if alive && missing {
            self.look_at_account(connection).await;
        }
        !alive
    }

    async fn pulse(&self, connection: &Connection, limit: Duration) -> bool {
        #[derive(Deserialize)]
        struct Loaded {
            data: Vec<Value>,
        }
        let answer: Result<Loaded, CallError> = connection.rpc.call("thread/loaded/list", json!({}), limit).await;
        let loaded = answer.as_ref().ok().map(|loaded| loaded.data.len());
        let at = connection.last_answer();
        self.board.change(|facts| {
            facts.last_answer = at;
            facts.loaded = loaded.or(facts.loaded);
        });
        // Any answer is a sign of life.
        !matches!(answer, Err(CallError::Unanswered { .. }))
    }

    /// Ends a process and everything that it started.
    async fn end(&self, mut running: Running, orphans: &Orphans, reason: &str) -> String {
        running.connection.rpc.close(reason);
        let grace = *self.grace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let how = running.process.end(grace).await;
        // What it said last is still read; a helper that holds its pipes open must not hold us up.
        for task in [&mut running.pipes, &mut running.words] {
            if timeout(Duration::from_secs(1), &mut *task).await.is_err() {
                task.abort();
            }
        }
        self.sweep(orphans).await;
        orphans.forget().await;
        self.board.change(|facts| (facts.pid, facts.loaded) = (None, None));
        how
    }

    /// Waits before the next start, longer each time.
    async fn pause(&self, failures: u32, reason: String) {
        let pause = backoff(failures, random());
        tracing::warn!(reason, pause_ms = pause.as_millis(), failures, "Codex does not run and is started again");
        let again = self.clock.now().plus(pause);
        self.board.change(|facts| {
            facts.failures = failures;
            facts.stage = Stage::Waiting { reason: reason.clone(), again };
        });
        // After a mishap or two whoever asks had better wait: it is back in a moment.
        let line = if failures > PATIENT_FAILURES { Line::Down(reason) } else { Line::Soon };
        self.line.send_replace(line);
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(pause) => {}
        }
    }

    async fn sweep(&self, orphans: &Orphans) {
        let _quiet = self.quiet.lock().await;
        orphans.sweep().await;
    }

    /// Tries the sandbox at start, and again while it fails. Delays nothing.
    fn spawn_probe(&self) -> tokio::task::JoinHandle<()> {
        let (bin, search) = (self.bin.clone(), self.search_path.clone());
        let (profile, board, quiet) = (Arc::clone(&self.profile), Arc::clone(&self.board), Arc::clone(&self.quiet));
        tokio::spawn(async move {
            loop {
                let (bin, search) = (bin.clone(), search.clone());
                let found = tokio::task::spawn_blocking(move || launch::find(&bin, search.as_deref())).await;
                if let Ok(Ok(program)) = found {
                    let health = {
                        let _quiet = quiet.lock().await;
                        probe::run(&profile, program).await
                    };
                    let (ok, reason) = (health.ok, health.reason.clone());
                    board.change(|facts| facts.sandbox = health);
                    if ok {
                        return;
                    }
                    tracing::error!(reason, "the sandbox does not work");
                }
                sleep(PROBE_AGAIN).await;
            }
        })
    }
}

/// The pause after so many failures: doubled each time, and up to half of it left out by chance.
fn backoff(failures: u32, random: u64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1_u32 << failures.saturating_sub(1).min(10)).min(BACKOFF_LONGEST);
    let share = u32::try_from(random % 512).unwrap_or(0);
    doubled - doubled / 1024 * share
}

/// A number that nobody can foresee; std seeds its hashers so.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_never_vanish() {
        assert_eq!(backoff(1, 0), Duration::from_millis(500));
        assert_eq!(backoff(3, 0), Duration::from_secs(2));
        assert_eq!(backoff(100, 0), Duration::from_secs(30));
        for failures in 0..20 {
            let (longest, shortest) = (backoff(failures, 0), backoff(failures, 511));
            assert!(shortest >= longest / 2 && shortest < longest, "{failures}: {shortest:?} of {longest:?}");
        }
    }
}

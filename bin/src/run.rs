//! The broker's life: opened in order, run until a signal, ended in the opposite order.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker_codex::{Codex, CodexConfig};
use broker_core::access::InstallKey;
use broker_core::agent::AgentRuntime;
use broker_core::clock::{Clock, SystemClock};
use broker_core::engine::{ApiSettings, Broker, Door, Parts, Settings};
use broker_core::ids::RandomIds;
use broker_http::{Access, Api};
use broker_slack::{ConnectError, Slack, SlackConfig};
use broker_store::{DataRoot, DataRootError, OpenError, SqliteStore};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::config::{Config, is_loopback};
use crate::exit::{Exit, Failure};
use crate::figures::{self, Figures};
use crate::logging::Log;
use crate::signals::{Signals, Stop};

/// How long blocking work may keep the process at its end.
pub(crate) const BLOCKING_LIMIT: Duration = Duration::from_secs(2);
/// How long the end may take beside the grace period: what is being sent, tasks, the agent's process.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How long the agent's process may take to end when no engine ends it.
const AGENT_LIMIT: Duration = Duration::from_secs(5);
/// How long the HTTP server may take to end.
const HTTP_LIMIT: Duration = Duration::from_secs(5);
/// The wait after the first connection to Slack that failed; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest such wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs the broker until a signal, or until something is in the way that only an operator can mend.
pub(crate) async fn serve(config: &Config, log: &Log) -> Result<(), Failure> {
    // First of all: from here on a signal ends the broker in order, however far it has come.
    let mut signals = Signals::listen()
        .map_err(|error| Failure::new(Exit::Internal, format!("signals cannot be listened to ({error})")))?;
    let house = House::open(config).await?;
    let lived = house.live(config, &mut signals).await;
    let ending = house.end(config, lived);
    tokio::select! {
        ended = ending => ended,
        again = signals.next() => at_once(again, log),
    }
}

/// A second signal: whoever sends it does not want to wait. What was committed is safe, and the agent's process ends when
/// its stdin is closed.
fn at_once(again: Stop, log: &Log) -> ! {
    tracing::warn!(signal = again.name(), "ended at once by a second signal");
    log.flush();
    std::process::exit(again.exit_code())
}

/// What was lived: a broker that is to be drained, or none that ever ran.
type Lived = Result<Option<Broker>, Failure>;

/// Everything that is open before Slack is asked.
struct House {
    clock: Arc<dyn Clock>,
    store: Arc<SqliteStore>,
    codex: Arc<Codex>,
    board: Arc<Board>,
    figures: Figures,
    /// How the agents' commands reach the local API.
    agents: ApiSettings,
    /// The way of the local API to the sessions, once there is one.
    door: watch::Sender<Option<Door>>,
    http: JoinHandle<()>,
    http_stop: CancellationToken,
    /// Held until the store is closed. Last, since fields are dropped in this order.
    _root: DataRoot,
}

impl House {
    async fn open(config: &Config) -> Result<Self, Failure> {
        warn_of_choices(config);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (root, store) = open_store(config.folders.data_root.clone()).await?;
        let (root, key) = install_key(root).await?;
        let listener = broker_http::bind(&config.bind_host, config.port)
            .await
            .map_err(|error| Failure::new(Exit::Unavailable, error))?;
        let address = local_address(&listener)?;
        let codex = Codex::start(codex_config(config, config.folders.sessions_root.clone()), Arc::clone(&clock))
            .await
            .map_err(|error| Failure::new(Exit::CannotCreate, error))?;
        let board = Arc::new(Board::new());
        let api = Api::new(env!("CARGO_PKG_VERSION"), config.bind_host.clone());
        let api = board.api(api, Arc::clone(&store) as _, codex.as_ref());
        let (door, opened) = watch::channel(None);
        let access = if config.api_auth { Access::Tokens(Arc::clone(&key)) } else { Access::Open };
        let api = api.sessions(opened, access);
        let figures = Figures::install()
            .map_err(|error| Failure::new(Exit::Internal, format!("nothing can be counted ({error})")))?;
        let (scraped, counted) = (figures.clone(), Arc::clone(&store) as Arc<dyn broker_core::store::StateStore>);
        let now = Arc::clone(&clock);
        let api = api.metrics(move || {
            let (figures, store, clock) = (scraped.clone(), Arc::clone(&counted), Arc::clone(&now));
            async move { figures.text(store, clock).await }
        });
        let http_stop = CancellationToken::new();
        let http = tokio::spawn(broker_http::serve(listener, api, http_stop.clone()));
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
        let agents = ApiSettings { base: base(&config.bind_host, address.port()), key };
        Ok(Self { clock, store, codex, board, figures, agents, door, http, http_stop, _root: root })
    }

    /// Connects, runs, and returns at the first signal.
    async fn live(&self, config: &Config, signals: &mut Signals) -> Lived {
        let (slack, broker) = tokio::select! {
            biased;
            stop = signals.next() => return self.stopping(stop, None),
            started = self.start(config) => started?,
        };
        let shown = async {
            let link = broker_core::chat::ChatTransport::health(slack.as_ref());
            self.board.follow(link, broker.outbox_health(), broker.recovery_health()).await;
            std::future::pending::<Infallible>().await
        };
        let counted = async || -> Infallible {
            let mut upkeep = tokio::time::interval(figures::UPKEEP);
            loop {
                upkeep.tick().await;
                self.figures.upkeep();
            }
        };
        let turns = async || -> Infallible {
            let mut looks = tokio::time::interval(Duration::from_secs(1));
            loop {
                looks.tick().await;
                self.board.look(broker.turns(), broker.session_health());
            }
        };
        let stop = tokio::select! {
            stop = signals.next() => stop,
            name = broker.broken() => {
                let told = format!("the task `{name}` broke down, its panic is in the log; what was committed is safe: \
                                    start the broker again");
                return Err(Failure::new(Exit::Internal, told));
            }
            never = shown => match never {},
            never = counted() => match never {},
            never = turns() => match never {},
        };
        self.stopping(stop, Some(broker))
    }

    fn stopping(&self, stop: Stop, broker: Option<Broker>) -> Lived {
        self.board.stopping();
        let live_sessions = broker.as_ref().map_or(0, Broker::live_sessions);
        tracing::info!(signal = stop.name(), live_sessions, "stopping");
        Ok(broker)
    }

    async fn start(&self, config: &Config) -> Result<(Arc<Slack>, Broker), Failure> {
        let slack = self.connect(config).await?;
        let identity = slack.identity();
        tracing::info!(installation = %identity.installation, bot = %identity.user, "connected to Slack");
        let settings = Settings {
            home: Some(identity.installation.clone()),
            policy: config.policy.clone(),
            initial_history: config.initial_history,
            history_limit: config.history_limit,
            file_roots: config.file_roots.clone(),
            file_max_bytes: config.file_max_bytes,
            recovery_window: config.recovery_window,
            missed_lookback: config.missed_lookback,
            turn_idle: config.codex.turn_idle,
            max_active_turns: config.codex.max_active_turns,
            deliver_edits: config.deliver_edits,
            api: Some(self.agents.clone()),
            ..Settings::new(config.folders.sessions_root.clone(), config.folders.repos_root.clone())
        };
        let parts = Parts {
            transport: Arc::clone(&slack) as _,
            history: Arc::clone(&slack) as _,
            runtime: Arc::clone(&self.codex) as _,
            store: Arc::clone(&self.store) as _,
            clock: Arc::clone(&self.clock),
            ids: Arc::new(RandomIds),
        };
        let broker = Broker::start(parts, settings)
            .await
            .map_err(|error| Failure::new(Exit::Io, format!("what an earlier broker left cannot be read: {error}")))?;
        self.door.send_replace(Some(broker.door()));
        Ok((slack, broker))
    }

    /// Connects to Slack; tries until it answers.
    async fn connect(&self, config: &Config) -> Result<Arc<Slack>, Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            match Slack::connect(slack_config(config), Arc::clone(&self.clock)).await {
                Ok(slack) => return Ok(slack),
                Err(refused @ ConnectError::Refused { .. }) => return Err(Failure::new(Exit::Refused, refused)),
                Err(ConnectError::Unavailable { reason }) => {
                    tracing::warn!(reason, wait_s = pause.as_secs_f64(), "Slack does not answer; trying again");
                    self.board.not_connected(&reason);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends everything, the last opened first. The port is open until there is nothing left to tell.
    async fn end(self, config: &Config, lived: Lived) -> Result<(), Failure> {
        let ended = match lived {
            Ok(Some(broker)) => {
                within("the broker", config.grace + END_LIMIT, broker.drain(config.grace)).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        // After a drain there is nothing left to end here, and that takes no time.
        within("the agent", AGENT_LIMIT + END_LIMIT, self.codex.shutdown(AGENT_LIMIT)).await;
        self.door.send_replace(None);
        self.http_stop.cancel();
        within("the HTTP server", HTTP_LIMIT, async { drop(self.http.await) }).await;
        within("the store", END_LIMIT, close(self.store)).await;
        ended
    }
}

/// Waits for an end, and not for ever.
async fn within(what: &str, limit: Duration, end: impl Future<Output = ()>) {
    if tokio::time::timeout(limit, end).await.is_err() {
        tracing::warn!(what, limit_s = limit.as_secs_f64(), "did not end in time");
    }
}

/// Takes a data root, on a thread that may block.
pub(crate) async fn take_root(path: PathBuf) -> Result<DataRoot, Failure> {
    let taken = tokio::task::spawn_blocking(move || take(&path));
    taken.await.unwrap_or_else(|error| Err(Failure::new(Exit::Internal, format!("the lock panicked ({error})"))))
}

fn take(path: &Path) -> Result<DataRoot, Failure> {
    DataRoot::take(path).map_err(|error| {
        let exit = match error {
            DataRootError::Held { .. } => Exit::Held,
            _ => Exit::CannotCreate,
        };
        Failure::new(exit, error)
    })
}

/// Takes the data root and opens the store, on a thread that may block.
pub(crate) async fn open_store(path: PathBuf) -> Result<(DataRoot, Arc<SqliteStore>), Failure> {
    let opened = tokio::task::spawn_blocking(move || {
        let root = take(&path)?;
        let store = SqliteStore::open(&root).map_err(|error| {
            let exit = match error {
                OpenError::Newer { .. } => Exit::NewerData,
                _ => Exit::Io,
            };
            Failure::new(exit, error)
        })?;
        Ok((root, store))
    });
    opened.await.unwrap_or_else(|error| Err(Failure::new(Exit::Internal, format!("the store panicked ({error})"))))
}

/// The key of the data root's tokens, made when there is none, on a thread that may block.
async fn install_key(root: DataRoot) -> Result<(DataRoot, Arc<InstallKey>), Failure> {
    let read = tokio::task::spawn_blocking(move || match root.install_key() {
        Ok(key) => Ok((root, Arc::new(key))),
        Err(error) => Err(Failure::new(Exit::CannotCreate, error)),
    });
    read.await.unwrap_or_else(|error| Err(Failure::new(Exit::Internal, format!("the key panicked ({error})"))))
}

/// Where a program on this machine reaches the port.
fn base(bind_host: &str, port: u16) -> String {
    match bind_host.parse() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => format!("http://127.0.0.1:{port}"),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => format!("http://[::1]:{port}"),
        Ok(IpAddr::V6(ip)) => format!("http://[{ip}]:{port}"),
        Ok(IpAddr::V4(_)) | Err(_) => format!("http://{bind_host}:{port}"),
    }
}

/// Ends the store's threads, unless somebody still holds on to it: whoever lets go last ends them then. Nothing depends on
/// that, since every commit was durable when it was answered.
pub(crate) async fn close(store: Arc<SqliteStore>) {
    let closed = tokio::task::spawn_blocking(move || Arc::into_inner(store).map(SqliteStore::close).is_some());
    if !matches!(closed.await, Ok(true)) {
        tracing::debug!("the store is still in use");
    }
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::new(Exit::Unavailable, format!("the port has no address ({error})")))
}

/// Says what is allowed and still worth a second thought.
fn warn_of_choices(config: &Config) {
    if !is_loopback(&config.bind_host) {
        tracing::warn!(
            host = config.bind_host,
            "health and the local API are open to other machines, and tokens cross the network unencrypted; \
             WORKER_BIND_HOST=127.0.0.1 closes them"
        );
    }
    if !config.api_auth {
        tracing::warn!(
            "BROKER_API_AUTH=off: every program and every agent on this machine can read every session's thread and post \
             into it"
        );
    }
    let base = url::Url::parse(&config.slack.api_base).ok();
    let host = base.as_ref().and_then(url::Url::host_str).unwrap_or_default();
    if base.as_ref().is_some_and(|url| url.scheme() == "http") && !is_loopback(host.trim_matches(['[', ']'])) {
        tracing::warn!(
            host,
            "Slack's tokens cross the network unencrypted; SLACK_API_BASE_URL should begin with https"
        );
    }
}

fn slack_config(config: &Config) -> SlackConfig {
    let slack = &config.slack;
    SlackConfig {
        api_base: slack.api_base.clone(),
        post_rate: slack.post_rate,
        connections: slack.connections,
        ..SlackConfig::new(slack.app_token.clone(), slack.bot_token.clone())
    }
}

/// Codex as it is chosen, with the workspaces in a folder of the caller's.
pub(crate) fn codex_config(config: &Config, sessions_root: PathBuf) -> CodexConfig {
    let (folders, codex) = (&config.folders, &config.codex);
    let mut denied = vec![folders.env_file.clone()];
    denied.extend(folders.log_dir.clone());
    denied.extend(codex.auth_json.clone());
    CodexConfig {
        bin: codex.bin.clone(),
        data_root: folders.data_root.clone(),
        sessions_root,
        codex_home: folders.codex_home.clone(),
        runtime_home: folders.data_root.join("runtime-home"),
        repos_root: folders.repos_root.clone(),
        sandbox: codex.sandbox,
        network: codex.network,
        approval_policy: codex.approval,
        pass_env: codex.pass_env.clone(),
        agent_pass_env: codex.agent_pass_env.clone(),
        env: codex.env.clone(),
        api_key: codex.api_key.clone(),
        auth_json: codex.auth_json.clone(),
        idle_end: codex.idle_end,
        denied,
        operator_home: std::env::home_dir(),
    }
}

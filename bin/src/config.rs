//! The configuration: read once, before anything is opened.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use broker_codex::{ApprovalPolicy, EnvPattern, SandboxMode};
use broker_core::admission::Policy;
use broker_core::chat::{ConversationId, PersonId};
use secrecy::{ExposeSecret, SecretString};
use tracing::Level;
use url::Url;

use crate::env_file::{EnvFile, EnvFileError};
use crate::reader::{Problem, Reader, Variables};
use crate::variables as v;

/// Everything that an operator chose. Without `Debug`: it holds the environment.
pub(crate) struct Config {
    /// Slack.
    pub(crate) slack: SlackPart,
    /// Who may instruct.
    pub(crate) policy: Policy,
    /// How many earlier messages go along with a first mention.
    pub(crate) initial_history: usize,
    /// The most that one look at the history brings.
    pub(crate) history_limit: usize,
    /// Folders, files of which may be posted.
    pub(crate) file_roots: Vec<PathBuf>,
    /// The largest file of a message that is fetched, in bytes.
    pub(crate) file_max_bytes: u64,
    /// How long sessions are looked after for missed messages.
    pub(crate) recovery_window: Duration,
    /// How far back missed first mentions are looked for.
    pub(crate) missed_lookback: Duration,
    /// Whether the agent is told of changes.
    pub(crate) deliver_edits: bool,
    /// Where things lie.
    pub(crate) folders: Folders,
    /// The agent.
    pub(crate) codex: CodexPart,
    /// The port of the HTTP server.
    pub(crate) port: u16,
    /// The host of the HTTP server.
    pub(crate) bind_host: String,
    /// Whether the local API asks for tokens.
    pub(crate) api_auth: bool,
    /// What is logged.
    pub(crate) log_level: Level,
    /// How long turns may go on after a signal.
    pub(crate) grace: Duration,
}

/// What concerns Slack.
pub(crate) struct SlackPart {
    /// The token of the socket.
    pub(crate) app_token: SecretString,
    /// The token of the Web API.
    pub(crate) bot_token: SecretString,
    /// Where the Web API is, without a slash at its end.
    pub(crate) api_base: String,
    /// Messages a second and channel.
    pub(crate) post_rate: f64,
    /// Socket connections at once.
    pub(crate) connections: usize,
}

/// What concerns the agent.
pub(crate) struct CodexPart {
    /// The program; a bare name is looked for on the PATH.
    pub(crate) bin: PathBuf,
    /// What its commands may write.
    pub(crate) sandbox: SandboxMode,
    /// Whether its commands reach the network.
    pub(crate) network: bool,
    /// When it asks.
    pub(crate) approval: ApprovalPolicy,
    /// What it gets of the environment.
    pub(crate) pass_env: Vec<EnvPattern>,
    /// What its commands get as well.
    pub(crate) agent_pass_env: Vec<EnvPattern>,
    /// The environment of which that is taken, without the broker's own variables.
    pub(crate) env: std::collections::BTreeMap<String, String>,
    /// The key it is logged in with.
    pub(crate) api_key: Option<SecretString>,
    /// The `auth.json` it is logged in with.
    pub(crate) auth_json: Option<PathBuf>,
    /// How long a turn may be silent.
    pub(crate) turn_idle: Duration,
    /// How many turns run at once.
    pub(crate) max_active_turns: usize,
    /// After how long its process is ended when nothing is asked of it.
    pub(crate) idle_end: Duration,
}

/// Absolute paths, without `.` and `..`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Folders {
    /// Everything that the broker keeps.
    pub(crate) data_root: PathBuf,
    /// The workspaces.
    pub(crate) sessions_root: PathBuf,
    /// The shared clones.
    pub(crate) repos_root: PathBuf,
    /// Codex's own folder.
    pub(crate) codex_home: PathBuf,
    /// Logs, when wanted.
    pub(crate) log_dir: Option<PathBuf>,
    /// The file of variables, whether it is there or not.
    pub(crate) env_file: PathBuf,
}

/// Why there is no configuration: everything that is wrong, one line each.
#[derive(Debug)]
pub(crate) struct ConfigError {
    file: Vec<EnvFileError>,
    variables: Vec<Problem>,
    /// Paths that lie where agents would reach them.
    clashes: Vec<Clash>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not right:")?;
        for error in &self.file {
            write!(f, "\n  {error}")?;
        }
        for problem in &self.variables {
            write!(f, "\n  {problem}")?;
        }
        for clash in &self.clashes {
            write!(f, "\n  {clash}")?;
        }
        if self
            .variables
            .iter()
            .any(|problem| problem.is_missing(&v::SLACK_APP_TOKEN) || problem.is_missing(&v::SLACK_BOT_TOKEN))
        {
            f.write_str(
                "\n  SLACK_APP_TOKEN and SLACK_BOT_TOKEN have to be set both; with neither, and a terminal or a pipe on \
                 standard input, `broker` without a command is a chat in the terminal",
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A folder that agents would reach and must not.
#[derive(Debug, thiserror::Error)]
enum Clash {
    #[error("{inner} lies in {outer}, which agents read and write; put it elsewhere")]
    Inside { inner: &'static str, outer: &'static str },
    #[error(
        "BROKER_FILE_ROOTS opens {} to every agent, and {what} is there; name folders that hold nothing of the broker's",
        root.display()
    )]
    Posted { root: PathBuf, what: &'static str },
}

/// What is switched.
const ON_OFF: &[(&str, bool)] = &[("on", true), ("off", false)];
/// Milliseconds that a turn may be silent, or Codex without work: from a second to a day.
const TURN_IDLE: RangeInclusive<u64> = 1_000..=24 * 60 * 60 * 1_000;
/// How far back missed messages may be looked for: from a minute to a quarter of a year.
const MISSED: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(90 * 24 * 60 * 60);
/// Milliseconds of grace: up to ten minutes.
const GRACE: RangeInclusive<u64> = 0..=10 * 60 * 1_000;

impl Config {
    /// Reads the environment of the process, and `.env` in the current folder for what it lacks.
    pub(crate) fn of_process() -> Result<Self, ConfigError> {
        Self::read(environment(), &folder(), true)
    }

    /// The same for a chat in the terminal, which needs no tokens.
    pub(crate) fn of_process_without_slack() -> Result<Self, ConfigError> {
        Self::read(environment(), &folder(), false)
    }

    /// Reads the variables of an environment, and `.env` in `folder` for what they lack. `on_slack` says whether the tokens
    /// have to be there.
    pub(crate) fn read(environment: Variables, folder: &Path, on_slack: bool) -> Result<Self, ConfigError> {
        let env_file = folder.join(".env");
        let EnvFile { variables, errors } = EnvFile::read(&env_file);
        let environment = filled(environment, variables);
        let mut reader = Reader::new(&environment, folder);
        let config = Self::assemble(&mut reader, &environment, env_file, on_slack);
        if !config.api_auth && !is_loopback(&config.bind_host) {
            let right = "other machines would reach it: leave it on, or set WORKER_BIND_HOST to 127.0.0.1";
            reader.wrong(&v::BROKER_API_AUTH, "off", right);
        }
        let mut clashes = config.folders.clashes();
        clashes.extend(config.folders.posted(&config.file_roots));
        let own = environment.get("HOME").map(|home| Path::new(home).join(".codex"));
        if own.is_some_and(|own| same_place(&own, &config.folders.codex_home)) {
            let right = "it has to be a folder of the broker's own: this one is the Codex of whoever starts the broker, with \
                         their login and settings; leave it unset, or copy its auth.json with CODEX_AUTH_JSON_PATH";
            reader.wrong(&v::CODEX_HOME, &config.folders.codex_home.display().to_string(), right);
        }
        if errors.is_empty() && reader.problems.is_empty() && clashes.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError { file: errors, variables: reader.problems, clashes })
        }
    }

    /// With stand-ins where the reader noted a problem.
    fn assemble(reader: &mut Reader<'_>, environment: &Variables, env_file: PathBuf, on_slack: bool) -> Self {
        Self {
            slack: slack(reader, on_slack),
            policy: policy(reader),
            initial_history: reader.number(&v::SLACK_INITIAL_THREAD_HISTORY_COUNT, 0..=1000, ""),
            history_limit: reader.number(&v::SLACK_HISTORY_API_MAX_LIMIT, 1..=1000, ""),
            file_roots: reader.list(&v::BROKER_FILE_ROOTS, |text| {
                let path = PathBuf::from(text);
                if path.is_absolute() { Ok(path) } else { Err("each has to be an absolute path".to_owned()) }
            }),
            file_max_bytes: reader.number(&v::SLACK_FILE_MAX_BYTES, 0..=1 << 40, ""),
            recovery_window: reader.span(&v::SLACK_RECOVERY_WINDOW, MISSED),
            missed_lookback: reader.span(&v::SLACK_MISSED_MENTION_LOOKBACK, MISSED),
            deliver_edits: reader.one_of(&v::SLACK_DELIVER_EDITS, ON_OFF).unwrap_or(false),
            folders: folders(reader, env_file),
            codex: codex(reader, environment),
            port: reader.number(&v::PORT, 0..=u16::MAX, ""),
            bind_host: reader.parsed(&v::WORKER_BIND_HOST, bind_host).unwrap_or_default(),
            api_auth: reader.one_of(&v::BROKER_API_AUTH, ON_OFF).unwrap_or(true),
            log_level: reader.one_of(&v::LOG_LEVEL, LEVELS).unwrap_or(Level::INFO),
            grace: reader.millis(&v::SHUTDOWN_GRACE_MS, GRACE),
        }
    }

    /// The broker's own secrets, for whoever has to keep them out of something.
    pub(crate) fn secrets(&self) -> Vec<SecretString> {
        let tokens = [&self.slack.app_token, &self.slack.bot_token].into_iter().chain(&self.codex.api_key);
        // In a chat in the terminal there are none of Slack's.
        tokens.filter(|token| !token.expose_secret().is_empty()).cloned().collect()
    }
}

const LEVELS: &[(&str, Level)] = &[
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

/// Which of Slack's tokens are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// None of them.
    Neither,
    /// At least one; what is missing or wrong is told with the rest of the configuration.
    Some,
}

impl Tokens {
    /// Looks into the environment of the process, and into `.env` for what it lacks.
    pub(crate) fn of_process() -> Self {
        let EnvFile { variables, .. } = EnvFile::read(&folder().join(".env"));
        Self::of(&filled(environment(), variables))
    }

    fn of(environment: &Variables) -> Self {
        let set = |variable: &v::Variable| environment.get(variable.name).is_some_and(|value| !value.is_empty());
        if set(&v::SLACK_APP_TOKEN) || set(&v::SLACK_BOT_TOKEN) { Self::Some } else { Self::Neither }
    }
}

fn environment() -> Variables {
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    variables.collect()
}

fn folder() -> PathBuf {
    // Without a current folder there is nothing to be relative to; absolute paths still work.
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
}

/// The environment, with what the file says where it has nothing. A variable that is set and empty has nothing.
fn filled(mut environment: Variables, file: std::collections::BTreeMap<String, String>) -> Variables {
    for (name, value) in file {
        let place = environment.entry(name).or_default();
        if place.is_empty() {
            *place = OsString::from(value);
        }
    }
    environment
}

fn slack(reader: &mut Reader<'_>, needed: bool) -> SlackPart {
    let mut token = |variable, prefix, right| match needed {
        true => reader.token(variable, prefix, right),
        false => SecretString::default(),
    };
    let app_token = token(
        &v::SLACK_APP_TOKEN,
        "xapp-",
        "it has to be the Slack app's app-level token, xapp-…, with connections:write (Basic Information, App-Level \
         Tokens)",
    );
    let bot_token = token(
        &v::SLACK_BOT_TOKEN,
        "xoxb-",
        "it has to be the Slack app's bot token, xoxb-… (OAuth & Permissions, after the app is installed)",
    );
    SlackPart {
        app_token,
        bot_token,
        api_base: reader.parsed(&v::SLACK_API_BASE_URL, api_base).unwrap_or_default(),
        post_rate: reader.number(&v::SLACK_POST_RATE, 0.0..=100.0, " messages a second"),
        connections: reader.number(&v::SLACK_SOCKET_CONNECTIONS, 1..=4, " connections"),
    }
}

fn api_base(text: &str) -> Result<String, String> {
    let right = || "it has to be an http or https address such as https://slack.com/api".to_owned();
    let url = Url::parse(text).map_err(|_| right())?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if plain && url.password().is_none() && url.has_host() && matches!(url.scheme(), "http" | "https") {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(right())
    }
}

/// Whether two paths are one folder, also by way of links.
fn same_place(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

fn policy(reader: &mut Reader<'_>) -> Policy {
    let users = reader.ids(&v::SLACK_ALLOWED_USERS, "UW", "a user id such as U012AB3CD");
    let channels = reader.ids(&v::SLACK_ALLOWED_CHANNELS, "CGD", "a channel id such as C012AB3CD");
    let teams = reader.ids(&v::SLACK_ALLOWED_TEAMS, "TE", "a team id such as T012AB3CD");
    let bots = match reader.any(&v::SLACK_ALLOW_BOTS).as_str() {
        "*" => ["*".to_owned()].into(),
        _ => reader.ids(&v::SLACK_ALLOW_BOTS, "UWBA", "* alone, or the user, bot or app id of a bot"),
    };
    Policy {
        users: users.into_iter().map(PersonId::new).collect(),
        channels: channels.into_iter().map(ConversationId::new).collect(),
        teams,
        bots,
    }
}

fn folders(reader: &mut Reader<'_>, env_file: PathBuf) -> Folders {
    let data_root = reader.path(&v::DATA_ROOT).unwrap_or_default();
    let mut below = |variable, name| reader.path(variable).unwrap_or_else(|| data_root.join(name));
    Folders {
        sessions_root: below(&v::SESSIONS_ROOT, "sessions"),
        repos_root: below(&v::REPOS_ROOT, "repos"),
        codex_home: below(&v::CODEX_HOME, "codex-home"),
        log_dir: reader.path(&v::LOG_DIR),
        env_file,
        data_root,
    }
}

impl Folders {
    /// What agents would reach that they must not.
    fn clashes(&self) -> Vec<Clash> {
        let inner = [
            (v::DATA_ROOT.name, Some(&self.data_root)),
            (v::CODEX_HOME.name, Some(&self.codex_home)),
            (v::LOG_DIR.name, self.log_dir.as_ref()),
            (".env", Some(&self.env_file)),
        ];
        let outer = [(v::SESSIONS_ROOT.name, &self.sessions_root), (v::REPOS_ROOT.name, &self.repos_root)];
        let mut clashes = Vec::new();
        for (outer, above) in outer {
            let inside = inner.iter().filter(|(_, path)| path.is_some_and(|path| path.starts_with(above)));
            clashes.extend(inside.map(|(inner, _)| Clash::Inside { inner, outer }));
        }
        if self.sessions_root.starts_with(&self.repos_root) {
            clashes.push(Clash::Inside { inner: v::SESSIONS_ROOT.name, outer: v::REPOS_ROOT.name });
        }
        clashes
    }

    /// What every agent could post that is the broker's own, or another session's. Looked at as the folders stand on the disk,
    /// since a link leads there too.
    fn posted(&self, roots: &[PathBuf]) -> Vec<Clash> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let closed = [
            (v::DATA_ROOT.name, Some(&self.data_root)),
            (v::SESSIONS_ROOT.name, Some(&self.sessions_root)),
            (v::CODEX_HOME.name, Some(&self.codex_home)),
            (v::LOG_DIR.name, self.log_dir.as_ref()),
            (".env", Some(&self.env_file).filter(|file| file.exists())),
        ];
        let mut clashes = Vec::new();
        for root in roots {
            let at = real(root);
            let found = closed
                .iter()
                .find(|(_, path)| path.is_some_and(|path| real(path).starts_with(&at) || at.starts_with(real(path))));
            clashes.extend(found.map(|(what, _)| Clash::Posted { root: root.clone(), what }));
        }
        clashes
    }
}

fn codex(reader: &mut Reader<'_>, environment: &Variables) -> CodexPart {
    let bin = reader.any(&v::CODEX_BIN);
    let sandbox = reader.parsed(&v::CODEX_SANDBOX, |text| choice(text.parse::<SandboxMode>()));
    let approval = reader.parsed(&v::CODEX_APPROVAL_POLICY, |text| choice(text.parse::<ApprovalPolicy>()));
    let pattern = |item: &str| item.parse::<EnvPattern>().map_err(|error| error.to_string());
    CodexPart {
        // A bare name is for the PATH; anything else is a path.
        bin: match bin.as_str() {
            "" => PathBuf::from("codex"),
            name if !name.contains('/') => PathBuf::from(name),
            _ => reader.path(&v::CODEX_BIN).unwrap_or_default(),
        },
        sandbox: sandbox.unwrap_or(SandboxMode::ReadOnly),
        network: reader.one_of(&v::CODEX_NETWORK, ON_OFF).unwrap_or(false),
        approval: approval.unwrap_or(ApprovalPolicy::Never),
        pass_env: reader.list(&v::CODEX_PASS_ENV, pattern),
        agent_pass_env: reader.list(&v::AGENT_PASS_ENV, pattern),
        env: environment
            .iter()
            .filter(|(name, _)| !v::TABLE.iter().any(|variable| variable.name == **name))
            .filter_map(|(name, value)| Some((name.clone(), value.to_str()?.to_owned())))
            .collect(),
        api_key: reader.secret(&v::OPENAI_API_KEY),
        auth_json: reader.path(&v::CODEX_AUTH_JSON_PATH),
        turn_idle: reader.millis(&v::CODEX_TURN_IDLE_MS, TURN_IDLE),
        max_active_turns: reader.number(&v::CODEX_MAX_ACTIVE_TURNS, 1..=1000, ""),
        idle_end: reader.millis(&v::CODEX_IDLE_MS, TURN_IDLE),
    }
}

fn choice<T>(parsed: Result<T, broker_codex::NotAChoice>) -> Result<T, String> {
    parsed.map_err(|error| error.to_string())
}

fn bind_host(text: &str) -> Result<String, String> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if name || inner.parse::<IpAddr>().is_ok() {
        Ok(inner.to_owned())
    } else {
        Err("it has to be an address or a host name of this machine, without a port; the port is PORT".to_owned())
    }
}

/// Whether nobody but this machine reaches a host that a port is opened on.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests;

//! Every variable that the broker reads: the one table behind the parser, `--help`, `.env.example` and the README.

/// A variable of the environment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: &'static str,
    /// What holds without it.
    pub(crate) default: Without,
    /// Whether its value must never be shown.
    pub(crate) secret: bool,
    /// What it does, for `--help` and the README: one sentence or two.
    pub(crate) what: &'static str,
}

/// What holds when a variable is not set.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Without {
    /// Nothing: the broker does not start.
    Required,
    /// This value.
    Value(&'static str),
    /// What the words say.
    Words(&'static str),
}

impl Variable {
    /// The default as people read it.
    pub(crate) fn default_text(&self) -> &'static str {
        match self.default {
            Without::Required => "required",
            Without::Value(text) | Without::Words(text) => text,
        }
    }
}

/// Declares each variable as a constant and all of them as [`TABLE`], so that none can be read and not be documented.
macro_rules! variables {
    ($($name:ident = $default:expr, $secret:ident, $what:literal;)*) => {
        $(pub(crate) const $name: Variable = Variable {
            name: stringify!($name),
            default: $default,
            secret: variables!(@ $secret),
            what: $what,
        };)*
        /// All variables, in the order in which they are shown.
        pub(crate) const TABLE: &[&Variable] = &[$(&$name),*];
    };
    (@ secret) => { true };
    (@ plain) => { false };
}

use Without::{Required, Value, Words};

variables! {
    SLACK_APP_TOKEN = Required, secret,
        "App-level token (xapp-…) with connections:write; opens the socket and nothing else. With neither token set, `broker` is a chat in the terminal.";
    SLACK_BOT_TOKEN = Required, secret,
        "Bot token (xoxb-…); reads and writes messages.";
    SLACK_API_BASE_URL = Value("https://slack.com/api"), plain,
        "Where every Slack call goes.";
    SLACK_POST_RATE = Value("1"), plain,
        "Messages a second and channel, in short bursts of 3; fractions count, and 0 means to wait only when Slack says so.";
    SLACK_SOCKET_CONNECTIONS = Value("2"), plain,
        "Socket connections at once, 1 to 4: with two, one may break and nothing is missed. Slack allows an app ten in all.";
    SLACK_RECOVERY_WINDOW = Value("14d"), plain,
        "Sessions in which something happened within this time are looked after for messages that were missed.";
    SLACK_MISSED_MENTION_LOOKBACK = Value("24h"), plain,
        "How far back first mentions that were missed are looked for; never before the first start of the broker.";
    SLACK_DELIVER_EDITS = Value("on"), plain,
        "Whether the agent is told when somebody changes or deletes a message that it has been given: on or off. What it has not \
         been given yet is given as it is now in any case.";
    SLACK_INITIAL_THREAD_HISTORY_COUNT = Value("8"), plain,
        "How many earlier messages of a thread go along with the first mention in it; 0 for none.";
    SLACK_HISTORY_API_MAX_LIMIT = Value("50"), plain,
        "The most messages that one look at a thread's history brings.";
    SLACK_FILE_MAX_BYTES = Value("104857600"), plain,
        "The largest file of a message that is fetched for the agent, in bytes; 0 fetches none.";
    SLACK_ALLOWED_USERS = Words("nobody else"), plain,
        "User ids, comma-separated, that may instruct beside the full members of the workspace.";
    SLACK_ALLOWED_CHANNELS = Words("none"), plain,
        "Channel ids, comma-separated, in which guests and people of other organisations may instruct too.";
    SLACK_ALLOWED_TEAMS = Words("none"), plain,
        "Team ids, comma-separated, all of whose people may instruct.";
    SLACK_ALLOW_BOTS = Words("none"), plain,
        "Bots that count as people: user, bot or app ids, comma-separated, or * for all. Without it bots open and \
         continue nothing; what they wrote goes along as context.";
    DATA_ROOT = Value(".data"), plain,
        "The folder of everything that the broker keeps; one broker per folder.";
    SESSIONS_ROOT = Words("DATA_ROOT/sessions"), plain,
        "The workspaces, one folder per thread.";
    REPOS_ROOT = Words("DATA_ROOT/repos"), plain,
        "The clones that all sessions share; agents read and write them.";
    BROKER_FILE_ROOTS = Words("none"), plain,
        "Absolute folders, comma-separated, files of which agents may post too, beside their workspaces, REPOS_ROOT and the \
         images that they generated. Folders with something of the broker's in them are refused.";
    CODEX_BIN = Words("codex on the PATH"), plain,
        "The Codex program: the native one, or the wrapper of its npm package.";
    CODEX_HOME = Words("DATA_ROOT/codex-home"), plain,
        "Codex's own folder. Its config.toml is yours: the broker never writes it.";
    CODEX_SANDBOX = Value("workspace-write"), plain,
        "What an agent's commands may write: workspace-write, read-only, or danger-full-access, with which file rules \
         and tokens protect nothing.";
    CODEX_NETWORK = Value("on"), plain,
        "Whether an agent's commands reach the network: on or off.";
    CODEX_APPROVAL_POLICY = Value("never"), plain,
        "When Codex asks before a command: never, on-request or untrusted. Nobody can be asked yet: what asks is \
         declined.";
    CODEX_PASS_ENV = Words("none"), plain,
        "Variables, comma-separated, that Codex gets from the broker's environment: names, or PREFIX_* for all that \
         begin so. SLACK_*, BROKER_* and OPENAI_API_KEY are refused.";
    AGENT_PASS_ENV = Words("none"), plain,
        "Variables, likewise, that Codex and the agent's commands get.";
    CODEX_AUTH_JSON_PATH = Words("none"), plain,
        "An auth.json of Codex, copied into CODEX_HOME when that has none or an older one of the same account.";
    OPENAI_API_KEY = Words("none"), secret,
        "API key with which Codex is logged in; not needed with an auth.json.";
    CODEX_TURN_IDLE_MS = Value("900000"), plain,
        "A turn without a sign of life for so many milliseconds is interrupted, and the thread is told.";
    CODEX_MAX_ACTIVE_TURNS = Value("32"), plain,
        "So many threads are worked on at once; the others wait for one of them to finish, and say so.";
    CODEX_IDLE_MS = Value("1800000"), plain,
        "Codex is ended when nothing was asked of it for so many milliseconds; the next message starts it again.";
    PORT = Value("3000"), plain,
        "The port of /healthz, /readyz, /metrics and the local API of the agents; 0 takes a free one.";
    WORKER_BIND_HOST = Value("127.0.0.1"), plain,
        "The address or host name that the port is opened on.";
    BROKER_API_AUTH = Value("on"), plain,
        "Whether the local API asks for a session's token: on or off. With off, every program on this machine may post into \
         every session's thread; refused unless WORKER_BIND_HOST is a loopback address.";
    LOG_LEVEL = Value("info"), plain,
        "error, warn, info, debug or trace: for the broker's own parts. Libraries never say more than warnings.";
    LOG_DIR = Words("none: stderr alone"), plain,
        "A folder for JSON logs as well: broker/<yyyy-mm-dd-hh>.jsonl (UTC), 64 MiB an hour and 1 GiB in all.";
    SHUTDOWN_GRACE_MS = Value("10000"), plain,
        "After SIGTERM or SIGINT, turns that run may end within so many milliseconds; the next start goes on with the \
         others.";
}

/// The chapter of `--help` on variables.
pub(crate) fn help() -> String {
    use std::fmt::Write;

    let mut text = String::from(
        "Variables, from the environment; what it lacks is taken from the file .env in the current folder:\n",
    );
    for variable in TABLE {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {} [{}]", variable.name, variable.default_text());
        for line in wrap(variable.what, 96) {
            let _ = write!(text, "\n      {line}");
        }
    }
    text
}

/// Breaks a text into lines of at most `width` characters, at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let full = lines.last().is_some_and(|line| !line.is_empty() && line.chars().count() + 1 + word.len() > width);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod documents;

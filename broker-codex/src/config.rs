//! What the operator decides about Codex.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use crate::environment::EnvPattern;

/// How [`crate::Codex`] is set up. All folders may be missing: they are made, readable by the broker's user alone.
#[derive(Debug, Clone)]
pub struct CodexConfig {
    /// The Codex program: a path, or a bare name that is looked up on the `PATH` of `env`. The wrapper script of the npm
    /// package stands for the native program beside it.
    pub bin: PathBuf,
    /// The folder of everything that the broker keeps. Denied to the agent, but for what the other fields name.
    pub data_root: PathBuf,
    /// The folder above all sessions. A session's own workspace is opened to it, the others stay denied.
    pub sessions_root: PathBuf,
    /// Codex's own folder (`CODEX_HOME`). Its `config.toml` is the operator's.
    pub codex_home: PathBuf,
    /// Holds `home`, the `HOME` of Codex and of the agent's commands (put a `.gitconfig` there), and `tmp`, Codex's own
    /// `TMPDIR`. The agent's commands can read both and change neither.
    pub runtime_home: PathBuf,
    /// The clones that all sessions share.
    pub repos_root: PathBuf,
    /// What the agent's commands may write.
    pub sandbox: SandboxMode,
    /// Whether the agent's commands reach the network.
    pub network: bool,
    /// When Codex asks before it runs a command. Nobody can be asked yet: what asks is declined.
    pub approval_policy: ApprovalPolicy,
    /// Variables of `env` that Codex gets beside the usual ones.
    pub pass_env: Vec<EnvPattern>,
    /// Variables of `env` that Codex and the agent's commands get.
    pub agent_pass_env: Vec<EnvPattern>,
    /// The broker's own environment, read once by the binary.
    pub env: BTreeMap<String, String>,
    /// The key that Codex is logged in with. Left alone when `auth_json` is set too.
    pub api_key: Option<SecretString>,
    /// An `auth.json` to copy into `codex_home` when that has none, or an older one of the same account.
    pub auth_json: Option<PathBuf>,
    /// The process is ended when nothing was asked of it for so long and no thread is open in it; the next request starts it
    /// again.
    pub idle_end: Duration,
    /// Further files and folders that no command of an agent may read: the broker's `.env`, its logs.
    pub denied: Vec<PathBuf>,
    /// The home folder of the person who runs the broker; the usual places of keys below it are denied.
    pub operator_home: Option<PathBuf>,
}

/// What the commands of an agent may do to files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxMode {
    /// Write the session's workspace and the shared repositories.
    WorkspaceWrite,
    /// Write nothing but the session's temporary folder.
    ReadOnly,
    /// Do whatever the broker's user may do. File rules and tokens then protect nothing.
    DangerFullAccess,
}

impl SandboxMode {
    /// The name that is configured and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WorkspaceWrite => "workspace-write",
            Self::ReadOnly => "read-only",
            Self::DangerFullAccess => "danger-full-access",
        }
    }
}

/// A word that is not one of the choices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not one of {choices}")]
pub struct NotAChoice {
    given: String,
    choices: &'static str,
}

impl FromStr for SandboxMode {
    type Err = NotAChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::WorkspaceWrite, Self::ReadOnly, Self::DangerFullAccess]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| NotAChoice {
                given: text.to_owned(),
                choices: "workspace-write, read-only, danger-full-access",
            })
    }
}

/// When Codex asks before it runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApprovalPolicy {
    /// Never: what the sandbox forbids fails, and the agent is told.
    #[default]
    Never,
    /// When the model asks to leave the sandbox.
    OnRequest,
    /// Before every command that is not known to be harmless.
    Untrusted,
}

impl ApprovalPolicy {
    /// The name, as the app-server spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnRequest => "on-request",
            Self::Untrusted => "untrusted",
        }
    }
}

impl FromStr for ApprovalPolicy {
    type Err = NotAChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Never, Self::OnRequest, Self::Untrusted]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| NotAChoice { given: text.to_owned(), choices: "never, on-request, untrusted" })
    }
}

/// Why the runtime could not be set up. What only keeps Codex from running is health instead.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder could not be made or is not the broker's.
    #[error("the folder {path} cannot be prepared ({source}); check its owner and the disk")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A path cannot be written into Codex's configuration.
    #[error("the path {path:?} is not UTF-8, which Codex's configuration requires; choose another")]
    Path {
        /// The path.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_others_named() {
        assert_eq!("read-only".parse(), Ok(SandboxMode::ReadOnly));
        assert_eq!("untrusted".parse(), Ok(ApprovalPolicy::Untrusted));
        let error = "Workspace".parse::<SandboxMode>().expect_err("not a mode");
        assert_eq!(error.to_string(), "`Workspace` is not one of workspace-write, read-only, danger-full-access");
    }
}

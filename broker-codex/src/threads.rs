//! Starting and resuming threads: what is sent, and what an answer or a refusal means.

use std::path::Path;
use std::time::Duration;

use broker_core::agent::{AgentThreadId, OpenError, ThreadSpec, ToolSpec, TurnId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::profile::Profile;
use crate::rpc::{CallError, Rpc};
use crate::wire::RemoteError;

/// The time limit of a start or resume; measured: 6 to 45 ms.
const LIMIT: Duration = Duration::from_secs(30);

/// The time limit of reading the configuration; measured: 10 ms.
const CONFIG_LIMIT: Duration = Duration::from_secs(10);

/// How long the writer of an older process may take to let go of a thread.
const WRITER_PATIENCE: Duration = Duration::from_secs(5);
const WRITER_PAUSE: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    thread: Thread,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    active_permission_profile: Option<ActiveProfile>,
    #[serde(default)]
    initial_turns_page: Option<TurnsPage>,
}

#[derive(Deserialize)]
struct Thread {
    id: String,
}

#[derive(Deserialize)]
struct ActiveProfile {
    id: String,
}

#[derive(Deserialize)]
struct TurnsPage {
    data: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    id: String,
    status: String,
}

/// A thread as the app-server opened it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) thread: AgentThreadId,
    pub(crate) running: Option<TurnId>,
    pub(crate) model: Option<String>,
    /// The permissions it runs under.
    pub(crate) permissions: Option<String>,
}

/// Starts a thread, or resumes `known`.
pub(crate) async fn open(
    rpc: &Rpc,
    profile: &Profile,
    spec: &ThreadSpec,
    workspace: &Path,
    known: Option<&AgentThreadId>,
) -> Result<Loaded, OpenError> {
    let servers = mcp_servers(rpc).await?;
    let mut params = profile.thread_params(workspace);
    params.insert("config".to_owned(), profile.thread_config(workspace, &servers, spec.api.as_ref()));
    let answer = match known {
        None => {
            params.insert("developerInstructions".to_owned(), json!(spec.instructions));
            params.insert("dynamicTools".to_owned(), spec.tools.iter().map(tool).collect());
            call(rpc, "thread/start", &params).await
        }
        Some(thread) => {
            params.insert("threadId".to_owned(), json!(thread.as_str()));
            params.insert("excludeTurns".to_owned(), json!(true));
            params.insert(
                "initialTurnsPage".to_owned(),
                json!({"limit": 1, "itemsView": "summary", "sortDirection": "desc"}),
            );
            resume(rpc, &params).await
        }
    }
    .map_err(|error| refusal(&error, known.is_some()))?;
    let newest = answer.initial_turns_page.and_then(|page| page.data.into_iter().next());
    Ok(Loaded {
        thread: AgentThreadId::new(answer.thread.id),
        running: newest.filter(|turn| turn.status == "inProgress").map(|turn| TurnId::new(turn.id)),
        model: answer.model,
        permissions: answer.active_permission_profile.map(|profile| profile.id),
    })
}

async fn call(rpc: &Rpc, method: &str, params: &Map<String, Value>) -> Result<Answer, CallError> {
    rpc.call(method, Value::Object(params.clone()), LIMIT).await
}

/// Resumes; while the thread is still held by a process that is about to end, tries again.
async fn resume(rpc: &Rpc, params: &Map<String, Value>) -> Result<Answer, CallError> {
    let deadline = Instant::now() + WRITER_PATIENCE;
    loop {
        match call(rpc, "thread/resume", params).await {
            Err(CallError::Refused(error))
                if error.says("already has an active writer") && Instant::now() < deadline =>
            {
                sleep(WRITER_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

fn tool(spec: &ToolSpec) -> Value {
    json!({
        "type": "function",
        "name": spec.name,
        "description": spec.description,
        "inputSchema": spec.input_schema,
    })
}

/// The MCP servers that any layer of the configuration names. They run outside the sandbox, so none is started; there
/// is no setting that turns all of them off, only one per name.
async fn mcp_servers(rpc: &Rpc) -> Result<Vec<String>, OpenError> {
    let answer: Value = rpc.call("config/read", json!({}), CONFIG_LIMIT).await.map_err(|error| match error {
        CallError::Refused(error) => OpenError::Refused {
            reason: format!("Codex cannot read its configuration ({error}); mend config.toml in CODEX_HOME"),
        },
        error => OpenError::Unavailable { reason: error.to_string() },
    })?;
    let servers = answer["config"]["mcp_servers"].as_object();
    Ok(servers.map(|servers| servers.keys().cloned().collect()).unwrap_or_default())
}

fn refusal(error: &CallError, resuming: bool) -> OpenError {
    let CallError::Refused(remote) = error else { return OpenError::Unavailable { reason: error.to_string() } };
    if resuming && (remote.says("no rollout found") || remote.says("invalid session id") || is_bare(remote)) {
        return OpenError::Lost;
    }
    if remote.says("os error 24") || remote.says("No file descriptors") {
        let reason = format!("{remote}; raise the limit of open files (ulimit -n, LimitNOFILE) and restart the broker");
        return OpenError::Unavailable { reason };
    }
    if remote.is_overload() {
        return OpenError::Unavailable { reason: remote.to_string() };
    }
    if remote.says("already has an active writer") {
        let reason = format!("{remote}; another Codex process holds it: end that, or use another CODEX_HOME");
        return OpenError::Unavailable { reason };
    }
    if remote.says("is archived") {
        return OpenError::Refused { reason: format!("{remote} with CODEX_HOME set to the broker's") };
    }
    if remote.says("failed to load configuration") {
        return OpenError::Refused { reason: format!("{remote}; mend config.toml in CODEX_HOME") };
    }
    OpenError::Refused { reason: remote.to_string() }
}

/// Whether a thread's file holds not even its first line: Codex was killed between making the file and writing to it
/// (measured with 0.169.0: -32603, for an empty file as for one whose first line is cut).
fn is_bare(remote: &RemoteError) -> bool {
    remote.says("rollout at ") && remote.says(" is empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> CallError {
        CallError::Refused(RemoteError { code: -32600, message: message.to_owned() })
    }

    #[test]
    fn refusals_are_read_from_their_words() {
        let lost = refused("no rollout found for thread id 01a2");
        assert_eq!(refusal(&lost, true), OpenError::Lost);
        assert!(matches!(refusal(&lost, false), OpenError::Refused { .. }));
        assert_eq!(refusal(&refused("invalid session id: x"), true), OpenError::Lost);
        let bare = "failed to read thread: thread-store internal error: failed to read session metadata /h/rollout-x.jsonl: \
                    rollout at /h/rollout-x.jsonl is empty";
        assert_eq!(refusal(&refused(bare), true), OpenError::Lost);
        let busy = refused("thread 01a2 already has an active writer");
        assert!(matches!(refusal(&busy, true), OpenError::Unavailable { .. }));
        let overload = CallError::Refused(RemoteError { code: -32001, message: "Server overloaded".to_owned() });
        assert!(matches!(refusal(&overload, true), OpenError::Unavailable { .. }));
        let OpenError::Refused { reason } = refusal(&refused("failed to load configuration: x"), false) else {
            panic!("refused");
        };
        assert!(reason.ends_with("mend config.toml in CODEX_HOME"));
    }
}

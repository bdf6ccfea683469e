#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers included")]
//! The whole runtime on an app-server that is a shell script, its messages written out longhand.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker_codex::{ApprovalPolicy, Codex, CodexConfig, SandboxMode};
use broker_core::access::{InstallKey, KEY_BYTES, SessionApi, SessionToken};
use broker_core::agent::{
    AgentAnswer, AgentEvent, AgentInput, AgentRuntime, AgentThreadId, Epoch, Fate, InputId, InterruptError, OpenError,
    SubmitError, ThreadSpec, TurnId, TurnOutcome,
};
use broker_core::chat::{ConversationId, InstallationId, MessageId, ThreadKey};
use broker_core::clock::SystemClock;
use broker_core::store::SessionId;
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// Reads a request per line; `$id` is its id. `turn/start` does what the text of the input asks for.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in sandbox) exit "$(cat "$CODEX_HOME/sandbox-exit" 2>/dev/null || echo 0)";; esac
echo "$$" >> "$CODEX_HOME/pids"
env > "$CODEX_HOME/env"
printf '%s\n' "$@" > "$CODEX_HOME/argv"
echo 'not a message'
while IFS= read -r line; do
  printf '%s\n' "$line" >> "$CODEX_HOME/requests"
  id=${line#*\"id\":}; id=${id%%,*}
  case "$line" in
  *'"method":"initialize"'*) echo '{"id":'$id',"result":{"userAgent":"fake/0.1","codexHome":"x","platformFamily":"unix","platformOs":"linux"}}';;
  *'"method":"account/read"'*) echo '{"id":'$id',"result":{"account":null,"requiresOpenaiAuth":false}}';;
  *'"method":"account/login/start"'*) echo '{"id":'$id',"result":{"type":"apiKey"}}';;
  *'"method":"thread/loaded/list"'*) echo '{"id":'$id',"result":{"data":["th-1"],"nextCursor":null}}';;
  *'"method":"config/read"'*) echo '{"id":'$id',"result":{"config":{"mcp_servers":{"odd.na me":{"command":"x"}}}}}';;
  *'"method":"thread/start"'*)
    permissions=$(cat "$CODEX_HOME/permissions" 2>/dev/null || echo '{"id":"broker","extends":":workspace"}')
    echo '{"id":'$id',"result":{"thread":{"id":"th-1","status":{"type":"idle"},"turns":[]},"activePermissionProfile":'$permissions'}}';;
  *'"method":"thread/resume"'*'"threadId":"th-1"'*)
    echo '{"id":'$id',"result":{"thread":{"id":"th-1"},"activePermissionProfile":{"id":"broker"},"initialTurnsPage":{"data":[{"id":"tu-9","status":"inProgress"}]}}}';;
  *'"method":"thread/resume"'*) echo '{"id":'$id',"error":{"code":-32600,"message":"no rollout found for thread id x"}}';;
  *'"method":"turn/start"'*crash*) kill -9 $$;;
  *'"method":"turn/start"'*mute*) exec sleep 600;;
  *'"method":"turn/start"'*lost*) echo '{"id":'$id',"error":{"code":-32600,"message":"thread not found: th-1"}}';;
  *'"method":"turn/start"'*busy*) echo '{"id":'$id',"error":{"code":-32001,"message":"Server overloaded; retry later."}}';;
  *'"method":"turn/start"'*tool*)
    echo '{"id":'$id',"result":{"turn":{"id":"tu-1","status":"inProgress","items":[]}}}'
    echo '{"method":"turn/started","params":{"threadId":"th-1","turn":{"id":"tu-1","status":"inProgress","items":[]}}}'
    echo '{"method":"item/commandExecution/requestApproval","id":0,"params":{"threadId":"th-1","turnId":"tu-1"}}'
    echo '{"method":"item/tool/call","id":1,"params":{"threadId":"th-1","turnId":"tu-1","callId":"c","namespace":null,"tool":"post","arguments":{"text":"hi"}}}';;
  *'"method":"turn/start"'*)
    echo '{"id":'$id',"result":{"turn":{"id":"tu-1","status":"inProgress","items":[]}}}'
    echo '{"method":"turn/started","params":{"threadId":"th-1","turn":{"id":"tu-1","status":"inProgress","items":[]}}}'
    echo '{"method":"item/completed","params":{"threadId":"th-1","turnId":"tu-1","item":{"type":"userMessage","id":"i","clientId":"row-1","content":[]}}}'
    echo '{"method":"item/completed","params":{"threadId":"th-1","turnId":"tu-1","item":{"type":"agentMessage","id":"j","text":"done","phase":null}}}'
    echo '{"method":"turn/completed","params":{"threadId":"th-1","turn":{"id":"tu-1","status":"completed","error":null,"items":[]}}}';;
  *'"method":"turn/interrupt"'*tu-1*) echo '{"id":'$id',"error":{"code":-32600,"message":"no active turn to interrupt"}}';;
  *'"method":"turn/interrupt"'*)
    echo '{"id":'$id',"result":{}}'
    echo '{"method":"turn/completed","params":{"threadId":"th-1","turn":{"id":"tu-9","status":"interrupted","error":null,"items":[]}}}';;
  *'"method":"thread/backgroundTerminals/list"'*)
    echo '{"id":'$id',"result":{"data":'$(cat "$CODEX_HOME/terminals" 2>/dev/null || echo '[]')',"nextCursor":null}}';;
  *'"method":"thread/backgroundTerminals/clean"'*|*'"method":"thread/unsubscribe"'*) echo '{"id":'$id',"result":{}}';;
  *'"method":"thread/items/list"'*'"cursor":null'*)
    echo '{"id":'$id',"result":{"data":[{"turnId":"t","item":{"type":"agentMessage","id":"a","text":"x"}},{"turnId":"t","item":{"type":"userMessage","id":"b","clientId":"row-3"}}],"nextCursor":"more"}}';;
  *'"method":"thread/items/list"'*) echo '{"id":'$id',"result":{"data":[{"turnId":"t","item":{"type":"userMessage","id":"c","clientId":"row-1"}}],"nextCursor":null}}';;
  *'"id":1,"result"'*contentItems*) echo '{"method":"turn/completed","params":{"threadId":"th-1","turn":{"id":"tu-1","status":"completed","items":[]}}}';;
  esac
done
"#;

struct Bench {
    root: tempfile::TempDir,
    codex: Arc<Codex>,
    events: mpsc::Receiver<AgentEvent>,
}

fn config(root: &Path, bin: PathBuf) -> CodexConfig {
    let env = [("PATH", "/usr/bin:/bin"), ("SLACK_BOT_TOKEN", "xoxb-secret"), ("GH_TOKEN", "gh"), ("NPM_TOKEN", "npm")];
    CodexConfig {
        bin,
        data_root: root.join("data"),
        sessions_root: root.join("data/sessions"),
        codex_home: root.join("data/codex-home"),
        runtime_home: root.join("data/runtime-home"),
        repos_root: root.join("data/repos"),
        sandbox: SandboxMode::WorkspaceWrite,
        network: true,
        approval_policy: ApprovalPolicy::Never,
        pass_env: vec!["NPM_*".parse().expect("a pattern")],
        agent_pass_env: vec!["GH_TOKEN".parse().expect("a name")],
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>(),
        api_key: Some("sk-secret".to_owned().into()),
        auth_json: None,
        idle_end: Duration::from_secs(1800),
        denied: Vec::new(),
        operator_home: None,
    }
}

async fn bench() -> Bench {
    bench_with(|_| ()).await
}

async fn bench_with(change: impl FnOnce(&Path)) -> Bench {
    let (root, config) = prepared(change);
    start(root, config).await
}

/// A folder with the script in it.
fn prepared(change: impl FnOnce(&Path)) -> (tempfile::TempDir, CodexConfig) {
    let root = tempfile::tempdir().expect("a folder");
    let bin = root.path().join("codex");
    std::fs::write(&bin, SCRIPT).expect("a script");
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let home = root.path().join("data/codex-home");
    std::fs::create_dir_all(&home).expect("folder");
    change(&home);
    let config = config(root.path(), bin);
    (root, config)
}

async fn start(root: tempfile::TempDir, config: CodexConfig) -> Bench {
    let codex = Codex::start(config, Arc::new(SystemClock::new())).await.expect("folders");
    let events = codex.events();
    Bench { root, codex, events }
}

/// The token of the one session there is.
fn token() -> SessionToken {
    let thread = "T1/C1:1.1".parse().expect("a thread");
    InstallKey::new([7; KEY_BYTES]).token(&thread, &SessionId::new("s-1"), 1)
}

impl Bench {
    fn spec(&self) -> ThreadSpec {
        ThreadSpec {
            session: ThreadKey {
                installation: InstallationId::new("T1"),
                conversation: ConversationId::new("C1"),
                root: MessageId::new("1.1"),
            },
            workspace: self.root.path().join("data/sessions/a/workspace"),
            instructions: "be brief".to_owned(),
            tools: Vec::new(),
            api: Some(SessionApi { base: "http://127.0.0.1:3000".to_owned(), token: token() }),
        }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.root.path().join("data/codex-home").join(file)).unwrap_or_default()
    }

    async fn open(&self) -> AgentThreadId {
        self.codex.open(&self.spec(), None).await.expect("a thread").thread
    }

    async fn submit(&self, text: &str) -> Result<broker_core::agent::Submitted, SubmitError> {
        let input = AgentInput { id: InputId::new("row-1"), text: text.to_owned(), images: Vec::new() };
        self.codex.submit(&AgentThreadId::new("th-1"), &input).await
    }

    async fn event(&mut self) -> AgentEvent {
        loop {
            let event = timeout(Duration::from_secs(60), self.events.recv()).await.expect("in time").expect("an event");
            if !matches!(event, AgentEvent::Progress { .. }) {
                return event;
            }
        }
    }
}

fn ids(texts: &[&str]) -> Vec<InputId> {
    texts.iter().map(|text| InputId::new(*text)).collect()
}

#[tokio::test]
async fn a_turn_from_start_to_end() {
    let mut bench = bench().await;
    let thread = bench.open().await;
    let turn = bench.submit("hello").await.expect("taken").turn;
    assert_eq!(bench.event().await, AgentEvent::TurnStarted { thread: thread.clone(), turn: turn.clone() });
    let input = InputId::new("row-1");
    assert_eq!(bench.event().await, AgentEvent::InputRecorded { thread: thread.clone(), turn: turn.clone(), input });
    let outcome = TurnOutcome::Completed { final_text: Some("done".to_owned()) };
    assert_eq!(bench.event().await, AgentEvent::TurnEnded { thread: thread.clone(), turn, outcome });

    let fates = bench.codex.fate(&thread, &ids(&["row-1", "row-2", "row-3"])).await.expect("read");
    let fates: Vec<Fate> = fates.into_iter().map(|(_, fate)| fate).collect();
    assert_eq!(fates, [Fate::Recorded, Fate::Absent, Fate::Recorded]);
    bench.codex.release(&thread).await.expect("released");
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_thread_in_which_a_command_runs_is_not_released() {
    let terminal = r#"[{"command":"sleep 600","cwd":"/x","itemId":"c","processId":"7"}]"#;
    let bench = bench_with(|home| std::fs::write(home.join("terminals"), terminal).expect("file")).await;
    let thread = bench.open().await;
    let error = bench.codex.release(&thread).await.expect_err("it would be killed");
    assert!(error.reason.contains("1 commands run"), "{error}");
    assert!(!bench.read("requests").contains("thread/unsubscribe"));
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn what_codex_is_told_names_the_profile_and_holds_no_secret() {
    let bench = bench().await;
    bench.open().await;
    let (argv, env, requests) = (bench.read("argv"), bench.read("env"), bench.read("requests"));
    assert!(argv.contains("default_permissions=\"broker\""), "{argv}");
    for text in [&argv, &env] {
        assert!(!text.contains("xoxb-secret") && !text.contains("sk-secret"), "{text}");
    }
    assert!(env.contains("NPM_TOKEN=npm") && env.contains("GH_TOKEN=gh") && env.contains("SCB_RUNTIME="));
    let line = |method: &str| {
        let wanted = format!("\"method\":\"{method}\"");
        let line = requests.lines().find(|line| line.contains(&wanted)).expect("it was asked");
        serde_json::from_str::<serde_json::Value>(line).expect("JSON")["params"].clone()
    };
    let start = line("thread/start");
    assert_eq!(start["permissions"], "broker");
    assert_eq!(start["developerInstructions"], "be brief");
    assert!(start.get("sandbox").is_none() && start.get("baseInstructions").is_none());
    assert_eq!(start["config"]["mcp_servers"]["odd.na me"]["enabled"], false);
    assert_eq!(start["config"]["shell_environment_policy"]["set"]["GH_TOKEN"], "gh");
    assert!(start["config"]["shell_environment_policy"]["set"].get("NPM_TOKEN").is_none());
    assert_eq!(start["config"]["shell_environment_policy"]["set"]["BROKER_TOKEN"], token().expose());
    for text in [&argv, &env, &start["developerInstructions"].to_string()] {
        assert!(!text.contains(token().expose()), "{text}");
    }
    assert_eq!(line("account/login/start")["apiKey"], "sk-secret");
    assert_eq!(line("initialize")["capabilities"]["experimentalApi"], true);
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_thread_under_other_permissions_is_refused_and_closed() {
    let bench = bench_with(|home| std::fs::write(home.join("permissions"), "null").expect("file")).await;
    let error = bench.codex.open(&bench.spec(), None).await.expect_err("not ours");
    assert!(matches!(error, OpenError::Refused { .. }), "{error}");
    assert!(bench.read("requests").contains("thread/unsubscribe"));
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_resume_finds_the_running_turn_and_it_can_be_interrupted() {
    let mut bench = bench().await;
    let known = AgentThreadId::new("th-1");
    let opened = bench.codex.open(&bench.spec(), Some(known.clone())).await.expect("resumed");
    let turn = TurnId::new("tu-9");
    assert_eq!((opened.epoch, opened.running.as_ref()), (Epoch(1), Some(&turn)));
    bench.codex.interrupt(&known, &turn).await.expect("interrupted");
    assert!(bench.read("requests").contains("thread/backgroundTerminals/clean"));
    let ended = AgentEvent::TurnEnded { thread: known.clone(), turn, outcome: TurnOutcome::Interrupted };
    assert_eq!(bench.event().await, ended);
    let gone = bench.codex.open(&bench.spec(), Some(AgentThreadId::new("other"))).await;
    assert_eq!(gone, Err(OpenError::Lost));
    // It never begins: told after two seconds, or at once when its end was seen.
    let never = bench.codex.interrupt(&known, &TurnId::new("tu-1")).await;
    assert_eq!(never, Err(InterruptError::NotRunning));
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_tool_call_waits_for_its_answer_and_an_approval_is_declined() {
    let mut bench = bench().await;
    bench.open().await;
    bench.submit("use the tool").await.expect("taken");
    assert!(matches!(bench.event().await, AgentEvent::TurnStarted { .. }));
    let AgentEvent::ToolCall { request, tool, arguments, .. } = bench.event().await else { panic!("a tool call") };
    assert_eq!((tool.as_str(), &arguments["text"]), ("post", &serde_json::json!("hi")));
    let answer = AgentAnswer::Tool { success: true, text: "posted".to_owned() };
    bench.codex.answer(&request, answer.clone()).await.expect("it waits");
    assert!(matches!(bench.event().await, AgentEvent::TurnEnded { .. }));
    assert!(bench.codex.answer(&request, answer).await.is_err());
    assert!(bench.read("requests").contains(r#""decision":"decline""#));
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn refusals_say_whether_the_input_was_given() {
    let bench = bench().await;
    bench.open().await;
    assert_eq!(bench.submit("lost").await, Err(SubmitError::NotOpen));
    assert!(matches!(bench.submit("busy").await, Err(SubmitError::Unavailable { .. })));
    bench.codex.shutdown(PATIENCE).await;
    assert!(matches!(bench.submit("late").await, Err(SubmitError::Unavailable { .. })));
}

#[tokio::test]
async fn a_process_without_work_is_ended_and_the_next_message_starts_it() {
    let (root, config) = prepared(|_| ());
    let mut bench = start(root, CodexConfig { idle_end: Duration::from_millis(300), ..config }).await;
    let thread = bench.open().await;
    bench.submit("hello").await.expect("taken");
    while !matches!(bench.event().await, AgentEvent::TurnEnded { .. }) {}
    let mut health = bench.codex.health();
    let rests = |health: &broker_core::agent::RuntimeHealth| {
        health.runtime.reason.as_ref().is_some_and(|remark| remark.contains("rests"))
    };
    assert!(timeout(Duration::from_secs(1), health.wait_for(rests)).await.is_err(), "a thread is open in it");
    bench.codex.release(&thread).await.expect("released");
    let resting = timeout(Duration::from_secs(60), health.wait_for(rests)).await.expect("in time").expect("health");
    assert!(resting.runtime.ok, "that still counts as ready");
    drop(resting);
    assert!(matches!(bench.event().await, AgentEvent::Down { epoch: Epoch(1), .. }));
    assert!(!bench.root.path().join("data/state/app-server.pid").exists());
    let opened = bench.codex.open(&bench.spec(), Some(thread)).await.expect("it starts again");
    assert_eq!(opened.epoch, Epoch(2));
    assert_eq!(bench.codex.health().borrow().runtime.detail["restarts"], 0, "nothing went wrong");
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_crash_is_told_once_and_the_next_open_is_on_a_new_process() {
    let mut bench = bench().await;
    bench.open().await;
    assert!(matches!(bench.submit("crash").await, Err(SubmitError::Unknown { .. })));
    let AgentEvent::Down { epoch, reason } = bench.event().await else { panic!("down") };
    assert_eq!(epoch, Epoch(1));
    assert!(reason.contains("signal 9"), "{reason}");
    let opened = bench.codex.open(&bench.spec(), Some(AgentThreadId::new("th-1"))).await.expect("resumed");
    assert_eq!(opened.epoch, Epoch(2));
    assert!(bench.codex.health().borrow().runtime.ok);
    assert_eq!(bench.codex.health().borrow().runtime.detail["restarts"], 1);
    bench.codex.shutdown(PATIENCE).await;
    assert!(!bench.root.path().join("data/state/app-server.pid").exists());
}

/// Takes about 40 s: the real limits, on a process that reads nothing more and does not end when asked.
#[tokio::test]
async fn a_process_that_answers_nothing_is_replaced() {
    let mut bench = bench().await;
    bench.open().await;
    assert!(matches!(bench.submit("mute").await, Err(SubmitError::Unknown { .. })));
    let AgentEvent::Down { epoch, reason } = bench.event().await else { panic!("down") };
    assert_eq!(epoch, Epoch(1));
    assert!(reason.contains("answered neither"), "{reason}");
    let opened = bench.codex.open(&bench.spec(), None).await.expect("a new process");
    assert_eq!(opened.epoch, Epoch(2));
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn without_a_program_there_is_health_and_no_error() {
    let root = tempfile::tempdir().expect("a folder");
    let nowhere = root.path().join("nowhere");
    let codex = Codex::start(config(root.path(), nowhere), Arc::new(SystemClock::new())).await.expect("folders");
    let mut health = codex.health();
    let told = |reason: &Option<String>| reason.as_ref().is_some_and(|reason| reason.contains("CODEX_BIN"));
    timeout(PATIENCE, health.wait_for(|health| told(&health.runtime.reason))).await.expect("in time").expect("alive");
    let bench = Bench { root, events: codex.events(), codex };
    let mut failed = None;
    // After a first mishap an open waits for the next try; then it says what is wrong.
    timeout(PATIENCE, async {
        while failed.is_none() {
            failed = bench.codex.open(&bench.spec(), None).await.err();
        }
    })
    .await
    .expect("in time");
    assert!(matches!(failed, Some(OpenError::Unavailable { reason }) if reason.contains("CODEX_BIN")));
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_sandbox_that_does_not_work_is_said_with_its_mend() {
    let bench = bench_with(|home| std::fs::write(home.join("sandbox-exit"), "1").expect("file")).await;
    let mut health = bench.codex.health();
    let told = |reason: &Option<String>| reason.as_ref().is_some_and(|reason| reason.contains("user namespaces"));
    timeout(PATIENCE, health.wait_for(|health| told(&health.sandbox.reason))).await.expect("in time").expect("alive");
    bench.codex.shutdown(PATIENCE).await;
}

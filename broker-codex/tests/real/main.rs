#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers included")]
//! The runtime on the real Codex program, with a scripted model and no network.
//!
//! These tests need `CODEX_BIN`, the path of a Codex program; without it they pass and say so.

mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker_codex::{ApprovalPolicy, Codex, CodexConfig, SandboxMode};
use broker_core::agent::{
    AgentEvent, AgentInput, AgentRuntime, AgentThreadId, FailureCause, Fate, InputId, OpenError, ThreadSpec, TurnId,
    TurnOutcome,
};
use broker_core::chat::{ConversationId, InstallationId, MessageId, ThreadKey};
use broker_core::clock::SystemClock;
use broker_core::testing::agent_suite::{self, AgentBench, AgentTexts};
use broker_core::testing::{Act, ScriptedAgent};
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// A data root with a Codex that talks to the scripted model.
struct Bench {
    root: PathBuf,
    codex: Arc<Codex>,
    events: Option<mpsc::Receiver<AgentEvent>>,
    inputs: u32,
    _folder: tempfile::TempDir,
}

fn program() -> Option<PathBuf> {
    let program = std::env::var_os("CODEX_BIN").filter(|program| !program.is_empty()).map(PathBuf::from);
    if program.is_none() {
        eprintln!("skipped: CODEX_BIN is not set");
    }
    program
}

async fn bench(program: PathBuf, sandbox: SandboxMode, more: &str) -> Bench {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("a path");
    let home = root.join("data/codex-home");
    std::fs::create_dir_all(&home).expect("folder");
    let url = model::start().await;
    let config = format!(
        "model = \"gpt-5.5\"\nmodel_provider = \"scripted\"\nsandbox_mode = \"danger-full-access\"\n\
         [model_providers.scripted]\nname = \"scripted\"\nbase_url = \"{url}\"\nwire_api = \"responses\"\n\
         request_max_retries = 0\nstream_max_retries = 0\n{more}"
    );
    std::fs::write(home.join("config.toml"), config).expect("file");
    std::fs::create_dir_all(root.join("operator/.ssh")).expect("folder");
    for secret in ["operator/.ssh/id", ".env", "data/state-backup", "data/codex-home/auth-copy"] {
        std::fs::write(root.join(secret), "secret").expect("file");
    }
    let env =
        [("PATH", std::env::var("PATH").unwrap_or_default()), ("GH_TOKEN", "gh".into()), ("NPM_TOKEN", "npm".into())];
    let config = CodexConfig {
        bin: program,
        data_root: root.join("data"),
        sessions_root: root.join("data/sessions"),
        codex_home: home,
        runtime_home: root.join("data/runtime-home"),
        repos_root: root.join("data/repos"),
        sandbox,
        network: false,
        approval_policy: ApprovalPolicy::Never,
        pass_env: vec!["NPM_*".parse().expect("a pattern")],
        agent_pass_env: vec!["GH_TOKEN".parse().expect("a name")],
        env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>(),
        api_key: None,
        auth_json: None,
        idle_end: Duration::from_secs(1800),
        denied: vec![root.join(".env")],
        operator_home: Some(root.join("operator")),
    };
    let codex = Codex::start(config, Arc::new(SystemClock::new())).await.expect("folders");
    Bench { root, events: None, codex, inputs: 0, _folder: folder }
}

impl Bench {
    fn spec(&self, session: &str) -> ThreadSpec {
        ThreadSpec {
            session: ThreadKey {
                installation: InstallationId::new("T1"),
                conversation: ConversationId::new("C1"),
                root: MessageId::new(session),
            },
            workspace: self.root.join("data/sessions").join(session).join("workspace"),
            instructions: "This is a test.".to_owned(),
            tools: Vec::new(),
            api: None,
        }
    }

    async fn open(&self, session: &str) -> AgentThreadId {
        self.codex.open(&self.spec(session), None).await.expect("a thread").thread
    }

    async fn submit(&mut self, thread: &AgentThreadId, text: &str) -> (InputId, TurnId) {
        self.inputs += 1;
        let id = InputId::new(format!("row-{}", self.inputs));
        let input = AgentInput { id: id.clone(), text: text.to_owned(), images: Vec::new() };
        (id, self.codex.submit(thread, &input).await.expect("taken").turn)
    }

    async fn event(&mut self) -> AgentEvent {
        let events = self.events.get_or_insert_with(|| self.codex.events());
        timeout(PATIENCE, events.recv()).await.expect("in time").expect("an event")
    }

    async fn end_of(&mut self, wanted: &TurnId) -> TurnOutcome {
        loop {
            if let AgentEvent::TurnEnded { turn, outcome, .. } = self.event().await
                && turn == *wanted
            {
                return outcome;
            }
        }
    }

    /// Runs a command as the agent; what it wrote.
    async fn shell(&mut self, thread: &AgentThreadId, command: &str) -> String {
        let (_, turn) = self.submit(thread, &format!("shell:{command}")).await;
        match self.end_of(&turn).await {
            TurnOutcome::Completed { final_text: Some(text) } => text,
            other => panic!("the command's output was expected, not {other:?}"),
        }
    }

    /// The app-server's process id.
    fn pid(&self) -> rustix::process::Pid {
        let pid = self.codex.health().borrow().runtime.detail["pid"].as_i64().expect("it runs");
        rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid")
    }
}

/// Whether a process with these words for a command line runs.
fn runs(words: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ") == words)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

fn texts() -> AgentTexts {
    let text = |text: &str| text.to_owned();
    AgentTexts { finish: text("finish"), hold: text("hold"), fail: text("fail"), tool: text("tool") }
}

#[tokio::test]
async fn the_scripted_agent_conforms() {
    let script = |input: &AgentInput| match input.text.as_str() {
        "hold" => vec![Act::Pause],
        "fail" => vec![Act::Fail(FailureCause::Other, "scripted".to_owned())],
        "tool" => vec![
            Act::Tool { name: agent_suite::TOOL.to_owned(), arguments: serde_json::json!({}) },
            Act::Finish(Some("done".to_owned())),
        ],
        _ => vec![Act::Finish(Some("done".to_owned()))],
    };
    let folder = tempfile::tempdir().expect("a folder");
    agent_suite::all(&mut AgentBench::new(Arc::new(ScriptedAgent::new(script)), texts(), folder.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let Some(program) = program() else { return };
    let bench = bench(program, SandboxMode::WorkspaceWrite, "").await;
    let sessions = bench.root.join("data/sessions");
    agent_suite::all(&mut AgentBench::new(Arc::clone(&bench.codex) as _, texts(), &sessions)).await;
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_what_is_theirs_and_nothing_else() {
    let Some(program) = program() else { return };
    let mut bench = bench(program, SandboxMode::WorkspaceWrite, "").await;
    let home = bench.root.join("data/runtime-home/home");
    std::fs::write(home.join(".gitconfig"), "[user]\nname = robot\nemail = robot@example.com\n").expect("file");
    let other = bench.root.join("data/sessions/other/workspace");
    std::fs::create_dir_all(&other).expect("folder");
    std::fs::write(other.join("secret"), "secret").expect("file");
    let thread = bench.open("own").await;
    let data = bench.root.join("data").display().to_string();
    let root = bench.root.display().to_string();
    let script = format!(
        "for f in {root}/.env {root}/operator/.ssh/id {data}/state-backup {data}/codex-home/config.toml \
         {data}/codex-home/auth-copy {data}/sessions/other/workspace/secret {data}/state/app-server.pid; do \
         cat $f >/dev/null 2>&1 && echo LEAK $f; done; \
         touch mine && echo writes workspace; touch {data}/repos/x && echo writes repos; \
         mkdir -p $XDG_CACHE_HOME && touch $XDG_CACHE_HOME/x && echo writes cache; \
         mktemp >/dev/null && echo writes tmp; (touch $HOME/x) 2>/dev/null && echo LEAK home; \
         (touch /tmp/x-$$) 2>/dev/null && echo LEAK tmp; (touch {data}/runtime-home/tmp/x) 2>/dev/null && echo LEAK codex-tmp; \
         git config --global user.name; mkdir r && cd r && git init -q . && git commit -q --allow-empty -m x && git log --format=by:%an; \
         echo env=$GH_TOKEN-$NPM_TOKEN-$CODEX_HOME-$SHLVL"
    );
    let said = bench.shell(&thread, &script).await;
    assert!(!said.contains("LEAK"), "{said}");
    for expected in ["writes workspace", "writes repos", "writes cache", "writes tmp", "robot", "by:robot", "env=gh---"]
    {
        assert!(said.contains(expected), "`{expected}` in: {said}");
    }
    let health = bench.codex.health();
    until("the sandbox was tried", || health.borrow().sandbox.ok).await;
    assert!(health.borrow().runtime.ok, "{:?}", health.borrow().runtime);
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_agent_reads_its_own_and_writes_nothing() {
    let Some(program) = program() else { return };
    let mut bench = bench(program, SandboxMode::ReadOnly, "").await;
    let data = bench.root.join("data").display().to_string();
    for session in ["own", "other"] {
        let workspace = bench.root.join("data/sessions").join(session).join("workspace");
        std::fs::create_dir_all(&workspace).expect("folder");
        std::fs::write(workspace.join("file"), session).expect("file");
    }
    std::fs::write(bench.root.join("data/repos/file"), "shared").expect("file");
    let thread = bench.open("own").await;
    let script = format!(
        "cat file; cat {data}/repos/file; for f in {data}/codex-home/config.toml {data}/state-backup {data}/state/app-server.pid \
         {data}/sessions/other/workspace/file {data}/../.env; do cat $f >/dev/null 2>&1 && echo LEAK $f; done; \
         (touch file) 2>/dev/null && echo LEAK workspace; (touch {data}/repos/file) 2>/dev/null && echo LEAK repos; \
         (touch $HOME/x) 2>/dev/null && echo LEAK home; mktemp >/dev/null && echo writes tmp"
    );
    let said = bench.shell(&thread, &script).await;
    assert!(!said.contains("LEAK"), "{said}");
    assert!(said.contains("ownshared") && said.contains("writes tmp"), "{said}");
    let health = bench.codex.health();
    until("the sandbox was tried", || health.borrow().sandbox.ok).await;
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_access_is_possible_and_said() {
    let Some(program) = program() else { return };
    let mut bench = bench(program, SandboxMode::DangerFullAccess, "").await;
    let thread = bench.open("own").await;
    let data = bench.root.join("data").display().to_string();
    let said = bench.shell(&thread, &format!("cat {data}/state-backup; echo $HOME")).await;
    assert!(said.contains("secret") && said.contains("runtime-home/home"), "{said}");
    let health = bench.codex.health();
    until("the remark is there", || health.borrow().sandbox.ok).await;
    assert!(health.borrow().sandbox.reason.as_ref().is_some_and(|reason| reason.contains("danger-full-access")));
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mcp_server_is_started_whoever_names_it() {
    let Some(program) = program() else { return };
    let server = |name: &str, file: &Path| {
        format!("[mcp_servers.{name}]\ncommand = \"/bin/sh\"\nargs = [\"-c\", \"touch {}; cat\"]\n", file.display())
    };
    let marks = tempfile::tempdir().expect("a folder");
    let (by_operator, by_repository) = (marks.path().join("operator"), marks.path().join("repository"));
    let bench = bench(program, SandboxMode::WorkspaceWrite, &server("\"odd.na me\"", &by_operator)).await;
    let workspace = bench.spec("own").workspace;
    std::fs::create_dir_all(workspace.join(".codex")).expect("folder");
    std::fs::create_dir_all(workspace.join(".git/objects")).expect("folder");
    std::fs::create_dir_all(workspace.join(".git/refs")).expect("folder");
    std::fs::write(workspace.join(".git/HEAD"), "ref: refs/heads/main\n").expect("file");
    std::fs::write(workspace.join(".codex/config.toml"), server("theirs", &by_repository)).expect("file");
    let mut bench = bench;
    let thread = bench.open("own").await;
    let said = bench.shell(&thread, "echo done").await;
    assert!(said.contains("done"));
    assert!(!by_operator.exists() && !by_repository.exists());
    let config = std::fs::read_to_string(bench.root.join("data/codex-home/config.toml")).expect("file");
    assert!(!config.contains("trust_level"), "the operator's configuration was written: {config}");
    bench.codex.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_turn_leaves_no_command_running() {
    let Some(program) = program() else { return };
    let mut bench = bench(program, SandboxMode::WorkspaceWrite, "").await;
    let thread = bench.open("own").await;
    let (_, turn) = bench.submit(&thread, "shell:exec sleep 90417").await;
    until("the command runs", || runs("sleep 90417")).await;
    bench.codex.interrupt(&thread, &turn).await.expect("interrupted");
    until("the command is gone", || !runs("sleep 90417")).await;
    assert_eq!(bench.end_of(&turn).await, TurnOutcome::Interrupted);
    // Right after the answer to `turn/start` the app-server says "no active turn to interrupt".
    for _ in 0..10 {
        let (_, turn) = bench.submit(&thread, "hold").await;
        bench.codex.interrupt(&thread, &turn).await.expect("interrupted");
        assert_eq!(bench.end_of(&turn).await, TurnOutcome::Interrupted);
    }
    bench.submit(&thread, "shell:exec sleep 90419").await;
    until("the command runs", || runs("sleep 90419")).await;
    bench.codex.shutdown(PATIENCE).await;
    assert!(!runs("sleep 90419"), "a command outlived the runtime");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_replaced_and_what_was_recorded_stays() {
    let Some(program) = program() else { return };
    let mut bench = bench(program, SandboxMode::WorkspaceWrite, "").await;
    let thread = bench.open("own").await;
    let (first, turn) = bench.submit(&thread, "finish").await;
    bench.end_of(&turn).await;
    let (second, _) = bench.submit(&thread, "shell:exec sleep 90418").await;
    until("the command runs", || runs("sleep 90418")).await;
    rustix::process::kill_process(bench.pid(), rustix::process::Signal::KILL).expect("it runs");
    loop {
        if let AgentEvent::Down { .. } = bench.event().await {
            break;
        }
    }
    until("the command is gone", || !runs("sleep 90418")).await;
    let opened = bench.codex.open(&bench.spec("own"), Some(thread.clone())).await.expect("resumed");
    assert_eq!(opened.running, None);
    let never = InputId::new("never");
    let fates = bench.codex.fate(&thread, &[first, second, never]).await.expect("read");
    let fates: Vec<Fate> = fates.into_iter().map(|(_, fate)| fate).collect();
    assert_eq!(fates, [Fate::Recorded, Fate::Recorded, Fate::Absent]);
    let said = bench.shell(&thread, "cat ../../../state-backup || echo hidden").await;
    assert!(said.contains("hidden"), "the profile holds after a resume: {said}");
    // A thread that nothing was given to has no history to come back to.
    let empty = bench.open("empty").await;
    rustix::process::kill_process(bench.pid(), rustix::process::Signal::KILL).expect("it runs");
    loop {
        if let AgentEvent::Down { .. } = bench.event().await {
            break;
        }
    }
    assert_eq!(bench.codex.open(&bench.spec("empty"), Some(empty)).await, Err(OpenError::Lost));
    let pid = bench.pid();
    bench.codex.shutdown(PATIENCE).await;
    assert!(rustix::process::test_kill_process(pid).is_err(), "it ended with the runtime");
}

/// Barrier (b): what was given to a turn that has ended, completed or failed, either stands in the history when its
/// end has been read, or never will.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_turn_decides_what_was_given_to_it() {
    let Some(program) = program() else { return };
    let mut bench = bench(program, SandboxMode::WorkspaceWrite, "").await;
    let (mut joined, mut present, mut missed) = (0, 0, 0);
    for text in ["finish", "fail", "shell:true"] {
        let thread = bench.open(&text.replace(':', "-")).await;
        for round in 0..12_u64 {
            let (_, turn) = bench.submit(&thread, text).await;
            let mut given = Vec::new();
            let mut later = Vec::new();
            // Each one prolongs the turn; the pauses vary until one was too long and its input starts another turn.
            for step in 0..40 {
                tokio::time::sleep(Duration::from_millis((round * 17 + step * 29) % 97)).await;
                let (id, into) = bench.submit(&thread, text).await;
                if into == turn {
                    given.push(id);
                } else {
                    later.push(into);
                    break;
                }
            }
            bench.end_of(&turn).await;
            let at_barrier = bench.codex.fate(&thread, &given).await.expect("read");
            missed += later.len();
            for turn in later {
                bench.end_of(&turn).await;
            }
            let afterwards = bench.codex.fate(&thread, &given).await.expect("read");
            assert_eq!(at_barrier, afterwards, "a fate changed after the end of the turn");
            joined += given.len();
            present += at_barrier.iter().filter(|(_, fate)| *fate == Fate::Recorded).count();
        }
    }
    println!("barrier: {joined} inputs joined, {missed} came too late; at the ends {present} stood in the history");
    assert!(joined > 0 && missed > 0, "no input joined a turn, or none came near an end");
    bench.codex.shutdown(PATIENCE).await;
}

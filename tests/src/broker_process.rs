//! The real `broker` program: built once, started on a folder of its own, watched through its log and `/readyz`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::http_client;
use crate::npm::target_folder;
use crate::processes::{self, poll};
use crate::watched::Watched;

/// A build from nothing, on a small machine that does other things beside.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);
/// From the start to the open port.
const LISTEN_LIMIT: Duration = Duration::from_secs(30);
/// From the open port to all parts well; Codex takes its time on a loaded machine.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// From SIGTERM to the end, the grace of the broker included.
pub const END_LIMIT: Duration = Duration::from_secs(30);
/// Log lines that are kept.
const LOG_LINES: usize = 200_000;

static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
static LEFTOVERS: Once = Once::new();
static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// The program, built in the profile of this test; `BROKER_BIN_FOR_TESTS` names another, from the repository's root.
///
/// # Panics
///
/// When it cannot be built.
pub async fn program() -> PathBuf {
    PROGRAM.get_or_init(build).await.clone()
}

async fn build() -> PathBuf {
    if let Some(named) = std::env::var_os("BROKER_BIN_FOR_TESTS") {
        return Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(named);
    }
    let target = target_folder();
    let program = std::env::current_exe().expect("the path of this program");
    // target/[triple/]profile/deps/this, or without `deps` when it is no test.
    let folder =
        program.parent().filter(|folder| !folder.ends_with("deps")).or(program.parent().and_then(Path::parent));
    let profile = folder.and_then(Path::file_name).unwrap_or_default();
    let profile = if profile == "debug" { "dev".into() } else { profile.to_owned() };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--locked", "-p", "slack-codex-broker", "--bin", "broker", "--message-format=json"])
        .arg("--target-dir")
        .arg(&target)
        .arg("--profile")
        .arg(profile)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .kill_on_drop(true);
    let built = tokio::time::timeout(BUILD_LIMIT, cargo.output()).await;
    let built = built.expect("cargo takes too long to build the broker").expect("cargo runs");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "the broker cannot be built: {said}");
    let messages = String::from_utf8_lossy(&built.stdout).into_owned();
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_broker = |message: &Value| message["target"]["name"] == "broker" && message["executable"].is_string();
    let executable = messages.rfind(is_broker).and_then(|message| message["executable"].as_str().map(PathBuf::from));
    executable.expect("cargo names the program that it built")
}

/// A folder of one test below the target folder, not in `/tmp`: what an agent may see of that is part of the tests.
/// Removed, with every process that belongs to it, when it is dropped; `BROKER_TEST_KEEP=1` keeps the files until
/// the next run.
#[derive(Debug)]
pub struct TestFolder {
    path: PathBuf,
}

impl TestFolder {
    /// Makes the folder.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn new(name: &str) -> Self {
        LEFTOVERS.call_once(clear_leftovers);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = target_folder().join("test-data").join(format!("{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder below target/");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        remove(&self.path, std::env::var_os("BROKER_TEST_KEEP").is_some());
    }
}

/// Ends what belongs to a folder, and removes the folder.
fn remove(folder: &Path, keep: bool) {
    for _ in 0..100 {
        let left = processes::belonging_to(folder);
        for process in &left {
            processes::signal(process.pid, Signal::KILL);
        }
        if left.is_empty() && (keep || std::fs::remove_dir_all(folder).is_ok()) {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A test program that was killed could not clean up: its folders bear its number.
fn clear_leftovers() {
    let folders = std::fs::read_dir(target_folder().join("test-data")).into_iter().flatten().flatten();
    for folder in folders.map(|entry| entry.path()) {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let owner = name.rsplit('-').nth(1).and_then(|number| number.parse().ok());
        if owner.is_some_and(|owner| !processes::alive(owner)) {
            remove(&folder, false);
        }
    }
}

/// How the broker is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// The whole environment, beside `PATH`.
    pub env: BTreeMap<String, String>,
    /// The current folder: `.env` is read from there.
    pub cwd: PathBuf,
    /// What a shell does before it becomes the broker; empty for none.
    pub before: String,
}

/// A running broker. Killed when it is dropped; what it started ends with its [`TestFolder`].
#[derive(Debug)]
pub struct Broker {
    start: Start,
    child: Child,
    log: Arc<Watched<Vec<Value>>>,
    address: String,
}

impl Broker {
    /// Starts it and waits until its port is open.
    ///
    /// # Panics
    ///
    /// When it ends at once or opens no port.
    pub async fn start(start: Start) -> Self {
        let log = Arc::new(Watched::new(Vec::new()));
        let (child, address) = spawn(&start, &log).await;
        Self { start, child, log, address }
    }

    /// Its process number.
    ///
    /// # Panics
    ///
    /// When it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the broker runs")
    }

    /// What `GET /readyz` says, or nothing while it does not answer.
    pub async fn readiness(&self) -> Option<Value> {
        let url = format!("http://{}/readyz", self.address);
        http_client::get(&url, &[], Duration::from_secs(10)).await.ok().map(|answer| answer.json())
    }

    /// What `/metrics` says.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    pub async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.address);
        let answer = http_client::get(&url, &[], Duration::from_secs(10)).await.expect("an answer");
        String::from_utf8(answer.body.to_vec()).expect("UTF-8")
    }

    /// Waits until all parts are well.
    ///
    /// # Panics
    ///
    /// When they are not within [`READY_LIMIT`].
    pub async fn ready(&self) {
        let ready = poll(READY_LIMIT, async || self.readiness().await.filter(|said| said["ok"] == true)).await;
        if ready.is_none() {
            panic!("within {READY_LIMIT:?} not ready: {:?}\n{}", self.readiness().await, self.last_lines(60));
        }
    }

    /// One figure of `/readyz`.
    pub async fn figure(&self, part: &str, name: &str) -> Option<Value> {
        self.readiness().await.map(|said| said["parts"][part][name].clone()).filter(|value| !value.is_null())
    }

    /// The log lines so far, those of earlier lives included.
    pub fn log_lines(&self) -> Vec<Value> {
        self.log.read(Clone::clone)
    }

    /// Waits for a log line that `fits`.
    ///
    /// # Panics
    ///
    /// When the limit is over.
    pub async fn wait_for_line(&self, what: &str, limit: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        let found = self.log.wait_for(|lines| lines.iter().find(|line| fits(line)).cloned(), limit).await;
        found.unwrap_or_else(|| panic!("within {limit:?} no log line with {what}\n{}", self.last_lines(60)))
    }

    /// The last lines of the log, for the message of a test that failed.
    pub fn last_lines(&self, count: usize) -> String {
        self.log.read(|lines| {
            let from = lines.len().saturating_sub(count);
            lines[from..].iter().map(|line| format!("{line}\n")).collect()
        })
    }

    /// The resident memory of the broker itself in KiB.
    pub fn resident_kib(&self) -> u64 {
        processes::resident_kib(self.pid()).unwrap_or_default()
    }

    /// The most resident memory that the broker itself ever had in KiB.
    pub fn peak_kib(&self) -> u64 {
        processes::peak_kib(self.pid()).unwrap_or_default()
    }

    /// The app-servers that run for this broker, an orphan of an earlier life included.
    pub fn app_server_pids(&self) -> Vec<u32> {
        let root = self.start.env.get("DATA_ROOT").map(PathBuf::from).unwrap_or_default();
        let server = |process: &processes::Process| {
            process.command.split_whitespace().nth(1).is_some()
                && process.command.split_whitespace().any(|word| word == "app-server")
        };
        processes::belonging_to(&root).into_iter().filter(server).map(|process| process.pid).collect()
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Panics
    ///
    /// When it does not within [`END_LIMIT`].
    pub async fn sigterm(&mut self) -> ExitStatus {
        processes::signal(self.pid(), Signal::TERM);
        let ended = tokio::time::timeout(END_LIMIT, self.child.wait()).await;
        match ended {
            Ok(status) => status.expect("the status of the broker"),
            Err(_) => panic!("the broker did not end within {END_LIMIT:?} of SIGTERM\n{}", self.last_lines(60)),
        }
    }

    /// Kills it, and nothing else.
    ///
    /// # Panics
    ///
    /// When it cannot be collected.
    pub async fn sigkill(&mut self) {
        processes::signal(self.pid(), Signal::KILL);
        let ended = tokio::time::timeout(END_LIMIT, self.child.wait()).await;
        ended.expect("a killed process ends").expect("the status of the broker");
    }

    /// Starts another one with the same settings and waits for its end.
    ///
    /// # Panics
    ///
    /// When it has not ended by itself within [`END_LIMIT`].
    pub async fn another(&self) -> std::process::Output {
        let output = command(&self.start, &program().await).stderr(Stdio::piped()).output();
        let output = tokio::time::timeout(END_LIMIT, output).await;
        output.expect("the other broker ends").expect("the other broker starts")
    }

    /// Runs `broker` with these arguments in the same place, with the same settings, and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it has not ended within [`END_LIMIT`].
    pub async fn run(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = command(&self.start, &program().await);
        let output = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let output = tokio::time::timeout(END_LIMIT, output).await;
        output.expect("the command ends").expect("the command starts")
    }

    /// Where its port is: `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts it again on the same folder, after it ended.
    pub async fn start_again(&mut self) {
        let (child, address) = spawn(&self.start, &self.log).await;
        self.child = child;
        self.address = address;
    }

    /// Ends it in order, starts it again and waits until it is ready.
    pub async fn restart(&mut self) {
        let status = self.sigterm().await;
        assert!(status.success(), "the broker ended with {status} after SIGTERM\n{}", self.last_lines(60));
        self.start_again().await;
        self.ready().await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the broker's last words:\n{}", self.last_lines(120));
        }
        // It may have ended already.
        let _ = self.child.start_kill();
    }
}

fn command(start: &Start, program: &Path) -> Command {
    let mut command = Command::new(if start.before.is_empty() { program } else { Path::new("sh") });
    if !start.before.is_empty() {
        command.arg("-c").arg(format!("{}; exec \"$0\"", start.before)).arg(program);
    }
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(&start.env)
        .current_dir(&start.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    command
}

async fn spawn(start: &Start, log: &Arc<Watched<Vec<Value>>>) -> (Child, String) {
    let mut child = command(start, &program().await).stderr(Stdio::piped()).spawn().expect("the broker starts");
    let stderr = child.stderr.take().expect("its stderr");
    let before = log.read(Vec::len);
    // An earlier life's last lines may still come in.
    let end = Value::String(format!("(the end of process {})", child.id().unwrap_or_default()));
    let (into, reading, ending) = (Arc::clone(log), BufReader::new(stderr), end.clone());
    tokio::spawn(async move {
        let mut lines = reading.lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
            into.change(|lines| {
                if lines.len() < LOG_LINES {
                    lines.push(line)
                }
            });
        }
        // The end wakes whoever waits for a line.
        into.change(|lines| lines.push(ending));
    });
    let bound = |line: &Value| match line["message"].as_str() {
        Some("listening") => line["address"].as_str().map(str::to_owned),
        _ => None,
    };
    let ended = |line: &Value| *line == end;
    let found = log.wait_for(
        |lines| lines[before..].iter().find_map(|line| bound(line).map(Ok).or_else(|| ended(line).then_some(Err(())))),
        LISTEN_LIMIT,
    );
    match found.await {
        Some(Ok(address)) => (child, address),
        _ => {
            let lines: String = log.read(|lines| lines[before..].iter().map(|line| format!("{line}\n")).collect());
            panic!("the broker opened no port within {LISTEN_LIMIT:?}\n{lines}")
        }
    }
}

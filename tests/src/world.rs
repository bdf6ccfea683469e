//! A broker with everything around it: fake Slack, fake model, real Codex, a folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::broker_process::{Broker, Start, TestFolder};
use crate::codex_binary;
use crate::fake_model::FakeModel;
use crate::fake_slack::{self, CHANNEL, FakeSlack};
use crate::processes::poll;

/// How long an answer of the whole chain may take on a loaded machine.
pub const ANSWER: Duration = Duration::from_secs(60);
/// Worlds at once in one test program: each runs a Codex of some 150 MB.
static WORLDS: Semaphore = Semaphore::const_new(4);

/// Everything. The fields are dropped in this order: the broker before what it talks to, the folder last.
#[derive(Debug)]
pub struct World {
    /// The broker.
    pub broker: Broker,
    /// Slack.
    pub slack: FakeSlack,
    /// The model.
    pub model: FakeModel,
    /// The folder of the test: `data` is DATA_ROOT, `cwd` the broker's current folder with its `.env`.
    pub folder: TestFolder,
    _permit: SemaphorePermit<'static>,
}

impl World {
    /// Starts everything and waits until it is ready; `None`, and a word on stderr, when Codex is left out on purpose.
    pub async fn start(name: &str) -> Option<Self> {
        Self::with(name, &[]).await
    }

    /// The same with variables of the broker's environment over the usual ones.
    pub async fn with(name: &str, env: &[(&str, &str)]) -> Option<Self> {
        Self::after(name, env, "").await
    }

    /// The same, with what a shell does before it becomes the broker.
    pub async fn after(name: &str, env: &[(&str, &str)], before: &str) -> Option<Self> {
        let permit = WORLDS.acquire().await.expect("never closed");
        let Some(codex) = codex_binary::path().await else {
            eprintln!("skipped: BROKER_TEST_NO_CODEX=1");
            return None;
        };
        let (slack, model) = (FakeSlack::start().await, FakeModel::start().await);
        let folder = TestFolder::new(name);
        let start = Start { before: before.to_owned(), ..prepare(&folder, &slack, &model, &codex, env) };
        let broker = Broker::start(start).await;
        broker.ready().await;
        Some(Self { broker, slack, model, folder, _permit: permit })
    }

    /// The broker's DATA_ROOT.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Alice mentions the broker at the top level of the channel; returns the root of the new thread.
    pub fn mention(&self, text: &str) -> String {
        self.slack.mention(CHANNEL, fake_slack::ALICE, text)
    }

    /// Alice replies in a thread of the channel.
    pub fn reply(&self, root: &str, text: &str) -> String {
        self.slack.reply(CHANNEL, root, fake_slack::ALICE, text)
    }

    /// Waits for an answer in a thread of the channel that holds `part`; returns it.
    #[track_caller]
    pub fn answer(&self, root: &str, part: &str) -> impl Future<Output = String> {
        let what = format!("answer with `{part}`");
        let part = part.to_owned();
        let (slack, root) = (&self.slack, root.to_owned());
        let caller = std::panic::Location::caller();
        async move {
            let waited = slack.wait_for_answer(CHANNEL, &root, &what, ANSWER, |text| text.contains(&part));
            let Ok(text) = tokio::time::timeout(ANSWER * 2, waited).await else { panic!("{caller}: no {what}") };
            text
        }
    }

    /// How many answers of the broker in a thread of the channel hold `part`.
    pub fn answers_with(&self, root: &str, part: &str) -> usize {
        self.slack.answers(CHANNEL, root).iter().filter(|text| text.contains(part)).count()
    }

    /// Waits until a command of the agent has made a file of this name in its workspace; returns its path.
    ///
    /// # Panics
    ///
    /// When it has not within [`ANSWER`].
    pub async fn file_of_agent(&self, name: &str) -> PathBuf {
        let sessions = self.data().join("sessions");
        let found = poll(ANSWER, async || find_file(&sessions, name, 6)).await;
        found.unwrap_or_else(|| panic!("no command made `{name}`; {}", self.broker.last_lines(40)))
    }

    /// Waits until the broker has given so many inputs to the agent, over its whole life.
    pub async fn given(&self, count: usize) {
        let given = |line: &serde_json::Value| line["message"] == "given to the agent";
        let look = poll(ANSWER, async || {
            let lines = self.broker.log_lines();
            (lines.iter().filter(|line| given(line)).count() >= count).then_some(())
        });
        assert!(look.await.is_some(), "{count} inputs were never given; {}", self.broker.last_lines(40));
    }

    /// Says something in a new thread and waits for the answer: whatever came before it has been looked at by then.
    pub async fn exchange(&self, word: &str) -> String {
        let root = self.mention(&format!("{word} scenario:text:answer to {word}"));
        self.answer(&root, &format!("answer to {word}")).await;
        root
    }

    /// Starts another broker on the same folder and waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub async fn second_broker(&self) -> std::process::Output {
        self.broker.another().await
    }

    /// What holds at the end of every test: Slack has nothing to complain about, and everything it sent was acknowledged.
    ///
    /// # Panics
    ///
    /// When it does not hold.
    pub async fn finish(self) {
        let all = |state: &fake_slack::State| state.envelopes().iter().all(|e| e.acked.is_some()).then_some(());
        self.slack.wait_for("ack of every envelope", Duration::from_secs(20), all).await;
        assert_eq!(self.slack.violations(), Vec::<String>::new());
    }
}

fn find_file(folder: &std::path::Path, name: &str, depth: usize) -> Option<PathBuf> {
    let here = folder.join(name);
    if here.is_file() {
        return Some(here);
    }
    let folders = std::fs::read_dir(folder).ok()?.flatten().filter(|entry| entry.path().is_dir());
    if depth == 0 { None } else { folders.filter_map(|entry| find_file(&entry.path(), name, depth - 1)).next() }
}

fn prepare(
    folder: &TestFolder,
    slack: &FakeSlack,
    model: &FakeModel,
    codex: &std::path::Path,
    env: &[(&str, &str)],
) -> Start {
    let at = |name: &str| folder.path().join(name);
    for name in ["data/codex-home", "cwd", "home"] {
        std::fs::create_dir_all(at(name)).expect("a folder of the test");
    }
    std::fs::write(at("data/codex-home/config.toml"), codex_config(&model.base_url()))
        .expect("the configuration of Codex");
    std::fs::write(at("cwd/.env"), "# canary-env-file\nSHUTDOWN_GRACE_MS=3000\n").expect("an .env");
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let usual = [
        ("HOME", text(at("home"))),
        ("LANG", "C.UTF-8".to_owned()),
        ("RUST_BACKTRACE", "1".to_owned()),
        ("SLACK_APP_TOKEN", fake_slack::APP_TOKEN.to_owned()),
        ("SLACK_BOT_TOKEN", fake_slack::BOT_TOKEN.to_owned()),
        ("SLACK_API_BASE_URL", slack.api_base()),
        ("SLACK_POST_RATE", "0".to_owned()),
        ("DATA_ROOT", text(at("data"))),
        ("CODEX_BIN", text(codex.to_owned())),
        ("PORT", "0".to_owned()),
        ("LOG_LEVEL", "debug".to_owned()),
    ];
    let mut all: BTreeMap<String, String> = usual.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Start { env: all, cwd: at("cwd"), before: String::new() }
}

/// Codex on the fake model, with nothing that would reach for the network and nothing that tries again: a test says
/// itself what fails how often. What the broker has to set (sandbox, trust, environment of commands) is left to it.
pub fn codex_config(base_url: &str) -> String {
    format!(
        r#"model = "gpt-5.5"
model_provider = "fake"
check_for_update_on_startup = false
web_search = "disabled"
allow_login_shell = false
cli_auth_credentials_store = "file"

[agents]
enabled = false

[analytics]
enabled = false

[feedback]
enabled = false

[features]
plugins = false
remote_plugin = false
shell_snapshot = false
goals = false
image_generation = false
memories = false
skill_search = false
tool_suggest = false
workspace_dependencies = false

[skills.bundled]
enabled = false

[model_providers.fake]
name = "fake"
base_url = "{base_url}"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"#
    )
}

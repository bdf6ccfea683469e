#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! The real Codex program takes the fake model for a model. What the end-to-end tests rely on is shown here without a
//! broker, so that a failure there can be placed.

use std::process::Stdio;
use std::time::Duration;

use broker_tests::broker_process::TestFolder;
use broker_tests::codex_binary;
use broker_tests::fake_model::{FakeModel, Step};
use broker_tests::world::codex_config;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const LIMIT: Duration = Duration::from_secs(60);

/// An app-server on stdio.
struct Server {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    last: u64,
}

impl Server {
    async fn start(folder: &TestFolder, model: &FakeModel) -> Option<Self> {
        let Some(codex) = codex_binary::path().await else {
            eprintln!("skipped: BROKER_TEST_NO_CODEX=1");
            return None;
        };
        let (home, tmp) = (folder.path().join("home"), folder.path().join("tmp"));
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(&tmp).unwrap();
        std::fs::write(home.join("config.toml"), codex_config(&model.base_url())).unwrap();
        let mut child = Command::new(codex)
            .arg("app-server")
            .env("CODEX_HOME", &home)
            .env("TMPDIR", &tmp)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut server = Self { _child: child, input, output: BufReader::new(output).lines(), last: 0 };
        let client = json!({ "name": "broker-tests", "version": "0" });
        server.ask("initialize", json!({ "clientInfo": client, "capabilities": { "experimentalApi": true } })).await;
        server.write(json!({ "method": "initialized" })).await;
        Some(server)
    }

    async fn write(&mut self, message: Value) {
        self.input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    /// The next message that fits.
    async fn until(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                let line = self.output.next_line().await.unwrap().expect("the server goes on");
                let message: Value = serde_json::from_str(&line).unwrap();
                if fits(&message) {
                    return message;
                }
            }
        };
        tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("no {what}"))
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let id = self.last;
        self.write(json!({ "id": id, "method": method, "params": params })).await;
        let reply = self.until(method, |message| message["id"] == id && message.get("method").is_none()).await;
        assert!(reply.get("error").is_none(), "{method}: {reply}");
        reply["result"].clone()
    }

    /// Runs a turn to its end; returns its id and how it ended.
    async fn turn(&mut self, thread: &str, text: &str) -> (String, Value) {
        let input = json!([{ "type": "text", "text": text }]);
        let started = self.ask("turn/start", json!({ "threadId": thread, "input": input })).await;
        let ended = self.until("turn/completed", |message| message["method"] == "turn/completed").await;
        (started["turn"]["id"].as_str().unwrap().to_owned(), ended["params"]["turn"].clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_plays_along() {
    let (model, folder) = (FakeModel::start().await, TestFolder::new("codex"));
    let Some(mut server) = Server::start(&folder, &model).await else { return };
    let cwd = folder.path().join("cwd");
    std::fs::create_dir_all(&cwd).unwrap();
    let tool =
        json!({ "type": "function", "name": "post", "description": "Posts.", "inputSchema": { "type": "object" } });
    let args =
        json!({ "cwd": cwd, "approvalPolicy": "never", "sandbox": "danger-full-access", "dynamicTools": [tool] });
    let thread = server.ask("thread/start", args).await["thread"]["id"].as_str().unwrap().to_owned();

    let script = model.script([Step::Shell("echo 6 times 7 is $((6 * 7))".to_owned()), Step::Text("done".to_owned())]);
    let (turn, ended) = server.turn(&thread, &script).await;
    assert_eq!((&ended["status"], &ended["items"][0]["text"]), (&json!("completed"), &json!("done")), "{ended}");
    let requests = model.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].tool_outputs()[0].contains("6 times 7 is 42"), "{:?}", requests[1].tool_outputs());
    assert!(requests[0].tools().contains(&"post".to_owned()), "{:?}", requests[0].tools());
    // The load test reads when a turn began out of these.
    assert_eq!((requests[0].thread.as_str(), requests[0].turn.as_str()), (thread.as_str(), turn.as_str()));

    for (text, status, info) in [
        ("scenario:usage_limit", "failed", json!("usageLimitExceeded")),
        ("scenario:failed:context_length_exceeded", "failed", json!("contextWindowExceeded")),
        ("scenario:error:503", "failed", json!({ "httpConnectionFailed": { "httpStatusCode": 503 } })),
        ("scenario:cutoff", "failed", json!("other")),
        ("scenario:malformed", "failed", json!("other")),
        ("scenario:refuse", "failed", Value::Null),
        ("scenario:nothing", "completed", Value::Null),
        ("scenario:commentary:hm", "completed", Value::Null),
        ("scenario:bigtext:64", "completed", Value::Null),
    ] {
        let (_, ended) = server.turn(&thread, text).await;
        assert_eq!(ended["status"], status, "{text}: {ended}");
        if !info.is_null() {
            assert_eq!(ended["error"]["codexErrorInfo"], info, "{text}: {ended}");
        }
    }
    assert_eq!(model.other_requests(), Vec::<String>::new());
}

//! An app-server whose turns take five milliseconds and cost nothing, so that what is measured is the broker. It speaks what
//! Codex speaks on stdin and stdout, longhand, and is a process of its own, as Codex is.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use super::clock;

/// From the start of a turn to its end.
const TURN: Duration = Duration::from_millis(5);
/// Lines that wait to be written.
const LINES: usize = 4096;
/// What the broker calls its permission profile.
const PROFILE: &str = "broker";
/// Inputs of a thread that are remembered for `thread/items/list`.
const ITEMS: usize = 64;

/// A thread.
#[derive(Debug, Default)]
struct Thread {
    /// The turn that runs, and what was given to it.
    turn: Option<(String, Vec<String>)>,
    /// The ids of the newest inputs.
    inputs: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    threads: HashMap<String, Thread>,
    numbers: u64,
}

#[derive(Clone)]
struct Server {
    state: Arc<Mutex<State>>,
    lines: mpsc::Sender<String>,
}

/// Serves until stdin ends. `arguments` are those that Codex would get.
///
/// # Errors
///
/// When stdin cannot be read.
pub async fn run(arguments: &[String]) -> std::io::Result<()> {
    // The trial of the sandbox: nothing is run here, so nothing leaks.
    if arguments.first().is_none_or(|first| first != "app-server") {
        return Ok(());
    }
    let (lines, mut waiting) = mpsc::channel::<String>(LINES);
    let writer = tokio::spawn(async move {
        let mut chunk = Vec::new();
        while waiting.recv_many(&mut chunk, 256).await > 0 {
            let text: String = chunk.drain(..).collect();
            // A pipe to a process that reads; this program does nothing else.
            if std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()).is_err() {
                return;
            }
        }
    });
    let server = Server { state: Arc::default(), lines };
    let mut requests = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = requests.next_line().await? {
        let at = clock::monotonic();
        let Ok(request) = serde_json::from_str::<Value>(&line) else { continue };
        server.answer(&request, at).await;
    }
    drop(server);
    writer.abort();
    Ok(())
}

impl Server {
    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn say(&self, message: Value) {
        // The writer lives as long as there is a reader.
        let _ = self.lines.send(format!("{message}\n")).await;
    }

    async fn answer(&self, request: &Value, at: Duration) {
        let (Some(method), id) = (request["method"].as_str(), &request["id"]) else { return };
        if id.is_null() {
            return;
        }
        let params = &request["params"];
        let thread = params["threadId"].as_str().unwrap_or_default();
        let result = match method {
            "initialize" => {
                json!({"userAgent": "bench/0.1", "codexHome": "x", "platformFamily": "unix", "platformOs": "linux"})
            }
            "account/read" => json!({"account": null, "requiresOpenaiAuth": false}),
            "thread/loaded/list" => json!({"data": [], "nextCursor": null}),
            "config/read" => json!({"config": {"mcp_servers": {}}}),
            "thread/start" => {
                let thread = self.number("thread");
                self.state().threads.insert(thread.clone(), Thread::default());
                opened(&thread)
            }
            "thread/resume" => {
                self.state().threads.entry(thread.to_owned()).or_default();
                opened(thread)
            }
            "turn/start" => return self.turn(id, params, at).await,
            "thread/items/list" => self.items(thread),
            "thread/backgroundTerminals/list" => json!({"data": [], "nextCursor": null}),
            "turn/interrupt" => {
                return self
                    .say(json!({"id": id, "error": {"code": -32600, "message": "no active turn to interrupt"}}))
                    .await;
            }
            _ => json!({}),
        };
        self.say(json!({"id": id, "result": result})).await;
    }

    fn number(&self, of: &str) -> String {
        let mut state = self.state();
        state.numbers += 1;
        format!("{of}-{}-{}", std::process::id(), state.numbers)
    }

    fn items(&self, thread: &str) -> Value {
        let state = self.state();
        let inputs = state.threads.get(thread).map(|thread| thread.inputs.as_slice()).unwrap_or_default();
        let item = |id: &String| json!({"turnId": "t", "item": {"type": "userMessage", "id": "i", "clientId": id}});
        json!({"data": inputs.iter().rev().map(item).collect::<Vec<_>>(), "nextCursor": null})
    }

    /// Begins a turn, or joins the one that runs. What it will say names each message and the moment when it was given.
    async fn turn(&self, id: &Value, params: &Value, at: Duration) {
        let thread = params["threadId"].as_str().unwrap_or_default().to_owned();
        let input = params["clientUserMessageId"].as_str().unwrap_or_default().to_owned();
        let word = word(params["input"][0]["text"].as_str().unwrap_or_default());
        let said = format!("{word}@{}", at.as_micros());
        let fresh = self.number("turn");
        let (turn, joined) = {
            let mut state = self.state();
            let thread = state.threads.entry(thread.clone()).or_default();
            thread.inputs.push(input.clone());
            if thread.inputs.len() > ITEMS {
                thread.inputs.remove(0);
            }
            let joined = thread.turn.is_some();
            let (turn, words) = thread.turn.get_or_insert((fresh, Vec::new()));
            words.push(said);
            (turn.clone(), joined)
        };
        self.say(json!({"id": id, "result": {"turn": {"id": turn, "status": "inProgress", "items": []}}})).await;
        if !joined {
            let started = json!({"threadId": thread, "turn": {"id": turn, "status": "inProgress", "items": []}});
            self.say(json!({"method": "turn/started", "params": started})).await;
            let server = self.clone();
            let (thread, turn) = (thread.clone(), turn.clone());
            tokio::spawn(async move {
                tokio::time::sleep(TURN).await;
                server.end(&thread, &turn).await;
            });
        }
        let item = json!({"type": "userMessage", "id": input, "clientId": input, "content": []});
        let params = json!({"threadId": thread, "turnId": turn, "item": item});
        self.say(json!({"method": "item/completed", "params": params})).await;
    }

    async fn end(&self, thread: &str, turn: &str) {
        let words = self.state().threads.get_mut(thread).and_then(|thread| thread.turn.take());
        let text = words.map(|(_, words)| words.join(" ")).unwrap_or_default();
        let item = json!({"type": "agentMessage", "id": "a", "text": text, "phase": "final_answer"});
        let said = json!({"threadId": thread, "turnId": turn, "item": item});
        self.say(json!({"method": "item/completed", "params": said})).await;
        let over = json!({"threadId": thread, "turn": {"id": turn, "status": "completed", "error": null, "items": []}});
        self.say(json!({"method": "turn/completed", "params": over})).await;
    }
}

fn opened(thread: &str) -> Value {
    json!({
        "thread": {"id": thread, "status": {"type": "idle"}, "turns": []},
        "activePermissionProfile": {"id": PROFILE, "extends": ":workspace"},
        "initialTurnsPage": {"data": []}
    })
}

/// The last word of the bench in a text: earlier ones are history.
fn word(text: &str) -> &str {
    let start = text.rfind(super::WORD).unwrap_or(text.len());
    let rest = &text[start..];
    &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len())]
}

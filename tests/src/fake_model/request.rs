//! What Codex asks of the model.

use broker_core::clock::Timestamp;
use hyper::HeaderMap;
use serde_json::Value;
use tokio::time::Instant;

use super::script;

/// One request.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    /// When it came.
    pub at: Instant,
    /// The same moment by the wall clock.
    pub wall: Timestamp,
    /// The Codex thread that asks (`thread-id` header, else `prompt_cache_key`).
    pub thread: String,
    /// The Codex turn, from the `x-codex-turn-metadata` header; empty without one.
    pub turn: String,
    /// The body.
    pub body: Value,
}

impl ModelRequest {
    pub(super) fn new(headers: &HeaderMap, body: Value, wall: Timestamp) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let metadata: Value = serde_json::from_str(header("x-codex-turn-metadata")).unwrap_or_default();
        let thread = Some(header("thread-id").to_owned()).filter(|id| !id.is_empty());
        let thread = thread.or_else(|| body["prompt_cache_key"].as_str().map(str::to_owned)).unwrap_or_default();
        let turn = metadata["turn_id"].as_str().unwrap_or_default().to_owned();
        Self { at: Instant::now(), wall, thread, turn, body }
    }

    /// The input items, oldest first.
    pub fn input(&self) -> &[Value] {
        self.body["input"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The texts of the messages by `role`, oldest first.
    pub fn texts(&self, role: &str) -> Vec<String> {
        let message = |item: &&Value| item["type"].as_str().unwrap_or("message") == "message" && item["role"] == role;
        self.input().iter().filter(message).map(|item| text(&item["content"])).collect()
    }

    /// The texts of the user's messages, the runtime's own context left out.
    pub fn user_texts(&self) -> Vec<String> {
        let own = |text: &String| !text.trim_start().starts_with('<');
        self.texts("user").into_iter().filter(own).collect()
    }

    /// The last of them; empty without any.
    pub fn last_user_text(&self) -> String {
        self.user_texts().pop().unwrap_or_default()
    }

    /// What people said in them: the `text` of the message that each gives, without what goes along. A notice is whole.
    pub fn said(&self) -> Vec<String> {
        self.user_texts().iter().map(|text| script::words(text)).collect()
    }

    /// Whether a user's message holds the text.
    pub fn says(&self, text: &str) -> bool {
        self.user_texts().iter().any(|user| user.contains(text))
    }

    /// How many of the user's messages hold the text.
    pub fn times(&self, text: &str) -> usize {
        self.user_texts().iter().filter(|user| user.contains(text)).count()
    }

    /// What tools answered, oldest first.
    pub fn tool_outputs(&self) -> Vec<String> {
        let output = |item: &&Value| item["type"].as_str().is_some_and(|kind| kind.ends_with("_output"));
        self.input().iter().filter(output).map(|item| text(&item["output"])).collect()
    }

    /// What a call with this text among its arguments was answered, when it stands in the history with an answer.
    pub fn output_of(&self, arguments: &str) -> Option<String> {
        let call = self.input().iter().rev().find(|item| {
            let given = item["arguments"].as_str().or_else(|| item["input"].as_str());
            given.is_some_and(|given| given.contains(arguments))
        })?;
        let answers = |item: &&Value| {
            item["call_id"] == call["call_id"] && item["type"].as_str().is_some_and(|kind| kind.ends_with("_output"))
        };
        self.input().iter().find(answers).map(|item| text(&item["output"]))
    }

    /// The names of the tools on offer.
    pub fn tools(&self) -> Vec<String> {
        let mut names = Vec::new();
        collect_tools(&self.body["tools"], "", &mut names);
        for item in self.input().iter().filter(|item| item["type"] == "additional_tools") {
            collect_tools(&item["tools"], "", &mut names);
        }
        names
    }

    /// The script of the last user message that holds one, and which of such messages it is.
    pub(super) fn script(&self) -> Option<(usize, script::Found)> {
        let found: Vec<_> = self.user_texts().iter().filter_map(|text| script::find(text)).collect();
        let place = found.len();
        found.into_iter().next_back().map(|found| (place, found))
    }
}

fn collect_tools(tools: &Value, before: &str, into: &mut Vec<String>) {
    for tool in tools.as_array().into_iter().flatten() {
        let name = tool["name"].as_str().or_else(|| tool["type"].as_str()).unwrap_or_default();
        if tool["type"] == "namespace" {
            let before = if name == "functions" { String::new() } else { format!("{name}.") };
            collect_tools(&tool["tools"], &before, into);
        } else {
            into.push(format!("{before}{name}"));
        }
    }
}

/// A content or an output: a string, or parts with texts.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

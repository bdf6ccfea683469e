//! One answer of the model as server-sent events, after
//! <https://platform.openai.com/docs/api-reference/responses-streaming>.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::request::ModelRequest;
use super::script::Step;

/// The client hung up.
#[derive(Debug)]
pub(super) struct Gone;

/// How long a shell command may run before the model is told that it still does, in milliseconds.
const YIELD_MS: u64 = 10_000;

static NUMBERS: AtomicU64 = AtomicU64::new(1);

fn number() -> u64 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// Writes events.
#[derive(Debug)]
pub(super) struct Events {
    out: mpsc::Sender<io::Result<Bytes>>,
    items: u64,
}

impl Events {
    pub(super) fn new(out: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { out, items: 0 }
    }

    async fn raw(&self, text: String) -> Result<(), Gone> {
        self.out.send(Ok(Bytes::from(text))).await.map_err(|_| Gone)
    }

    async fn event(&self, event: Value) -> Result<(), Gone> {
        let kind = event["type"].as_str().unwrap_or_default();
        self.raw(format!("event: {kind}\ndata: {event}\n\n")).await
    }

    /// Breaks the connection off.
    async fn cut(&self) -> Result<(), Gone> {
        self.out.send(Err(io::Error::other("the fake broke off"))).await.map_err(|_| Gone)
    }

    /// Waits until the client hangs up.
    async fn until_gone(&self) -> Result<(), Gone> {
        self.out.closed().await;
        Err(Gone)
    }

    /// Waits, unless the client hangs up.
    async fn pause(&self, pause: Duration) -> Result<(), Gone> {
        if pause.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            gone = self.until_gone() => gone,
        }
    }

    /// Answers with one step.
    pub(super) async fn play(mut self, request: &ModelRequest, step: &Step) -> Result<(), Gone> {
        let (pause, step) = match step {
            Step::After(pause, step) => (*pause, &**step),
            step => (Duration::ZERO, step),
        };
        if *step == Step::Malformed {
            let garbage = "event: response.created\ndata: {not json\n\n: comment\ngarbage line\n\ndata: 42\n\n";
            return self.raw(garbage.to_owned()).await;
        }
        let id = format!("resp_{:016x}", number());
        let response = json!({ "id": id, "object": "response", "status": "in_progress" });
        self.event(json!({ "type": "response.created", "response": response })).await?;
        self.pause(pause).await?;
        match step {
            Step::Text(text) => self.message(&words(text), None, Duration::ZERO).await?,
            Step::Nothing => self.message(&[" ".to_owned()], None, Duration::ZERO).await?,
            Step::Slow(pieces, pause) => {
                let pieces: Vec<_> = (0..*pieces).map(|n| format!("chunk{n} ")).collect();
                self.message(&pieces, None, *pause).await?;
            }
            Step::Sleep(pause) => {
                self.pause(*pause).await?;
                self.message(&words(&format!("slept {pause:?}")), None, Duration::ZERO).await?;
            }
            Step::Hang => {
                self.begin_message(&["partial ", "text "]).await?;
                return self.until_gone().await;
            }
            Step::Cutoff => {
                self.begin_message(&["this ", "will ", "be ", "cut "]).await?;
                return self.cut().await;
            }
            Step::Shell(command) => self.shell(request, &json!({ "cmd": command })).await?,
            Step::ShellWith(args) => self.shell(request, args).await?,
            Step::SayAndShell(text, command) => {
                self.message(&words(text), Some("commentary"), Duration::ZERO).await?;
                self.shell(request, &json!({ "cmd": command })).await?;
            }
            Step::Tool(name, args) => self.function(name, args).await?,
            Step::Tools(calls) => {
                for (name, args) in calls {
                    self.function(name, args).await?;
                }
            }
            Step::Commentary(text) => {
                self.message(&words(text), Some("commentary"), Duration::ZERO).await?;
                self.message(&words(&format!("final: {text}")), Some("final_answer"), Duration::ZERO).await?;
            }
            Step::BigText(kib) => {
                let line = format!("{}\n", "x".repeat(1023));
                self.message(&vec![line; *kib], None, Duration::ZERO).await?;
            }
            Step::Failed(code, message) => {
                let error = json!({ "code": code, "message": message });
                let response =
                    json!({ "id": id, "object": "response", "status": "failed", "error": error, "usage": null });
                return self.event(json!({ "type": "response.failed", "response": response })).await;
            }
            Step::After(..) | Step::Error(..) | Step::UsageLimit | Step::Refuse | Step::Malformed => {}
        }
        let usage = json!({
            "input_tokens": 1000,
            "input_tokens_details": { "cached_tokens": 100 },
            "output_tokens": 50,
            "output_tokens_details": { "reasoning_tokens": 10 },
            "total_tokens": 1050
        });
        let response = json!({ "id": id, "object": "response", "status": "completed", "output": [], "usage": usage });
        self.event(json!({ "type": "response.completed", "response": response })).await
    }

    fn next_item(&mut self) -> u64 {
        self.items += 1;
        self.items - 1
    }

    async fn begin_message(&mut self, pieces: &[&str]) -> Result<(), Gone> {
        let (index, id) = (self.next_item(), format!("msg_{:016x}", number()));
        let item = json!({ "type": "message", "id": id, "role": "assistant", "status": "in_progress", "content": [] });
        self.event(json!({ "type": "response.output_item.added", "output_index": index, "item": item })).await?;
        for piece in pieces {
            self.delta(index, &id, piece).await?;
        }
        Ok(())
    }

    async fn delta(&self, index: u64, id: &str, text: &str) -> Result<(), Gone> {
        self.event(json!({
            "type": "response.output_text.delta",
            "item_id": id,
            "output_index": index,
            "content_index": 0,
            "delta": text
        }))
        .await
    }

    async fn message(&mut self, pieces: &[String], phase: Option<&str>, pause: Duration) -> Result<(), Gone> {
        let (index, id) = (self.next_item(), format!("msg_{:016x}", number()));
        let text = pieces.concat();
        let mut item =
            json!({ "type": "message", "id": id, "role": "assistant", "status": "in_progress", "content": [] });
        if let Some(phase) = phase {
            item["phase"] = json!(phase);
        }
        self.event(json!({ "type": "response.output_item.added", "output_index": index, "item": item })).await?;
        let part = json!({ "type": "output_text", "text": "", "annotations": [] });
        let place = json!({ "item_id": id, "output_index": index, "content_index": 0 });
        self.event(with(&place, json!({ "type": "response.content_part.added", "part": part }))).await?;
        for piece in pieces {
            self.pause(pause).await?;
            self.delta(index, &id, piece).await?;
        }
        self.event(with(&place, json!({ "type": "response.output_text.done", "text": text }))).await?;
        item["status"] = json!("completed");
        item["content"] = json!([{ "type": "output_text", "text": text, "annotations": [] }]);
        self.event(json!({ "type": "response.output_item.done", "output_index": index, "item": item })).await
    }

    async fn function(&mut self, name: &str, args: &Value) -> Result<(), Gone> {
        let index = self.next_item();
        let (namespace, name) = name.split_once('.').map_or((None, name), |(space, name)| (Some(space), name));
        let arguments = args.as_str().map_or_else(|| args.to_string(), str::to_owned);
        let mut item = json!({
            "type": "function_call",
            "id": format!("fc_{:016x}", number()),
            "call_id": format!("call_{:016x}", number()),
            "name": name,
            "arguments": "",
            "status": "in_progress"
        });
        if let Some(namespace) = namespace {
            item["namespace"] = json!(namespace);
        }
        self.event(json!({ "type": "response.output_item.added", "output_index": index, "item": item })).await?;
        self.event(json!({
            "type": "response.function_call_arguments.delta",
            "item_id": item["id"],
            "output_index": index,
            "delta": arguments
        }))
        .await?;
        item["arguments"] = json!(arguments);
        item["status"] = json!("completed");
        self.event(json!({ "type": "response.output_item.done", "output_index": index, "item": item })).await
    }

    /// Calls whichever shell tool is on offer; the models differ.
    async fn shell(&mut self, request: &ModelRequest, args: &Value) -> Result<(), Gone> {
        let offered = request.tools();
        let has = |name: &str| offered.iter().any(|tool| tool == name);
        let command = args["cmd"].clone();
        if has("exec") && !has("exec_command") {
            let args = with(args, json!({ "yield_time_ms": YIELD_MS }));
            let source =
                format!("const r = await tools.exec_command({args});\ntext(r.output); text('exit=' + r.exit_code);");
            return self.custom("exec", &source).await;
        }
        if has("exec_command") {
            // Arguments of the script win.
            let args = with(&json!({ "yield_time_ms": YIELD_MS }), args.clone());
            return self.function("exec_command", &args).await;
        }
        if has("shell_command") {
            let mut args = args.clone();
            args["command"] = command;
            if let Some(fields) = args.as_object_mut() {
                fields.remove("cmd");
            }
            return self.function("shell_command", &args).await;
        }
        self.function("shell", &json!({ "command": ["bash", "-c", command] })).await
    }

    async fn custom(&mut self, name: &str, input: &str) -> Result<(), Gone> {
        let index = self.next_item();
        let item = json!({
            "type": "custom_tool_call",
            "id": format!("ctc_{:016x}", number()),
            "call_id": format!("call_{:016x}", number()),
            "name": name,
            "input": input,
            "status": "completed"
        });
        let added = with(&item, json!({ "input": "", "status": "in_progress" }));
        self.event(json!({ "type": "response.output_item.added", "output_index": index, "item": added })).await?;
        self.event(json!({ "type": "response.output_item.done", "output_index": index, "item": item })).await
    }
}

/// `base` with the fields of `more` over it.
fn with(base: &Value, more: Value) -> Value {
    let mut both = base.clone();
    if let (Some(fields), Value::Object(more)) = (both.as_object_mut(), more) {
        fields.extend(more);
    }
    both
}

/// A text word by word, as a model streams it; long ones in larger pieces.
fn words(text: &str) -> Vec<String> {
    if text.len() > 4000 {
        let chars: Vec<char> = text.chars().collect();
        return chars.chunks(500).map(|piece| piece.iter().collect()).collect();
    }
    text.split_inclusive(' ').map(str::to_owned).collect()
}

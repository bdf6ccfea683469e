//! A model server that says what the last user message tells it to: the Responses API over SSE, longhand.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Starts the server; its address, as Codex's `base_url`.
pub(crate) async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that goes away is no failure of the test.
            tokio::spawn(async move { drop(serve(stream).await) });
        }
    });
    url
}

async fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut stream = stream.into_inner();
    answer(&mut stream, &body).await?;
    stream.shutdown().await
}

/// The last user message, and what tools have said since.
fn situation(body: &Value) -> (String, Option<String>) {
    let (mut text, mut output) = (String::new(), None);
    for item in body["input"].as_array().into_iter().flatten() {
        if item["role"] == "user" {
            text = item["content"][0]["text"].as_str().unwrap_or_default().to_owned();
            output = None;
        } else if item["type"].as_str().is_some_and(|kind| kind.ends_with("_output")) {
            output = Some(item["output"].as_str().map_or_else(|| item["output"].to_string(), str::to_owned));
        }
    }
    (text, output)
}

async fn answer(stream: &mut TcpStream, body: &Value) -> std::io::Result<()> {
    let (text, output) = situation(body);
    if text.starts_with("fail") {
        let error = r#"{"error":{"message":"scripted failure","type":"invalid_request_error","code":"scripted"}}"#;
        let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n";
        return stream.write_all(format!("{head}content-length: {}\r\n\r\n{error}", error.len()).as_bytes()).await;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n").await?;
    event(stream, json!({"type": "response.created", "response": {"id": "r"}})).await?;
    match (text.split_once(':'), output) {
        (_, Some(output)) => message(stream, &format!("tool said: {output}")).await?,
        (Some(("shell", command)), None) => {
            call(stream, "exec_command", &json!({"cmd": command, "yield_time_ms": 20000})).await?;
        }
        _ if text.starts_with("tool") => call(stream, "post", &json!({"text": "hi"})).await?,
        _ if text.starts_with("hold") => {
            delta(stream, "partial ").await?;
            // Until the client hangs up.
            stream.read_u8().await?;
        }
        _ => {
            delta(stream, "you said: ").await?;
            message(stream, &format!("you said: {text}")).await?;
        }
    }
    let usage = json!({"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 1,
                       "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2});
    event(stream, json!({"type": "response.completed", "response": {"id": "r", "usage": usage}})).await
}

async fn event(stream: &mut TcpStream, event: Value) -> std::io::Result<()> {
    let kind = event["type"].as_str().unwrap_or_default().to_owned();
    stream.write_all(format!("event: {kind}\ndata: {event}\n\n").as_bytes()).await
}

async fn delta(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    let item = json!({"type": "message", "id": "m", "role": "assistant", "status": "in_progress", "content": []});
    event(stream, json!({"type": "response.output_item.added", "output_index": 0, "item": item})).await?;
    let part = json!({"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0});
    let mut part = part;
    part["delta"] = json!(text);
    event(stream, part).await
}

async fn message(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
    let item = json!({"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content});
    event(stream, json!({"type": "response.output_item.done", "output_index": 0, "item": item})).await
}

async fn call(stream: &mut TcpStream, name: &str, arguments: &Value) -> std::io::Result<()> {
    let item = json!({"type": "function_call", "id": "f", "call_id": "c", "name": name,
                      "arguments": arguments.to_string(), "status": "completed"});
    event(stream, json!({"type": "response.output_item.done", "output_index": 0, "item": item})).await
}

//! The conformance suite of the chat traits, on a small Slack that remembers what it is told.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::chat::{ChatTransport, ConversationId, ConversationKey, InstallationId, MessageId, ThreadKey};
use broker_core::history::HistoryProvider;
use broker_core::testing::chat_suite::{self, ChatWorld};
use broker_slack::Slack;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::{Call, Reply, Server, auth_test, connect_quick, quick};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

/// A Slack with one channel per check and one person in it.
#[derive(Default)]
struct Workspace {
    channels: Vec<String>,
    /// Channel and message, oldest first.
    messages: Vec<(String, Value)>,
    /// Envelope id and frame, until they are acknowledged.
    pending: Vec<(String, String)>,
    /// Message and name.
    reactions: std::collections::BTreeSet<String>,
    clock: u64,
    lose_next_answer: bool,
}

impl Workspace {
    fn write(&mut self, channel: &str, thread: Option<&str>, mut message: Value) -> String {
        self.clock += 1;
        let ts = format!("17000{:05}.000100", self.clock);
        message["type"] = json!("message");
        message["ts"] = json!(ts);
        if let Some(thread) = thread {
            message["thread_ts"] = json!(thread);
            let roots = self.messages.iter_mut().filter(|(at, root)| at == channel && root["ts"] == thread);
            for (_, root) in roots {
                root["thread_ts"] = json!(thread);
                root["latest_reply"] = json!(ts);
            }
        }
        self.messages.push((channel.to_owned(), message.clone()));
        message["channel"] = json!(channel);
        let envelope = format!("e{}", self.clock);
        let frame = json!({"envelope_id": envelope, "type": "events_api", "retry_attempt": 0,
                           "payload": {"event_id": format!("Ev{}", self.clock), "event": message}});
        self.pending.push((envelope, frame.to_string()));
        ts
    }

    fn answer(&mut self, call: &Call) -> Reply {
        let text = |name: &str| call.params.get(name).map(String::as_str).unwrap_or_default();
        match call.method.as_str() {
            "auth.test" => auth_test(),
            "chat.postMessage" => {
                let body = &call.body;
                let ours =
                    json!({"user": "UBROKER", "bot_id": "BBROKER", "text": body["text"], "metadata": body["metadata"]});
                let ts = self.write(body["channel"].as_str().unwrap(), body["thread_ts"].as_str(), ours);
                match std::mem::take(&mut self.lose_next_answer) {
                    true => Reply::Break,
                    false => Reply::Json(json!({"ok": true, "ts": ts})),
                }
            }
            "chat.postEphemeral" => Reply::Json(json!({"ok": true, "message_ts": "1700000000.000001"})),
            "assistant.threads.setStatus" => Reply::Json(json!({"ok": true})),
            "reactions.add" => self.react(&call.body, true),
            "reactions.remove" => self.react(&call.body, false),
            "users.info" => Reply::Json(json!({"ok": true, "user": {"id": text("user"), "team_id": "T0000001"}})),
            "users.conversations" => {
                let channels: Vec<Value> = self.channels.iter().map(|id| json!({"id": id})).collect();
                Reply::Json(json!({"ok": true, "channels": channels, "response_metadata": {"next_cursor": ""}}))
            }
            "conversations.replies" => {
                self.listing(call, |message, root| message["ts"] == root || message["thread_ts"] == root)
            }
            "conversations.history" => {
                self.listing(call, |message, _| message.get("thread_ts").is_none_or(|thread| *thread == message["ts"]))
            }
            other => panic!("{other} was called"),
        }
    }

    /// Says so when the reaction is there already, or not any more.
    fn react(&mut self, body: &Value, on: bool) -> Reply {
        let reaction = format!("{} {}", body["timestamp"], body["name"]);
        let changed = if on { self.reactions.insert(reaction) } else { self.reactions.remove(&reaction) };
        match (changed, on) {
            (true, _) => Reply::Json(json!({"ok": true})),
            (false, true) => Reply::Json(json!({"ok": false, "error": "already_reacted"})),
            (false, false) => Reply::Json(json!({"ok": false, "error": "no_reaction"})),
        }
    }

    /// Replies oldest first, each page beginning with the root; a channel newest first.
    fn listing(&self, call: &Call, belongs: impl Fn(&Value, &str) -> bool) -> Reply {
        let param = |name: &str| call.params.get(name).map(String::as_str);
        let root = param("ts").unwrap_or_default();
        let between = |ts: &str| param("oldest").is_none_or(|it| ts > it) && param("latest").is_none_or(|it| ts < it);
        let here = self.messages.iter().filter(|(channel, _)| Some(channel.as_str()) == param("channel"));
        let here = here.map(|(_, message)| message).filter(|message| belongs(message, root));
        let mut found: Vec<&Value> =
            here.filter(|it| it["ts"] != root && between(it["ts"].as_str().unwrap())).collect();
        let skip: usize = param("cursor").map_or(0, |cursor| cursor.parse().unwrap());
        let limit: usize = param("limit").unwrap().parse().unwrap();
        if root.is_empty() {
            found.reverse();
        }
        let more = found.len() > skip + limit;
        let mut page: Vec<&Value> = found.into_iter().skip(skip).take(limit).collect();
        let parent = self.messages.iter().map(|(_, message)| message).find(|message| message["ts"] == root);
        page.splice(0..0, parent);
        let next = if more { (skip + limit).to_string() } else { String::new() };
        Reply::Json(json!({"ok": true, "messages": page, "has_more": more, "response_metadata": {"next_cursor": next}}))
    }
}

struct SmallSlack {
    slack: Arc<Slack>,
    workspace: Arc<Mutex<Workspace>>,
    conversations: AtomicUsize,
    _server: Server,
}

impl SmallSlack {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ticket = format!("ws://{}/link", listener.local_addr().unwrap());
        let workspace = Arc::new(Mutex::new(Workspace::default()));
        let answering = Arc::clone(&workspace);
        let server = Server::start(move |call| match call.method.as_str() {
            "apps.connections.open" => Reply::Json(json!({"ok": true, "url": ticket})),
            _ => answering.lock().unwrap().answer(call),
        })
        .await;
        let delivering = Arc::clone(&workspace);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(deliver(stream, Arc::clone(&delivering)));
            }
        });
        let slack = connect_quick(&server.base, 1, quick()).await;
        Self { slack, workspace, conversations: AtomicUsize::new(0), _server: server }
    }
}

/// Sends what is not acknowledged, again and again.
async fn deliver(stream: TcpStream, workspace: Arc<Mutex<Workspace>>) {
    let mut socket = accept_async(stream).await.unwrap();
    let mut again = tokio::time::interval(Duration::from_millis(20));
    socket.send(Message::text(r#"{"type":"hello","num_connections":1}"#)).await.unwrap();
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    let ack: Value = serde_json::from_str(&text).unwrap();
                    workspace.lock().unwrap().pending.retain(|(id, _)| ack["envelope_id"] != id.as_str());
                }
                Some(Ok(_)) => {}
                _ => return,
            },
            _ = again.tick() => {
                let frames: Vec<String> =
                    workspace.lock().unwrap().pending.iter().map(|(_, frame)| frame.clone()).collect();
                for frame in frames {
                    if socket.send(Message::text(frame)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[async_trait]
impl ChatWorld for SmallSlack {
    fn transport(&self) -> Arc<dyn ChatTransport> {
        Arc::clone(&self.slack) as Arc<dyn ChatTransport>
    }

    fn history(&self) -> Arc<dyn HistoryProvider> {
        Arc::clone(&self.slack) as Arc<dyn HistoryProvider>
    }

    async fn conversation(&self) -> ConversationKey {
        let id = format!("C{}", self.conversations.fetch_add(1, Ordering::SeqCst));
        self.workspace.lock().unwrap().channels.push(id.clone());
        ConversationKey { installation: InstallationId::new("T0000001"), conversation: ConversationId::new(id) }
    }

    async fn write(&self, conversation: &ConversationKey, root: Option<&MessageId>, text: &str) -> ThreadKey {
        let (channel, root) = (conversation.conversation.as_str(), root.map(|root| root.as_str()));
        let message = json!({"user": "U1", "team": "T0000001", "text": text});
        let ts = self.workspace.lock().unwrap().write(channel, root, message);
        ThreadKey {
            installation: conversation.installation.clone(),
            conversation: conversation.conversation.clone(),
            root: MessageId::new(root.unwrap_or(&ts)),
        }
    }

    async fn garble(&self) {
        let frame = r#"{"envelope_id":"garbled","type":"events_api","payload":{"event":"#;
        self.workspace.lock().unwrap().pending.push(("garbled".to_owned(), frame.to_owned()));
    }

    async fn lose_next_answer(&self) {
        self.workspace.lock().unwrap().lose_next_answer = true;
    }
}

#[tokio::test]
async fn slack_passes_the_suite() {
    chat_suite::all(&SmallSlack::start().await).await;
}

//! A broker in memory with two sessions, behind a real socket.

use std::sync::Arc;
use std::time::Duration;

use broker_core::access::{InstallKey, KEY_BYTES};
use broker_core::chat::{DeliverError, ThreadKey};
use broker_core::clock::SystemClock;
use broker_core::engine::{Broker, Door, Parts, Settings};
use broker_core::ids::RandomIds;
use broker_core::store::StateStore;
use broker_core::testing::memory_chat::Fault;
use broker_core::testing::{MemoryChat, MemoryStore, ScriptedAgent};
use broker_http::{Access, Api, Limits};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::wire::{PATIENCE, Server};

/// A broker in memory with two sessions, and its HTTP server.
pub(crate) struct House {
    pub(crate) chat: MemoryChat,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) server: Server,
    broker: Option<Broker>,
    /// Kept, or the server would find no door.
    _door: watch::Sender<Option<Door>>,
    key: InstallKey,
    pub(crate) ours: ThreadKey,
    pub(crate) theirs: ThreadKey,
    folder: tempfile::TempDir,
}

/// Longer than anybody waits for a message.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn key() -> InstallKey {
    InstallKey::new([7; KEY_BYTES])
}

impl House {
    pub(crate) async fn new(access: Access, limits: Limits) -> Self {
        let chat = MemoryChat::new();
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(MemoryStore::new());
        let parts = Parts {
            transport: Arc::new(chat.clone()),
            history: Arc::new(chat.clone()),
            runtime: Arc::new(ScriptedAgent::echo()),
            store: Arc::clone(&store) as _,
            clock: Arc::new(SystemClock::new()),
            ids: Arc::new(RandomIds),
        };
        let home = MemoryChat::conversation("C1").installation;
        let settings =
            Settings { home: Some(home), ..Settings::new(folder.path().join("sessions"), folder.path().join("repos")) };
        let broker = Broker::start(parts, settings).await.expect("a broker");
        let mut threads = Vec::new();
        for conversation in ["C1", "C2"] {
            let thread = chat.say(conversation, None, "U-ada", "@broker hello");
            chat.wait_for_posts(&thread, 1, Duration::from_secs(10)).await.expect("an answer");
            threads.push(thread);
        }
        let (door, opened) = watch::channel(Some(broker.door()));
        let api =
            Api::new("1.2.3", "127.0.0.1").sessions(opened, access).limits(limits).metrics(async || String::new());
        let server = Server::start(api).await;
        let (theirs, ours) = (threads.pop().expect("two"), threads.pop().expect("two"));
        Self { chat, store, server, broker: Some(broker), _door: door, key: key(), ours, theirs, folder }
    }

    pub(crate) async fn closed() -> Self {
        Self::new(Access::Tokens(Arc::new(key())), Limits::default()).await
    }

    /// How many parts of our thread are not yet sent.
    pub(crate) async fn open_parts(&self) -> usize {
        self.store.open_parts(&self.ours, 10).await.expect("a store").len()
    }

    /// Waits until more parts of our thread are planned than there were.
    pub(crate) async fn planned_beyond(&self, before: usize) {
        let more = async {
            while self.open_parts().await <= before {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, more).await.expect("it is planned");
    }

    pub(crate) fn door(&self) -> Door {
        self.broker.as_ref().expect("it runs").door()
    }

    /// Ends the broker while the port is open.
    pub(crate) async fn end_broker(&mut self) {
        self.broker.take().expect("it runs").drain(Duration::ZERO).await;
    }

    /// The next message waits for so long, as Slack wants it.
    pub(crate) fn hold_up(&self, time: Duration) {
        let temporary = DeliverError::Temporary { reason: "ratelimited".to_owned(), retry_after: Some(time) };
        self.chat.fail_next(Fault::Fail(temporary));
    }

    /// The shared repositories.
    pub(crate) fn repos(&self) -> std::path::PathBuf {
        self.folder.path().join("repos")
    }

    /// How many copies of files wait to be posted, or were forgotten.
    pub(crate) fn copies(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("sessions/.outgoing")).map_or(0, Iterator::count)
    }

    pub(crate) async fn token(&self, thread: &ThreadKey) -> String {
        let session = self.door().session(thread).await.expect("a store").expect("a session");
        self.key.token(&session.key, &session.id, session.token_generation).expose().to_owned()
    }

    pub(crate) fn retry(thread: &ThreadKey) -> String {
        format!("/sessions/{}/retry", thread.short())
    }

    /// A POST with these header lines and this body; returns the status and the body.
    pub(crate) async fn post(&self, path: &str, headers: &str, body: &str) -> (u16, Value) {
        let more = format!("{headers}content-length: {}\r\n\r\n{body}", body.len());
        let request = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}");
        parse(&self.server.raw(&request).await)
    }

    /// A request of the session's own.
    pub(crate) async fn mine(&self, path: &str, more: Value) -> (u16, Value) {
        let headers = format!("{JSON}{}", bearer(&self.token(&self.ours).await));
        self.post(path, &headers, &body(&self.ours, more)).await
    }

    pub(crate) async fn read(&self, query: &str) -> (u16, String) {
        let token = bearer(&self.token(&self.ours).await);
        let (status, _, body) = self.server.ask("GET", &format!("/slack/{query}"), "localhost", &token).await;
        (status, body)
    }

    pub(crate) fn place(&self) -> String {
        format!("channel_id={}&thread_ts={}", self.ours.conversation, self.ours.root)
    }
}

/// A body for a thread, with these fields beside the thread's.
pub(crate) fn body(thread: &ThreadKey, more: Value) -> String {
    let mut body = json!({"channel_id": thread.conversation, "thread_ts": thread.root});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body.to_string()
}

pub(crate) fn parse(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, serde_json::from_str(body).expect("JSON"))
}

pub(crate) const JSON: &str = "content-type: application/json\r\n";

pub(crate) fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

//! A broker's socket, and the websocket server on the other side, which each test drives by hand.

#![expect(clippy::expect_used, reason = "a test may fail where it stands")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use broker_core::chat::{ChatTransport, Intake, LinkError, LinkHealth, RawEnvelope};
use broker_core::store::{Accepted, JournalId, StoreError};
use broker_slack::{LinkLimits, Slack};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, accept_async};
use tokio_util::sync::CancellationToken;

use super::{LIMIT, Reply, Server, auth_test, connect_quick, quick};

/// What the next accepts do, once the gate lets them through.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Refuse,
    Panic,
}

/// An intake behind a gate.
pub(crate) struct Gated {
    pub(crate) gate: Semaphore,
    pub(crate) faults: Mutex<VecDeque<Fault>>,
    pub(crate) accepted: watch::Sender<Vec<RawEnvelope>>,
}

#[async_trait]
impl Intake for Gated {
    async fn accept(&self, envelope: RawEnvelope) -> Result<Accepted, StoreError> {
        self.gate.acquire().await.unwrap().forget();
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Refuse) => return Err(StoreError::new("the disk is full")),
            Some(Fault::Panic) => panic!("the intake panics"),
            None => {}
        }
        self.accepted.send_modify(|accepted| accepted.push(envelope));
        Ok(Accepted { id: JournalId(1), fresh: true })
    }
}

/// How a stage is set.
pub(crate) struct Setting {
    /// Whether the intake takes envelopes from the start.
    pub(crate) open: bool,
    pub(crate) connections: usize,
    pub(crate) limits: LinkLimits,
    /// The answers to the first calls of `apps.connections.open`; later ones get a ticket.
    pub(crate) replies: Vec<Reply>,
}

impl Default for Setting {
    fn default() -> Self {
        Self { open: true, connections: 1, limits: quick(), replies: Vec::new() }
    }
}

/// A broker's socket and the server it talks to.
pub(crate) struct Stage {
    pub(crate) slack: Arc<Slack>,
    pub(crate) intake: Arc<Gated>,
    listener: TcpListener,
    pub(crate) stop: CancellationToken,
    running: JoinHandle<Result<(), LinkError>>,
    pub(crate) server: Server,
}

impl Stage {
    pub(crate) async fn start(open: bool, replies: Vec<Reply>) -> Self {
        Self::set(Setting { open, replies, ..Setting::default() }).await
    }

    pub(crate) async fn set(setting: Setting) -> Self {
        let Setting { open, connections, limits, replies } = setting;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ticket = format!("ws://{}/link/?ticket=secret", listener.local_addr().unwrap());
        let replies = Mutex::new(VecDeque::from(replies));
        let server = Server::start(move |call| match call.method.as_str() {
            "auth.test" => auth_test(),
            "apps.connections.open" => {
                assert_eq!(call.authorization, "Bearer xapp-1-test");
                let scripted = replies.lock().unwrap().pop_front();
                scripted.unwrap_or_else(|| Reply::Json(json!({"ok": true, "url": ticket})))
            }
            other => panic!("{other} was called"),
        })
        .await;
        let slack = connect_quick(&server.base, connections, limits).await;
        let gate = Semaphore::new(if open { 10_000 } else { 0 });
        let intake = Arc::new(Gated { gate, faults: Mutex::default(), accepted: watch::Sender::new(Vec::new()) });
        let stop = CancellationToken::new();
        let running = {
            let (slack, intake, stop) = (Arc::clone(&slack), Arc::clone(&intake), stop.clone());
            tokio::spawn(async move { slack.run(intake, stop).await })
        };
        Self { slack, intake, listener, stop, running, server }
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        timeout(LIMIT, self.listener.accept()).await.expect("no connection came").unwrap().0
    }

    /// Answers the next handshake with these bytes.
    pub(crate) async fn answer(&self, bytes: &str) {
        let mut stream = self.tcp().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        // Read to the end, so that the answer is not lost with the rest of the request.
        stream.shutdown().await.unwrap();
        timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await.expect("the handshake goes on").unwrap();
    }

    /// The next link, without a greeting.
    pub(crate) async fn caller(&self) -> Peer {
        Peer(accept_async(self.tcp().await).await.unwrap())
    }

    /// The next link, greeted.
    pub(crate) async fn link(&self) -> Peer {
        let mut peer = self.caller().await;
        peer.hello(1).await;
        self.health(|health| health.socket.ok).await;
        peer
    }

    pub(crate) async fn health(&self, wanted: impl FnMut(&LinkHealth) -> bool) -> LinkHealth {
        let mut health = self.slack.health();
        let found = timeout(LIMIT, health.wait_for(wanted)).await;
        found.unwrap_or_else(|_| panic!("health stays {:?}", self.slack.health().borrow().socket)).unwrap().clone()
    }

    /// A figure of the socket's health.
    pub(crate) fn figure(&self, name: &str) -> Value {
        self.slack.health().borrow().socket.detail[name].clone()
    }

    pub(crate) async fn accepted(&self, count: usize) -> Vec<RawEnvelope> {
        let mut accepted = self.intake.accepted.subscribe();
        timeout(LIMIT, accepted.wait_for(|accepted| accepted.len() >= count)).await.unwrap().unwrap().clone()
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        assert_eq!(timeout(LIMIT, self.running).await.expect("it does not end").unwrap(), Ok(()));
    }
}

/// Slack's side of a link.
pub(crate) struct Peer(pub(crate) WebSocketStream<TcpStream>);

impl Peer {
    pub(crate) async fn send(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// After the example on <https://docs.slack.dev/apis/events-api/using-socket-mode>.
    pub(crate) async fn hello(&mut self, connections: u64) {
        self.send(json!({"type": "hello", "num_connections": connections, "connection_info": {"app_id": "A1"},
                         "debug_info": {"host": "h", "started": "s", "build_number": 1, "approximate_connection_time": 3600}}))
            .await;
    }

    pub(crate) async fn event(&mut self, id: &str) {
        self.send(json!({"envelope_id": id, "type": "events_api", "payload": {"event_id": format!("Ev-{id}"),
            "event": {"type": "message", "channel": "C1", "user": "U1", "ts": "1700000000.000100", "text": id}}}))
            .await;
    }

    pub(crate) async fn disconnect(&mut self, reason: &str) {
        self.send(json!({"type": "disconnect", "reason": reason})).await;
    }

    /// The next message that is neither ping nor pong; nothing when the broker closes.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let next = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(message)) => return Some(message),
                }
            }
        };
        timeout(LIMIT, next).await.expect("nothing came")
    }

    pub(crate) async fn ack(&mut self) -> String {
        let message = self.next().await.expect("closed in the place of an acknowledgement");
        let ack: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!(ack.as_object().unwrap().len(), 1, "an acknowledgement holds the id alone");
        ack["envelope_id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn acks(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(self.ack().await);
        }
        ids.sort();
        ids
    }

    /// Sends a ping and waits for its pong; anything but pings before that is a failure.
    pub(crate) async fn answers_pings(&mut self) {
        let sent = Bytes::from_static(b"are you there");
        self.0.send(Message::Ping(sent.clone())).await.unwrap();
        let pong = async {
            loop {
                match self.0.next().await.unwrap().unwrap() {
                    Message::Pong(came) if came == sent => return,
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => panic!("{other:?} came before the pong"),
                }
            }
        };
        timeout(LIMIT, pong).await.expect("no pong");
    }
}
